"""Schedules in memory: the part of a queue that makes jobs at given times."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import msgspec

from aioq.jobs.job import JobState
from aioq.store.leases import WorkerLease
from aioq.store.memory.leases import Leases
from aioq.store.memory.pubsub import Mail
from aioq.store.memory.records import Record
from aioq.store.pubsub import worker_channel
from aioq.store.schedules import Agenda, DeclarationNote, Entry, Overlap, Owners, Tick, Ticked
from aioq.util.clock import Clock


@dataclass(slots=True)
class _StoredSchedule:
    """A schedule, and those of its jobs that `overlap` needs: the current one, and one that is held back."""

    entry: Entry
    current: str = ""
    held: str = ""


REVISION_STEP = 1000
"""The distance between the revisions of two writes at the same time: a tick adds 1, so up to this many ticks in
between do not reach the later revision."""


KEPT_MS = 24 * 60 * 60 * 1000
"""How long a schedule is kept that was deleted because no code declares it; as in `schedule_write.lua`."""


class Revisions:
    """The revisions of a store's schedules. As on a server they are times.

    A clock that is moved by hand may stay at its time between two writes. Still the later write gets the higher
    revision, in whichever queue it is.

    Args:
        clock: the store's clock.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._last = 0

    def written(self) -> int:
        """The revision of a write that is made now."""
        self._last = max(self.clock.now_ms() * 1000, self._last + REVISION_STEP)
        return self._last

    def ticked(self, rev: int) -> int:
        """The revision after a tick."""
        self._last = max(self._last, rev + 1)
        return rev + 1


