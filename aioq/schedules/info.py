"""A schedule as users see it: when it ticks, its next runs, and what it has done so far."""

from datetime import datetime

import msgspec

from aioq.errors import WireError
from aioq.jobs.shards import queue_of_shard
from aioq.public import public
from aioq.schedules.cron import parse
from aioq.schedules.timing import Definition, Misfire, decode, to_datetime, to_ms
from aioq.store.schedules import Entry, Overlap
from aioq.util.timezones import zone_or_utc
from aioq.wire.messages import decode_envelope


@public
class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule as the server had it when it was read.

    Attributes:
        id: its id.
        queue: the queue its jobs go to.
        task: the task they call.
        cron: the cron line, or None.
        every: the interval in seconds, or None.
        tz: the zone of the cron line.
        start: no tick is earlier, or None.
        end: no tick is later, or None.
        jitter: each job is put off by up to this many seconds.
        max_runs: it ends after this many jobs; None for no limit.
        misfire: what happens to ticks that came while no worker ran.
        misfire_cap: the most missed ticks that `all` makes.
        overlap: what happens to a tick while the job of the tick before it has not ended.
        run_at_start: whether it also ticks when a worker starts.
        description: the timing in plain words.
        next_at: its next tick in UTC; None if it is paused or over.
        last_at: the last tick that made a job, or None.
        last_job: that job's id, or None.
        runs: jobs made since the definition last changed.
        skipped: ticks left out because of `overlap`, since the definition last changed.
        paused: whether it is paused.
        in_code: whether it is declared in code.
        changed: whether it was changed at run time after its declaration in code was stored.
        definition: the timing and the policies as they are stored.
        asked_at: the server's time when it was read.
    """

    id: str
    queue: str
    task: str
    cron: str | None = None
    every: float | None = None
    tz: str = "UTC"
    start: datetime | None = None
    end: datetime | None = None
    jitter: float = 0.0
    max_runs: int | None = None
    misfire: Misfire = Misfire.LAST
    misfire_cap: int = 100
    overlap: Overlap = Overlap.ALLOW
    run_at_start: bool = False
    description: str = ""
    next_at: datetime | None = None
    last_at: datetime | None = None
    last_job: str | None = None
    runs: int = 0
    skipped: int = 0
    paused: bool = False
    in_code: bool = False
    changed: bool = False
    definition: Definition = Definition()
    asked_at: datetime | None = None

    def next_runs(self, count: int = 5) -> list[datetime]:
        """The next ticks, in the schedule's zone; fewer if it ends before, none while it is paused.

        They are later than the moment at which the schedule was read; a tick that was due then is in `next_at`
        only.

        If this process cannot read the schedule, only the next tick is known. If this host does not know the zone,
        times are in UTC.

        Args:
            count: the most to return.
        """
        zone = zone_or_utc(self.tz)
        left = count if self.max_runs is None else min(count, self.max_runs - self.runs)
        found: list[datetime] = []
        tick = self.next_at
        if tick is not None and self.asked_at is not None and tick <= self.asked_at:
            tick = self._after(self.asked_at)
        while tick is not None and len(found) < left:
            found.append(tick.astimezone(zone))
            tick = self._after(tick)
        return found

    def _after(self, moment: datetime) -> datetime | None:
        return _moment(self.definition.next_after(to_ms(moment)))


def shown(queue: str, entry: Entry, now_ms: int | None = None) -> Schedule:
    """A stored schedule as users see it; if a newer aioq wrote it, only the parts that can be read.

    Args:
        queue: its queue.
        entry: the stored schedule.
        now_ms: the server's time when it was read; None if it was just written.
    """
    task, definition, words = "?", Definition(), None
    try:
        definition = decode(entry.definition)
        task = decode_envelope(entry.envelope).task
    except WireError as error:
        words = str(error)
    return Schedule(
        id=entry.id,
        queue=queue_of_shard(queue),
        task=task,
        cron=definition.cron or None,
        every=definition.every_ms / 1000 or None,
        tz=definition.tz,
        start=_moment(definition.start_ms),
        end=_moment(definition.end_ms),
        jitter=definition.jitter_ms / 1000,
        max_runs=definition.max_runs or None,
        misfire=definition.misfire,
        misfire_cap=definition.misfire_cap,
        overlap=definition.overlap,
        run_at_start=definition.run_at_start,
        description=words or describe(definition),
        next_at=_moment(entry.next_ms),
        last_at=_moment(entry.last_ms),
        last_job=entry.last_job or None,
        runs=entry.runs,
        skipped=entry.skipped,
        paused=entry.paused,
        in_code=bool(entry.code),
        changed=entry.changed,
        definition=definition,
        asked_at=_moment(now_ms),
    )


def describe(definition: Definition) -> str:
    """A timing in plain words: `At 06:00 on Monday through Friday`, `Every 30 s`."""
    if definition.cron:
        return parse(definition.cron).explain()
    return f"Every {duration(definition.every_ms / 1000)}"


def duration(seconds: float) -> str:
    """A span of time for people: `90 s`, `5 min`, `6 h`, `1 day`."""
    for size, name in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            count = int(seconds // size)
            return "1 day" if (count, name) == (1, "days") else f"{count} {name}"
    return f"{seconds:g} s"


def _moment(ms: int | None) -> datetime | None:
    return None if ms is None else to_datetime(ms)
