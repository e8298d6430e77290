"""`aioq.schedules.timing`: next ticks, and what becomes of those that were missed."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioq.errors import NewerVersionError, WireError
from aioq.schedules.timing import (
    FIRST_MS,
    LAST_MS,
    MAX_TICKS,
    MISFIRE_MS,
    Definition,
    Misfire,
    decode,
    due_ticks,
    encode,
    job_of,
    stamp,
    to_datetime,
    to_ms,
)
from aioq.store.schedules import Overlap
from aioq.util.durations import MAX_DELAY
from aioq.util.timezones import zone

HOUR = 3_600_000
NOON = to_ms(datetime(2026, 11, 24, 12, tzinfo=UTC))


def every(seconds: float, **options: Any) -> Definition:
    return Definition(every_ms=round(seconds * 1000), **options)


def cron(line: str, **options: Any) -> Definition:
    return Definition(cron=line, **options)


# -- the next tick ----------------------------------------------------------------------------------------------


def test_an_interval_ticks_on_the_grid_from_the_epoch():
    assert every(30).next_after(NOON) == NOON + 30_000
    assert every(30).next_after(NOON + 1) == NOON + 30_000
    assert every(30).next_after(NOON - 1) == NOON
    assert every(86_400).next_after(NOON) == NOON + 12 * HOUR


def test_an_interval_with_a_start_begins_exactly_then():
    definition = every(30, start_ms=NOON + 7)
    assert definition.next_after(NOON) == NOON + 7
    assert definition.next_after(NOON + 7) == NOON + 30_007


def test_no_tick_is_before_the_start_or_after_the_end():
    definition = cron("0 * * * *", start_ms=NOON + HOUR, end_ms=NOON + 2 * HOUR)
    assert list(definition.ticks(0, NOON + 9 * HOUR)) == [NOON + HOUR, NOON + 2 * HOUR]
    assert definition.next_after(NOON + 2 * HOUR) is None
    assert every(1, end_ms=NOON).next_after(NOON) is None


def test_a_cron_line_is_read_in_its_zone():
    tick = cron("30 9 * * *", tz="Asia/Shanghai").next_after(NOON)
    assert tick is not None
    assert to_datetime(tick).astimezone(ZoneInfo("Asia/Shanghai")) == datetime(
        2026, 11, 25, 9, 30, tzinfo=ZoneInfo("Asia/Shanghai")
    )


@given(st.integers(1, 100_000), st.integers(0, 10**12), st.integers(-(10**6), 10**12), st.booleans())
def test_the_ticks_of_an_interval_are_evenly_spaced(every_ms: int, start_ms: int, after_ms: int, has_start: bool):
    definition = Definition(every_ms=every_ms, start_ms=start_ms if has_start else None)
    tick = definition.next_after(after_ms)
    assert tick is not None
    assert tick > after_ms
    assert (tick - (start_ms if has_start else 0)) % every_ms == 0
    if not has_start or tick > start_ms:
        assert tick - after_ms <= every_ms


@pytest.mark.parametrize("far", [10**18, -(10**18)])
@pytest.mark.parametrize("name", ["start_ms", "end_ms"])
@pytest.mark.parametrize("kind", [every(1), cron("0 * * * *", tz="Asia/Shanghai")])
def test_a_stored_bound_beyond_the_calendar_ends_no_worker(far: int, name: str, kind: Definition):
    definition = msgspec.structs.replace(kind, **{name: far})
    never = far > 0 if name == "start_ms" else far < 0
    for moment in (-far, 0, NOON, far):
        tick = definition.next_after(moment)
        assert tick is None or (not never and FIRST_MS <= tick <= LAST_MS)
    assert (definition.next_after(NOON) is None) is never
    assert stamp(far) == ("9998-12-31T23:59:59.999Z" if far > 0 else "1899-12-31T23:59:59.999Z")


# -- the latest ones --------------------------------------------------------------------------------------------


@given(
    st.sampled_from([every(1), every(37), cron("*/7 * * * *"), cron("0 3 * * *"), cron("*/20 1 9 * * mon")]),
    st.integers(0, 10 * 24 * HOUR),
    st.integers(1, 30),
)
@settings(deadline=None, max_examples=60)
def test_the_latest_ticks_are_the_last_of_all(definition: Definition, span: int, count: int):
    span = min(span, 2 * HOUR) if definition.every_ms else span
    assert definition.latest(NOON - span, NOON, count) == list(definition.ticks(NOON - span, NOON))[-count:]


def test_a_year_of_missed_seconds_is_no_trouble():
    assert every(1).latest(NOON - 365 * 24 * HOUR, NOON, 3) == [NOON - 2000, NOON - 1000, NOON]
    assert cron("* * * * * *").latest(NOON - 365 * 24 * HOUR, NOON, 1) == [NOON]


def test_missed_seconds_that_ended_long_ago_are_no_trouble(monkeypatch: pytest.MonkeyPatch):
    """To look back from now for the last ticks would find the whole span before the end at once."""
    year, looked = 365 * 24 * HOUR, []
    ticks = Definition.ticks
    monkeypatch.setattr(Definition, "ticks", lambda *args: (looked.append(each) or each for each in ticks(*args)))
    ended = every(1, end_ms=NOON - year)
    assert ended.latest(NOON - 3 * year, NOON, 2) == [NOON - year - 1000, NOON - year]
    assert len(looked) < 100
    assert every(1, end_ms=NOON - year).latest(NOON - HOUR, NOON, 2) == []


# -- plans ------------------------------------------------------------------------------------------------------


def test_a_tick_in_time_is_made():
    due = due_ticks(every(30), NOON, NOON + 3)
    assert (due.ticks, due.next_ms, due.missed) == ((NOON,), NOON + 30_000, False)


@pytest.mark.parametrize("misfire", Misfire)
def test_late_ticks_are_each_made_whatever_the_policy(misfire: Misfire):
    due = due_ticks(every(1, misfire=misfire), NOON, NOON + MISFIRE_MS)
    assert due.ticks == tuple(range(NOON, NOON + MISFIRE_MS + 1, 1000))
    assert (due.next_ms, due.missed) == (NOON + MISFIRE_MS + 1000, False)


@pytest.mark.parametrize(
    ("misfire", "ticks"),
    [
        (Misfire.SKIP, ()),
        (Misfire.LAST, (NOON + 3 * HOUR,)),
        (Misfire.ALL, (NOON + HOUR, NOON + 2 * HOUR, NOON + 3 * HOUR)),
    ],
)
def test_after_that_the_policy_decides(misfire: Misfire, ticks: tuple[int, ...]):
    now = NOON + 3 * HOUR + 60_000
    due = due_ticks(cron("0 * * * *", misfire=misfire, misfire_cap=3), NOON, now)
    assert (due.ticks, due.next_ms, due.missed) == (ticks, NOON + 4 * HOUR, True)


def test_a_stored_tick_that_the_definition_does_not_have_is_made():
    assert due_ticks(cron("30 * * * *"), NOON, NOON + 5).ticks == (NOON,)


def test_one_step_makes_no_more_than_so_many():
    assert len(due_ticks(Definition(every_ms=1), NOON, NOON + MISFIRE_MS).ticks) == MAX_TICKS


def test_after_its_end_a_schedule_makes_what_was_missed_and_is_over():
    due = due_ticks(every(60, end_ms=NOON), NOON - 60_000, NOON + HOUR)
    assert (due.ticks, due.next_ms) == ((NOON,), None)


# -- jobs -------------------------------------------------------------------------------------------------------


def test_a_job_is_named_by_its_schedule_and_its_tick():
    assert job_of("nightly", every(1), NOON) == ("nightly@2026-11-24T12:00:00Z", NOON, NOON)
    assert job_of("nightly", every(0.5), NOON + 500)[0] == "nightly@2026-11-24T12:00:00.500Z"


def test_jitter_puts_a_job_off_by_a_part_of_it_and_always_by_the_same():
    definition = every(60, jitter_ms=30_000)
    late = [job_of("s", definition, NOON + n * 60_000)[2] - NOON - n * 60_000 for n in range(200)]
    assert min(late) >= 0
    assert max(late) <= 30_000
    assert len(set(late)) > 150
    assert job_of("s", definition, NOON) == job_of("s", definition, NOON)


@given(st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1)))
def test_moments_pass_through_unchanged(moment: datetime):
    moment = moment.replace(tzinfo=UTC, microsecond=moment.microsecond // 1000 * 1000)
    assert to_datetime(to_ms(moment)) == moment
    assert datetime.fromisoformat(stamp(to_ms(moment))) == moment


def test_a_moment_between_two_milliseconds_is_the_one_before():
    assert to_ms(to_datetime(NOON) + timedelta(microseconds=999)) == NOON


# -- the stored form --------------------------------------------------------------------------------------------


def test_a_definition_is_read_as_it_was_written():
    definition = cron(
        "0 6 * * mon",
        tz="Europe/Berlin",
        start_ms=1,
        end_ms=2,
        jitter_ms=3,
        max_runs=4,
        misfire=Misfire.ALL,
        misfire_cap=5,
        overlap=Overlap.ONE,
    )
    assert decode(encode(definition)) == definition
    assert decode(encode(every(3))) == every(3)


def test_the_stored_form_is_pinned():
    assert encode(every(30, overlap=Overlap.ONE)) == b"\x92\x01\x82\xa8every_ms\xcdu0\xa7overlap\xa3one"


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"every_ms": 1}, {"every_ms": 100}),
        ({"every_ms": 2**64 - 1}, {"every_ms": MAX_DELAY * 1000}),
        ({"every_ms": -1, "cron": "* * * * *"}, {"cron": "* * * * *"}),
        ({"every_ms": 1000, "jitter_ms": -1}, {"every_ms": 1000}),
        ({"every_ms": 1000, "jitter_ms": 2**62}, {"every_ms": 1000, "jitter_ms": MAX_DELAY * 1000}),
        ({"every_ms": 1000, "max_runs": -5}, {"every_ms": 1000}),
        ({"every_ms": 1000, "max_runs": 2**62}, {"every_ms": 1000, "max_runs": 10**9}),
        ({"every_ms": 1000, "misfire_cap": 2**62}, {"every_ms": 1000, "misfire_cap": MAX_TICKS}),
        ({"every_ms": 1000, "misfire_cap": -1}, {"every_ms": 1000, "misfire_cap": 1}),
    ],
)
def test_a_definition_is_clamped_where_it_is_read(given: dict[str, Any], read: dict[str, Any]):
    """Some of these made ticks without end, others a job that was never due, and one a division by zero."""
    definition = decode(msgspec.msgpack.encode((1, given)))
    assert definition == Definition(**read)
    due = due_ticks(definition, NOON - 24 * HOUR, NOON)
    assert 1 <= len(due.ticks) <= MAX_TICKS
    assert all(job_of("s", definition, tick)[2] >= tick for tick in due.ticks)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", WireError),
        (b"\x92\x01\x80", WireError),
        (b"\xff\xff", WireError),
        (msgspec.msgpack.encode((2, {"tide": "high"})), NewerVersionError),
        (msgspec.msgpack.encode((1, {"cron": "0 0 30 2 *"})), WireError),
        (msgspec.msgpack.encode((1, {"cron": "* * * * *", "tz": "Mars/Olympus"})), WireError),
        (msgspec.msgpack.encode((1, {"every_ms": 1, "overlap": "unheard of"})), WireError),
    ],
)
def test_what_this_process_cannot_work_with_is_an_error_of_its_own(data: bytes, error: type[Exception]):
    with pytest.raises(error):
        decode(data)


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "..", "/etc/passwd", "Europe"])
def test_an_unknown_zone_is_a_value_error(name: str):
    with pytest.raises(ValueError, match="no time zone"):
        zone(name)
