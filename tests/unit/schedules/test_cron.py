"""`aioq.schedules.cron`, held against a reading of the calendar minute by minute."""

import functools
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import combinations
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aioq.schedules.cron import ALIASES, Cron, CronError, first_moment, parse

MINUTE = timedelta(minutes=1)

# Zones whose clocks move by an hour, by half an hour, at midnight, at odd hours, a whole day, or never.
ZONES = (
    *("UTC", "Asia/Shanghai", "Asia/Kolkata", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"),
    *(
        "America/Sao_Paulo",
        "Africa/Cairo",
        "America/St_Johns",
        "Africa/Casablanca",
        "Pacific/Apia",
        "America/Havana",
    ),
)
STEADY = ZONES[:3]  # no change between the years of `transitions`


@functools.cache
def transitions(name: str, first: int = 2009, last: int = 2027) -> Sequence[datetime]:
    """The moments, to the minute, at which the zone's offset changes."""
    zone = ZoneInfo(name)
    found: list[datetime] = []
    moment = datetime(first, 1, 1, tzinfo=UTC)
    offset = moment.astimezone(zone).utcoffset()
    while moment.year < last:
        after = moment + timedelta(hours=6)
        if offset != (then := after.astimezone(zone).utcoffset()):
            edge = moment
            while edge.astimezone(zone).utcoffset() == offset:
                edge += MINUTE
            found.append(edge)
        moment, offset = after, then
    return found


class Reading:
    """A line's fields as sets, read by hand: the same rules as in the module's docstring, and none of its code."""

    def __init__(self, line: str) -> None:
        self.minutes, self.hours, self.days, self.months, self.weekdays = (
            self.values(text, low, high)
            for text, (low, high) in zip(line.split(), ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7)), strict=True)
        )
        minute, hour, day, _, weekday = line.split()
        self.by_time_of_day = not (minute.startswith("*") or hour.startswith("*"))
        self.both_days = day.startswith("*") or weekday.startswith("*")

    @staticmethod
    def values(text: str, low: int, high: int) -> set[int]:
        found: set[int] = set()
        for part in text.split(","):
            span, _, step = part.partition("/")
            start, _, end = span.partition("-")
            first = low if start == "*" else int(start)
            last = high if start == "*" or (step and not end) else int(end or start)
            found |= set(range(first, last + 1, int(step or 1)))
        return found

    def matches(self, wall: datetime) -> bool:
        if wall.minute not in self.minutes or wall.hour not in self.hours or wall.month not in self.months:
            return False
        day = wall.day in self.days
        weekday = bool({wall.isoweekday(), wall.isoweekday() % 7} & self.weekdays)
        return (day and weekday) if self.both_days else (day or weekday)

    def runs(self, start: datetime, end: datetime, zone: ZoneInfo) -> list[datetime]:
        """The runs later than `start`, up to `end`."""
        found = (self.times_of_day if self.by_time_of_day else self.moments)(start, end, zone)
        return [run for run in found if start < run <= end]

    def moments(self, start: datetime, end: datetime, zone: ZoneInfo) -> list[datetime]:
        minute = start.replace(second=0, microsecond=0)
        every = (minute + n * MINUTE for n in range((end - minute) // MINUTE + 1))
        return [moment for moment in every if self.matches(moment.astimezone(zone))]

    def times_of_day(self, start: datetime, end: datetime, zone: ZoneInfo) -> list[datetime]:
        """Walk over real time; a wall-clock time is due when the clock first shows it or has jumped over it."""
        minute = start.replace(second=0, microsecond=0) - timedelta(days=2)
        highest = minute.astimezone(zone).replace(tzinfo=None) - MINUTE
        found: list[datetime] = []
        while minute <= end:
            wall = minute.astimezone(zone).replace(tzinfo=None)
            passed = False
            while highest < wall:
                highest += MINUTE
                passed = passed or self.matches(highest)
            if passed:
                found.append(minute)
            minute += MINUTE
        return found


def field(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    span = st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}")
    step = st.integers(1, high)
    single = st.one_of(
        number.map(str),
        span,
        st.builds("{}/{}".format, span, step),
        st.builds("{}/{}".format, number, step),
    )
    return st.one_of(
        st.just("*"),
        st.builds("*/{}".format, step),
        st.lists(single, min_size=1, max_size=3).map(",".join),
    )


lines = st.builds(
    "{} {} {} {} {}".format,
    field(0, 59),
    field(0, 23),
    st.one_of(st.just("*"), st.just("*"), field(1, 28)),
    st.one_of(st.just("*"), st.just("*"), st.just("*"), field(1, 12)),
    st.one_of(st.just("*"), st.just("*"), field(0, 7)),
)


def sequence(cron: Cron, start: datetime, end: datetime, zone: ZoneInfo) -> list[datetime]:
    found: list[datetime] = []
    run = cron.next_after(start, zone)
    while run is not None and run <= end:
        found.append(run)
        run = cron.next_after(run, zone)
    return found


@given(line=lines, zone=st.sampled_from(ZONES), seed=st.integers(0, 10_000), second=st.integers(0, 59))
@example(line="*/10 2 * * *", zone="Australia/Lord_Howe", seed=0, second=0)
@example(line="*/10 5 * * *", zone="Australia/Lord_Howe", seed=1, second=0)
@example(line="0 * * * *", zone="Africa/Cairo", seed=0, second=0)
@example(line="0/1 0/1 1/1 * *", zone="America/St_Johns", seed=731, second=26)
@example(line="0/1 0/1 1/1 * *", zone="Pacific/Apia", seed=3, second=0)
@example(line="5-5/2 1-1/3,4 * * *", zone="UTC", seed=0, second=0)
@example(line="30 0,2 * * *", zone="Europe/Berlin", seed=0, second=30)
@settings(deadline=None, max_examples=100)
def test_the_runs_are_those_that_a_reading_of_every_minute_finds(
    line: str, zone: str, seed: int, second: int
) -> None:
    where = ZoneInfo(zone)
    # Not random itself, but an index into what there is: most starts lie shortly before a change of the clocks.
    choice = random.Random(seed)
    if zone not in STEADY and seed % 4:
        start = choice.choice(transitions(zone)) - timedelta(minutes=choice.randrange(0, 2880))
    else:
        start = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(minutes=choice.randrange(0, 1_000_000))
    start += timedelta(seconds=second)
    end = start + timedelta(days=3)

    assert sequence(parse(line), start, end, where) == Reading(line).runs(start, end, where)


@given(line=lines, zone=st.sampled_from(ZONES))
@settings(deadline=None, max_examples=40)
def test_a_run_is_later_than_what_it_was_asked_after(line: str, zone: str) -> None:
    where = ZoneInfo(zone)
    moment = datetime(2026, 3, 1, tzinfo=UTC)
    for _ in range(20):
        run = parse(line).next_after(moment, where)
        assert run is not None
        assert run > moment
        moment = run


def times(line: str, zone: str, *start: int, count: int = 3) -> list[str]:
    """The next runs after a local time, as local times with their offset."""
    where = ZoneInfo(zone)
    moment = datetime(*start, tzinfo=where).astimezone(UTC)  # pyright: ignore[reportArgumentType]
    found: list[str] = []
    for _ in range(count):
        run = parse(line).next_after(moment, where)
        if run is None:
            break
        found.append(run.astimezone(where).strftime("%m-%d %H:%M:%S %z"))
        moment = run
    return found


def test_a_time_of_day_in_a_skipped_hour_comes_at_the_end_of_the_gap() -> None:
    # Berlin, 29 March 2026: 02:00 becomes 03:00.
    assert times("30 2 * * *", "Europe/Berlin", 2026, 3, 28, 12) == [
        "03-29 03:00:00 +0200",
        "03-30 02:30:00 +0200",
        "03-31 02:30:00 +0200",
    ]


def test_a_time_of_day_that_comes_twice_is_run_the_first_time() -> None:
    # Berlin, 25 October 2026: 03:00 becomes 02:00.
    assert times("30 2 * * *", "Europe/Berlin", 2026, 10, 24, 12, count=2) == [
        "10-25 02:30:00 +0200",
        "10-26 02:30:00 +0100",
    ]


def test_an_interval_follows_real_time_through_both_changes() -> None:
    assert times("*/30 * * * *", "Europe/Berlin", 2026, 3, 29, 1, 15) == [
        "03-29 01:30:00 +0100",
        "03-29 03:00:00 +0200",
        "03-29 03:30:00 +0200",
    ]
    assert times("30 * * * *", "Europe/Berlin", 2026, 10, 25, 1, 45) == [
        "10-25 02:30:00 +0200",
        "10-25 02:30:00 +0100",
        "10-25 03:30:00 +0100",
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("0 0 L * *", ["01-31", "02-29", "03-31"]),
        ("0 0 LW 3 *", ["03-29"]),  # 31 March 2024 is a Sunday
        ("0 0 * * fri#2", ["01-12", "02-09", "03-08"]),
        ("0 0 * * 5L", ["01-26", "02-23", "03-29"]),
        ("0 0 13 * fri", ["01-05", "01-12", "01-13"]),
        ("0 0 */13 * fri", ["03-01", "06-14", "09-27"]),  # a star makes it both: 1, 14, 27 and a Friday
        ("0 0 1 jan,mar *", ["03-01", "01-01", "03-01"]),
        ("@yearly", ["01-01", "01-01", "01-01"]),
        ("@weekly", ["01-07", "01-14", "01-21"]),
        ("0 0 29 2 *", ["02-29", "02-29", "02-29"]),
    ],
)
def test_the_days_of_special_fields(line: str, expected: list[str]) -> None:
    found = [text[:5] for text in times(line, "UTC", 2024, 1, 1, count=3)]
    assert found[: len(expected)] == expected


def test_seconds_come_first() -> None:
    assert times("*/20 30 9 * * mon", "Asia/Shanghai", 2026, 11, 23, 9, 30, 5, count=4) == [
        "11-23 09:30:20 +0800",
        "11-23 09:30:40 +0800",
        "11-30 09:30:00 +0800",
        "11-30 09:30:20 +0800",
    ]


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_is_the_line_it_means(alias: str) -> None:
    moment, zone = datetime(2026, 5, 5, 5, 5, 5, tzinfo=UTC), ZoneInfo("UTC")
    assert parse(alias.upper()).next_after(moment, zone) == parse(ALIASES[alias]).next_after(moment, zone)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("0 0 30 2 *", "day-of-month"),
        ("0 0 32 2 *", "bad day-of-month"),
        ("0 0 31 2,13 *", "bad month"),
        ("0 0 31 4,6,9,11 *", "day-of-month"),
        ("60 * * * *", "minute"),
        ("* 24 * * *", "hour"),
        ("* * 0 * *", "day-of-month"),
        ("* * * 13 *", "month"),
        ("* * * * 8", "day-of-week"),
        ("* * * * mon#6", "day-of-week"),
        ("5-1 * * * *", "minute"),
        ("*/0 * * * *", "minute"),
        ("60 * * * * *", "second"),
        ("* * * *", "got 4"),
        ("", "got 0"),
        ("* * * * * * *", "got 7"),
        ("@reboot", "unknown alias"),
    ],
)
def test_a_bad_line_is_refused_with_the_field_at_fault(line: str, why: str) -> None:
    with pytest.raises(CronError, match=why):
        parse(line)


