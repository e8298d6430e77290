"""Batches in memory: jobs that wait for others, and are taken together. `lua/lib/batches.lua` does the same.

A claim that meets a job of a batch task puts it to those of its key and lane that wait already. When these are
enough, the claim takes all of them as one batch. Else the job is `waiting`, in no lane, and a timer is set; when
that is due, an entry comes to the lane that names no job but what waits there (`MARK`); the claim that meets it
takes what there is. Nothing gets lost here, so it has no further timer until then.
"""

from collections.abc import Callable, Mapping

import msgspec

from aioq.jobs.job import JobState, Priority
from aioq.store.contract import Claimed
from aioq.store.extra import Extra, Gather
from aioq.store.memory.hooks import Hook, Hooks
from aioq.store.memory.lanes import Lanes
from aioq.store.memory.records import Record
from aioq.store.memory.timers import BATCH, Timers
from aioq.util.clock import Clock

MARK = "\x1f"
"""What an entry begins with that names jobs which wait for a batch; no job has such an id."""


class Gathering:
    """The jobs of one queue that wait for a batch.

    Args:
        records: the queue's jobs.
        lanes: its lanes.
        hooks: its hooks.
        timers: its timers.
        clock: the store's clock.
        start: marks a job as running at a worker.
    """

    def __init__(
        self,
        records: Mapping[str, Record],
        lanes: Lanes,
        hooks: Hooks,
        timers: Timers,
        clock: Clock,
        *,
        start: Callable[[str, Record], Claimed],
    ) -> None:
        self._records = records
        self._lanes = lanes
        self._hooks = hooks
        self._timers = timers
        self._clock = clock
        self._start = start
        self._waiting: dict[str, dict[str, None]] = {}
        self._met: dict[str, None] = {}  # of the claim under way: what it has added to

    def add(self, worker: str, record: Record) -> list[Claimed] | None:
        """Put a job to those that it may be run with; returns the batch if there are enough."""
        name = _name_of(record)
        waiting = self._waiting.setdefault(name, {})
        waiting[record.id] = None
        record.state = JobState.WAITING
        self._met[name] = None
        gather = _gather_of(record)
        if len(waiting) >= gather.size or self._bytes_of(name) >= gather.max_bytes:
            return self._take(worker, name) or None
        return None

    def take_token(self, worker: str, token: str) -> list[Claimed] | None:
        """The batch of an entry that names what waits."""
        return self._take(worker, token.removeprefix(MARK)) or None

    def close(self, worker: str, room: int) -> list[list[Claimed]]:
        """The end of a claim: take what has waited for long enough, up to so many batches, and time the others."""
        batches: list[list[Claimed]] = []
        met, self._met = self._met, {}
        for name in met:
            due_ms = self._due_ms(name)
            if due_ms is None:
                continue
            if due_ms <= self._clock.now_ms() and len(batches) < room:
                batches += filter(None, [self._take(worker, name)])
            elif not self._timers.has(BATCH, name):
                self._timers.set(BATCH, name, due_ms)
        return batches

    def due(self, name: str) -> None:
        """The timer of what waits is due."""
        if self._waiting.get(name):
            self._lanes.push(Priority(name.partition(" ")[0]), MARK + name)

    def set_aside(self, token: str) -> None:
        """Let the jobs of an entry be queued again and set aside: their task is paused."""
        name = token.removeprefix(MARK)
        for job_id in self._waiting.pop(name, {}):
            record = self._records[job_id]
            record.state = JobState.QUEUED
            self._lanes.set_aside_job(record.priority, job_id)
        self._timers.stop(BATCH, name)

    def call_of(self, token: str) -> bytes | None:
        """The call of one of the jobs of an entry; None if there is none."""
        first = next(iter(self._waiting.get(token.removeprefix(MARK), ())), None)
        return None if first is None else self._records[first].envelope

    def drop(self, record: Record) -> None:
        """A job does not wait any more."""
        name = _name_of(record)
        waiting = self._waiting.get(name)
        if waiting is not None:
            waiting.pop(record.id, None)
            self._forget_if_empty(name)

    def release(self, record: Record, *, hurries: bool) -> None:
        """Queue a job again, if it waits for a batch; it is to be changed, or run now with those that wait."""
        if record.id not in self._waiting.get(_name_of(record), ()):
            return
        self.drop(record)
        if hurries and _gather_of(record).wait_ms >= 0:
            _set_wait(record, Gather.hurried(_gather_of(record).wait_ms))
        record.state = JobState.QUEUED
        self._lanes.push(record.priority, record.id)

    def _take(self, worker: str, name: str) -> list[Claimed]:
        """Take the jobs that may start, the first ones first, as many as one batch may have."""
        batch: list[Claimed] = []
        total = 0
        for job_id in tuple(self._waiting.get(name, ())):
            record = self._records[job_id]
            gather, size = _gather_of(record), len(record.envelope or b"")
            if len(batch) >= gather.size or (batch and total + size > gather.max_bytes):
                break
            del self._waiting[name][job_id]
            if not self._hooks.may_start(record):
                continue
            if gather.wait_ms < 0:
                _set_wait(record, Gather.hurried(gather.wait_ms))  # if it comes back, it waits as before
            total += size
            batch.append(self._start(worker, record))
        if self._waiting.get(name):
            self._met[name] = None
            self._timers.set(BATCH, name, self._due_ms(name) or 0)
        else:
            self._forget_if_empty(name)
        return batch

    def _forget_if_empty(self, name: str) -> None:
        if not self._waiting.get(name):
            self._waiting.pop(name, None)
            self._timers.stop(BATCH, name)

    def _due_ms(self, name: str) -> int | None:
        records = [self._records[job_id] for job_id in self._waiting.get(name, ())]
        return min((_ready_ms(each) + _gather_of(each).wait_ms for each in records), default=None)

    def _bytes_of(self, name: str) -> int:
        return sum(len(self._records[job_id].envelope or b"") for job_id in self._waiting[name])


class GatherHook(Hook):
    """The hook of `Extra.batch`.

    Args:
        gathering: the jobs that wait for a batch.
    """

    def __init__(self, gathering: Callable[[], Gathering]) -> None:
        self._gathering = gathering

    def ended(self, record: Record) -> None:
        """The job waits no more."""
        self._gathering().drop(record)

    def change(self, record: Record, *, hurries: bool) -> None:
        """The job is queued again."""
        self._gathering().release(record, hurries=hurries)


def _gather_of(record: Record) -> Gather:
    assert record.extra is not None and record.extra.batch is not None  # noqa: PT018 - one fact: it is of a batch
    return record.extra.batch


def _set_wait(record: Record, wait_ms: int) -> None:
    gather = msgspec.structs.replace(_gather_of(record), wait_ms=wait_ms)
    record.extra = msgspec.structs.replace(record.extra or Extra(), batch=gather)


def _name_of(record: Record) -> str:
    return f"{record.priority.value} {_gather_of(record).key}"


def _ready_ms(record: Record) -> int:
    return record.ready_ms or record.sent_ms
