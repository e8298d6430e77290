"""The outboxes of queues in memory.

`aioq.store.outbox` says what they are for, `lua/lib/outbox.lua` how they work.
"""

import dataclasses
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import count
from typing import Protocol

import msgspec

from aioq.jobs.job import JobState
from aioq.store.contract import Limits
from aioq.store.extra import LOST_OUTCOME, Extra, Move, MovedJob, Way
from aioq.store.flows import refused_outcome
from aioq.store.memory.endings import Endings
from aioq.store.memory.groups import Groups
from aioq.store.memory.hooks import Hook, Hooks
from aioq.store.memory.records import Record
from aioq.store.memory.timers import OPERATE, RELAY, Timers
from aioq.store.memory.unique import Uniques
from aioq.store.outbox import HOLD_MS, MOST_ENTRIES, DeliveryResult, MovedJobsReport, OutboxEntry, Reading, Removal
from aioq.util.clock import Clock

Ended = tuple[JobState, bytes, int]
"""What an entry says of a job's end: its state, its outcome, and for how many ms that is kept."""


@dataclasses.dataclass(slots=True)
class QueueParts:
    """What the outbox of a queue needs of the queue.

    Attributes:
        records: the jobs.
        clock: tells the time.
        limits: the App's limits.
        hooks: the hooks of features.
        timers: the queue's timers.
        endings: ends jobs.
        place: puts a job into its lane, or schedules it if the time is not None; calls its hooks.
        cancel: cancels a job; returns the state it was in.
        wake: wakes a worker, so that it learns when the next timer is due.
        uniques: the unique keys.
        groups: the jobs that wait for a limit.
    """

    records: dict[str, Record]
    clock: Clock
    limits: Limits
    hooks: Hooks
    timers: Timers
    endings: Endings
    place: Callable[[Record, int | None, Way], None]
    cancel: Callable[[str, bytes, int], JobState | None]
    wake: Callable[[], None]
    uniques: Uniques
    groups: Groups


