"""Listens to what wakes a process that waits for a place."""

import asyncio
import contextlib
from collections.abc import Callable

from aioq.errors import AioqError
from aioq.store.limiters import LimiterVerbs
from aioq.util.aio import end


class Wakes:
    """The messages of one limiter to this process; without the permission for them it calls from time to time.

    Args:
        name: the limiter.
        member: this process.
        verbs: the store's.
        on_wake: called when there may be a place, or time has passed.
    """

    def __init__(self, name: str, member: str, verbs: LimiterVerbs, on_wake: Callable[[], None]) -> None:
        self._name = name
        self._member = member
        self._verbs = verbs
        self._on_wake = on_wake
        self._task: asyncio.Task[None] | None = None

    def listen(self, *, stands: bool) -> None:
        """Somebody waits; `stands` for a place. Listen from now on, if that helps."""
        if self._task is None and (stands or self._verbs.wakes_all):
            self._task = asyncio.get_running_loop().create_task(self._listen(), name=f"aioq-limiter-{self._name}")

    async def _listen(self) -> None:
        with contextlib.suppress(AioqError):
            await self._verbs.listen(self._name, self._member, self._on_wake)
        self._on_wake()

    async def stop(self) -> None:
        """Listen no more."""
        if self._task is not None:
            await end([self._task])
            await self._verbs.leave(self._name, self._member)