@pytest.mark.parametrize(
    ("line", "day", "month", "have"),
    [
        ("0 0 31 2 *", "31", "2", "February has 29 days at the most"),
        ("0 0 30 feb *", "30", "feb", "February has 29 days at the most"),
        ("0 0 30/2 2 *", "30/2", "2", "February has 29 days at the most"),
        ("0 0 30-31 2 */2", "30-31", "2", "February has 29 days at the most"),
        ("0 0 31 4 *", "31", "4", "April has 30 days"),
        ("15 0 0 31 6 *", "31", "6", "June has 30 days"),
        ("0 0 31 9,11 *", "31", "9,11", "September has 30 days and November has 30 days"),
    ],
)
def test_of_a_day_that_its_months_have_not_it_is_said_and_what_to_write(
    line: str, day: str, month: str, have: str
):
    with pytest.raises(CronError) as caught:
        parse(line)
    assert str(caught.value) == (
        f"its dates never come: the day-of-month field '{day}' is past the end of each month in the month field "
        f"'{month}' ({have}); for the last day of a month write L in its place"
    )


@pytest.mark.parametrize(
    ("line", "when", "days", "weekdays"),
    [
        ("0 0 */31 * mon#3", "", "*/31", "mon#3"),
        ("0 0 */31 2-4 mon#3", " in the months '2-4'", "*/31", "mon#3"),
        ("0 0 LW * */7", "", "LW", "*/7"),
    ],
)
def test_of_two_day_fields_that_never_match_at_once_it_is_said(line: str, when: str, days: str, weekdays: str):
    with pytest.raises(CronError) as caught:
        parse(line)
    assert str(caught.value) == (
        f"its dates never come: no day{when} fits both the day-of-month field '{days}' and the day-of-week field "
        f"'{weekdays}'; both must match because one of them begins with *. Write it without the * where either of "
        "them will do"
    )


