"""What the executor does about jobs that do not end when they are cancelled."""

import asyncio
import logging
from typing import Any

import msgspec
import pytest

from aioq import App, JobCancelledError, JobFailed, current_job
from aioq.store.memory import MemoryStore
from aioq.worker.duties import executor as module
from tests.unit.kit import call, claimed, turns, within

pytestmark = pytest.mark.anyio

app = App("stubborn", url="redis://nowhere", concurrency=1)
release = asyncio.Event()
swallowed: list[str] = []


@app.task
async def stubborn() -> str:
    """Ignores every cancellation."""
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
async def waits() -> None:
    await release.wait()


@app.task
async def add(x: int, y: int) -> int:
    return x + y


@app.task
async def reports() -> int:
    current_job().progress(1)
    return 42


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
        assert swallowed == ["once more", "once more"], "once by the timeout, once when it was left behind"
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
        assert worker._duties.executor.left_behind == 1
        release.set()
        async with asyncio.timeout(10):
            while worker._duties.executor.left_behind:  # noqa: ASYNC110 - nothing signals it
                await asyncio.sleep(0)
        assert await handle.status() == "failed"
        assert worker._duties.settler.refused == 0


async def test_a_job_that_cleans_up_in_time_is_left_in_peace(caplog: pytest.LogCaptureFixture) -> None:
    async with app.test():
        handle = await slow_to_clean_up.options(timeout=0.01).send()
        with pytest.raises(JobFailed, match="TimeoutError"):
            await within(handle)
    assert swallowed == ["cleaned up"]
    assert "left behind" not in caplog.text


async def test_a_job_whose_function_has_returned_keeps_its_outcome_when_it_is_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its last progress is written before its outcome, and that takes a while."""
    writing, go_on = asyncio.Event(), asyncio.Event()
    write = MemoryStore.progress

    async def slow(store: MemoryStore, *args: Any) -> list[bool]:
        writing.set()
        await go_on.wait()
        return await write(store, *args)

    monkeypatch.setattr(MemoryStore, "progress", slow)
    async with app.test() as session:
        handle = await reports.send()
        await within(writing.wait())
        (worker,) = session._workers
        (run,) = worker._duties.executor._running.values()
        while not run.returned:  # noqa: ASYNC110 - nothing signals it
            await asyncio.sleep(0)
        await handle.cancel("too late")
        worker._duties.executor.cancel("default", run.worker, handle.id, "cancelled")
        go_on.set()
        assert await within(handle) == 42


async def test_no_outcome_waits_for_long_for_the_last_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(store: MemoryStore, *args: Any) -> list[bool]:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(MemoryStore, "progress", never)
    async with app.test():
        assert await within(await reports.send()) == 42


@pytest.mark.parametrize("declined", [False, True])
async def test_a_job_that_waits_for_its_slot_takes_over_the_claim_under_which_it_comes_again(
    declined: bool,
) -> None:
    """The server has forgotten the first claim of both, the one that runs and the one that waits."""
    async with app.test() as session:
        first = await waits.send()
        (worker,) = session._workers
        executor = worker._duties.executor
        while executor.running < 1:  # noqa: ASYNC110 - nothing signals it
            await asyncio.sleep(0)
        (run,) = executor._running.values()
        given = [claimed(run.claimed.envelope, job_id=each, claim=77) for each in (first.id, "another")]
        given = [msgspec.structs.replace(each, sent_ms=run.claimed.sent_ms) for each in given]
        worker._duties.slots.take(3)
        executor.submit("default", run.worker, given[1])
        (waiting,) = executor._backlog
        for each in given:
            (executor.decline if declined else executor.submit)("default", run.worker, each)
        assert (executor.running, list(executor._backlog), worker._duties.slots.used) == (1, [waiting], 2)
        assert (run.claimed, waiting.claimed) == tuple(given)
        release.set()


async def test_what_is_dispatched_begins_after_what_was_claimed_before() -> None:
    """From Python 3.12 on a lone job begins at once; but not while earlier ones wait for their first turn."""
    order: list[int] = []
    shop = App("order", url="redis://nowhere", concurrency=5)

    @shop.task(name="order.note")
    async def note(number: int) -> int:
        order.append(number)
        return number

    async with shop.test() as session:
        assert await within(await note.send(0)) == 0
        (worker,) = session._workers
        for number in (1, 2):
            worker._duties.slots.take(1)
            worker._duties.executor.submit("default", "w", claimed(call("order.note", number), job_id=str(number)))
        worker._duties.slots.take(1)
        worker._duties.executor.submit("default", "w", claimed(call("order.note", 3), job_id="3"), at_once=True)
        await turns()
        assert order == [0, 1, 2, 3]
        assert worker._duties.executor._not_entered == 0
