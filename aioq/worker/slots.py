"""Slots: how many jobs a worker may run at once, shared by all its queues."""

import asyncio
import time


class Slots:
    """Counts the slots that are taken, and lets callers wait for a free one.

    Args:
        total: how many jobs may run at once.

    Attributes:
        total: the same.
        is_paused: whether no slot may be taken, for an operator has said so.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.is_paused = False
        self._used = 0
        self._full_since: float | None = None
        self._freed = asyncio.Event()
        self._freed.set()

    @property
    def full_for(self) -> float:
        """For how many seconds no slot has been free up to now; may be read from any thread."""
        since = self._full_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def used(self) -> int:
        """Slots that are taken by running jobs, or reserved for a claim under way."""
        return self._used

    @property
    def free(self) -> int:
        """Slots that can be taken; 0 also while more are taken than there are, or while it is paused."""
        return 0 if self.is_paused else max(0, self.total - self._used)

    async def wait(self) -> None:
        """Return as soon as a slot is free."""
        await self._freed.wait()

    def take(self, count: int) -> None:
        """Take slots; this is allowed even if none is free, for a job that is already in this worker."""
        self._used += count
        if self._used >= self.total and self._full_since is None:
            self._full_since = time.monotonic()
            self._freed.clear()

    def give_back(self, count: int = 1) -> None:
        """Return slots."""
        self._used -= count
        if self._used < self.total:
            self._full_since = None
            if not self.is_paused:
                self._freed.set()

    def pause(self) -> None:
        """Let no more slots be taken; those that are taken stay so."""
        self.is_paused = True
        self._freed.clear()

    def resume(self) -> None:
        """Let slots be taken again."""
        self.is_paused = False
        self.give_back(0)

    def resize(self, total: int) -> None:
        """Change how many there are; jobs that have more of them keep these until they end."""
        self.total = total
        if self._used < total:
            self.give_back(0)
        else:
            self.take(0)