@pytest.mark.parametrize("line", ["0 0 31 2,3 *", "0 0 29 2 *", "0 0 29/2 2 *", "0 0 31 */5 *", "0 0 31 2 mon"])
def test_dates_that_come_seldom_are_a_line(line: str) -> None:
    assert parse(line).next_after(datetime(2026, 1, 1, tzinfo=UTC), UTC) is not None


@pytest.mark.parametrize("day", [28, 29, 30, 31])
def test_a_line_that_is_said_never_to_come_does_not(day: int) -> None:
    """The calendar's own answer, for every choice of short months."""
    choices = [each for size in range(1, 6) for each in combinations((2, 4, 6, 9, 11), size)]
    lines = {f"0 0 {day} {','.join(map(str, months))} *": months for months in choices}
    never = [line for line, months in lines.items() if all(day > (29 if month == 2 else 30) for month in months)]
    assert [line for line in lines if is_said_never_to_come(line)] == never


def is_said_never_to_come(line: str) -> bool:
    try:
        assert parse(line).next_after(datetime(2026, 1, 1, tzinfo=UTC), UTC) is not None, line
    except CronError as error:
        return "its dates never come" in str(error)
    return False


@given(st.text(alphabet="0123456789*/,-#Ll@wW monfri²", max_size=20))
@settings(deadline=None, max_examples=300)
def test_any_text_is_a_line_or_an_error_of_one_kind(text: str) -> None:
    try:
        cron = parse(text)
    except CronError:
        return
    assert cron.explain()


