"""When a schedule ticks: its definition, its next tick, and the treatment of ticks that were not made in time.

Pure functions over milliseconds since the Unix epoch. A worker decides with them, the server carries it out.
"""

import enum
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import msgspec

from aioq.errors import NewerVersionError, WireError
from aioq.schedules.cron import parse
from aioq.store.schedules import Job, Overlap
from aioq.util.durations import FIRST, LAST, MAX_DELAY
from aioq.util.timezones import zone

VERSION = 1
"""The format of an encoded definition."""

MISFIRE_MS = 10_000
"""Ticks are made late, but each of them, while the oldest is no later than this; beyond, no worker was there to
make them, and the schedule's `misfire` decides. It is the time within which a worker's death is made good."""

MAX_TICKS = 1_000
"""The most ticks of one schedule that are made in one step."""

LEAST_EVERY = 0.1
"""The shortest interval in seconds. A guess: below, a task that loops does the same at no cost to the server."""

MOST_RUNS = 10**9
"""The most runs that may be asked for; one each 0.1 s would take three years. Who wants no limit gives None."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

FIRST_MS, LAST_MS = ((moment - _EPOCH) // timedelta(milliseconds=1) for moment in (FIRST, LAST))
"""No tick is earlier, and none later. What is declared lies in between; what a server has need not."""


class Misfire(enum.StrEnum):
    """What becomes of ticks that were not made in time, because no worker ran.

    `skip`: nothing. `last`: the latest of them is made, the others are not. `all`: each of them is made, the
    latest `misfire_cap` where there are more.
    """

    SKIP = "skip"
    LAST = "last"
    ALL = "all"


class Definition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """When a schedule ticks, and by which policies; checked where it is made (`aioq.schedules.declare`).

    Attributes:
        cron: a cron line, or empty.
        every_ms: the interval in milliseconds, or 0. One of the two is given.
        tz: the zone's name; for `cron`.
        start_ms: no tick is earlier; an interval's first tick is exactly then.
        end_ms: no tick is later.
        jitter_ms: each job is put off by a part of this.
        max_runs: the schedule ends after this many jobs; 0 for no limit.
        misfire: see `Misfire`.
        misfire_cap: the most ticks that `all` makes good.
        overlap: see `Overlap`.
    """

    cron: str = ""
    every_ms: int = 0
    tz: str = "UTC"
    start_ms: int | None = None
    end_ms: int | None = None
    jitter_ms: int = 0
    max_runs: int = 0
    misfire: Misfire = Misfire.LAST
    misfire_cap: int = 100
    overlap: Overlap = Overlap.ALLOW

    def next_after(self, moment_ms: int) -> int | None:
        """The first tick later than `moment_ms`; None where there is none any more, or none in the calendar.

        An interval without `start` ticks on the grid of its length from the epoch: every 30 s at second 0 and 30
        of each minute, whenever it was stored and whichever process asks.
        """
        if self.start_ms is not None and moment_ms < self.start_ms:
            moment_ms = self.start_ms - 1
        moment_ms = max(moment_ms, FIRST_MS - 1)
        last_ms = LAST_MS if self.end_ms is None else min(self.end_ms, LAST_MS)
        tick = self._next(moment_ms) if moment_ms < last_ms else None
        return tick if tick is not None and tick <= last_ms else None

    def _next(self, moment_ms: int) -> int | None:
        if not (self.every_ms or self.cron):
            return None  # a definition that this process cannot read
        if not self.every_ms:
            run = parse(self.cron).next_after(to_datetime(moment_ms), zone(self.tz))
            return None if run is None else to_ms(run)
        origin = self.start_ms or 0
        return origin + ((moment_ms - origin) // self.every_ms + 1) * self.every_ms

    def ticks(self, first_ms: int, until_ms: int) -> Iterator[int]:
        """The ticks from `first_ms` to `until_ms`, both included."""
        tick = self.next_after(first_ms - 1)
        while tick is not None and tick <= until_ms:
            yield tick
            tick = self.next_after(tick)

    def latest(self, first_ms: int, until_ms: int, count: int) -> list[int]:
        """The last `count` ticks of those, oldest first.

        The span that is looked through is doubled backwards until it holds enough, so that a year of missed
        seconds costs no more than a minute of them.
        """
        span = 1_000 * count
        if self.end_ms is not None:  # else the look back leaps over years of none into as many of ticks
            until_ms = max(min(until_ms, self.end_ms), first_ms)
        while True:
            begin = max(first_ms, until_ms - span)
            found = list(self.ticks(begin, until_ms))
            if len(found) >= count or begin == first_ms:
                return found[-count:]
            span *= 2


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done about a schedule whose tick is due.

    Attributes:
        ticks: the ticks to make, oldest first.
        next_ms: the tick after them; None where there is none any more.
        missed: whether no worker was there to make them in time.
    """

    ticks: tuple[int, ...]
    next_ms: int | None
    missed: bool = False


