"""Adds jobs to a queue in memory; `lua/lib/adding.lua` does the same on a server."""

from collections.abc import Callable

import msgspec

from aioq.jobs.job import JobState
from aioq.store.extra import Added, Duplicate, Extra, Move, queue_full, refused
from aioq.store.memory.history import QueueHistory
from aioq.store.memory.limits import QueueLimits
from aioq.store.memory.outbox import QueueParts
from aioq.store.memory.records import Record
from aioq.store.memory.rooms import QueueRooms
from aioq.store.new_job import NewJob


class Adding:
    """Adds the jobs of one queue.

    Args:
        name: the queue's name.
        parts: of the queue.
        history: what has happened.
        queue_limits: how many jobs of a key may run.
        places: what schedules a job for a time in ms, and what queues one.

    Attributes:
        rooms: for how many jobs there is room, and which sends wait for it; the queue sets it.
    """

    rooms: QueueRooms

    def __init__(
        self,
        name: str,
        parts: QueueParts,
        history: QueueHistory,
        queue_limits: QueueLimits,
        places: tuple[Callable[[Record, int], None], Callable[[Record], None]],
    ) -> None:
        self._name = name
        self._records, self._clock, self._limits = parts.records, parts.clock, parts.limits
        self._hooks, self._endings, self._uniques = parts.hooks, parts.endings, parts.uniques
        self._history = history
        self._queue_limits = queue_limits
        self._schedule, self._queue = places

    def enqueue(self, job: NewJob, *, again: bool = False, bounded: bool = True) -> Added:
        """Add a job; False if its id exists already, unless an earlier attempt of this send has added it.

        Unless `bounded` the queue has room for any number.
        """
        if again and self._endings.has_ended(job.nonce or job.id):
            return True
        if again and (replaced := self._uniques.replaced(job.nonce or job.id)) is not None:
            return replaced
        there = self._records.get(job.id)
        is_same = there is not None and again and there.nonce == job.nonce
        if there is not None and (is_same or not self._endings.is_free(there)):
            return is_same
        record, due_ms = self._record(job), self._due_ms(job)
        if bounded and (size := self._full_for(record)) is not None:
            return refused(queue_full(self._name, [job.id], size, self._limits.max_size or 0))
        instead = self._uniques.place(record, due_ms)
        if instead is not None and instead != job.id:
            return Duplicate(instead)
        if there is not None:
            self._endings.free_id(there)
        self.add(record, due_ms, held=instead is not None)
        return True

    def place_tick(self, new: Record, due_ms: int) -> str | None:
        """Decide about the job of a tick; see `Uniques.place_tick`."""
        return "" if self._full_for(new) is not None else self._uniques.place_tick(new, due_ms)

    def add(self, record: Record, due_ms: int | None, *, held: bool = False, is_tick: bool = False) -> None:
        """Add a new job. It waits until it is due or, if it is `held` back, until it is released."""
        self._enter(record, due_ms)
        if held:
            record.state, record.due_ms = JobState.WAITING, None
        elif due_ms is not None and due_ms > self._clock.now_ms():
            self._schedule(record, due_ms)
        elif not (self._queue_limits.arrive(record) if is_tick else self._queue_limits.send(record)):
            self._queue(record)

    def depart(self, job: NewJob, target: str) -> None:
        """Add a job that goes to another queue at once; the caller adds the entry to the outbox."""
        record, due_ms = self._record(job), self._due_ms(job)
        now = self._clock.now_ms()
        self._enter(record, due_ms)
        self._hooks.leave(record)
        later = due_ms is not None and due_ms > now
        state = JobState.SCHEDULED if later else JobState.QUEUED
        move = Move(target, "on its way", state.value, (due_ms or 0) if later else 0, now)
        extra = record.extra or Extra()
        flow = extra.flow and msgspec.structs.replace(extra.flow, departs=1)
        record.extra = msgspec.structs.replace(extra, move=move, flow=flow)
        record.state, record.due_ms = JobState.WAITING, None

    def _enter(self, record: Record, due_ms: int | None) -> None:
        self._records[record.id] = record
        record.due_ms = due_ms
        self._hooks.enter(record)
        self._history.note_sent(record)

    def _record(self, job: NewJob) -> Record:
        now = self._clock.now_ms()
        record = Record(job.id, bytes(job.envelope), job.priority, now, job.nonce, extra=job.extra)
        record.waiters += filter(None, [job.waiter])
        return record

    def _due_ms(self, job: NewJob) -> int | None:
        return self._clock.now_ms() + job.delay_ms if job.delay_ms else job.eta_ms

    def _full_for(self, new: Record) -> int | None:
        """How many jobs are there, if there is no room for this one, and it would be one more."""
        return None if (size := self.rooms.full()) is None or self._uniques.adds_none(new) else size
