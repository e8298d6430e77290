"""`aioq.testing`: an App in memory, and a clock that is moved by hand."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from aioq import (
    App,
    Batch,
    BatchItem,
    ConfigError,
    JobCancelledError,
    JobFailed,
    JobNotFoundError,
    Retry,
    current_job,
    gather,
)
from aioq.app import internals_of
from aioq.jobs.job import JobState
from aioq.schedules.timing import Definition, encode
from aioq.store.schedules import Entry
from aioq.testing import ManualClock, MemorySession, app_fixture
from tests.unit.kit import WITHIN, others, within

pytestmark = [pytest.mark.anyio, pytest.mark.measured]
pytest_plugins = ["pytester"]

app = App("shop", url="redis://nowhere")
tried: list[int] = []


@app.task
async def add(x: int, y: int) -> int:
    return x + y


@app.task
def multiply(x: int, y: int) -> int:
    return x * y


@app.task(queue="mail")
async def double(x: int) -> int:
    return await (await add.send(x, x))


@app.task(retry=Retry(3, delay=100, jitter=False))
async def flaky(good_at: int) -> int:
    tried.append(current_job().attempt)
    if len(tried) < good_at:
        raise ValueError("not yet")
    return len(tried)


@app.task(batch=Batch(size=10, wait=5))
async def together(items: list[BatchItem[int]]) -> list[int]:
    return [len(items)] * len(items)


@app.task
async def hang() -> None:
    await asyncio.Event().wait()


session = app_fixture(app)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    tried.clear()


# -- sending ----------------------------------------------------------------------------------------------------


async def test_a_job_is_sent_and_awaited(session: MemorySession):
    assert await within(gather(await add.send(1, 2), await multiply.send(3, 4))) == (3, 12)


async def test_a_job_may_send_jobs_to_another_queue_and_await_them(session: MemorySession):
    assert await within(gather(*await double.send_many([(1,), (2,)]))) == (2, 4)


async def test_a_schedule_put_for_a_queue_that_no_task_is_declared_with_ticks(session: MemorySession):
    await app.schedules.put("ticks", add.options(queue="slow").call(1, 2), every=60)
    await session.advance(120)
    schedule = await app.schedules.get("ticks")
    assert (schedule.queue, schedule.runs) == ("slow", 2)
    assert schedule.last_job is not None
    assert await within(app.handle(schedule.last_job, queue="slow").result()) == 3


async def test_a_worker_with_the_whole_app_removes_what_left_it_together_with_its_queue():
    small = App("small", url="redis://nowhere")
    async with small.test() as session:
        entry = Entry(id="gone", definition=encode(Definition(every_ms=60_000)), code="aa", next_ms=2**50)
        assert await session._store.timetable.write("left", [entry]) == [True]
        async with asyncio.timeout(WITHIN):
            while await small.schedules.list():  # noqa: ASYNC110 - nothing says when
                await asyncio.sleep(0.01)


async def test_a_queue_that_no_task_is_declared_with_is_served_too(session: MemorySession):
    handle = await add.options(queue="slow").send(1, 2)
    await within(session.drain())
    assert await handle.result(timeout=1) == 3


async def test_the_state_of_a_job_can_be_looked_at(session: MemorySession):
    handle = await add.options(headers={"a": "b"}).send(1, 2)
    assert await within(gather(handle)) == (3,)
    info = await handle.info()
    assert (info.state, info.attempts, info.task) == (JobState.SUCCEEDED, 1, add.name)


# -- time -------------------------------------------------------------------------------------------------------


async def test_a_delay_takes_no_time(session: MemorySession):
    handle = await add.options(delay=3600).send(1, 2)
    await session.advance(3599)
    assert await handle.status() is JobState.SCHEDULED
    await session.advance(1)
    assert await handle.result(timeout=1) == 3


async def test_the_clock_may_be_moved_by_a_timedelta(session: MemorySession):
    before = session.clock.now_ms()
    await session.advance(timedelta(minutes=1, milliseconds=5))
    assert session.clock.now_ms() - before == 60_005
    with pytest.raises(ValueError, match=r"cannot go back by 1\.0 s"):
        await session.advance(timedelta(seconds=-1))
    with pytest.raises(ConfigError, match="seconds must be a finite number of seconds or a timedelta, not '1'"):
        await session.advance("1")  # pyright: ignore[reportArgumentType]


async def test_advancing_by_nothing_waits_until_all_is_done(session: MemorySession):
    handles = await double.send_many([(n,) for n in range(20)])
    await within(session.advance(0))
    assert {await handle.status() for handle in handles} == {JobState.SUCCEEDED}


async def test_a_retry_runs_when_the_clock_gets_there(session: MemorySession):
    handle = await flaky.send(3)
    await within(session.advance(0))
    assert (tried, await handle.status()) == ([1], JobState.SCHEDULED)
    await within(session.advance(100))
    assert (tried, await handle.status()) == ([1, 2], JobState.SCHEDULED)
    await within(session.advance(200))
    assert (tried, await handle.result(timeout=1)) == ([1, 2, 3], 3)


async def test_draining_runs_everything_there_is(session: MemorySession):
    before = session.clock.now_ms()
    later, failing = await add.options(delay=86_400).send(1, 2), await flaky.send(99)
    await within(session.drain())
    assert await later.result(timeout=1) == 3
    assert tried == [1, 2, 3]
    with pytest.raises(JobFailed, match="ValueError: not yet"):
        await failing.result(timeout=1)
    assert session.clock.now_ms() - before == 86_400_000


async def test_draining_leaves_what_a_paused_queue_holds_back(session: MemorySession):
    handles = await together.send_many([(1,), (2,)])
    await session.advance(0)
    await app.queue("default").pause()
    late = await add.send(1, 2)
    await within(session.drain())
    assert [await each.status() for each in (*handles, late)] == ["waiting", "waiting", "queued"]
    await app.queue("default").resume()
    await within(session.drain())
    assert await gather(*handles, late) == (2, 2, 3)


async def test_draining_moves_the_clock_to_the_end_of_a_pause(session: MemorySession):
    before = session.clock.now_ms()
    handles = await together.send_many([(1,), (2,)])
    await session.advance(0)
    await app.queue("default").pause(until=timedelta(seconds=30))
    await within(session.drain())
    assert await gather(*handles) == (2, 2)
    assert session.clock.now_ms() - before == 30_000


async def test_draining_of_nothing_returns(session: MemorySession):
    await within(session.drain())


async def test_time_does_not_run_backwards(session: MemorySession):
    with pytest.raises(ValueError, match="cannot go back"):
        await session.advance(-1)


async def test_results_expire(session: MemorySession):
    handle = await add.options(result_ttl=10).send(1, 2)
    await within(session.advance(0))
    await within(session.advance(9))
    assert await handle.status() is JobState.SUCCEEDED
    await within(session.advance(2))
    with pytest.raises(JobNotFoundError, match="its result has expired"):
        await handle.status()


# -- cancelling -------------------------------------------------------------------------------------------------


async def test_a_job_that_waits_can_be_cancelled(session: MemorySession):
    handle = await add.options(delay=10).send(1, 2)
    assert await handle.cancel("no need") is True
    await within(session.drain())
    with pytest.raises(JobCancelledError, match="no need"):
        await handle.result(timeout=1)


async def test_a_job_that_runs_can_be_cancelled(session: MemorySession):
    handle = await hang.send()
    async with asyncio.timeout(10):
        while await handle.status() is not JobState.RUNNING:  # noqa: ASYNC110 - nothing says when
            await asyncio.sleep(0)
    assert await handle.cancel() is True
    with pytest.raises(JobCancelledError):
        await handle.result(timeout=5)


# -- the session itself -----------------------------------------------------------------------------------------


async def test_each_session_starts_empty_and_leaves_nothing_behind():
    before = others()
    ids: list[str] = []
    for _ in range(2):
        async with app.test() as session:
            handle = await add.options(job_id="mine").send(1, 2)
            assert handle.added is True
            await session.drain()
            ids.append(handle.id)
    assert others() == before
    assert internals_of(app).connector._store_factory is None


async def test_a_failure_inside_is_raised_as_it_is_and_what_runs_is_ended():
    before = others()
    with pytest.raises(KeyError, match="inside"):  # noqa: PT012 - from inside, as it says
        async with app.test():
            await hang.send()
            raise KeyError("inside")
    assert others() == before


async def test_a_lifespan_and_middleware_are_the_apps_own():
    own, seen = App("own", url="redis://nowhere"), []

    @own.lifespan
    async def _resources() -> AsyncIterator[Any]:
        seen.append("up")
        yield {"db": 5}
        seen.append("down")

    @own.task
    async def read() -> int:
        return current_job().state["db"] + own.state["db"]

    async with own.test():
        assert await within(gather(await read.send())) == (10,)
    assert seen == ["up", "down"]


async def test_a_worker_that_fails_is_not_waited_for():
    own = App("own", url="redis://nowhere")

    @own.lifespan
    async def _broken() -> AsyncIterator[Any]:
        raise OSError("no database")
        yield

    with pytest.raises(OSError, match="no database"):
        async with own.test() as session:
            await within(session.drain())


def test_a_manual_clock():
    clock = ManualClock(5)
    clock.advance(1.5)
    clock.advance(0)
    assert clock.now_ms() == 1505
    with pytest.raises(ValueError, match="a clock cannot go back by 1 s"):
        clock.advance(-1)


def test_the_fixture_in_a_project_of_its_own(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTEST_ADDOPTS", "")
    pytester.makepyfile(
        shop="""
        from aioq import App
        app = App("shop")

        @app.task
        async def greet(name: str) -> str:
            return f"hello {name}"
        """,
        conftest="""
        import pytest
        from aioq.testing import app_fixture
        from shop import app
        session = app_fixture(app)

        @pytest.fixture
        def anyio_backend():
            return "asyncio"
        """,
        test_shop="""
        import pytest
        from shop import greet

        @pytest.mark.anyio
        async def test_greeting(session):
            handle = await greet.options(delay=60).send("Ada")
            await session.advance(60)
            assert await handle == "hello Ada"
        """,
    )
    ran = pytester.runpytest_subprocess(
        "-p", "no:asyncio", "-p", "no:randomly", "-p", "no:cacheprovider", "-W", "error"
    )
    ran.assert_outcomes(passed=1)
    assert not (Path(pytester.path) / ".aioq").exists()
