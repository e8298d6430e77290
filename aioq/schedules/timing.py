"""When a schedule ticks: its definition, its next tick, and what to do about ticks that were not made in time.

Pure functions over milliseconds since the Unix epoch. A worker decides with them; the server makes the ticks.
"""

import enum
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import msgspec

from aioq.errors import ConfigError, NewerVersionError, WireError
from aioq.schedules.cron import parse
from aioq.store.schedules import Job, Overlap
from aioq.util.durations import FIRST, LAST, MAX_DELAY
from aioq.util.printable import brief
from aioq.util.timezones import zone, zone_hint

VERSION = 1
"""The format version of an encoded definition."""

MISFIRE_MS = 10_000
"""If the oldest due tick is no later than this, every due tick is made. If it is later, no worker was there, and
the schedule's `misfire` decides. Within this time other workers take over the ticks of one that died."""

MAX_TICKS = 1_000
"""The most ticks of one schedule that are made in one step."""

LEAST_EVERY = 0.1
"""The shortest interval in seconds. A guess: for less, a task with a loop does the same at no cost to the
server."""

MOST_RUNS = 10**9
"""The largest `max_runs`; at one run each 0.1 s it is reached after three years. None stands for no limit."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

FIRST_MS, LAST_MS = ((moment - _EPOCH) // timedelta(milliseconds=1) for moment in (FIRST, LAST))
"""No tick is earlier or later. Declared bounds are checked against these; stored ones may lie outside."""


class Misfire(enum.StrEnum):
    """What happens to ticks that were not made in time, because no worker ran.

    `skip`: none of them is made. `last`: only the latest of them is made. `all`: each of them is made; if there
    are more than `misfire_cap`, only the latest `misfire_cap`.
    """

    SKIP = "skip"
    LAST = "last"
    ALL = "all"


class Definition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """When a schedule ticks, and its policies; checked where it is made (`aioq.schedules.declare`).

    Attributes:
        cron: a cron line, or empty. Either this or `every_ms` is given.
        every_ms: the interval in milliseconds, or 0.
        tz: the name of the time zone of `cron`.
        start_ms: no tick is earlier; an interval's first tick is exactly then.
        end_ms: no tick is later.
        jitter_ms: each job is put off by a part of this.
        max_runs: the schedule ends after this many jobs; 0 for no limit.
        misfire: see `Misfire`.
        misfire_cap: the most missed ticks that `all` makes.
        overlap: see `Overlap`.
        run_at_start: it also ticks when a worker starts.
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
    run_at_start: bool = False

    def next_after(self, moment_ms: int) -> int | None:
        """The first tick later than `moment_ms`; None if there is none, or none within the calendar.

        An interval without `start` counts from the epoch: every 30 s is at second 0 and 30 of each minute. So the
        ticks are the same whenever the schedule was stored and whichever process asks.
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
        """The last `count` ticks from `first_ms` to `until_ms`, oldest first.

        The search begins with a short span before `until_ms` and doubles it until it holds enough ticks. So a year
        of missed ticks of each second costs no more than a minute of them.
        """
        span = 1_000 * count
        # Else the span could double over years without a tick into as many years of ticks.
        if self.end_ms is not None:
            until_ms = max(min(until_ms, self.end_ms), first_ms)
        while True:
            begin = max(first_ms, until_ms - span)
            found = list(self.ticks(begin, until_ms))
            if len(found) >= count or begin == first_ms:
                return found[-count:]
            span *= 2


@dataclass(frozen=True, slots=True)
class DueTicks:
    """What is to be done about a schedule whose tick is due.

    Attributes:
        ticks: the ticks to make, oldest first.
        next_ms: the tick after them; None if there is none.
        missed: whether ticks were not made in time because no worker was there.
    """

    ticks: tuple[int, ...]
    next_ms: int | None
    missed: bool = False


def due_ticks(definition: Definition, due_ms: int, now_ms: int) -> DueTicks:
    """Decide what to do about a schedule whose next tick, `due_ms`, is not in the future."""
    next_ms = definition.next_after(now_ms)
    if now_ms - due_ms <= MISFIRE_MS:
        on_time = definition.latest(due_ms, now_ms, MAX_TICKS)
        # If the definition has no such tick (another version has stored it), it is made all the same.
        return DueTicks(tuple(on_time) or (due_ms,), next_ms)
    if definition.misfire is Misfire.SKIP:
        return DueTicks((), next_ms, missed=True)
    count = 1 if definition.misfire is Misfire.LAST else definition.misfire_cap
    return DueTicks(tuple(definition.latest(due_ms, now_ms, count)) or (due_ms,), next_ms, missed=True)


def job_of(schedule_id: str, definition: Definition, tick_ms: int) -> Job:
    """The job of one tick. Its id names the tick, so a tick that is made twice gives one job."""
    job_id = f"{schedule_id}@{stamp(tick_ms)}"
    if not definition.jitter_ms:
        return job_id, tick_ms, tick_ms
    # Taken from a hash of the id: so the job is due at the same time, whichever worker makes the tick and however
    # often it tries.
    number = int.from_bytes(hashlib.blake2b(job_id.encode(), digest_size=8).digest())
    return job_id, tick_ms, tick_ms + number % (definition.jitter_ms + 1)


def stamp(moment_ms: int) -> str:
    """A moment in UTC as text, as in a tick's job id: `2026-11-24T04:30:00Z`."""
    text = to_datetime(moment_ms).replace(tzinfo=None).isoformat(timespec="milliseconds")
    return text.removesuffix(".000") + "Z"


def to_datetime(moment_ms: int) -> datetime:
    """Milliseconds since the epoch as an exact datetime in UTC, limited to the bounds of ticks."""
    return _EPOCH + timedelta(milliseconds=min(max(moment_ms, FIRST_MS - 1), LAST_MS))


def to_ms(moment: datetime) -> int:
    """A datetime with a time zone as milliseconds since the epoch."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def encode(definition: Definition) -> bytes:
    """The bytes that the server keeps; equal definitions give equal bytes."""
    return msgspec.msgpack.encode((VERSION, definition))


@lru_cache(maxsize=4096)
def decode(data: bytes) -> Definition:
    """Read a stored definition, and check that this process can use it.

    Its numbers are limited to what can be declared, whichever process has written them.

    Raises:
        NewerVersionError: it was written by a newer aioq.
        WireError: it is no definition, or this process does not understand its cron line or know its zone.
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
    """Limit values that would make endless ticks, or jobs that are never due."""
    most_ms = MAX_DELAY * 1000
    limited = msgspec.structs.replace(
        definition,
        every_ms=0 if definition.cron else min(max(definition.every_ms, round(LEAST_EVERY * 1000)), most_ms),
        jitter_ms=min(max(definition.jitter_ms, 0), most_ms),
        max_runs=min(max(definition.max_runs, 0), MOST_RUNS),
        misfire_cap=min(max(definition.misfire_cap, 1), MAX_TICKS),
    )
    return definition if limited == definition else limited


def check_zone(what: str, name: object) -> str:
    """Return `name` if it is the name of a time zone.

    Raises:
        ConfigError: this host knows no such zone; the message suggests a similar one, or how to install the zones.
    """
    if not isinstance(name, str):
        raise ConfigError(f"{what}={brief(name)}: expected the name of a time zone, such as 'Asia/Shanghai'")
    try:
        zone(name)
    except ValueError:
        raise ConfigError(f"{what}={brief(name)}: no such time zone; {zone_hint(name)}") from None
    return name