class MemoryQueueTimetable:
    """One queue's schedules. Its methods are called under the store's lock.

    Args:
        records: the queue's jobs.
        revisions: the store's revisions, and its clock.
        leases: the queue's workers.
        place: decides about a job with a unique key, as `Uniques.place_tick`; "" if there is no room for it.
        add: adds a job that is due at a time in ms, or is `held` back.
        release: queues a job that was held back.
        wake: wakes a worker, so that it learns of an earlier tick.
    """

    def __init__(
        self,
        records: dict[str, Record],
        revisions: Revisions,
        leases: Leases,
        *,
        place: Callable[[Record, int], str | None],
        add: Callable[..., None],
        release: Callable[[Record], None],
        wake: Callable[[], None],
    ) -> None:
        self._clock = revisions.clock
        self._records = records
        self._revisions = revisions
        self._place = place
        self._add_job = add
        self._release = release
        self._wake = wake
        self._kept: dict[str, _StoredSchedule] = {}
        self._note = DeclarationNote(0, "", "")
        self._leases = leases
        self._owners: dict[str, frozenset[str]] = {}
        self._left: dict[str, tuple[Entry, int]] = {}

    @property
    def empty(self) -> bool:
        """Whether there is no schedule."""
        return not self._kept

    def next_tick_ms(self) -> int | None:
        """How long until the first tick; 0 if one is due, None if there is none."""
        ticks = [kept.entry.next_ms for kept in self._kept.values() if kept.entry.next_ms is not None]
        return max(0, min(ticks) - self._clock.now_ms()) if ticks else None

    def read(self, ids: Sequence[str] | None) -> Agenda:
        """The schedules with these ids, or all of the queue."""
        if ids is None:
            return self._agenda(sorted(self._kept, key=self._rank))
        return self._agenda([each for each in ids if each in self._kept])

    def remains(self, ids: Sequence[str]) -> Agenda:
        """The stored remains of schedules with these ids that were deleted."""
        now = self._clock.now_ms()
        self._left = {each: kept for each, kept in self._left.items() if kept[1] > now}
        entries = [self._left[each][0] for each in ids if each in self._left and each not in self._kept]
        return msgspec.structs.replace(self._agenda(()), entries=entries)

    def due(self, limit: int, skip: int) -> Agenda:
        """Up to `limit` schedules whose tick is due, the longest due first; the first `skip` are left out."""
        now = self._clock.now_ms()
        ids = [each for each in sorted(self._kept, key=self._rank) if self._rank(each)[0] <= now]
        return self._agenda(ids[skip : skip + limit])

    def write(self, entry: Entry) -> bool:
        """Store or delete one schedule; False where its revision is not the entry's any more."""
        kept = self._kept.get(entry.id)
        if not entry.definition and kept is None:
            return True
        if (0 if kept is None else kept.entry.rev) != entry.rev:
            return False
        if not entry.definition:
            if entry.code and any(self.owners([entry.id]).declared_by):
                return False
            self._delete(entry.id, keep=bool(entry.code))
            return True
        first = self.next_tick_ms()
        if kept is None:
            kept = self._kept[entry.id] = _StoredSchedule(entry)
            self._left.pop(entry.id, None)
        last = {"last_ms": kept.entry.last_ms, "last_job": kept.entry.last_job} if entry.rev else {}
        kept.entry = msgspec.structs.replace(entry, rev=self._revisions.written(), **last)
        if entry.next_ms is not None and (first is None or entry.next_ms - self._clock.now_ms() < first):
            self._wake()
        return True

    def note_declaration(self, since: int, code: str, worker: str, ids: Sequence[str]) -> DeclarationNote:
        """Note the current declaration of a queue, unless a later one is noted."""
        self._owners = {other: its for other, its in self._owners.items() if not self._leases.is_lost(other)}
        if not self._leases.is_lost(worker):
            self._owners[worker] = frozenset(ids)
        if worker and not ids and not self._kept:
            return DeclarationNote(max(since, 1), code, code)
        before = self._note
        since = since or max(self._clock.now_ms() * 1000, before.since + 1)
        if since <= before.since:
            return msgspec.structs.replace(before, before=before.code)
        self._note = DeclarationNote(since, code, before.code)
        return self._note

    def owners(self, ids: Sequence[str]) -> Owners:
        """Find the workers of this queue whose code declares these schedules, for whichever queue."""
        living = [each.worker for each in self._leases.all() if not self._leases.is_lost(each.worker)]
        silent = [worker for worker in living if worker not in self._owners]
        declared_by = [[worker for worker in living if each in self._owners.get(worker, ())] for each in ids]
        return Owners([(owners or [""])[0] for owners in declared_by], (silent or [""])[0])

    def tick(self, ticks: Sequence[Tick]) -> Ticked:
        """Make the jobs of ticks and set the next ticks; each schedule in one step, if its revision holds."""
        made = [self._tick(tick) for tick in ticks]
        return Ticked(self.next_tick_ms(), made)

    def ended(self, job_id: str) -> None:
        """Queue the job that was held back until this one has ended."""
        kept = self._kept.get(job_id.rpartition("@")[0])
        if kept is None or not kept.held:
            return
        if kept.held == job_id:
            kept.held = ""
        elif kept.current == job_id:
            self._let_next(kept)

    def current(self, schedule_id: str) -> str:
        """The job of the schedule that `overlap` waits for; empty for none."""
        kept = self._kept.get(schedule_id)
        return "" if kept is None else kept.current

    def _delete(self, schedule_id: str, *, keep: bool) -> None:
        kept = self._kept.pop(schedule_id)
        self._let_next(kept)
        if keep:
            self._left[schedule_id] = kept.entry, self._clock.now_ms() + KEPT_MS

    def _rank(self, schedule_id: str) -> tuple[float, bytes]:
        next_ms = self._kept[schedule_id].entry.next_ms
        return (float("inf") if next_ms is None else next_ms, schedule_id.encode())

    def _agenda(self, ids: Sequence[str]) -> Agenda:
        now = self._clock.now_ms()
        ahead = [ms for kept in self._kept.values() if (ms := kept.entry.next_ms) is not None and ms > now]
        entries = [self._kept[each].entry for each in ids]
        return Agenda(now, min(ahead) - now if ahead else None, entries)

    def _tick(self, tick: Tick) -> int | None:
        kept = self._kept.get(tick.id)
        if kept is None or kept.entry.rev != tick.rev:
            return None
        made = 0
        envelopes = tick.envelopes or [b""] * len(tick.jobs)
        for (job_id, tick_ms, due_ms), own in zip(tick.jobs, envelopes, strict=True):
            if tick.max_runs and kept.entry.runs >= tick.max_runs:
                break
            if self._make(kept, job_id, due_ms, own or kept.entry.envelope, tick.overlap):
                made += 1
                kept.entry = msgspec.structs.replace(kept.entry, last_ms=tick_ms, last_job=job_id)
        over = tick.max_runs and kept.entry.runs >= tick.max_runs
        kept.entry = msgspec.structs.replace(
            kept.entry, rev=self._revisions.ticked(kept.entry.rev), next_ms=None if over else tick.next_ms
        )
        return made

    def _make(self, kept: _StoredSchedule, job_id: str, due_ms: int, envelope: bytes, overlap: Overlap) -> bool:
        """Make one tick, following `overlap`; returns whether a job was made."""
        entry = kept.entry
        busy = overlap is not Overlap.ALLOW and self._unfinished(kept.current)
        if not busy and self._unfinished(kept.held):
            self._let_next(kept)
            busy = overlap is not Overlap.ALLOW
        if busy and (overlap is Overlap.SKIP or self._unfinished(kept.held)):
            kept.entry = msgspec.structs.replace(entry, skipped=entry.skipped + 1)
            return False
        now, wait_ms = self._clock.now_ms(), entry.extra.wait_ms if entry.extra else 0
        due_ms = max(due_ms, now) + wait_ms if wait_ms else due_ms
        record = Record(job_id, envelope, entry.priority, now, extra=entry.extra)
        if job_id not in self._records:  # else it was made already
            instead = self._place(record, due_ms)
            if instead is not None and instead != job_id:
                kept.entry = msgspec.structs.replace(entry, skipped=entry.skipped + 1)
                return False
            self._add_job(record, due_ms, held=busy or instead is not None, is_tick=True)
        if busy:
            kept.held = job_id
        else:
            kept.current, kept.held = job_id, ""
        kept.entry = msgspec.structs.replace(entry, runs=entry.runs + 1)
        return True

    def _let_next(self, kept: _StoredSchedule) -> None:
        held = self._records.get(kept.held)
        if held is not None and held.state is JobState.WAITING:
            self._release(held)
        kept.current, kept.held = kept.held or kept.current, ""

    def _unfinished(self, job_id: str) -> bool:
        record = self._records.get(job_id)
        return record is not None and not record.state.ended