class QueueOutbox:
    """What one queue sends to others, and what it has got from them; called under the store's lock.

    Args:
        parts: of the queue.
    """

    def __init__(self, parts: QueueParts) -> None:
        self._parts = parts
        self._ids = count(1)
        self._entries: defaultdict[str, deque[OutboxEntry]] = defaultdict(deque)
        self._applied: dict[str, int] = {}
        self._called_off: dict[str, tuple[bytes, int, int]] = {}
        self._touched: dict[str, None] = {}

    def add(self, target: str, kind: str, job_id: str, content: object = None) -> None:
        """Add an entry."""
        parts, now = self._parts, self._parts.clock.now_ms()
        self._entries[target].append(OutboxEntry(next(self._ids), kind, job_id, content))
        self._touched[target] = None
        if not parts.timers.has(RELAY, target) and parts.timers.set(RELAY, target, now):
            parts.wake()

    def hold(self, target: str, hold_ms: int = HOLD_MS) -> None:
        """Leave the entries for a target to one worker for some time."""
        self._parts.timers.set(RELAY, target, self._parts.clock.now_ms() + hold_ms)

    def remind(self, operation: str, delay_ms: int | None = HOLD_MS, *, wakes: bool = True) -> None:
        """Set the timer that has a worker carry on a bulk operation; stop it if the delay is None."""
        parts = self._parts
        if delay_ms is None:
            parts.timers.stop(OPERATE, operation)
        elif parts.timers.set(OPERATE, operation, parts.clock.now_ms() + delay_ms) and wakes:
            parts.wake()

    def move(self, job_id: str, target: str) -> JobState | None:
        """Move a job to another queue; returns the state it was in."""
        record = self._parts.records.get(job_id)
        if record is None or record.is_elsewhere:
            there = record and record.move and record.move.queue == target
            return JobState(record.move.state) if there and record and record.move else None
        self._parts.hooks.change(record)
        state = record.state
        if state in {JobState.QUEUED, JobState.SCHEDULED} or self._parts.groups.has(job_id):
            self._parts.hooks.leave(record)
            due_ms = record.due_ms or 0 if state is JobState.SCHEDULED else 0
            move = Move(target, "on its way", state.value, due_ms, self._parts.clock.now_ms())
            record.extra = msgspec.structs.replace(record.extra or Extra(), move=move)
            record.state, record.due_ms = JobState.WAITING, None
            self.add(target, "job", job_id)
        return state

    def read(self, target: str, hold_ms: int) -> Reading:
        """Read the first entries for a target; those that are void are dropped."""
        waiting, found = self._entries[target], list[OutboxEntry]()
        for entry in list(waiting)[:MOST_ENTRIES]:
            content = self._content(target, entry)
            if content is None:
                waiting.remove(entry)
            else:
                found.append(msgspec.structs.replace(entry, content=content))
        if found:
            self.hold(target, hold_ms)
        else:
            self._clear(target)
        return Reading(found, more=len(waiting) > len(found))

    def _content(self, target: str, entry: OutboxEntry) -> object:
        record = self._parts.records.get(entry.job_id)
        if entry.kind == "cancel":
            return entry.content
        if record is None:
            return None
        if entry.kind == "job":
            is_leaving = record.is_elsewhere and record.move and record.move.entry
            return dataclasses.replace(record) if is_leaving else None
        if record.outcome is None or not record.state.ended or target not in record.origins:
            return None
        kept_ms = record.result_expires_ms or record.keep_until_ms
        return (record.state, record.outcome, max(0, kept_ms - self._parts.clock.now_ms()))

    def deliver(self, source: str, reading: Reading) -> DeliveryResult:
        """Apply the entries of another queue."""
        last = self._applied.get(source, 0)
        self._touched = {}
        verdicts: list[str] = []
        for entry in reading.entries:
            verdict = "applied"
            if entry.id > self._applied.get(source, 0):
                verdict = self._apply(source, entry)
                self._applied[source] = entry.id
            verdicts.append(verdict)
        return DeliveryResult(verdicts, last, list(self._touched))

    def _apply(self, source: str, entry: OutboxEntry) -> str:
        there = self._parts.records.get(entry.job_id)
        if entry.kind == "job":
            return self._arrive(source, entry.content, there)
        if entry.kind == "ended":
            self._end(source, entry.content, there)
        elif there is None:
            until_ms = self._parts.clock.now_ms() + self._parts.limits.result_ttl_ms
            self._called_off[entry.job_id] = (*entry.content, until_ms)
        elif there.is_elsewhere and there.move and not there.move.entry:
            self.add(there.move.queue, "cancel", entry.job_id, entry.content)
        else:
            self._parts.cancel(entry.job_id, *entry.content)
        return "applied"

    def _arrive(self, source: str, record: Record, there: Record | None) -> str:
        if there is not None and there.is_same(record):
            if not there.is_elsewhere:
                return "applied"
        elif there is not None and not self._parts.endings.is_free(there):
            return f"refused {there.id}"
        lock = record.extra.unique if record.extra else None
        meets = lock is not None and lock.until != "within" and not lock.is_debounced
        if lock is not None and meets and (owner := self._parts.uniques.owner(record.id, lock)) is not None:
            return f"refused {owner}"  # it stays where it is as long as another job holds its unique key here
        if there is not None and not there.is_same(record):
            self._parts.endings.free_id(there)
            there = None
        move, extra = record.move, record.extra
        assert move is not None and extra is not None  # noqa: PT018 - one fact: it was moved
        notified = dict.fromkeys([source, *(there.origins if there else ())])
        flow = extra.flow and msgspec.structs.replace(extra.flow, departs=0)
        record.extra = msgspec.structs.replace(extra, move=None, origins=(0, *notified), flow=flow)
        record.waiters = there.waiters if there else []
        self._parts.records[record.id] = record
        self._parts.place(record, move.due_ms or None, Way.MOVE)
        outcome, ttl_ms, until_ms = self._called_off.pop(record.id, (b"", 0, 0))
        cancellation = record.cancellation or (there and there.cancellation)
        if cancellation is not None or until_ms > self._parts.clock.now_ms():
            self._parts.cancel(record.id, *(cancellation or (outcome, ttl_ms)))
        return "applied"

    def _end(self, source: str, ended: Ended, there: Record | None) -> None:
        if there is not None and there.is_elsewhere and there.move and there.move.queue == source:
            there.envelope = None
            # It is in the history of the queue in which it has ended.
            self._parts.endings.finish(there, *ended, logged=False)

    def remove(self, target: str, reading: Reading, delivery: DeliveryResult) -> Removal:
        """Remove entries that were delivered."""
        returned: list[str] = []
        for entry, verdict in zip(reading.entries, delivery.verdicts, strict=True):
            waiting = self._entries[target]
            found = next((each for each in waiting if each.id == entry.id), None)
            if found is not None:
                waiting.remove(found)
                record = self._parts.records.get(entry.job_id)
                if record is not None and self._was_delivered(target, entry.kind, record, verdict):
                    returned.append(entry.job_id)
        more = bool(self._entries[target])
        if not more:
            self._clear(target)
        return Removal(more, returned)

    def _was_delivered(self, target: str, kind: str, record: Record, verdict: str) -> bool:
        """Do what is left for a delivered entry; returns whether its job is in this queue again."""
        if kind == "ended" and record.state.ended:
            left = tuple(each for each in record.origins if each != target)
            until_ms = record.keep_until_ms
            record.set_origins(until_ms, left)
            if not left:
                self._parts.endings.keep_until(record, until_ms)
        elif kind == "job" and record.is_elsewhere and record.move and record.move.entry:
            if verdict.startswith("refused"):
                return self._take_back(record, record.move, verdict.partition(" ")[2])
            if record.cancellation is not None:
                self.add(target, "cancel", record.id, record.cancellation)
            self._parts.hooks.left(record)
            record.envelope = None
            origins = None if record.extra is None else record.extra.origins
            flow = None if record.extra is None else record.extra.flow
            move = msgspec.structs.replace(record.move, entry="")
            record.extra = Extra(move=move, origins=origins, flow=flow)
        return False

    def _take_back(self, record: Record, move: Move, owner: str) -> bool:
        flow = record.extra and record.extra.flow
        record.extra = msgspec.structs.replace(record.extra or Extra(), move=None)
        if record.cancellation is not None:
            self._parts.endings.finish(record, JobState.CANCELLED, *record.cancellation)
            return False
        if flow and flow.departs:
            outcome = refused_outcome(move.queue, owner)
            self._parts.endings.finish(record, JobState.FAILED, outcome, self._parts.limits.result_ttl_ms)
            return False
        self._parts.place(record, move.due_ms or None, Way.MOVE)
        return True

    @staticmethod
    def cancel_moved(record: Record, outcome: bytes, ttl_ms: int) -> JobState | None:
        """Cancel a job that is on its way to another queue; None if it has arrived there."""
        move = record.move
        if move is None or not move.entry:
            return None
        record.cancellation = (outcome, ttl_ms)
        return JobState(move.state)

    def look(self, source: str, jobs: Sequence[MovedJob]) -> MovedJobsReport:
        """Look for jobs that came from another queue; it is notified again of those that have ended."""
        there = {job.job_id: self._parts.records.get(job.job_id) for job in jobs}
        ended = [each for each in there.values() if each and each.state.ended and source in each.origins]
        for record in ended:
            self.add(source, "ended", record.id)
        return MovedJobsReport([job_id for job_id, record in there.items() if record is None], bool(ended))

    def lost(self, target: str, job_id: str) -> bool:
        """End a job that was moved to `target` and is not there any more; False if it was not moved there."""
        record = self._parts.records.get(job_id)
        if record is None or not record.is_elsewhere or record.move is None or record.move.queue != target:
            return False
        self._parts.endings.finish(record, JobState.FAILED, LOST_OUTCOME, self._parts.limits.result_ttl_ms)
        return True

    def _clear(self, target: str) -> None:
        if not self._entries[target]:
            del self._entries[target]
            self._parts.timers.stop(RELAY, target)


