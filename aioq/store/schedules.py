"""What the server keeps of schedules, and the verbs over it; a part of the store contract (`aioq.store.contract`).

A schedule lies in its queue's slot. The server knows when its next tick is due and what job to make of it; when
ticks come is decided by the caller (`aioq.schedules.timing`), and written only if nothing was written since it
was read: every write and every tick raises the schedule's revision, and names the one it goes by. So of any
number of workers that see a tick due, one makes it.
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
    """What becomes of a tick while the job of the tick before has not ended.

    `allow`: it is made, and both run. `skip`: it is left out. `one`: it is made and held back until that job has
    ended; while one is held back, further ticks are left out.
    """

    ALLOW = "allow"
    SKIP = "skip"
    ONE = "one"


class Entry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One schedule, as the server keeps it.

    Attributes:
        id: the schedule's id.
        rev: its revision when it was read; 0 for one that is not there. With each write it is the server's time in
            microseconds, or the next number where that is not higher, and a tick adds 1. So no earlier schedule of
            its id had the same, and no process acts on the new one by the old.
        definition: the encoded definition; empty to delete the schedule.
        envelope: the encoded call that each tick sends.
        priority: the lane of its jobs.
        extra: what its jobs have beside their call; None for plain ones.
        code: the hash of the definition in code, empty for a schedule that is not declared there.
        changed: whether it was changed at run time since the code's definition was stored.
        paused: whether it is paused.
        removed: whether it was removed at run time although the code declares it; it is kept to be remembered.
        next_ms: its next tick; None while there is none.
        runs: jobs made by ticks, since the definition was stored.
        skipped: ticks left out because of `overlap`, likewise.
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
        next_tick_ms: how long until the first tick that is still to come, in milliseconds; None for none.
        entries: the schedules; those that were asked for and are there.
        unreadable: the ids of those of which the server has something else, or nothing, under their key.
    """

    now_ms: int
    next_tick_ms: int | None
    entries: Sequence[Entry]
    unreadable: Sequence[str] = ()


class Tick(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One step of one schedule.

    Attributes:
        id: the schedule.
        rev: the revision this was decided by.
        jobs: the jobs to make, oldest first; with several, each is subject to `overlap` in its turn.
        next_ms: the next tick; None where there is none any more.
        overlap: see `Overlap`.
        max_runs: the most jobs in all; 0 for no limit.
        envelopes: the encoded call of each job, empty where it is the schedule's own; none where all are.
    """

    id: str
    rev: int
    jobs: Sequence[Job]
    next_ms: int | None
    overlap: Overlap
    max_runs: int
    envelopes: Sequence[bytes] = ()


class Ticked(msgspec.Struct, frozen=True, gc=False):
    """What came of ticks.

    Attributes:
        next_tick_ms: how long until the queue's first tick, in milliseconds; None for none.
        made: for each schedule the number of jobs made; None where the revision was another: another worker has
            ticked or changed it; or where it could not be ticked.
        blocked: the ids of those that could not be ticked, because a key of another type is in their way.
    """

    next_tick_ms: int | None
    made: Sequence[int | None]
    blocked: Sequence[str] = ()


class DeclarationNote(msgspec.Struct, frozen=True, gc=False):
    """Whose declarations of schedules hold in a queue: those of the worker that was started last.

    Attributes:
        since: when that one has declared them, by the server's time in microseconds.
        code: the hash of what its code declares.
        before: the hash of those that held before; empty where there was no note of any.
    """

    since: int
    code: str
    before: str


class Owners(msgspec.Struct, frozen=True, gc=False):
    """Whose code declares schedules, of the workers that live.

    Attributes:
        declared_by: for each id that was asked for a worker whose code declares it; empty for none.
        unsaid: a worker that has not said what its code declares; empty for none.
    """

    declared_by: Sequence[str]
    unsaid: str


class Timetable(Protocol):
    """The schedules of each queue. Errors and cancellation are as in `aioq.store.contract.Store`."""

    async def read(self, queue: str, ids: Sequence[str] | None = None) -> Agenda:
        """The schedules with these ids, or all of the queue."""
        ...

    async def left(self, queue: str, ids: Sequence[str]) -> Agenda:
        """What is kept of schedules with these ids that are not there any more; `write` says which are."""
        ...

    async def due(self, queue: str, limit: int, skip: int = 0) -> Agenda:
        """Up to `limit` schedules whose tick is due, the longest due first, without the first `skip` of them."""
        ...

    async def write(self, queue: str, entries: Sequence[Entry]) -> list[bool]:
        """Store or delete schedules; False for each whose revision is not the entry's any more.

        To delete one that is gone is done already. One whose key in the server holds something else is refused.
        `last_ms` and `last_job` are not written: they are the ticks' own. One that is stored with a next tick
        before all others wakes a worker. A job that is held back is released when its schedule is deleted.
        One that is deleted with its `code`, because no code declares it any more, is kept for a day, so that
        `left` finds what was changed at run time; refused while a worker of the queue declares it (`owners`).
        """
        ...

    async def note_declaration(
        self, queue: str, since: int, code: str, *, worker: str = "", ids: Sequence[str] = ()
    ) -> DeclarationNote:
        """Note the current declaration of a queue, unless a later one is there. It is lost with the server's data.

        What the worker's code declares is noted too, until its lease ends or it departs; see `owners`. Where
        there is no schedule, neither in the queue nor in the code, nothing else is noted of a worker.

        Args:
            queue: the queue.
            since: when they were declared, as this has said then; 0 for now.
            code: the hash of what the caller's code declares, in hexadecimal digits.
            worker: the caller, by its id in this queue; empty where it is no worker.
            ids: what its code declares, in whichever queue.
        """
        ...

    async def owners(self, queue: str, ids: Sequence[str]) -> Owners:
        """Whether the code of a worker of the queue declares schedules, in whichever queue."""
        ...

    async def tick(self, queue: str, ticks: Sequence[Tick]) -> Ticked:
        """Make jobs and move schedules on, each in one step, and only where the revision is still the same."""
        ...

    async def queues(self) -> list[str]:
        """The queues that have schedules, whether or not this App knows them.

        One whose last schedule has just been deleted may be among them.
        """
        ...

    async def pass_on(self, queue: str) -> None:
        """Tell a worker of the queue that it is the leader of the ticks from now on; nothing where there is none.

        The message comes on the worker's channel, without a job's id, and may get lost.
        """
        ...
