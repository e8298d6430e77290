"""`expires` and `tags`: of a task and of a call, with a worker in memory and with real ones."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from aioq import App, ConfigError, JobCancelledError, JobState, current_job
from aioq.testing import MemorySession
from tests.behaviour.kit import Project, state_is

pytestmark = pytest.mark.anyio

app = App("shop", url="redis://nowhere")
ran: list[str] = []


@app.task(expires=60, tags=["shop"])
async def offer(name: str = "") -> tuple[str, ...]:
    ran.append(name)
    return current_job().tags


@app.task
async def plain(name: str = "") -> tuple[str, ...]:
    ran.append(name)
    return current_job().tags


@pytest.fixture
async def session(anyio_backend: object) -> AsyncIterator[MemorySession]:
    del anyio_backend
    ran.clear()
    async with app.test() as session:
        yield session


@pytest.mark.usefixtures("session")
async def test_a_calls_tags_are_added_to_the_tasks() -> None:
    handle = await offer.options(tags=["eu", "shop"]).options(tags=("b2b", "eu")).send()
    assert await handle == ("shop", "eu", "b2b")
    assert (await handle.info()).tags == ("shop", "eu", "b2b")
    assert await (await offer.send()) == ("shop",)
    assert await (await plain.send()) == ()


@pytest.mark.usefixtures("session")
async def test_however_a_call_is_sent_it_has_its_tags() -> None:
    (alike,) = await offer.options(tags=["many"]).send_many([("x",)])
    mixed = await app.send_many([offer.call("y"), plain.options(tags=["one"]).call("z")])
    named = await app.by_name(f"{__name__}.plain").options(tags=["by name"]).send()
    assert [await handle for handle in (alike, *mixed, named)] == [
        ("shop", "many"),
        ("shop",),
        ("one",),
        ("by name",),
    ]


async def test_a_job_that_waits_too_long_is_cancelled_and_never_run(session: MemorySession) -> None:
    now = datetime.fromtimestamp(session.clock.now_ms() / 1000, UTC)
    late = await offer.options(delay=100, expires=1).send("late")
    in_time = await plain.options(eta=now + timedelta(seconds=100), expires=10).send("in time")
    assert (await late.info()).expires_at == now + timedelta(seconds=101)
    session.clock.advance(105)  # a leap: no worker was there at their time
    with pytest.raises(JobCancelledError, match="expired"):
        await late.result(timeout=10)
    assert await in_time.result(timeout=10) == ()
    assert ran == ["in time"]
    info = await late.info()
    assert (info.state, info.task, info.tags) == (JobState.CANCELLED, f"{__name__}.offer", ("shop",))


async def test_a_schedule_sends_jobs_that_expire_and_have_tags(session: MemorySession) -> None:
    schedule = await app.schedules.put("s", offer.options(tags=["tick"]).call("s"), every=3600)
    assert schedule.id == "s"
    await session.advance(3600)
    assert ran == ["s"]
    last = (await app.schedules.get("s")).last_job
    assert last is not None
    info = await app.handle(last).info()
    assert info.tags == ("shop", "tick")
    assert info.expires_at is not None
    assert info.sent_at is not None
    assert info.expires_at - info.sent_at == timedelta(seconds=60)
    assert (await (await app.schedules.run_now("s")).info()).tags == ("shop", "tick")
    with pytest.raises(ConfigError, match="expires at one moment"):
        await app.schedules.put("s", offer.options(expires=FUTURE).call(), every=3600)


FUTURE = datetime.now(UTC) + timedelta(days=1)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"expires": 0}, "expires=0: expected more than 0 s"),
        ({"expires": timedelta(seconds=-1)}, "expected more than 0 s"),
        ({"expires": datetime(2999, 1, 1)}, "has no time zone"),
        ({"expires": datetime(2020, 1, 1, tzinfo=UTC)}, "is past"),
        ({"expires": FUTURE, "eta": FUTURE}, "could not be started by then"),
        ({"expires": FUTURE, "delay": timedelta(days=2)}, "is before the delay is over"),
        ({"tags": "eu"}, "expected a list of strings"),
        ({"tags": [""]}, "a tag is a string of 1 to 64 printable characters"),
        ({"tags": [str(number) for number in range(16)]}, "17 of them, at most 16"),
    ],
)
def test_what_is_wrong_is_said_where_it_is_written(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        offer.options(**options)


PROJECT = """
import asyncio

from aioq import App, current_job

app = App()


@app.task
async def busy(seconds: float) -> None:
    await asyncio.sleep(seconds)


@app.task(executor="process", tags=["heavy"], expires=60)
def heavy() -> tuple[str, ...]:
    return current_job().tags
"""


async def test_waiters_are_notified_at_the_time_by_a_worker_without_a_free_slot(project: Project) -> None:
    project.write("work.py", PROJECT)
    tasks = project.load("work")
    async with tasks.app:
        worker = await project.ready_worker("work:app", "--concurrency", "1", AIOQ_LEASE="2")
        busy = await tasks.busy.send(3600)
        await state_is(busy, JobState.RUNNING)
        before = datetime.now(UTC)
        handle = await tasks.busy.options(expires=0.5, tags=["impatient"]).send(0)
        with pytest.raises(JobCancelledError, match="expired"):
            await handle.result(timeout=10)
        assert datetime.now(UTC) - before < timedelta(seconds=5)
        info = await handle.info()
        assert (info.state, info.task, info.started_at) == (JobState.CANCELLED, "work.busy", None)
        assert info.tags == ("impatient",)
        assert await busy.cancel()
        assert await (await tasks.heavy.send()).result(timeout=20) == ("heavy",)
        assert await worker.stop() == 0
