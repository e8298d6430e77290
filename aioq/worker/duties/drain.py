"""Duty of `--burst`: tell when the queues are empty.

They are when, after everything this worker ran is written, a fresh look finds nothing to claim. Jobs that are
scheduled for later, and those other workers run, are not waited for.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable


class Burst:
    """Knows when all queues of a worker are empty.

    Args:
        queues: the queues served.
        running: how many jobs this worker runs.
        look_again: writes what is unwritten and makes every fetcher look again.
    """

    def __init__(
        self, queues: Iterable[str], running: Callable[[], int], look_again: Callable[[], Awaitable[None]]
    ) -> None:
        self._queues = frozenset(queues)
        self._running = running
        self._look_again = look_again
        self._empty: set[str] = set()
        self._dirty = True
        self._changed = asyncio.Event()

    def delivered(self) -> None:
        """A job has come in."""
        self._dirty = True
        self._empty.clear()

    def empty(self, queue: str) -> None:
        """A look at the queue found nothing."""
        self._empty.add(queue)
        self._changed.set()

    def idle(self) -> None:
        """The last running job has ended."""
        self._changed.set()

    async def wait(self) -> None:
        """Return when the queues are empty; may be called again."""
        self._dirty = True
        self._changed.set()
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._running():
                continue
            if self._dirty:
                self._dirty = False
                self._empty.clear()
                await self._look_again()
            elif self._empty >= self._queues:
                return
