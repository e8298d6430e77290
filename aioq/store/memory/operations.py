"""Bulk operations in memory."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from aioq.jobs.job import JobState, Priority
from aioq.store.memory.operated import OperatedJobs
from aioq.store.memory.records import Record
from aioq.store.operations import (
    KEPT_MS,
    LEASE_MS,
    MOST_OPERATIONS,
    Act,
    Done,
    OperationProgress,
    OperationState,
    OperationStep,
    Permit,
    StoredOperation,
    Verdict,
)
from aioq.util.clock import Clock


class OperationOutbox(Protocol):
    """The outbox of a queue, as far as this needs it."""

    def move(self, job_id: str, target: str) -> JobState | None:
        """Move a job to another queue."""
        ...

    def remind(self, operation: str, delay_ms: int | None, *, wakes: bool = True) -> None:
        """Set or stop the timer of an operation."""
        ...


class OperationQueue(Protocol):
    """A queue, as far as this needs it."""

    jobs: OperatedJobs

    @property
    def outbox(self) -> OperationOutbox:
        """Its outbox."""
        ...

    def cancel(self, job_id: str, outcome: bytes, ttl_ms: int) -> JobState | None:
        """Cancel a job."""
        ...

    def reschedule(self, job_id: str, delay_ms: int | None, eta_ms: int | None) -> JobState | None:
        """Move a job to another time."""
        ...


@dataclass(slots=True)
class _Operation:
    """The record of an operation; `paid_ms` is the time up to which its rate was used."""

    stored: StoredOperation
    rate: float
    paid_ms: float
    carrier: str = ""
    until_ms: int = 0
    expires_ms: int = 0


@dataclass(slots=True)
class _ShardProgress:
    """The note of an operation in a shard. `seen` are the jobs that it has acted on.

    A clock that is moved by hand stays at its time meanwhile, and does not say what happens after the begin.
    """

    progress: OperationProgress = field(default_factory=OperationProgress)
    seen: set[str] = field(default_factory=set[str])


class MemoryOperations:
    """The bulk operations of an App.

    Args:
        lock: locks a queue for one verb, and returns it.
        clock: the store's clock.
        forget_log: drops the log of a job that is deleted, given its queue and its id.
    """

    def __init__(
        self,
        lock: Callable[[str], AbstractContextManager[OperationQueue]],
        clock: Clock,
        *,
        forget_log: Callable[[str, str], None],
    ) -> None:
        self._locked = lock
        self._clock = clock
        self._forget_log = forget_log
        self._operations: dict[str, _Operation] = {}
        self._progress: dict[tuple[str, str], _ShardProgress] = {}

    async def write(self, operation_id: str, definition: bytes, rate: float) -> bool:
        """Store a new operation; False if there are too many that have not ended."""
        self._expire()
        if operation_id in self._operations:
            return True
        over = [each for each in self._operations.values() if each.stored.state.is_over]
        if len(self._operations) >= MOST_OPERATIONS:
            if not over:
                return False
            self._drop(over[0].stored.id)
        now = self._clock.now_ms()
        stored = StoredOperation(operation_id, definition, OperationState.RUNNING, began_ms=now)
        self._operations[operation_id] = _Operation(stored, rate, now, expires_ms=now + KEPT_MS)
        return True

    async def read(self, operation_ids: Sequence[str]) -> list[StoredOperation]:
        """Those of these operations that there are."""
        self._expire()
        return [self._shown(each) for each in operation_ids if each in self._operations]

    async def newest(self, limit: int) -> list[StoredOperation]:
        """The newest operations."""
        self._expire()
        return [self._shown(each) for each in list(reversed(self._operations))[:limit]]

    async def change(self, operation_id: str, what: str) -> Permit | None:
        """`pause`, `resume` or `abort` an operation."""
        operation = self._touched(operation_id)
        if operation is None:
            return None
        state, now = operation.stored.state, self._clock.now_ms()
        if what == "pause" and state is OperationState.RUNNING:
            _set(operation, state=OperationState.PAUSED)
        elif what == "resume" and state is OperationState.PAUSED:
            _set(operation, state=OperationState.RUNNING)
            operation.paid_ms = now
        elif what == "abort" and not state.is_over:
            _set(operation, state=OperationState.ABORTED, ended_ms=now)
        return self._permit(operation)

    async def permit(self, operation_id: str, carrier: str, jobs: int) -> Permit | None:
        """Take an operation, unless somebody else has it, to act on so many jobs."""
        operation = self._touched(operation_id)
        if operation is None:
            return None
        now = self._clock.now_ms()
        is_taken = operation.carrier not in {"", carrier} and operation.until_ms > now
        if operation.stored.state is not OperationState.RUNNING or is_taken:
            return self._permit(operation)
        allowed, wait_ms = _allow(operation, jobs, now)
        operation.carrier, operation.until_ms = ("", 0) if wait_ms else (carrier, now + LEASE_MS)
        return self._permit(operation, is_mine=True, allowed=allowed, wait_ms=wait_ms)

    async def release(self, operation_id: str, carrier: str) -> None:
        """Give up an operation."""
        operation = self._operations.get(operation_id)
        if operation is not None and operation.carrier == carrier:
            operation.carrier, operation.until_ms = "", 0

    async def finish_shard(self, operation_id: str, at: int, shards: int, done: Done) -> Permit | None:
        """Note that a shard is done."""
        operation = self._touched(operation_id)
        if operation is None:
            return None
        if operation.stored.at == at:
            _set(operation, at=at + 1, done=operation.stored.done + done)
            if at + 1 >= shards and operation.stored.state is not OperationState.ABORTED:
                _set(operation, state=OperationState.ENDED, ended_ms=self._clock.now_ms())
                operation.carrier, operation.until_ms = "", 0
        return self._permit(operation)

    async def progress(self, queue: str, operation_id: str) -> OperationProgress:
        """The note of an operation in a shard."""
        noted = self._progress.get((queue, operation_id))
        return OperationProgress() if noted is None else noted.progress

    async def step(self, queue: str, operation_id: str, step: OperationStep) -> tuple[Verdict, OperationProgress]:
        """Act on some jobs, and note that."""
        noted = self._progress.setdefault((queue, operation_id), _ShardProgress())
        if step.steps != noted.progress.steps:
            return Verdict.STALE, noted.progress
        acted = 0
        for job_id, given in step.jobs:
            with self._locked(queue) as locked:
                if job_id not in noted.seen and _act(locked, step, job_id, given):
                    noted.seen.add(job_id)
                    acted += 1
                    if step.act in {Act.DELETE, Act.PURGE}:
                        self._forget_log(queue, job_id)
        done = Done(step.looked_at, acted, len(step.jobs) - acted)
        noted.progress = OperationProgress(step.steps + 1, step.position, noted.progress.done + done)
        return Verdict.DONE, noted.progress

    async def remind(self, queue: str, operation_id: str, delay_ms: int | None, *, wakes: bool = True) -> None:
        """Have a worker of a queue carry on an operation."""
        with self._locked(queue) as locked:
            locked.outbox.remind(operation_id, delay_ms, wakes=wakes)

    def _touched(self, operation_id: str) -> _Operation | None:
        self._expire()
        operation = self._operations.get(operation_id)
        if operation is not None:
            operation.expires_ms = self._clock.now_ms() + KEPT_MS
        return operation

    def _permit(
        self, operation: _Operation, *, is_mine: bool = False, allowed: int = 0, wait_ms: int = 0
    ) -> Permit:
        stored, carried = operation.stored, operation.until_ms > self._clock.now_ms()
        return Permit(stored.state, stored.at, is_mine, allowed, wait_ms, carried)

    def _shown(self, operation_id: str) -> StoredOperation:
        operation = self._operations[operation_id]
        return msgspec.structs.replace(operation.stored, carried=operation.until_ms > self._clock.now_ms())

    def _expire(self) -> None:
        now = self._clock.now_ms()
        for operation_id in [key for key, each in self._operations.items() if each.expires_ms <= now]:
            self._drop(operation_id)

    def _drop(self, operation_id: str) -> None:
        del self._operations[operation_id]
        for key in [each for each in self._progress if each[1] == operation_id]:
            del self._progress[key]


def _set(operation: _Operation, **changes: object) -> None:
    operation.stored = msgspec.structs.replace(operation.stored, **changes)


def _allow(operation: _Operation, jobs: int, now: int) -> tuple[int, int]:
    """How many of some jobs the rate allows now; and in how many ms more, if these are too few."""
    if not operation.rate:
        return jobs, 0
    each = 1000 / operation.rate
    paid = max(operation.paid_ms, now - max(1000.0, each))
    available = math.floor((now - paid) / each + 0.000001)
    least = min(jobs, max(1, math.ceil(operation.rate / 10)))
    if available < least:
        return 0, max(1, math.ceil(paid + least * each - now))
    operation.paid_ms = paid + min(available, jobs) * each
    return min(available, jobs), 0


def _act(queue: OperationQueue, step: OperationStep, job_id: str, given: bytes) -> bool:
    """Act on one job; returns whether it has changed."""
    record = queue.jobs.here(job_id)
    if record is None or record.state is not step.state or not _is_of_start(record, step):
        return False
    text = given.decode() if step.act in {Act.MOVE, Act.SET_PRIORITY} else ""
    match step.act:
        case Act.RETRY:
            return queue.jobs.reopen(job_id) is JobState.FAILED
        case Act.CANCEL:
            changed = not record.state.ended
            queue.cancel(job_id, given, step.ttl_ms)
            return changed
        case Act.DELETE | Act.PURGE:
            return queue.jobs.delete(job_id, given) not in {None, JobState.RUNNING}
        case Act.MOVE:
            queue.outbox.move(job_id, text)
        case Act.RUN_NOW:
            queue.reschedule(job_id, None, None)
        case Act.SET_PRIORITY:
            changed = not record.state.ended and record.priority is not Priority(text)
            queue.jobs.prioritize(job_id, Priority(text))
            return changed
    return True


def _is_of_start(record: Record, step: OperationStep) -> bool:
    """Whether nothing has happened to a job since the operation began."""
    if record.sent_ms > step.begun_ms or (record.ended_ms or 0) > step.begun_ms:
        return False
    return step.act is not Act.RUN_NOW or (record.started_ms or 0) <= step.begun_ms