def plan(definition: Definition, due_ms: int, now_ms: int) -> Plan:
    """Decide about a schedule whose next tick, `due_ms`, is not in the future."""
    next_ms = definition.next_after(now_ms)
    if now_ms - due_ms <= MISFIRE_MS:
        on_time = definition.latest(due_ms, now_ms, MAX_TICKS)
        # A tick that the definition does not have (it was stored by another version) is not lost.
        return Plan(tuple(on_time) or (due_ms,), next_ms)
    if definition.misfire is Misfire.SKIP:
        return Plan((), next_ms, missed=True)
    count = 1 if definition.misfire is Misfire.LAST else definition.misfire_cap
    return Plan(tuple(definition.latest(due_ms, now_ms, count)) or (due_ms,), next_ms, missed=True)


def job_of(schedule_id: str, definition: Definition, tick_ms: int) -> Job:
    """The job of one tick. Its id says which, so the same tick made twice would be one job."""
    job_id = f"{schedule_id}@{stamp(tick_ms)}"
    if not definition.jitter_ms:
        return job_id, tick_ms, tick_ms
    # Drawn by a hash of the id: whichever worker makes the tick, and however often it tries, the job is due at one
    # time.
    number = int.from_bytes(hashlib.blake2b(job_id.encode(), digest_size=8).digest())
    return job_id, tick_ms, tick_ms + number % (definition.jitter_ms + 1)


def stamp(moment_ms: int) -> str:
    """A moment in UTC, as it is written in a job's id: `2026-11-24T04:30:00Z`."""
    text = to_datetime(moment_ms).replace(tzinfo=None).isoformat(timespec="milliseconds")
    return text.removesuffix(".000") + "Z"


def to_datetime(moment_ms: int) -> datetime:
    """Milliseconds since the epoch as a datetime in UTC, exactly; what is beyond the calendar as its end."""
    return _EPOCH + timedelta(milliseconds=min(max(moment_ms, FIRST_MS - 1), LAST_MS))


def to_ms(moment: datetime) -> int:
    """A datetime with a time zone as milliseconds since the epoch."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def encode(definition: Definition) -> bytes:
    """The bytes that the server keeps; the same definition is the same bytes."""
    return msgspec.msgpack.encode((VERSION, definition))


@lru_cache(maxsize=4096)
def decode(data: bytes) -> Definition:
    """Read a definition that the server kept, and see that this process can work with it.

    Its numbers are limited to what can be declared, whichever process has written them.

    Raises:
        NewerVersionError: it was written by a newer aioq.
        WireError: it is none, or names a cron line or a zone that this process does not know.
    """
    try:
        version, raw = msgspec.msgpack.decode(data, type=tuple[int, msgspec.Raw])
        if version > VERSION:
            raise NewerVersionError(
                f"the schedule is of format {version}, this aioq knows up to {VERSION}; upgrade this process"
            )
        definition = msgspec.msgpack.decode(raw, type=Definition)
        if definition.cron:
            parse(definition.cron)
            zone(definition.tz)
        elif definition.every_ms <= 0:
            raise WireError("a schedule without cron and every")
    except (msgspec.DecodeError, ValueError) as error:
        raise WireError(f"not a schedule's definition: {error}") from None
    return _within_bounds(definition)


def _within_bounds(definition: Definition) -> Definition:
    """Clamp what would make ticks without end, or jobs that are never due."""
    most_ms = MAX_DELAY * 1000
    fit = msgspec.structs.replace(
        definition,
        every_ms=0 if definition.cron else min(max(definition.every_ms, round(LEAST_EVERY * 1000)), most_ms),
        jitter_ms=min(max(definition.jitter_ms, 0), most_ms),
        max_runs=min(max(definition.max_runs, 0), MOST_RUNS),
        misfire_cap=min(max(definition.misfire_cap, 1), MAX_TICKS),
    )
    return definition if fit == definition else fit
