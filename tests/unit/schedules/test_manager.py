"""`app.schedules`, and schedules in an App that runs in memory, whose clock is moved."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from aioq import App, ConfigError, ScheduleConflictError, ScheduleNotFoundError, current_job
from aioq.app import internals_of
from aioq.schedules.info import describe, duration, shown
from aioq.schedules.timing import Definition, to_datetime
from aioq.store.schedules import Entry
from aioq.testing import MemorySession
from tests.unit.kit import within

pytestmark = pytest.mark.anyio

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
ran: list[str] = []

app = App("shop", url="redis://nowhere")


@app.task
async def add(x: int, y: int) -> int:
    ran.append(current_job().id)
    return x + y


@app.task(queue="mail")
async def post() -> None:
    ran.append(current_job().id)


class Declared:
    """An App with schedules in code."""

    def __init__(self, **options: Any) -> None:
        self.app = App("shop", url="redis://nowhere")
        self.add = self.app.task(_add)
        self.app.schedule("adds", self.add.call(5, 8), every=30, **options)


async def _add(x: int, y: int) -> int:
    ran.append(current_job().id)
    return x + y


def at_noon(app: App) -> MemorySession:
    session = app.test()
    session.clock._now_ms = round(NOON.timestamp() * 1000)
    return session


@pytest.fixture(autouse=True)
def _fresh() -> None:
    ran.clear()


@pytest.fixture
async def session() -> AsyncIterator[MemorySession]:
    async with at_noon(app) as session:
        yield session


def stamps() -> list[str]:
    """The ticks that ran, as times of the day."""
    return [job_id.partition("T")[2] for job_id in ran]


# -- ticks in memory --------------------------------------------------------------------------------------------


async def test_schedules_follow_the_clock():
    async with at_noon(Declared().app) as session:
        await within(session.advance(29))
        assert ran == []
        await within(session.advance(1))
        assert ran == ["adds@2026-11-24T12:00:30Z"]
        await within(session.advance(120))
        assert stamps() == ["12:00:30Z", "12:01:00Z", "12:01:30Z", "12:02:00Z", "12:02:30Z"]


async def test_a_leap_of_the_clock_is_a_time_without_workers():
    async with at_noon(Declared().app) as session:
        session.clock.advance(3600)
        await within(session.advance(0))
        assert stamps() == ["13:00:00Z"]


async def test_the_result_of_a_tick_is_there_under_its_id():
    declared = Declared()
    async with at_noon(declared.app) as session:
        await within(session.advance(30))
        assert await declared.app.handle("adds@2026-11-24T12:00:30Z").result(timeout=1) == 13


async def test_draining_does_not_go_on_for_the_sake_of_schedules():
    declared = Declared()
    async with at_noon(declared.app) as session:
        handle = await declared.add.options(delay=45).send(1, 2)
        await within(session.drain())
        assert await handle.result(timeout=1) == 3
        assert [ran[0], len(ran)] == ["adds@2026-11-24T12:00:30Z", 2]


async def test_jitter_puts_jobs_off_and_their_ids_still_name_the_tick():
    async with at_noon(Declared(jitter=20).app) as session:
        await within(session.advance(30))
        before = list(ran)
        await within(session.advance(20))
        assert stamps() == ["12:00:30Z"]
        assert before == []


async def test_so_many_runs_and_it_is_over():
    declared = Declared(max_runs=2)
    async with at_noon(declared.app) as session:
        await within(session.advance(600))
        assert stamps() == ["12:00:30Z", "12:01:00Z"]
        schedule = await declared.app.schedules.get("adds")
        assert (schedule.next_at, schedule.runs, schedule.next_runs()) == (None, 2, [])


async def test_a_schedule_of_a_task_that_the_worker_does_not_know_is_logged_once(
    caplog: pytest.LogCaptureFixture,
):
    schedules = {
        "adds": {"task": "shop.add", "args": (1, 2), "every": 30},
        "posts": {"task": "shop.post", "every": 30, "options": {"queue": "mail"}},
    }
    shop = App("shop", url="redis://nowhere", schedules=schedules)
    shop.task(name="shop.add")(_add)
    async with at_noon(shop) as session:
        await within(session.advance(60))
    said = [record.message for record in caplog.records if "schedule posts: no" in record.message]
    assert said == [
        "schedule posts: no task 'shop.post' is registered in this App, so this worker cannot run its jobs"
    ]
    assert "schedule adds: no task" not in caplog.text


# -- at run time ------------------------------------------------------------------------------------------------


async def test_a_schedule_is_put_and_ticks(session: MemorySession):
    schedule = await app.schedules.put("adds", add.call(1, 2), cron="*/5 * * * *", tz="Asia/Shanghai")
    assert (schedule.next_at, schedule.task, schedule.queue) == (NOON + timedelta(minutes=5), add.name, "default")
    assert schedule.description == "Every 5 minutes"
    assert schedule.next_runs(2) == [
        datetime(2026, 11, 24, 20, 5, tzinfo=ZoneInfo("Asia/Shanghai")),
        datetime(2026, 11, 24, 20, 10, tzinfo=ZoneInfo("Asia/Shanghai")),
    ]
    assert msgspec.structs.replace(await app.schedules.get("adds"), asked_at=None) == schedule
    await within(session.advance(600))
    assert stamps() == ["12:05:00Z", "12:10:00Z"]
    schedule = await app.schedules.get("adds")
    assert (schedule.runs, schedule.last_job) == (2, "adds@2026-11-24T12:10:00Z")
    assert schedule.last_at == NOON + timedelta(minutes=10)


async def test_putting_it_again_replaces_it(session: MemorySession):
    await app.schedules.put("s", add.call(1, 2), every=60)
    again = await app.schedules.put("s", add.call(1, 2), every=60)
    assert again.next_at == NOON + timedelta(minutes=1)
    schedule = await app.schedules.put("s", add.call(1, 2), every=600, start=NOON + timedelta(hours=1))
    assert (schedule.every, schedule.next_at) == (600, NOON + timedelta(hours=1))
    assert [each.id for each in await app.schedules.list()] == ["s"]
    await within(session.advance(1800))
    assert ran == []


async def test_one_with_another_queue_leaves_the_one_it_was_in(session: MemorySession):
    await app.schedules.put("s", add.call(1, 2), every=60)
    await app.schedules.put("s", post.call(), every=60)
    assert [(each.id, each.queue) for each in await app.schedules.list()] == [("s", "mail")]
    await within(session.advance(60))
    assert stamps() == ["12:01:00Z"]


async def test_the_list_is_in_the_order_of_the_next_ticks(session: MemorySession):
    await app.schedules.put("late", add.call(1, 2), every=600)
    await app.schedules.put("paused", add.call(1, 2), every=30)
    await app.schedules.put("soon", post.call(), every=60)
    await app.schedules.pause("paused")
    assert [each.id for each in await app.schedules.list()] == ["soon", "late", "paused"]


async def test_a_paused_schedule_rests_and_goes_on_with_its_next_tick(session: MemorySession):
    await app.schedules.put("s", add.call(1, 2), every=60)
    schedule = await app.schedules.pause("s")
    assert (schedule.paused, schedule.next_at) == (True, None)
    assert (await app.schedules.pause("s")) == schedule
    await within(session.advance(150))
    assert ran == []
    await app.schedules.put("s", add.call(3, 4), every=60)
    assert (await app.schedules.get("s")).paused, "putting it anew does not wake it"
    schedule = await app.schedules.resume("s")
    assert schedule.next_at == NOON + timedelta(seconds=180)
    assert (await app.schedules.resume("s")) == schedule
    await within(session.advance(60))
    assert stamps() == ["12:03:00Z"]


async def test_run_now_sends_the_call_besides_the_ticks(session: MemorySession):
    await app.schedules.put("s", add.call(1, 2), every=60)
    await app.schedules.pause("s")
    handle = await app.schedules.run_now("s")
    assert await handle.result(timeout=5) == 3
    assert (await app.schedules.get("s")).runs == 0


async def test_a_removed_schedule_ticks_no_more(session: MemorySession):
    await app.schedules.put("s", add.call(1, 2), every=60)
    await app.schedules.remove("s")
    assert await app.schedules.list() == []
    await within(session.advance(120))
    assert ran == []


@pytest.mark.parametrize("method", ["get", "pause", "resume", "run_now", "remove"])
async def test_what_is_not_there_is_not_found(session: MemorySession, method: str):
    with pytest.raises(
        ScheduleNotFoundError, match=r"no schedule 'gone' \(looked for in queue default, mail\)"
    ) as caught:
        await getattr(app.schedules, method)("gone")
    assert caught.value.schedule_id == "gone"


@pytest.mark.parametrize(
    ("schedule_id", "options", "why"),
    [
        ("s", {"every": 0}, "schedule 's': every=0"),
        ("s", {"cron": "0 0 30 2 *"}, "schedule 's': cron='0 0 30 2 *': its dates never come"),
        ("s", {"every": 1, "tz": "Mars"}, "schedule 's': tz='Mars'"),
        ("a b", {"every": 1}, "schedule id 'a b'"),
    ],
)
async def test_bad_input_stores_nothing(session: MemorySession, schedule_id: str, options: Any, why: str):
    with pytest.raises(ConfigError) as caught:
        await app.schedules.put(schedule_id, add.call(1, 2), **options)
    assert why in str(caught.value)
    assert await app.schedules.list() == []


# -- one that code declares -------------------------------------------------------------------------------------


async def test_a_change_shows_and_a_removal_holds():
    declared = Declared()
    async with at_noon(declared.app) as session:
        schedules = declared.app.schedules
        assert ((await schedules.get("adds")).in_code, (await schedules.get("adds")).changed) == (True, False)
        await schedules.put("adds", declared.add.call(1, 1), every=60)
        assert (await schedules.get("adds")).changed
        await schedules.remove("adds")
        with pytest.raises(ScheduleNotFoundError):
            await schedules.get("adds")
        await within(session.advance(120))
        assert ran == []
        await schedules.put("adds", declared.add.call(1, 1), every=60)
        await within(session.advance(60))
        assert stamps() == ["12:03:00Z"]


async def test_one_that_code_declares_may_be_moved_to_another_queue():
    declared = Declared()
    other = declared.app.task(name="post", queue="mail")(_add)
    async with at_noon(declared.app) as session:
        await declared.app.schedules.put("adds", other.call(1, 1), every=60)
        (schedule,) = await declared.app.schedules.list()
        assert (schedule.queue, schedule.in_code, schedule.changed) == ("mail", True, True)
        await within(session.advance(60))
        assert stamps() == ["12:01:00Z"]


async def test_one_that_is_over_starts_again_when_it_is_put_by_hand():
    declared = Declared(max_runs=1)
    async with at_noon(declared.app) as session:
        await within(session.advance(60))
        assert (await declared.app.schedules.get("adds")).next_at is None
        schedule = await declared.app.schedules.put("adds", declared.add.call(1, 1), every=30, max_runs=1)
        assert (schedule.runs, schedule.next_at) == (0, NOON + timedelta(seconds=90))
        again = await declared.app.schedules.put("adds", declared.add.call(1, 1), every=30, max_runs=1)
        assert again.next_at == schedule.next_at
        await within(session.advance(600))
        assert stamps() == ["12:00:30Z", "12:01:30Z"]


async def test_a_change_that_a_tick_came_before_is_made_anew(
    session: MemorySession, monkeypatch: pytest.MonkeyPatch
):
    await app.schedules.put("s", add.call(1, 2), every=60)
    timetable = (await internals_of(app).store()).timetable
    write, raced = timetable.write, False

    async def after_somebody_else(queue: str, entries: Any) -> list[bool]:
        nonlocal raced
        if not raced:
            raced = True
            (present,) = (await timetable.read(queue, ["s"])).entries
            assert await write(queue, [msgspec.structs.replace(present, runs=7)]) == [True]
        return await write(queue, entries)

    monkeypatch.setattr(timetable, "write", after_somebody_else)
    schedule = await app.schedules.pause("s")
    assert (schedule.paused, schedule.runs) == (True, 7)


async def test_where_others_write_all_the_time_it_is_said_so_and_nothing_is_changed(
    session: MemorySession, monkeypatch: pytest.MonkeyPatch
):
    await app.schedules.put("s", add.call(1, 2), every=60)
    timetable = (await internals_of(app).store()).timetable
    write, writes = timetable.write, 0

    async def after_somebody_else(queue: str, entries: Any) -> list[bool]:
        nonlocal writes
        writes += 1
        (present,) = (await timetable.read(queue, ["s"])).entries
        assert await write(queue, [msgspec.structs.replace(present, runs=writes)]) == [True]
        return await write(queue, entries)

    monkeypatch.setattr(timetable, "write", after_somebody_else)
    with pytest.raises(
        ScheduleConflictError, match=r"schedule 's' in queue 'default' could not be written"
    ) as caught:
        await app.schedules.pause("s")
    assert caught.value.schedule_id == "s"
    assert not isinstance(caught.value, ConfigError)
    schedule = await app.schedules.get("s")
    assert (schedule.paused, schedule.runs) == (False, writes)
    assert writes > 5


async def test_the_next_runs_are_in_the_future_also_without_a_worker(session: MemorySession):
    await app.schedules.put("s", add.call(1, 2), every=60)
    session.clock._now_ms += 3_630_000  # no worker has seen it: it is 13:00:30
    for schedule in (
        await app.schedules.get("s"),
        (await app.schedules.list())[0],
        await app.schedules.resume("s"),
    ):
        assert schedule.next_at == NOON + timedelta(seconds=60)
        assert schedule.asked_at == NOON + timedelta(seconds=3630)
        assert schedule.next_runs(2) == [NOON + timedelta(minutes=61), NOON + timedelta(minutes=62)]
    await app.schedules.remove("s")


def test_one_that_cannot_be_read_has_no_future_run():
    entry = Entry(id="s", definition=b"\x92\x63\x80", envelope=b"", next_ms=1000)
    assert shown("mail", entry, 500).next_runs() == [to_datetime(1000)]
    assert shown("mail", entry, 1000).next_runs() == []


# -- for people -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.5, "0.5 s"), (90, "90 s"), (300, "5 min"), (21_600, "6 h"), (86_400, "1 day"), (172_800, "2 days")],
)
def test_a_span_of_time_in_words(seconds: float, text: str):
    assert duration(seconds) == text
    assert describe(Definition(every_ms=round(seconds * 1000))) == f"Every {text}"


def test_one_that_a_newer_version_wrote_is_shown_as_far_as_it_goes():
    schedule = shown("mail", Entry(id="s", definition=b"\x92\x63\x80", envelope=b"", next_ms=0))
    assert (schedule.id, schedule.task, schedule.next_at) == ("s", "?", to_datetime(0))
    assert "upgrade" in schedule.description
