"""Jobs that wait for jobs: they lend their slots meanwhile, so that what they wait for can run."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from aioq import App, JobFailed, gather
from aioq.jobs.job import JobState
from tests.behaviour.kit import Process, Project, state_is, until

pytestmark = pytest.mark.anyio

FAMILY = """
import asyncio

from aioq import App, as_completed, current_job, gather

app = App()


@app.task
async def leaf(number: int) -> int:
    return number


@app.task
async def parent(number: int) -> int:
    handles = [await leaf.send(number + n) for n in range(3)]
    return sum(await gather(handles))


@app.task
async def first_come(number: int) -> int:
    total = 0
    async for handle in as_completed([await leaf.send(number + n) for n in range(3)]):
        total += await handle
    return total


@app.task
async def tree(depth: int) -> int:
    if depth == 0:
        return 1
    return sum([await (await tree.send(depth - 1)) for _ in range(2)])


@app.task
def sync_leaf(number: int) -> int:
    return number


@app.task
def sync_parent(number: int) -> int:
    return sum(sync_leaf.send_sync(number + n).result_sync() for n in range(3))


@app.task
def sync_tree(depth: int) -> int:
    if depth == 0:
        return 1
    handles = sync_tree.send_many_sync([(depth - 1,), (depth - 1,)])
    return sum(app.run_sync(gather(handles)))


@app.task
def sync_waits_for_itself() -> None:
    app.handle(current_job().id).result_sync()


@app.task
def sync_waits_in_vain() -> None:
    orphan.send_sync().result_sync()


@app.task(queue="never-served")
async def orphan() -> None: ...


@app.task
async def waits_in_vain(timeout: float | None = None) -> None:
    await (await orphan.send()).result(timeout)


@app.task(timeout=0.3)
async def times_out() -> None:
    await (await orphan.send())


@app.task
async def waits_for(job_id: str) -> None:
    await app.handle(job_id)


@app.task
async def asks_back() -> None:
    await (await waits_for.send(current_job().id))


@app.task
async def waits_for_itself() -> None:
    await app.handle(current_job().id)
"""


@pytest.fixture
def app(project: Project) -> App:
    project.write("family.py", FAMILY)
    return project.load("family").app


@asynccontextmanager
async def served(project: Project, app: App, *options: str) -> AsyncIterator[Process]:
    """A worker that still runs as many jobs at once as it has slots, and not more, when all is over."""
    worker = await project.ready_worker("family:app", "-q", "default", *options)
    async with app:
        yield worker
    assert await worker.stop() == 0


async def test_a_hundred_parents_of_three_children_end_at_a_concurrency_of_a_hundred(
    project: Project, app: App
) -> None:
    async with served(project, app, "-c", "100"):
        handles = await app.by_name("family.parent").send_many([(number,) for number in range(100)])
        assert await gather(handles, timeout=20) == tuple(3 * number + 3 for number in range(100))


@pytest.mark.parametrize(("task", "argument", "result"), [("parent", 1, 6), ("first_come", 1, 6), ("tree", 3, 8)])
async def test_one_slot_is_enough_for_parents_of_any_depth(
    project: Project, app: App, task: str, argument: int, result: int
) -> None:
    async with served(project, app, "-c", "1"):
        for _ in range(2):
            assert await (await app.send(f"family.{task}", argument)).result(timeout=20) == result


@pytest.mark.parametrize(("task", "argument", "result"), [("sync_parent", 1, 6), ("sync_tree", 3, 8)])
async def test_plain_functions_lend_their_threads_too(
    project: Project, app: App, task: str, argument: int, result: int
) -> None:
    async with served(project, app, "-c", "1"):
        for _ in range(2):
            assert await (await app.send(f"family.{task}", argument)).result(timeout=20) == result
        # One is cancelled while it waits; its thread waits on, and keeps nobody from a thread.
        left = await app.send("family.sync_waits_in_vain")
        await state_is(left, JobState.RUNNING)
        assert await left.cancel()
        assert await (await app.send("family.sync_parent", 1)).result(timeout=20) == 6
        with pytest.raises(JobFailed, match=r"WouldDeadlock: job .+ waits for itself"):
            await (await app.send("family.sync_waits_for_itself")).result(timeout=20)


async def test_a_parent_that_ends_while_it_waits_gives_back_one_slot_and_no_more(
    project: Project, app: App
) -> None:
    async with served(project, app, "-c", "2") as worker:
        handles = [await app.send("family.times_out"), await app.send("family.waits_in_vain", 0.2)]
        for handle in handles:
            with pytest.raises(JobFailed, match="TimeoutError"):
                await handle.result(timeout=20)
        cancelled = [await app.send("family.waits_in_vain") for _ in range(5)]
        for handle in cancelled:
            await state_is(handle, JobState.RUNNING)  # more than there are slots
        for handle in cancelled:
            assert await handle.cancel()
        await until(lambda: worker.log.count("waits_in_vain") >= 12)
        assert await (await app.send("family.parent", 1)).result(timeout=20) == 6


async def test_a_worker_that_is_stopped_gives_back_parents_that_wait(project: Project, app: App) -> None:
    worker = await project.ready_worker("family:app", "-q", "default", "-c", "1")
    async with app:
        handles = [await app.send("family.waits_in_vain") for _ in range(3)]
        for handle in handles:
            await state_is(handle, JobState.RUNNING)
        worker.signal(signal.SIGTERM)
        await worker.saw("stopping: 3 jobs")
        assert await worker.stop() == 0
        for handle in handles:
            await state_is(handle, JobState.QUEUED)


async def test_a_job_that_could_only_wait_for_ever_gets_an_error(project: Project, app: App) -> None:
    async with served(project, app, "-c", "4"):
        with pytest.raises(JobFailed, match=r"WouldDeadlock: job .+ waits for itself"):
            await (await app.send("family.waits_for_itself")).result(timeout=20)
        asking = await app.send("family.asks_back")
        with pytest.raises(JobFailed, match=r"WouldDeadlock: job .+ would wait for ever") as caught:
            await asking.result(timeout=20)
        assert asking.id in str(caught.value)


async def test_beyond_ten_times_the_slots_the_log_says_which_tasks_wait(project: Project, app: App) -> None:
    async with served(project, app, "-c", "1") as worker:
        handles = [await app.send("family.waits_in_vain") for _ in range(11)]
        await worker.saw(r"queue default: 10 jobs wait for others.+ They are of family.waits_in_vain \(11\)")
        for handle in handles:
            await handle.cancel()
        assert await (await app.send("family.parent", 1)).result(timeout=20) == 6
