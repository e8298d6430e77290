"""Batches: one call of a function runs many jobs, and each of them stays a job of its own."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from aioq import (
    App,
    Batch,
    BatchItem,
    Cancel,
    JobCancelledError,
    JobContext,
    JobFailed,
    JobState,
    Middleware,
    NoJobError,
    Outcome,
    Retry,
    Unique,
    current_job,
    gather,
)
from aioq.testing import MemorySession
from tests.behaviour.kit import Project, until
from tests.clusters import Cluster
from tests.databases import Database

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=20)]

runs: list[Any] = []
seen: list[tuple[str, str]] = []
gates: list[asyncio.Event] = [asyncio.Event()]
app = App("shop", log_level="critical", logs=100)


@app.task(batch=Batch(size=10, wait=1))
async def double(items: list[BatchItem[int]]) -> list[int]:
    runs.append([item.value for item in items])
    return [item.value * 2 for item in items]


@app.task(batch=Batch(size=10, wait=1))
def in_thread(items: list[BatchItem[int]]) -> None:
    runs.append([item.value for item in items])


@app.task(batch=Batch(size=10, wait=1), retry=Retry(delays=[60]))
async def marks(items: list[BatchItem[str]]) -> list[str]:
    runs.append([(item.value, item.attempt) for item in items])
    for item in items:
        if item.value == "fails":
            item.fail(ValueError("no"))
        elif item.value == "fails for good":
            item.fail("never")
        elif item.value == "cancels":
            item.fail(Cancel("withdrawn"))
        elif item.value == "again" and item.attempt == 1:
            item.retry(5)
    return [item.value for item in items]


@app.task(batch=Batch(size=10, wait=1, on_error="all"))
async def together(items: list[BatchItem[str]]) -> list[str]:
    for item in items:
        if item.value == "bad":
            item.fail(ValueError("rolled back"))
    return [item.value for item in items]


@app.task(batch=Batch(size=10, wait=1))
async def raises(items: list[BatchItem[str]]) -> list[str]:
    raise ValueError(f"{len(items)} of them")


@app.task(batch=Batch(size=10, wait=1))
async def too_few(items: list[BatchItem[int]]) -> list[int]:
    return [item.value for item in items][1:]


@app.task(batch=Batch(size=100, wait=1, on_error="bisect"))
async def searched(items: list[BatchItem[int]]) -> list[int]:
    runs.append(len(items))
    if bad := [item.value for item in items if item.value < 0]:
        raise ValueError(str(bad[0]))
    return [item.value for item in items]


@app.task(batch=Batch(size=100, wait=1, on_error="bisect"), timeout=0.05)
async def hangs(items: list[BatchItem[int]]) -> list[int]:
    if any(item.value < 0 for item in items):
        await asyncio.Event().wait()
    return [item.value for item in items]


@app.task(batch=Batch(size=3, wait=1))
async def waits(items: list[BatchItem[str]]) -> list[str]:
    runs.append([item.value for item in items])
    await gates[0].wait()
    return [f"{item.value} {item.cancel_requested}" for item in items]


@app.task(batch=Batch(size=10, wait=1, by="customer"))
async def by_customer(items: list[BatchItem[dict[str, int]]]) -> list[int]:
    return [len(items)] * len(items)


@app.task(batch=Batch(size=10, wait=1))
async def looks(items: list[BatchItem[str]]) -> list[str]:
    with pytest.raises(NoJobError):
        current_job()
    for item in items:
        item.log("of %s", item.value)
        assert item.handle.id == item.id
    return [item.headers.get("tenant", "") for item in items]


@app.task(batch=Batch(size=10, wait=1), unique=Unique(by="item"))
async def once(items: list[BatchItem[int]]) -> list[int]:
    return [len(items)] * len(items)


@pytest.fixture
async def session(anyio_backend: object) -> AsyncIterator[MemorySession]:
    del anyio_backend
    runs.clear()
    gates[:] = [asyncio.Event()]
    async with app.test() as session:
        yield session
        gates[0].set()


async def ends(handles: list[Any]) -> list[Any]:
    """The results, and the errors in words."""
    found: list[Any] = await asyncio.gather(*handles, return_exceptions=True)
    return [
        each.error.summary if isinstance(each, JobFailed) else str(each) if isinstance(each, Exception) else each
        for each in found
    ]


async def test_a_full_batch_is_run_at_once_and_the_rest_when_it_has_waited(session: MemorySession) -> None:
    handles = await double.send_many([(number,) for number in range(25)])
    await session.advance(0)
    assert runs == [list(range(10)), list(range(10, 20))]
    assert await handles[24].status() is JobState.WAITING
    await session.advance(0.9)
    assert len(runs) == 2
    await session.advance(0.2)
    assert runs[2] == list(range(20, 25))
    assert await gather(*handles) == tuple(number * 2 for number in range(25))


async def test_a_plain_function_runs_in_a_thread_and_may_return_nothing(session: MemorySession) -> None:
    handles = await in_thread.send_many([(number,) for number in range(10)])
    assert await gather(*handles) == (None,) * 10
    assert runs == [list(range(10))]


async def test_only_those_that_are_marked_differ(session: MemorySession) -> None:
    kinds = ["fine", "fails", "fails for good", "cancels", "again"]
    handles = await marks.send_many([(kind,) for kind in kinds])
    await session.advance(1)
    assert runs == [[(kind, 1) for kind in kinds]]
    assert await handles[0] == "fine"
    assert [await handle.status() for handle in handles[1:]] == ["scheduled", "failed", "cancelled", "scheduled"]
    await session.drain()
    assert [await each.status() for each in handles] == [
        *("succeeded", "failed", "failed", "cancelled", "succeeded")
    ]
    assert (await ends(handles))[1:4] == [
        "ValueError: no",
        "aioq.Fail: never",
        f"job {handles[3].id} was cancelled: withdrawn",
    ]
    assert [(await each.info()).attempts for each in handles] == [1, 2, 1, 0, 2]


async def test_one_mark_is_one_of_all_where_the_batch_is_a_transaction(session: MemorySession) -> None:
    handles = await together.send_many([("good",), ("bad",), ("good",)])
    await session.drain()
    assert await ends(handles) == ["ValueError: rolled back"] * 3


async def test_an_error_of_the_function_is_one_of_all(session: MemorySession) -> None:
    handles = await raises.send_many([("a",), ("b",)])
    await session.drain()
    assert await ends(handles) == ["ValueError: 2 of them"] * 2


async def test_a_wrong_number_of_results_is_an_error_of_all(session: MemorySession) -> None:
    handles = await too_few.send_many([(1,), (2,), (3,)])
    await session.drain()
    for error in await ends(handles):
        assert "returned 2 results for 3 items" in error


@pytest.mark.parametrize("at", [0, 37, 50, 99])
async def test_one_poison_among_a_hundred_is_found_in_fifteen_calls(session: MemorySession, at: int) -> None:
    handles = await searched.send_many([(-1 if number == at else number,) for number in range(100)])
    await session.drain()
    assert (len(runs) <= 15, runs[0]) == (True, 100)
    found = await ends(handles)
    assert found == [("ValueError: -1" if number == at else number) for number in range(100)]
    assert {(await handle.info()).attempts for handle in handles} == {1}


async def test_where_nothing_works_not_every_job_is_tried_alone(session: MemorySession) -> None:
    handles = await searched.send_many([(-1,)] * 100)
    await session.drain()
    assert len(runs) < 70
    assert await ends(handles) == ["ValueError: -1"] * 100


async def test_a_job_that_hangs_is_found_by_the_timeout_of_the_batch(session: MemorySession) -> None:
    handles = await hangs.send_many([(1,), (-1,), (2,)])
    await session.drain()
    found = await ends(handles)
    assert (found[0], found[2]) == (1, 2)
    assert "timeout of 0.05 s" in found[1]


async def test_cancelling_one_job_leaves_the_others(session: MemorySession) -> None:
    handles = await waits.send_many([("a",), ("b",), ("c",)])
    await until(lambda: runs == [["a", "b", "c"]], "the call")
    assert await handles[1].cancel("not this one")
    with pytest.raises(JobCancelledError, match="not this one"):
        await handles[1]
    gates[0].set()
    assert await gather(handles[0], handles[2]) == ("a False", "c False")


async def test_cancelling_all_jobs_cancels_the_call(session: MemorySession) -> None:
    handles = await waits.send_many([("a",), ("b",), ("c",)])
    await until(lambda: len(runs) == 1, "the call")
    for handle in handles:
        await handle.cancel()
    await session.advance(0)
    assert [await handle.status() for handle in handles] == ["cancelled"] * 3


async def test_a_batch_takes_one_slot(session: MemorySession) -> None:
    await waits.send_many([(str(number),) for number in range(3 * 150)])
    await until(lambda: len(runs) == 100, "as many batches as there are slots")
    for _ in range(100):  # turns in which the worker could begin more
        await asyncio.sleep(0)
    assert len(runs) == 100, "and no more"
    gates[0].set()
    await session.drain()
    assert len(runs) == 150


async def test_jobs_share_a_batch_if_they_are_equal_in_by(session: MemorySession) -> None:
    handles = await by_customer.send_many([({"customer": number % 3, "n": number},) for number in range(10)])
    await session.drain()
    assert await gather(*handles) == (4, 3, 3, 4, 3, 3, 4, 3, 3, 4)


async def test_each_item_has_its_id_its_headers_its_handle_and_its_lines(session: MemorySession) -> None:
    first = await looks.options(headers={"tenant": "eu"}).send("first")
    second = await looks.send("second")
    await session.drain()
    assert await gather(first, second) == ("eu", "")
    assert [line.text for line in await second.logs()] == ["of second"]


async def test_unique_keys_and_cancellations_of_jobs_that_wait(session: MemorySession) -> None:
    first = await once.send(1)
    assert (await once.send(1)).id == first.id
    other = await once.send(2)
    await session.advance(0)
    why = await other.why()
    assert "its batch" in why.text
    assert await first.cancel()
    await session.drain()
    assert await other == 1
    assert (await once.send(1)).added


async def test_a_job_that_was_sent_by_name_is_run_too(session: MemorySession) -> None:
    sender: Any = App("shop")
    call = sender.by_name("tests.behaviour.test_batches.double").call(4)
    (handle,) = await app.send_many([call])
    await session.drain()
    assert await handle == 8
    assert runs == [[4]]


async def test_middleware_is_around_each_job(anyio_backend: object) -> None:
    del anyio_backend

    class Watch(Middleware):
        async def run(self, job: JobContext, forward: Callable[[], Awaitable[Any]]) -> Any:
            assert current_job() is job
            seen.append((job.id, "begins"))
            try:
                return await forward()
            finally:
                seen.append((job.id, "ends"))

        async def settled(self, job: JobContext, outcome: Outcome) -> None:
            seen.append((job.id, outcome.kind))

    watched = App("watched", middleware=[Watch()], log_level="critical")

    @watched.task(batch=Batch(size=3, wait=1))
    async def work(items: list[BatchItem[str]]) -> list[str]:
        assert [kind for _, kind in seen] == ["begins"] * 3
        items[1].fail(ValueError("no"))
        return [item.value for item in items]

    seen.clear()
    async with watched.test() as session:
        handles = await work.send_many([("a",), ("b",), ("c",)])
        assert await ends(handles) == ["a", "ValueError: no", "c"]
        await session.drain()
    assert {kind for job, kind in seen if job == handles[1].id} == {"begins", "ends", "failed"}
    assert {kind for job, kind in seen if job == handles[2].id} == {"begins", "ends", "succeeded"}


async def batches_of_workers(project: Project) -> None:
    project.copy("batching")
    tasks = project.load("batching")
    workers = [await project.ready_worker("batching:app", "--concurrency", "4") for _ in range(2)]
    handles = await tasks.save.send_many([(number,) for number in range(25)])
    results = await gather(*handles, timeout=20)
    assert sorted(results) == [*[5] * 5, *[10] * 20], "both workers gather together"
    for worker in workers:
        assert await worker.stop() == 0


async def test_workers_gather_together(server: Database, tmp_path: Path, app_name: str) -> None:
    project = Project(tmp_path, server.url, app_name)
    try:
        await batches_of_workers(project)
    finally:
        project.clear()


async def test_a_burst_does_not_leave_what_waits_for_others(project: Project, tmp_path: Path) -> None:
    project.copy("batching")
    tasks = project.load("batching")
    gate = tmp_path / "gate"
    gate.touch()
    handles = await tasks.held.send_many([(str(gate),)] * 2)
    assert await project.worker("batching:app", "--burst").ended() == 0
    assert [(await handle.info()).state for handle in handles] == [JobState.SUCCEEDED] * 2


async def test_so_they_do_in_a_cluster(cluster: Cluster, tmp_path: Path, app_name: str) -> None:
    project = Project(tmp_path, cluster.url, app_name)
    try:
        await batches_of_workers(project)
    finally:
        project.clear()


async def test_the_jobs_of_a_worker_that_dies_come_back(project: Project, tmp_path: Path) -> None:
    project.copy("batching")
    tasks = project.load("batching")
    worker = await project.ready_worker("batching:app", AIOQ_LEASE="2")
    gate = tmp_path / "gate"
    handles = await tasks.held.send_many([(str(gate),)] * 3)
    await until(gate.with_suffix(f".{worker.pid}").exists, "the call")
    worker.signal(signal.SIGKILL)
    await worker.ended()
    other = await project.ready_worker("batching:app", AIOQ_LEASE="2")
    gate.touch()
    assert await gather(*handles, timeout=20) == tuple(handle.id for handle in handles)
    assert [(await handle.info()).crashes for handle in handles] == [1] * 3
    assert await other.stop() == 0


async def test_a_worker_that_is_stopped_gives_all_jobs_of_a_batch_back(project: Project, tmp_path: Path) -> None:
    project.copy("batching")
    tasks = project.load("batching")
    worker = await project.ready_worker("batching:app", "--shutdown-timeout", "0.2")
    gate = tmp_path / "gate"
    handles = await tasks.held.send_many([(str(gate),)] * 3)
    await until(gate.with_suffix(f".{worker.pid}").exists, "the call")
    assert await worker.stop() == 0
    infos = [await handle.info() for handle in handles]
    assert [(info.state, info.interruptions) for info in infos] == [(JobState.QUEUED, 1)] * 3
    gate.touch()
    other = await project.ready_worker("batching:app")
    assert await gather(*handles, timeout=20) == tuple(handle.id for handle in handles)
    assert await other.stop() == 0


async def test_of_a_batch_that_kills_its_worker_only_the_job_at_fault_fails(project: Project) -> None:
    project.copy("batching")
    tasks = project.load("batching")
    supervisor = await project.ready_worker(
        "batching:app", "--processes", "2", AIOQ_MAX_CRASHES="1", AIOQ_LEASE="2"
    )
    handles = await tasks.poisoned.send_many([("a",), ("kill",), ("b",), ("c",)])
    assert await gather(handles[0], handles[2], handles[3], timeout=40) == ("a", "b", "c")
    with pytest.raises(JobFailed) as caught:
        await handles[1].result(timeout=40)
    assert caught.value.error.type == "WorkerCrashed"
    assert await supervisor.stop() == 0
