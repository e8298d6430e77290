"""Runs that wait for slots: those for which none is free yet, and jobs that take several at once.

A job of a task with `slots=4` is claimed like any other, for one slot. Its others are counted as taken at once, so
the worker claims nothing more for them, and it starts when all of them are free: what was claimed before it comes
first, and nothing overtakes it. What was claimed after it goes back, and so does the job itself if it has to wait
for long: another worker may have the slots. None of that counts as an attempt or a crash.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable

from aioq.jobs.shards import queue_of_shard
from aioq.util.log import logger
from aioq.worker.lending import Lending
from aioq.worker.run.run import Run, RunKey
from aioq.worker.slots import Slots
from aioq.worker.weights import Weights

log = logger("aioq.worker")

PATIENCE = 2.0
"""For how many seconds a job waits for several slots before it is given back. A guess: most jobs end sooner, and a
worker that is free need not wait for longer."""

MOST_PATIENCE = 60.0
"""The same where it came back each time, because no other worker has the slots; doubled up to this each time."""


class WaitingRuns(ABC):
    """What the executor does for runs that wait for slots."""

    _slots: Slots
    _lending: Lending
    _weights: Weights | None
    _running: dict[RunKey, Run]
    _backlog: deque[Run]
    _starting_backlog = False
    _heavier: int = 0  # how many slots the running jobs take beside one each
    _patience = PATIENCE
    _patience_ends: asyncio.TimerHandle | None = None

    def resized(self) -> None:
        """The worker has another number of slots."""
        if self._backlog:
            self._start_backlog()

    def _weigh(self, run: Run) -> None:
        """Take the other slots of a run that needs several; one is counted as taken for it already."""
        assert self._weights is not None
        run.slots = self._weights.of(run.claimed)
        if run.slots > 1:
            self._slots.take(run.slots - 1, run.queue)
        if run.slots > 1 or self._slots.weights:
            self._slots.note_weight(run.queue, run.slots)

    def _may_start(self, run: Run) -> bool:
        """Whether a run that was claimed last may start: its slots are free, and it overtakes nothing."""
        return self._next_of((*self._backlog, run)) == len(self._backlog)

    def _next_of(self, runs: Iterable[Run]) -> int | None:
        """Which of these runs, in the order of their claims, is the first that may start.

        One that is held up by the share of its queue alone keeps its slots, and holds up that queue alone.
        """
        kept, held_up = 0, set[str]()
        for at, run in enumerate(runs):
            if not self._has_room(run, kept):
                return None
            queue = queue_of_shard(run.queue)
            if queue not in held_up and self._share_has_room(run, queue):
                return at
            held_up.add(queue)
            kept += run.slots
        return None

    def _has_room(self, run: Run, kept: int = 0) -> bool:
        """Whether so many slots are free, beside those that are `kept` for others.

        One that needs more than there are runs alone; this worker's own tasks do not (`check_weights`).
        """
        used = len(self._running) + self._heavier - self._lending.lent + kept
        return used <= 0 or used + run.slots <= self._slots.total

    def _share_has_room(self, run: Run, queue: str) -> bool:
        most = self._slots.total if self._weights is None else self._slots.total_for(run.queue)
        if most >= self._slots.total:
            return True
        own = sum(each.slots for each in self._running.values() if queue_of_shard(each.queue) == queue)
        own -= self._lending.lent_in(queue)
        return own <= 0 or own + run.slots <= most

    def _wait(self, run: Run) -> None:
        """Let a run wait for its slots; if it comes after a job that waits for several, it goes back."""
        queue = queue_of_shard(run.queue)
        for each in self._backlog:
            if each.slots > 1 and (queue_of_shard(each.queue) == queue or not self._has_room(each)):
                self._release(run)
                return
        self._backlog.append(run)
        self._time_patience()

    def _start_backlog(self) -> None:
        """Start runs that wait for slots, in order. If one ends in `_start`, the loop starts the next one."""
        if self._starting_backlog:
            return
        before = self._backlog[0] if self._backlog else None
        self._starting_backlog = True
        try:
            if self._weights is None:  # most workers are like this
                while self._backlog and len(self._running) - self._lending.lent < self._slots.total:
                    self._start(self._backlog.popleft())
            while self._weights is not None and (at := self._next_of(self._backlog)) is not None:
                run = self._backlog[at]
                del self._backlog[at]
                self._start(run)
        finally:
            self._starting_backlog = False
        if self._patience_ends is not None and (not self._backlog or self._backlog[0] is not before):
            self._patience = PATIENCE
            self._patience_ends.cancel()
            self._patience_ends = None
            self._time_patience()

    def _time_patience(self) -> None:
        """If a job waits for several slots, let it wait for so long."""
        if self._patience_ends is None and any(each.slots > 1 for each in self._backlog):
            loop = asyncio.get_running_loop()
            self._patience_ends = loop.call_later(self._patience, self._end_patience)

    def _end_patience(self) -> None:
        """Give back what waits, for its slots do not become free soon."""
        self._patience_ends = None
        if self._backlog and any(each.slots > 1 for each in self._backlog):
            self._patience = min(self._patience * 2, MOST_PATIENCE)
            log.debug("%d jobs go back: there are no slots for them in time", len(self._backlog))
            self._give_up_waiting()

    def _cancel_waiting(self, key: RunKey) -> None:
        """Give back a run that waits and is cancelled: the server cancels it, because it knows of the request."""
        for run in self._backlog:
            if run.key == key:
                self._backlog.remove(run)
                self._release(run)
                self._start_backlog()
                return

    def _give_up_waiting(self) -> None:
        """Give back all that waits."""
        while self._backlog:
            self._release(self._backlog.popleft())
        if self._patience_ends is not None:
            self._patience_ends.cancel()
            self._patience_ends = None

    @abstractmethod
    def _start(self, run: Run, *, at_once: bool = False) -> None: ...
    @abstractmethod
    def _release(self, run: Run) -> None: ...