class OriginsHook(Hook):
    """The hook of `Extra.origins`: the queues from which a job was moved here are notified of its end.

    Args:
        outbox: returns the queue's outbox.
        clock: the store's clock.
    """

    def __init__(self, outbox: Callable[[], QueueOutbox], clock: Clock) -> None:
        self._outbox = outbox
        self._clock = clock

    def finish(self, record: Record, ttl_ms: int) -> None:
        """Tell of the end."""
        record.set_origins(self._clock.now_ms() + ttl_ms, record.origins)
        for queue in record.origins:
            self._outbox().add(queue, "ended", record.id)

    def forget(self, record: Record, left_ms: int) -> None:
        """Keep the record for a shorter time."""
        record.set_origins(self._clock.now_ms() + left_ms, record.origins)

    def reopen(self, record: Record) -> bool:
        """The job has not ended any more."""
        record.set_origins(0, record.origins)
        return True


class HasOutbox(Protocol):
    """A queue, as its store locks it."""

    @property
    def outbox(self) -> QueueOutbox:
        """Its outbox."""
        ...


class MemoryOutbox:
    """The outboxes of all queues of a memory store.

    Args:
        at: locks a queue for one call.

    Attributes:
        on_delivery: called with each queue to which something is delivered.
    """

    def __init__(self, at: Callable[[str], AbstractContextManager[HasOutbox]]) -> None:
        self._at = at
        self.on_delivery: Callable[[str], None] = lambda _: None

    async def move(self, queue: str, job_ids: Sequence[str], target: str) -> list[JobState | None]:
        """Move jobs to another queue, and return the state each was in."""
        with self._at(queue) as locked:
            return [locked.outbox.move(job_id, target) for job_id in job_ids]

    async def read(self, queue: str, target: str, hold_ms: int = HOLD_MS) -> Reading:
        """Read the first entries for a target."""
        with self._at(queue) as locked:
            return locked.outbox.read(target, hold_ms)

    async def deliver(self, target: str, source: str, reading: Reading) -> DeliveryResult:
        """Apply entries in their target."""
        self.on_delivery(target)
        with self._at(target) as locked:
            return locked.outbox.deliver(source, reading)

    async def remove(self, queue: str, target: str, reading: Reading, delivery: DeliveryResult) -> Removal:
        """Remove entries that were delivered."""
        with self._at(queue) as locked:
            return locked.outbox.remove(target, reading, delivery)

    async def look(self, target: str, source: str, jobs: Sequence[MovedJob]) -> MovedJobsReport:
        """Look in `target` for jobs that were moved there."""
        with self._at(target) as locked:
            return locked.outbox.look(source, jobs)

    async def lost(self, queue: str, target: str, job_ids: Sequence[str]) -> list[str]:
        """End those of these jobs that were moved to `target`."""
        with self._at(queue) as locked:
            return [job_id for job_id in job_ids if locked.outbox.lost(target, job_id)]
