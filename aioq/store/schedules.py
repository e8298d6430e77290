"""Schedules as the server stores them, and the verbs for them. Part of the store contract (`aioq.store.contract`).

The keys of a schedule are in its queue's cluster slot. The server knows when its next tick is due, and which job
to make then. The caller decides when ticks come (`aioq.schedules.timing`).

Every write and every tick raises the schedule's revision, and names the revision that the caller has read: if
another one was written meanwhile, nothing is done. So of all the workers that see a tick due, one makes it.
"""

import enum
from collections.abc import Sequence
from typing import Protocol, TypeAlias

import msgspec

from aioq.jobs.job import Priority
from aioq.store.extra import Extra

Job: TypeAlias = tuple[str, int, int]
"""A tick's job: its id, the tick, and when the job is due, both in ms since the epoch."""


class Overlap(enum.StrEnum):
    """What a tick does while the job of the tick before has not ended.

    `allow`: its job is made, and both run. `skip`: it makes no job. `one`: its job is made, and held back until
    the job before has ended; while one is held back, further ticks make no job.
    """

    ALLOW = "allow"
    SKIP = "skip"
    ONE = "one"


class Entry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One schedule, as the server keeps it.

    Attributes:
        id: the schedule's id.
        rev: its revision when it was read; 0 if there is no such schedule. Each write sets it to the server's time
            in microseconds, or to the next number if that is higher; a tick adds 1. So no earlier schedule with
            this id had the same revision, and no process changes the new schedule after it has read the old one.
        definition: the encoded definition; empty to delete the schedule.
        envelope: the encoded call that each tick sends.
        priority: the lane of its jobs.
        extra: further data of its jobs (tags, an expiry); None for plain jobs.
        code: the hash of the definition in code; empty for a schedule that no code declares.
        changed: whether it was changed at run time since the code's definition was stored.
        paused: whether it is paused.
        removed: whether it was removed at run time although the code declares it. It stays stored, so that this is
            remembered.
        next_ms: its next tick; None while there is none.
        runs: how many jobs its ticks have made, since the definition was stored.
        skipped: how many ticks made no job because of `overlap`, since then too.
        last_ms: the last tick that made a job, or None.
        last_job: that job's id, or empty.
    """

    id: str
    rev: int = 0
    definition: bytes = b""
    envelope: bytes = b""
    priority: Priority = Priority.NORMAL
    extra: Extra | None = None
    code: str = ""
    changed: bool = False
    paused: bool = False
    removed: bool = False
    next_ms: int | None = None
    runs: int = 0
    skipped: int = 0
    last_ms: int | None = None
    last_job: str = ""


class Agenda(msgspec.Struct, frozen=True, gc=False):
    """Schedules of a queue.

    Attributes:
        now_ms: the server's time.
        next_tick_ms: how long until the first tick that is not due yet, in milliseconds; None for none.
        entries: the schedules that were asked for and exist.
        unreadable: the ids of schedules whose key holds something else, or nothing.
    """

    now_ms: int
    next_tick_ms: int | None
    entries: Sequence[Entry]
    unreadable: Sequence[str] = ()


class Tick(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One step of one schedule.

    Attributes:
        id: the schedule.
        rev: the revision that the caller has read.
        jobs: the jobs to make, oldest first. If there are several, `overlap` applies to each in turn.
        next_ms: the next tick; None if this was the last one.
        overlap: see `Overlap`.
        max_runs: the most jobs that the schedule may make in all; 0 for no limit.
        envelopes: the encoded call of each job, empty for the schedule's own call. No envelopes at all if each job
            has the schedule's own.
    """

    id: str
    rev: int
    jobs: Sequence[Job]
    next_ms: int | None
    overlap: Overlap
    max_runs: int
    envelopes: Sequence[bytes] = ()


class Ticked(msgspec.Struct, frozen=True, gc=False):
    """The result of `tick`.

    Attributes:
        next_tick_ms: how long until the queue's first tick, in milliseconds; None for none.
        made: for each schedule the number of jobs made. None if nothing was done: its revision was another one,
            because another worker has ticked or changed it, or it is one of `blocked`.
        blocked: the ids of schedules that could not be ticked because one of the keys to write holds another type.
    """

    next_tick_ms: int | None
    made: Sequence[int | None]
    blocked: Sequence[str] = ()


class DeclarationNote(msgspec.Struct, frozen=True, gc=False):
    """The current declaration of schedules in a queue: that of the worker that was started last.

    Attributes:
        since: when that worker declared them, in microseconds of the server's time.
        code: the hash of what its code declares.
        before: the hash of the declaration before; empty if none was noted.
    """

    since: int
    code: str
    before: str


class Owners(msgspec.Struct, frozen=True, gc=False):
    """The live workers whose code declares schedules.

    Attributes:
        declared_by: for each id that was asked for, a worker whose code declares it; empty for none.
        silent: a worker that has not noted yet what its code declares; empty for none.
    """

    declared_by: Sequence[str]
    silent: str


class Timetable(Protocol):
    """The schedules of each queue. Errors and cancellation are as in `aioq.store.contract.Store`."""

    async def read(self, queue: str, ids: Sequence[str] | None = None) -> Agenda:
        """The schedules with these ids, or all of the queue."""
        ...

    async def remains(self, queue: str, ids: Sequence[str]) -> Agenda:
        """The stored remains of schedules with these ids that were deleted; `write` says of which some remain."""
        ...

    async def due(self, queue: str, limit: int, skip: int = 0) -> Agenda:
        """Up to `limit` schedules whose tick is due, the longest due first; the first `skip` are left out."""
        ...

    async def write(self, queue: str, entries: Sequence[Entry]) -> list[bool]:
        """Store or delete schedules; False for each that was refused because its revision has changed.

        Deleting one that does not exist succeeds. One whose key holds something else is refused. `last_ms` and
        `last_job` are not written: only ticks change them. A schedule whose next tick comes before all others
        wakes a worker. If a schedule is deleted, a job that it held back is released.

        A schedule that is deleted with its `code` set is deleted because no code declares it any more. It is
        refused while a worker of the queue declares it (`owners`). Its data is kept for a day, so that `remains`
        finds what was changed at run time.
        """
        ...

    async def note_declaration(
        self, queue: str, since: int, code: str, *, worker: str = "", ids: Sequence[str] = ()
    ) -> DeclarationNote:
        """Note the current declaration of a queue, unless a later one is noted. It is lost with the server's data.

        What the worker's code declares is noted too, until its lease ends or it departs; see `owners`. If there is
        no schedule, neither in the queue nor in the worker's code, only that is noted.

        Args:
            queue: the queue.
            since: when the caller declared them, as an earlier call returned it; 0 for now.
            code: the hash of what the caller's code declares, in hexadecimal digits.
            worker: the caller's worker id in this queue; empty if it is no worker.
            ids: the schedules that its code declares, in any queue.
        """
        ...

    async def owners(self, queue: str, ids: Sequence[str]) -> Owners:
        """Find the workers of this queue whose code declares these schedules, for whichever queue."""
        ...

    async def tick(self, queue: str, ticks: Sequence[Tick]) -> Ticked:
        """Make the jobs of ticks and set the next ticks; each schedule in one step, if its revision holds."""
        ...

    async def queues(self) -> list[str]:
        """The queues that have schedules, whether or not this App knows them.

        A queue whose last schedule has just been deleted may be among them.
        """
        ...

    async def pass_leadership(self, queue: str) -> None:
        """Make another worker of the queue the leader of the ticks, if there is one.

        It is notified by an empty message on its channel, which may get lost.
        """
        ...
