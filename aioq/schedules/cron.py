"""Cron lines: when they run, in a time zone. Pure functions over the calendar; no clock is read here.

A line is parsed by cronsim: five fields (minute, hour, day of month, month, day of week) with names, ranges,
steps, lists, `L`, `LW` and `#`, or an alias such as `@daily`. A sixth field in front is for seconds. Where both
day fields are given, a day has to match one of them; if one of them begins with `*`, it has to match both (Vixie
cron's rule, as in Debian).

Daylight saving is handled as in Debian's cron. If the minute and the hour field are both fixed (neither begins
with `*`), a line means a time of day. When clocks skip that time, it runs at the first moment after the gap; when
the time comes twice, it runs the first time only. Other lines mean an interval and follow real time. They run at
every moment whose local time they match: twice in an hour that comes twice, never in one that is skipped.

cronsim's own iteration is not used: where clocks move by half an hour (Australia/Lord_Howe) it leaves out runs on
that day (2.8: `*/10 5 * * *` begins at 05:30). The tests compare this module with a check of every single minute.
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
"""The aliases of crontab(5), without `@reboot`, which is no time."""

HORIZON = 50
"""Years within which a run is searched for. A line without a run in that time never runs: a leap day falls on a
given weekday again within 28 years, or within 40 across a year such as 2100, which is no leap year."""

_FIELDS, _WITH_SECONDS = 5, 6
_MINUTE = timedelta(minutes=1)
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_ONE_VALUE = re.compile(r"\b(\w+)-\1/0*[1-9]\d*\b")
"""A range of one value with a step, `5-5/2`. It means 5, but cronsim reads it as `5/2`: every second value from 5
on. A step of 0 is not matched, so that cronsim refuses it."""

_ANY = datetime(2000, 1, 1)  # cronsim requires a moment even where it only parses
_FIRST_YEAR = datetime(MINYEAR + 1, 1, 1, tzinfo=UTC)


class CronError(ValueError):
    """An invalid line, or one that never runs; the message says which field."""


@dataclass(frozen=True, slots=True)
class Cron:
    """A parsed cron line; made by `parse`.

    Attributes:
        line: the line as it was written.
        fields: its five fields; an alias is written out.
        seconds: the seconds of a minute at which it runs, in order.
        minutes: the minutes of an hour at which it runs, in order.
        hours: the hours of a day at which it runs, in order.
        months: the months in which it runs.
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
        """The first run later than `moment`, in UTC; None if there is none within `HORIZON` years or the calendar.

        Args:
            moment: any moment with a time zone.
            zone: the time zone of the line's hours and days.
        """
        if moment.year == MAXYEAR:
            return None
        # In the calendar's first year, a step back or a time zone would lead out of the calendar.
        moment = _FIRST_YEAR if moment.year == MINYEAR else moment.astimezone(UTC)
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
        """The runs from `minute` on of a line that means a time of day: one for each matching wall-clock time."""
        wall = minute.astimezone(zone).replace(tzinfo=None)
        # If a gap ends at this very minute, the times that it skipped run now too.
        begin = min(wall, (minute - _MINUTE).astimezone(zone).replace(tzinfo=None) + _MINUTE)
        day = begin.date()
        last = _last_year(day)
        seen = None
        while day.year <= last:
            if day.month not in self.months:
                day = _first_of_next_month(day)
                continue
            if self._days.match_day(day):
                for wall in self._wall_times(day, begin):
                    run = first_moment(wall, zone)
                    if run >= minute and run != seen:
                        yield run
                        seen = run
            day += _DAY

    def _wall_times(self, day: date, begin: datetime) -> Iterator[datetime]:
        """The line's wall-clock times on one day, from `begin` on."""
        for hour in self.hours:
            if day == begin.date() and hour < begin.hour:
                continue
            for each in self.minutes:
                wall = datetime.combine(day, time(hour, each))
                if wall >= begin:
                    yield wall

    def _moments(self, minute: datetime, zone: tzinfo) -> Iterator[datetime]:
        """The runs from `minute` on of a line that follows real time: each moment whose local time matches."""
        last = _last_year(minute)
        while minute.year <= last:
            local = minute.astimezone(zone)
            if local.month not in self.months and local.day > 1:
                minute = first_moment(datetime.combine(_first_of_next_month(local.date()), time()), zone)
            elif not self._matches_day(local.date()):
                minute = _next_whole(minute, local, _DAY)
            elif local.hour not in self.hours:
                minute = _next_whole(minute, local, _HOUR)
            else:
                if local.minute in self.minutes:
                    yield minute
                minute += _MINUTE


