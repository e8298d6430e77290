"""Cron lines: when they run, in a time zone. Pure functions over the calendar; no clock is read here.

A line is parsed by cronsim: five fields (minute, hour, day of month, month, day of week) with names, ranges,
steps, lists, `L`, `LW` and `#`, or an alias such as `@daily`. A sixth field in front is for seconds. Two day
fields mean either of them, unless one begins with `*`: then both (Vixie cron's rule, as in Debian).

Daylight saving, as in Debian's cron: where the minute and the hour field are both fixed (neither begins with
`*`), a line means a time of day. Such a run whose time is skipped comes at the first moment after the gap, and one
whose time comes twice is made the first time only. Other lines mean an interval and follow real time: they run at
every moment whose local time they match, both times in an hour that comes twice, never in one that is skipped.

cronsim's own iteration is not used: where clocks move by half an hour (Australia/Lord_Howe) it leaves out runs on
that day (2.8: `*/10 5 * * *` begins at 05:30). The tests hold this module against a reading of every minute.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import MAXYEAR, MINYEAR, UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache

from cronsim import CronSim, CronSimError

from aioq.schedules.cron_text import words
from aioq.util.printable import brief

ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
"""What crontab(5) names; `@reboot` is no time."""

HORIZON = 50
"""Years that a run is looked for. A line without one in so long never runs: leap days and weekdays come together
again within 28 years, across 2100 and its like within 40."""

_FIELDS, _WITH_SECONDS = 5, 6
_MINUTE = timedelta(minutes=1)
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_ONE_VALUE = re.compile(r"\b(\w+)-\1/0*[1-9]\d*\b")
"""A range of one value with a step, `5-5/2`: it is 5, which cronsim reads as `5/2`, every second one from 5 on.
A step of 0 is left for it to refuse."""

_ANY = datetime(2000, 1, 1)  # cronsim wants a moment even where only its parsing is asked for


_BEGIN = datetime(MINYEAR + 1, 1, 1, tzinfo=UTC)


class CronError(ValueError):
    """An invalid line, or one that never runs; the message says which field."""


@dataclass(frozen=True, slots=True)
class Cron:
    """A parsed line; made by `parse`.

    Attributes:
        line: as it was written.
        fields: its five fields, aliases written out.
        seconds: the seconds of a minute, in order.
        minutes: the minutes of an hour, likewise.
        hours: the hours of a day, likewise.
        months: the months of a year.
        by_time_of_day: whether minute and hour are fixed, so that the line means a time of day.
    """

    line: str
    fields: str
    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    months: frozenset[int]
    by_time_of_day: bool
    _days: CronSim = field(repr=False, compare=False)

    def next_after(self, moment: datetime, zone: tzinfo) -> datetime | None:
        """The first run later than `moment`, in UTC; None where `HORIZON` years or the calendar have none.

        Args:
            moment: any moment with a time zone.
            zone: the time zone of the line's hours and days.
        """
        if moment.year == MAXYEAR:
            return None
        # A step back, or a time zone, would lead out of the calendar in its first year.
        moment = _BEGIN if moment.year == MINYEAR else moment.astimezone(UTC)
        minute = moment.replace(second=0, microsecond=0)
        runs = self._times_of_day(minute, zone) if self.by_time_of_day else self._moments(minute, zone)
        for run in runs:
            for second in self.seconds:
                exact = run + timedelta(seconds=second)
                if exact > moment:
                    return exact
        return None

    def explain(self) -> str:
        """The line in plain English, without its time zone."""
        return words(self.fields, self.seconds)

    def _matches_day(self, day: date) -> bool:
        return day.month in self.months and self._days.match_day(day)

    def _times_of_day(self, minute: datetime, zone: tzinfo) -> Iterator[datetime]:
        """The runs from `minute` on of a line that means a time of day: once for each matching wall-clock time."""
        wall = minute.astimezone(zone).replace(tzinfo=None)
        # Where a gap ends at this very minute, the times in it are run now too.
        begin = min(wall, (minute - _MINUTE).astimezone(zone).replace(tzinfo=None) + _MINUTE)
        day = begin.date()
        last = _last(day)
        seen = None
        while day.year <= last:
            if day.month not in self.months:
                day = _first_of_next_month(day)
                continue
            if self._days.match_day(day):
                for wall in self._walls(day, begin):
                    run = first_moment(wall, zone)
                    if run >= minute and run != seen:
                        yield run
                        seen = run
            day += _DAY

    def _walls(self, day: date, begin: datetime) -> Iterator[datetime]:
        """The wall-clock times of a day, from `begin` on."""
        for hour in self.hours:
            if day == begin.date() and hour < begin.hour:
                continue
            for each in self.minutes:
                wall = datetime.combine(day, time(hour, each))
                if wall >= begin:
                    yield wall

    def _moments(self, minute: datetime, zone: tzinfo) -> Iterator[datetime]:
        """The runs from `minute` on of a line that follows real time: each moment whose local time matches."""
        last = _last(minute)
        while minute.year <= last:
            local = minute.astimezone(zone)
            if local.month not in self.months and local.day > 1:
                minute = first_moment(datetime.combine(_first_of_next_month(local.date()), time()), zone)
            elif not self._matches_day(local.date()):
                minute = _leap(minute, local, _DAY)
            elif local.hour not in self.hours:
                minute = _leap(minute, local, _HOUR)
            else:
                if local.minute in self.minutes:
                    yield minute
                minute += _MINUTE


@lru_cache(maxsize=1024)
def parse(line: str) -> Cron:
    """Parse a cron line.

    Args:
        line: five fields, six with seconds in front, or an alias such as `@daily`; upper and lower case.

    Raises:
        CronError: it is invalid, naming the field, or it names dates that never come.
    """
    parts = ALIASES.get(line.strip().lower(), line).split()
    if line.strip().startswith("@") and len(parts) == 1:
        raise CronError(f"unknown alias {brief(line)}; there are {', '.join(ALIASES)}")
    if len(parts) not in {_FIELDS, _WITH_SECONDS}:
        raise CronError(
            f"expected 5 fields (minute hour day month weekday), or 6 with seconds first, got {len(parts)}"
        )
    parts = [_ONE_VALUE.sub(r"\1", part) for part in parts]
    fields = parts[-_FIELDS:]
    seconds = (0,) if len(parts) == _FIELDS else _numbers(_parse([parts[0], "*", "*", "*", "*"], "second").minutes)
    parsed = _parse(fields, "minute")
    cron = Cron(
        line=line,
        fields=" ".join(fields),
        seconds=seconds,
        minutes=_numbers(parsed.minutes),
        hours=_numbers(parsed.hours),
        months=frozenset(parsed.months),
        by_time_of_day=not (fields[0].startswith("*") or fields[1].startswith("*")),
        _days=parsed,
    )
    if cron.next_after(datetime(2000, 1, 1, tzinfo=UTC), UTC) is None:
        raise CronError(_never_both(fields))
    return cron


def first_moment(wall: datetime, zone: tzinfo) -> datetime:
    """The moment, in UTC, at which clocks in `zone` first show `wall`; the end of the gap where they never do."""
    moment = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if moment.astimezone(zone).replace(tzinfo=None) == wall:
        return moment
    # Read with the offset from before the gap (fold=0), the time lies as far behind the gap's end as `wall` lies
    # behind its beginning; read with the one from after it, that far before the beginning.
    before = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    offset = before.astimezone(zone).utcoffset()
    while before < moment and before.astimezone(zone).utcoffset() == offset:
        before += _MINUTE
    return before


def _parse(fields: list[str], first: str) -> CronSim:
    try:
        return CronSim(" ".join(fields), _ANY)
    except CronSimError as error:
        _check_days(fields)
        what = str(error).removeprefix("Bad ").replace("minute", first)
        raise CronError(f"bad {what} field in {brief(' '.join(fields))}") from None
    except (ValueError, AssertionError):  # what cronsim does not expect, such as a step over L
        raise CronError(f"cannot be read: {brief(' '.join(fields))}") from None


def _check_days(fields: list[str]) -> None:
    """Say of a day that none of the line's months has that it never comes; cronsim calls it a bad field.

    Raises:
        CronError: it never comes.
    """
    minute, hour, days, month, weekday = fields
    try:
        CronSim(f"{minute} {hour} {days} * {weekday}", _ANY)  # with all months it would be a line
        months = sorted(CronSim(f"* * * {month} *", _ANY).months)
    except (CronSimError, ValueError, AssertionError):
        return
    if not _SHORT.keys() >= set(months):
        return
    have = " and ".join(f"{_SHORT[each][0]} has {_SHORT[each][1]}" for each in months)
    raise CronError(
        f"its dates never come: the day-of-month field {days!r} is past the end of each month in the month field "
        f"{month!r} ({have}); for the last day of a month write L in its place"
    )


def _never_both(fields: list[str]) -> str:
    """What is said of a line whose two day fields never match on one day."""
    _, _, days, month, weekday = fields
    when = "" if month == "*" else f" in the months {month!r}"
    return (
        f"its dates never come: no day{when} fits both the day-of-month field {days!r} and the day-of-week field "
        f"{weekday!r}; both must match because one of them begins with *. Write it without the * where either of "
        "them will do"
    )


_SHORT = {
    2: ("February", "29 days at the most"),
    4: ("April", "30 days"),
    6: ("June", "30 days"),
    9: ("September", "30 days"),
    11: ("November", "30 days"),
}
"""The months that end before the 31st, and how long they are."""


def _last(day: date) -> int:
    """The last year to look at; one before the calendar's end, which a step of a month may pass."""
    return min(day.year + HORIZON, MAXYEAR - 1)


def _numbers(values: set[int]) -> tuple[int, ...]:
    return tuple(sorted(values))


def _first_of_next_month(day: date) -> date:
    return (day.replace(day=1) + 32 * _DAY).replace(day=1)


def _leap(minute: datetime, local: datetime, span: timedelta) -> datetime:
    """The next whole hour or day by local time; in smaller steps only where the clocks are moved on the way."""
    past = timedelta(minutes=local.minute, hours=local.hour if span == _DAY else 0)
    target = minute + (span - past)
    if target.astimezone(local.tzinfo).utcoffset() == local.utcoffset():
        return target
    return _leap(minute, local, _HOUR) if span == _DAY else minute + _MINUTE
