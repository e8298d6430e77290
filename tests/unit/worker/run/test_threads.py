"""`threads` bounds the threads there are, also those whose jobs have ended before them."""

import asyncio
import logging
import threading
from collections.abc import Iterator

import pytest

from aioq import App, JobCancelledError, JobFailed, current_job
from aioq.testing import MemorySession
from aioq.worker.run.run import TIMED_OUT
from tests.unit.kit import turns, until, within

pytestmark = pytest.mark.anyio

app = App("threads", url="redis://nowhere", concurrency=10, threads=2)
begun: list[int] = []
inside = 0
most = 0
gate = threading.Event()


@app.task
def stuck(number: int) -> int:
    """Does not end before it is let, whatever becomes of its job."""
    global inside, most  # noqa: PLW0603
    inside += 1
    most = max(most, inside)
    begun.append(number)
    gate.wait(20)
    inside -= 1
    return number


@app.task
async def plain(number: int) -> int:
    return number


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    global inside, most  # noqa: PLW0603
    inside = most = 0
    begun.clear()
    gate.clear()
    yield
    gate.set()  # a test that fails leaves no thread to the next one


async def time_out(session: MemorySession, jobs: int) -> None:
    """Have so many jobs time out whose functions have begun, without waiting for the time."""
    await until(lambda: len(begun) == jobs)
    (worker,) = session._workers
    for run in list(worker._duties.executor._running.values()):
        worker._duties.executor._cancel(run, TIMED_OUT)


async def test_a_thread_whose_job_has_timed_out_counts_until_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "aioq.worker")
    async with app.test() as session:
        late = await stuck.options(timeout=3600).send_many([(1,), (2,)])
        await time_out(session, 2)
        for handle in late:
            with pytest.raises(JobFailed, match="TimeoutError"):
                await within(handle)
        waiting = await stuck.send_many([(3,), (4,), (5,)])
        assert await within(await plain.send(6)) == 6, "what needs no thread runs"
        await turns()
        assert sorted(begun) == [1, 2]
        said = [record.getMessage() for record in caplog.records if "runs on in its thread" in record.getMessage()]
        assert [words.partition(" ")[0] for words in said] == [f"{stuck.name}[{handle.id}]" for handle in late]
        assert said[1].endswith("holds one of 2 threads till then; 2 are held so")

        gate.set()
        assert [await within(handle) for handle in waiting] == [3, 4, 5]
        assert most == 2
        (worker,) = session._workers
        await until(lambda: worker._duties.caller._threads.borrowed_tokens == 0)
        assert worker._duties.caller.busy_threads == 0


@app.task
def counting() -> None:
    """Says how far it is until it is let, also when nobody asks any more."""
    done = 0
    while not gate.is_set():
        begun.append(done := done + 1)
        current_job().progress(done)
        gate.wait(0.001)


async def test_what_a_thread_reports_after_its_job_was_cancelled_is_no_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with app.test() as session:
        handle = await counting.send()
        await until(lambda: bool(begun))
        assert await handle.cancel("no")
        with pytest.raises(JobCancelledError):
            await within(handle)
        after = len(begun)
        await until(lambda: len(begun) > after + 200)  # longer than reports are gathered for
        (worker,) = session._workers
        assert worker._duties.reporter.refused == 0
        assert not worker._duties.reporter._latest
        gate.set()
        await until(lambda: worker._duties.caller.busy_threads == 0)
    assert not [record for record in caplog.records if "was refused" in record.getMessage()]


async def test_a_thread_whose_job_was_cancelled_counts_too() -> None:
    async with app.test():
        handles = await stuck.send_many([(1,), (2,)])
        await until(lambda: len(begun) == 2)
        await handles[0].cancel("no")
        with pytest.raises(JobCancelledError):
            await within(handles[0])
        waiting = await stuck.send(3)
        await turns()
        assert sorted(begun) == [1, 2]
        gate.set()
        assert await within(waiting) == 3
        assert await within(handles[1]) == 2


async def test_a_job_that_is_cancelled_while_it_waits_for_a_thread_holds_none() -> None:
    async with app.test() as session:
        running = await stuck.send_many([(1,), (2,)])
        await until(lambda: len(begun) == 2)
        waiting = await stuck.send(3)
        await turns()
        await waiting.cancel("no")
        with pytest.raises(JobCancelledError):
            await within(waiting)
        gate.set()
        assert [await within(handle) for handle in running] == [1, 2]
        (worker,) = session._workers
        await until(lambda: worker._duties.caller._threads.borrowed_tokens == 0)
        assert sorted(begun) == [1, 2]


async def test_threads_that_are_left_do_not_keep_the_session_from_its_end() -> None:
    async with app.test() as session:
        handle = await stuck.options(timeout=3600).send(1)
        await time_out(session, 1)
        with pytest.raises(JobFailed, match="TimeoutError"):
            await within(handle)
    gate.set()
    await asyncio.to_thread(lambda: None)