@lru_cache(maxsize=1024)
def parse(line: str) -> Cron:
    """Parse a cron line.

    Args:
        line: five fields, six with seconds in front, or an alias such as `@daily`; in upper or lower case.

    Raises:
        CronError: the line is invalid (the message names the field), or its dates never come.
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
    """The moment, in UTC, at which clocks in `zone` first show `wall`; if they skip it, the end of the gap."""
    moment = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if moment.astimezone(zone).replace(tzinfo=None) == wall:
        return moment
    # `wall` is in a gap. With the offset from before the gap (fold=0) it is read as a moment after the gap; with
    # the offset from after it (fold=1), as one before the gap. So the gap's end is between the two.
    found = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    offset = found.astimezone(zone).utcoffset()
    while found < moment and found.astimezone(zone).utcoffset() == offset:
        found += _MINUTE
    return found


def _parse(fields: list[str], first: str) -> CronSim:
    try:
        return CronSim(" ".join(fields), _ANY)
    except CronSimError as error:
        _check_days(fields)
        what = str(error).removeprefix("Bad ").replace("minute", first)
        raise CronError(f"bad {what} field in {brief(' '.join(fields))}") from None
    except (ValueError, AssertionError):  # raised for input that cronsim does not expect, such as a step after L
        raise CronError(f"cannot be read: {brief(' '.join(fields))}") from None


def _check_days(fields: list[str]) -> None:
    """Explain why a day never comes that none of the line's months has: cronsim only calls it a bad field.

    Raises:
        CronError: the day never comes.
    """
    minute, hour, days, month, weekday = fields
    try:
        # If it is valid with all months, the month is what is wrong.
        CronSim(f"{minute} {hour} {days} * {weekday}", _ANY)
        months = sorted(CronSim(f"* * * {month} *", _ANY).months)
    except (CronSimError, ValueError, AssertionError):
        return
    if not _SHORT.keys() >= set(months):
        return
    lengths = " and ".join(f"{_SHORT[each][0]} has {_SHORT[each][1]}" for each in months)
    raise CronError(
        f"its dates never come: the day-of-month field {days!r} is past the end of each month in the month field "
        f"{month!r} ({lengths}); for the last day of a month write L in its place"
    )


def _never_both(fields: list[str]) -> str:
    """The error for a line whose two day fields never match the same day."""
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
"""The months with fewer than 31 days, and their lengths."""


def _last_year(day: date) -> int:
    """The last year to search, always before the calendar's last one: a step to the next month may leave that."""
    return min(day.year + HORIZON, MAXYEAR - 1)


def _numbers(values: set[int]) -> tuple[int, ...]:
    return tuple(sorted(values))


def _first_of_next_month(day: date) -> date:
    return (day.replace(day=1) + 32 * _DAY).replace(day=1)


def _next_whole(minute: datetime, local: datetime, span: timedelta) -> datetime:
    """The next whole hour or day by local time; a smaller step if the clocks change in between."""
    past = timedelta(minutes=local.minute, hours=local.hour if span == _DAY else 0)
    target = minute + (span - past)
    if target.astimezone(local.tzinfo).utcoffset() == local.utcoffset():
        return target
    return _next_whole(minute, local, _HOUR) if span == _DAY else minute + _MINUTE