def test_a_line_is_described_in_words() -> None:
    assert parse("*/5 * * * mon-fri").explain() == "Every 5 minutes on Monday through Friday"
    assert parse("@weekly").explain() == "At 00:00 on Sunday"
    assert parse("0,20 0 4 * * *").explain() == "At 04:00 every day, at seconds 0 and 20"


@pytest.mark.parametrize("line", ["1-1/0 * * * *", "0 0 10-10/00 * *", "5-5/0 * * * * *", "*/0 * * * *"])
def test_a_step_of_nothing_is_refused(line: str) -> None:
    with pytest.raises(CronError, match="bad "):
        parse(line)


@pytest.mark.parametrize("zone", ZONES)
def test_the_first_moment_of_a_wall_clock_time(zone: str) -> None:
    where = ZoneInfo(zone)
    assert (zone in STEADY) == (not transitions(zone))
    for edge in transitions(zone)[:8]:
        jump = (edge - MINUTE).astimezone(where).replace(tzinfo=None) - edge.astimezone(where).replace(tzinfo=None)
        around = abs(jump) + timedelta(hours=4)
        seen: dict[datetime, datetime] = {}
        previous = (edge - around).astimezone(where).replace(tzinfo=None)
        for n in range(2 * around // MINUTE):
            moment = edge - around + n * MINUTE
            wall = moment.astimezone(where).replace(tzinfo=None)
            while previous < wall:
                previous += MINUTE
                seen.setdefault(previous, moment)
        for wall, moment in seen.items():
            assert first_moment(wall, where) == moment
