"""`job.snooze`, `handle.reschedule` and `handle.run_now`, in an App that runs in memory."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from aioq import App, ConfigError, JobNotFoundError, Retry, Snooze, current_job
from aioq.jobs.job import JobState
from aioq.testing import MemorySession
from tests.unit.kit import within

pytestmark = pytest.mark.anyio

app = App("shop", url="redis://nowhere")
looks: list[int] = []


@app.task(retry=Retry(2, delay=10, jitter=False))
async def patient(ready_at: int) -> int:
    looks.append(current_job().attempt)
    if len(looks) < ready_at:
        current_job().snooze(timedelta(seconds=60))
    if len(looks) == ready_at:
        raise ValueError("one failure")
    return current_job().attempt


@app.task
def plain(ready_at: int) -> int:
    looks.append(current_job().attempt)
    if len(looks) < ready_at:
        current_job().snooze(60)
    return len(looks)


@app.task
async def add(x: int, y: int) -> int:
    return x + y


@app.task
async def broken() -> None:
    current_job().snooze(-1)


@pytest.fixture
async def session() -> AsyncIterator[MemorySession]:
    looks.clear()
    async with app.test() as session:
        yield session


async def test_a_snooze_costs_no_attempt(session: MemorySession):
    handle = await patient.send(3)
    await within(session.advance(0))
    assert (await handle.status(), looks) == (JobState.SCHEDULED, [1])
    assert (await handle.info()).error is None
    await within(session.advance(60))
    assert looks == [1, 1]
    await within(session.drain())
    assert await handle.result(timeout=1) == 2
    assert looks == [1, 1, 1, 2]


async def test_a_function_in_a_thread_may_snooze(session: MemorySession):
    handle = await plain.send(3)
    await within(session.drain())
    assert await handle.result(timeout=1) == 3
    assert looks == [1, 1, 1]


@app.task
async def together() -> int:
    looks.append(current_job().attempt)
    if len(looks) < 3:
        async with asyncio.TaskGroup() as group:
            group.create_task(_not_yet(30))
            group.create_task(_not_yet(60))
            group.create_task(asyncio.Event().wait())  # cancelled by the others
    return len(looks)


async def _not_yet(delay: int) -> None:
    if len(looks) == 1:
        current_job().snooze(delay)
    raise Retry(delay=delay)


async def test_a_task_group_may_snooze_and_ask_for_another_attempt(session: MemorySession):
    handle = await together.send()
    for attempts in ([1], [1, 1]):
        await within(session.advance(0))
        assert (await handle.status(), looks) == (JobState.SCHEDULED, attempts)
        await within(session.advance(59))
        assert looks == attempts
        await within(session.advance(1))
    assert await handle.result(timeout=1) == 3
    assert looks == [1, 1, 2]


async def test_a_delay_out_of_its_range_fails_the_job(session: MemorySession):
    handle = await broken.send()
    await within(session.drain())
    assert "snooze(-1): expected seconds" in str((await handle.info()).error)


@pytest.mark.parametrize("delay", ["soon", -1, float("inf"), timedelta(days=10_000), 10**12, 10**30])
def test_what_a_snooze_takes(delay: Any):
    with pytest.raises(ConfigError, match="snooze"):
        Snooze(delay)
    assert Snooze(timedelta(minutes=1)).delay == 60


async def test_a_job_is_moved_to_another_time(session: MemorySession):
    handle = await add.options(delay=3600).send(1, 2)
    assert await handle.reschedule(delay=60)
    await within(session.advance(59))
    assert await handle.status() is JobState.SCHEDULED
    assert await handle.reschedule(eta=datetime.fromtimestamp(session.clock.now_ms() / 1000 + 600, UTC))
    await within(session.advance(599))
    assert await handle.status() is JobState.SCHEDULED
    await within(session.advance(1))
    assert await handle.result(timeout=1) == 3
    assert not await handle.reschedule(delay=60)
    assert not await handle.run_now()


async def test_a_job_is_run_now(session: MemorySession):
    handle = await add.options(delay=3600).send(1, 2)
    assert await handle.run_now()
    assert await handle.result(timeout=5) == 3


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "give delay or eta; to run it at once use run_now"),
        ({"delay": 1, "eta": datetime(2026, 1, 1, tzinfo=UTC)}, "give delay or eta, not both"),
        ({"eta": datetime(2026, 1, 1)}, "has no time zone"),
        ({"delay": -1}, "delay=-1"),
        ({"delay": 10**30}, f"delay={10**30}: expected from 0 s to ten years"),
        (
            {"eta": datetime.max.replace(tzinfo=UTC)},
            "eta=9999-12-31T23:59:59.999999.00:00: expected a year from 1900",
        ),
        ({"eta": datetime.min.replace(tzinfo=UTC)}, "eta=0001-01-01T00:00:00.00:00: expected a year from 1900"),
    ],
)
async def test_a_wrong_time_changes_nothing(session: MemorySession, options: dict[str, Any], why: str):
    handle = await add.options(delay=3600).send(1, 2)
    before = (await handle.info()).due_at
    with pytest.raises(ConfigError, match=f"job {handle.id}: reschedule: .*{why}|reschedule: {why}"):
        await handle.reschedule(**options)
    assert (await handle.info()).due_at == before


async def test_what_is_not_there_cannot_be_moved(session: MemorySession):
    with pytest.raises(JobNotFoundError):
        await app.handle("never").run_now()
