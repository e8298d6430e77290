"""Pauses on a Redis or Valkey server; `lua/lib/pauses.lua` says how they are kept."""

from collections.abc import Sequence

from aioq.store.contract import Limits
from aioq.store.pauses import Pauses
from aioq.store.redis.history import marks_arg
from aioq.store.redis.net.connection import Arg
from aioq.store.redis.paging import BEGIN, ScriptCall
from aioq.store.redis.replies import parse_pauses

_NO_TASK = ""
"""The name of no task: to resume it changes nothing but that what was set aside is looked at."""


class RedisPauses:
    """The verbs for pauses.

    Args:
        call: calls a script.
        call_confirmed: calls a script, and returns once the server has confirmed what it wrote (`durability`).
        limits: how much the server keeps.
    """

    def __init__(self, call: ScriptCall, call_confirmed: ScriptCall, limits: Limits) -> None:
        self._marks = marks_arg(limits)
        self._call = call
        self._call_confirmed = call_confirmed

    async def read(self, queue: str) -> Pauses:
        """What is paused in a queue now."""
        return parse_pauses(await self._call("pauses", queue, []))

    async def pause(self, queue: str, tasks: Sequence[str], until_ms: int | None = None) -> None:
        """Pause tasks of a queue, or the whole queue if none are given."""
        await self._change(queue, "pause", until_ms or 0, tasks)

    async def resume(self, queue: str, tasks: Sequence[str]) -> None:
        """End the pause of tasks, or that of the whole queue if none are given; and tell the workers."""
        await self._change(queue, "resume", 0, tasks)

    async def look_again(self, queue: str) -> None:
        """Let the next claims look at all that was set aside."""
        await self._change(queue, "resume", 0, [_NO_TASK])

    async def _change(self, queue: str, what: str, until_ms: int, tasks: Sequence[str]) -> None:
        cursor: Arg = BEGIN
        while True:
            cursor = await self._call_confirmed("pause", queue, [what, until_ms, cursor, self._marks, *tasks])
            if cursor == BEGIN:
                return
