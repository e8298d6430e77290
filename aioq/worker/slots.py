"""Slots: how many jobs a worker may run at once, shared by all its queues."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping
from types import MappingProxyType

from aioq.worker.shares import Share, Shares


class Slots:
    """Counts the slots that are taken, and lets callers wait for a free one.

    Args:
        total: how many jobs may run at once.
        shares: the shares that queues have of them; empty if a free slot is for the first that comes.

    Attributes:
        total: the same.
        is_paused: whether no slot may be taken, for an operator has said so.
        weights: by queue, about how many slots a job of it takes; of those whose jobs have taken more than one.
    """

    def __init__(self, total: int, shares: Mapping[str, Share] = MappingProxyType({})) -> None:
        self.total = total
        self.is_paused = False
        self.weights: dict[str, int] = {}
        self._used = 0
        self._used_by: defaultdict[str, int] = defaultdict(int)
        self._full_since: float | None = None
        self._freed = asyncio.Event()
        self._freed.set()
        self._shares = Shares(shares, self._used_by) if shares else None
        self._waiting: dict[str, asyncio.Event] = {}  # by queue, where they have shares

    @property
    def full_for(self) -> float:
        """For how many seconds no slot has been free up to now; may be read from any thread."""
        since = self._full_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def used(self) -> int:
        """Slots that are taken by running jobs, or reserved for a claim under way."""
        return self._used

    def free_for(self, queue: str) -> int:
        """Slots that the jobs of a queue may take; 0 also while more are taken than there are, or it is paused."""
        if self.is_paused:
            return 0
        free = max(0, self.total - self._used)
        if self._shares is None or not free:
            return free
        return self._shares.free_for((*self._waiting, queue), free, self.total)[queue]

    def jobs_for(self, queue: str, free: int) -> int:
        """How many jobs to claim for so many free slots, by what those of the queue took last; at least one."""
        return max(free // self.weights.get(queue, 1), min(free, 1))

    def note_weight(self, queue: str, slots: int) -> None:
        """Note how many slots a job of a queue takes; more counts at once, fewer only after some jobs."""
        before = self.weights.get(queue, 1)
        self.weights[queue] = slots if slots > before else (before + slots) // 2

    def total_for(self, queue: str) -> int:
        """How many slots the jobs of a queue can take at the most."""
        return self.total if self._shares is None else self._shares.total_for(queue, self.total)

    async def wait(self, queue: str = "") -> None:
        """Return as soon as a slot is free for a queue. Others leave it what it has a right to meanwhile."""
        if self._shares is None:
            await self._freed.wait()
            return
        freed = self._waiting[queue] = asyncio.Event()
        try:
            while not self.free_for(queue):
                freed.clear()
                await freed.wait()
        finally:
            del self._waiting[queue]
            self._tell_waiting()

    def share(self, shares: Mapping[str, Share]) -> None:
        """Let the queues have these shares from now on. Until then a free slot is for the first that comes."""
        self._shares = Shares(shares, self._used_by)
        if not self._freed.is_set():
            self._freed.set()  # whoever waits without shares waits anew
            self._freed.clear()
        self._tell_waiting()

    def take(self, count: int, queue: str = "") -> None:
        """Take slots; this is allowed even if none is free, for a job that is already in this worker."""
        self._used += count
        self._used_by[queue] += count
        if self._shares is not None:
            self._shares.took(queue, count)
        if self._used >= self.total and self._full_since is None:
            self._full_since = time.monotonic()
            self._freed.clear()

    def give_back(self, count: int = 1, queue: str = "") -> None:
        """Return slots."""
        self._used_by[queue] -= count
        self._used -= count
        if self._used < self.total:
            self._full_since = None
            if not self.is_paused:
                self._freed.set()
                if self._waiting:
                    self._tell_waiting()

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
        (self.give_back if self._used < total else self.take)(0)

    def _tell_waiting(self) -> None:
        """Wake the queues for which there is a free slot."""
        free = max(0, self.total - self._used)
        if self._shares is None or self.is_paused or not free:
            return
        for queue, number in self._shares.free_for(tuple(self._waiting), free, self.total).items():
            if number:
                self._waiting[queue].set()
