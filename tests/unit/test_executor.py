"""What the executor does about jobs that do not end when they are told to."""

import asyncio
import logging

import pytest

from aioq import App, JobCancelledError, JobFailed
from aioq.worker.services import executor as module
from tests.unit.kit import within

pytestmark = pytest.mark.anyio

app = App("stubborn", url="redis://nowhere", concurrency=1)
release = asyncio.Event()
swallowed: list[str] = []


@app.task
async def stubborn() -> str:
    """Goes on, whatever it is told."""
    while not release.is_set():
        try:
            await release.wait()
        except asyncio.CancelledError:
            swallowed.append("once more")
    return "at last"


@app.task
async def slow_to_clean_up() -> str:
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        swallowed.append("cleaned up")
    return "never"


@app.task
async def add(x: int, y: int) -> int:
    return x + y


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    global release  # noqa: PLW0603 - an event belongs to its loop
    release = asyncio.Event()
    swallowed.clear()
    monkeypatch.setattr(module, "GRACE", 0.02)


async def test_a_job_that_swallows_its_timeout_fails_all_the_same_and_frees_its_slot(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "aioq.worker")
    async with app.test():
        handle = await stubborn.options(timeout=0.01).send()
        with pytest.raises(JobFailed, match=r"TimeoutError: the attempt took longer than its timeout of 0\.01 s"):
            await within(handle)
        assert await within(await add.send(1, 2)) == 3, "there is one slot, and it is free"
        assert swallowed == ["once more", "once more"], "told by the timeout, and when it was left behind"
        assert f"stubborn[{handle.id}] does not end when it is cancelled; it is left behind" in caplog.text
        release.set()


async def test_a_job_that_swallows_its_cancellation_is_cancelled_all_the_same() -> None:
    async with app.test():
        handle = await stubborn.send()
        while await handle.status() != "running":  # noqa: ASYNC110 - nothing signals it
            await asyncio.sleep(0)
        assert await handle.cancel("enough")
        with pytest.raises(JobCancelledError, match="enough"):
            await within(handle)
        assert await within(await add.send(1, 2)) == 3
        release.set()


async def test_what_is_left_behind_writes_nothing_when_it_ends_after_all() -> None:
    async with app.test() as session:
        handle = await stubborn.options(timeout=0.01).send()
        with pytest.raises(JobFailed):
            await within(handle)
        (worker,) = session._workers
        assert worker._executor.left_behind == 1
        release.set()
        async with asyncio.timeout(10):
            while worker._executor.left_behind:  # noqa: ASYNC110 - nothing signals it
                await asyncio.sleep(0)
        assert await handle.status() == "failed"
        assert worker._settler.refused == 0


async def test_a_job_that_cleans_up_in_time_is_left_in_peace(caplog: pytest.LogCaptureFixture) -> None:
    async with app.test():
        handle = await slow_to_clean_up.options(timeout=0.01).send()
        with pytest.raises(JobFailed, match="TimeoutError"):
            await within(handle)
    assert swallowed == ["cleaned up"]
    assert "left behind" not in caplog.text
