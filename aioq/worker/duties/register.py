"""Duty: notes which queues the worker serves, so that it is found by those who do not know these queues."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from aioq.errors import ServerError
from aioq.util.log import logger

log = logger("aioq.worker")

REGISTER_EVERY = 86_400.0
"""Seconds after which it is noted again: the server forgets a queue that nobody has noted for a month."""

RETRY_PAUSE = 10.0
"""Seconds until the next attempt after one that has failed. A guess: only a list of workers waits for it."""


class QueueRegister:
    """Notes the queues of a worker.

    Args:
        note: notes queues.
        queues: the worker's queues at that time.
        noted: called with them once they are noted.
    """

    def __init__(
        self,
        note: Callable[[Sequence[str]], Awaitable[None]],
        queues: Callable[[], Sequence[str]],
        noted: Callable[[Sequence[str]], Awaitable[None]] | None = None,
    ) -> None:
        self._note = note
        self._noted = noted
        self._queues = queues
        self._changed = asyncio.Event()

    def changed(self) -> None:
        """The worker serves another queue."""
        self._changed.set()

    async def run(self) -> None:
        """Note them at the start, when they change, and once a day, until cancelled."""
        while True:
            self._changed.clear()
            pause = REGISTER_EVERY
            try:
                queues = self._queues()
                await self._note(queues)
                if self._noted is not None:
                    await self._noted(queues)
            except ServerError as error:
                log.debug("could not note which queues this worker serves: %s", error)
                pause = RETRY_PAUSE
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()