class ScheduleQueue(Protocol):
    """A queue, as far as its schedules need it."""

    mail: Mail

    @property
    def timetable(self) -> MemoryQueueTimetable:
        """Its schedules."""
        ...

    def workers(self) -> Sequence[WorkerLease]:
        """Its workers."""
        ...


class MemoryTimetable:
    """The schedules of each queue. Errors and cancellation are as in `aioq.store.contract.Store`.

    Args:
        app: the App's name.
        lock: locks a queue for one verb, and returns it.
        queues: the names of all queues.
    """

    def __init__(
        self,
        app: str,
        lock: Callable[[str], AbstractContextManager[ScheduleQueue]],
        queues: Callable[[], Sequence[str]],
    ) -> None:
        self._app = app
        self._locked = lock
        self._queues = queues

    async def read(self, queue: str, ids: Sequence[str] | None = None) -> Agenda:
        """The schedules with these ids, or all of the queue."""
        with self._locked(queue) as locked:
            return locked.timetable.read(ids)

    async def remains(self, queue: str, ids: Sequence[str]) -> Agenda:
        """The stored remains of schedules with these ids that were deleted."""
        with self._locked(queue) as locked:
            return locked.timetable.remains(ids)

    async def due(self, queue: str, limit: int, skip: int = 0) -> Agenda:
        """Up to `limit` schedules whose tick is due, the longest due first; the first `skip` are left out."""
        with self._locked(queue) as locked:
            return locked.timetable.due(limit, skip)

    async def write(self, queue: str, entries: Sequence[Entry]) -> list[bool]:
        """Store or delete schedules; False for each that was refused because its revision has changed."""
        with self._locked(queue) as locked:
            return [locked.timetable.write(entry) for entry in entries]

    async def note_declaration(
        self, queue: str, since: int, code: str, *, worker: str = "", ids: Sequence[str] = ()
    ) -> DeclarationNote:
        """Note the current declaration of a queue, unless a later one is noted."""
        with self._locked(queue) as locked:
            return locked.timetable.note_declaration(since, code, worker, ids)

    async def owners(self, queue: str, ids: Sequence[str]) -> Owners:
        """Find the workers of this queue whose code declares these schedules, for whichever queue."""
        with self._locked(queue) as locked:
            return locked.timetable.owners(ids)

    async def tick(self, queue: str, ticks: Sequence[Tick]) -> Ticked:
        """Make the jobs of ticks and set the next ticks; each schedule in one step, if its revision holds."""
        with self._locked(queue) as locked:
            return locked.timetable.tick(ticks)

    async def queues(self) -> list[str]:
        """The queues that have schedules, whether or not this App knows them."""
        return sorted(queue for queue in self._queues() if not self._empty(queue))

    def _empty(self, queue: str) -> bool:
        with self._locked(queue) as locked:
            return locked.timetable.empty

    async def pass_leadership(self, queue: str) -> None:
        """Make another worker of the queue the leader of the ticks, if there is one."""
        with self._locked(queue) as locked:
            workers = [worker for worker in locked.workers() if worker.lease_ms > 0]
            if workers and locked.timetable.next_tick_ms() is not None:
                first = max(workers, key=lambda worker: worker.lease_ms)
                locked.mail.send(worker_channel(self._app, queue, first.worker), b"")
