"""Tasks whose jobs take several slots (`slots=4`): never more than there are, each in its turn."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest

from aioq import App, Batch, BatchItem, ConfigError, Queue, WorkerRefusedError, current_job
from aioq.app import internals_of
from aioq.tasks.task import AsyncTask
from aioq.worker import Worker
from tests.behaviour.kit import SECONDS, Project, until
from tests.behaviour.test_shares import serving
from tests.clusters import Cluster
from tests.databases import Database

pytestmark = pytest.mark.anyio


class Heavy:
    """An App with tasks of one, two and four slots, whose jobs run until they are let go."""

    def __init__(self, url: str, name: str, queues: dict[str, Queue] | None = None) -> None:
        self.app = App(name, url=url, queues=queues, log_level="warning")
        self.running: dict[str, asyncio.Event] = {}
        self.used = self.most = self.ended = 0
        self.begun: list[str] = []
        self.attempts: set[tuple[int, int]] = set()
        self.tasks: dict[int, AsyncTask[[str], int]] = {}
        for slots in (1, 2, 4):
            self.tasks[slots] = self.app.task(name=f"of-{slots}", queue="mail", slots=slots)(self._run(slots))

    def _run(self, slots: int) -> "Callable[[str], Coroutine[Any, Any, int]]":
        async def run(name: str) -> int:
            job = current_job()
            self.attempts.add((job.attempt, job.crashes))
            self.begun.append(name)
            self.running[name] = asyncio.Event()
            self.used += slots
            self.most = max(self.most, self.used)
            try:
                await self.running[name].wait()
            finally:
                self.used -= slots
                del self.running[name]
                self.ended += 1
            return slots

        return run

    async def send(self, slots: int, name: str) -> None:
        await self.tasks[slots].send(name)

    async def begins(self, *names: str) -> None:
        await until(lambda: {*names} <= {*self.begun}, f"the start of {names}")

    def release(self, *names: str) -> None:
        for name in names or [*self.running]:
            self.running[name].set()

    @asynccontextmanager
    async def served(self, concurrency: int, **options: object) -> AsyncIterator[Worker]:
        async with serving(self.app, queues=["mail"], concurrency=concurrency, **options) as worker:
            yield worker


async def no_more_run_than_there_are_slots(url: str, name: str) -> None:
    heavy = Heavy(url, name)
    chance = random.Random(1)
    async with heavy.app, AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(heavy.served(5))
        sizes = [chance.choice([1, 1, 2, 4]) for _ in range(60)]
        await heavy.app.send_many([heavy.tasks[size].call(f"{at}") for at, size in enumerate(sizes)])
        with anyio.fail_after(SECONDS):
            while heavy.ended < len(sizes):
                await asyncio.sleep(0.002)
                heavy.release(*chance.sample([*heavy.running], min(len(heavy.running), 2)))
        assert heavy.most <= 10
        assert sorted(heavy.begun, key=int) == [f"{at}" for at in range(60)], "each has run once"
        assert heavy.attempts == {(1, 0)}, "to be given back is no attempt, and no crash"


async def test_no_more_run_than_there_are_slots(server: Database, app_name: str) -> None:
    await no_more_run_than_there_are_slots(server.url, app_name)


async def test_so_it_is_in_a_cluster(cluster: Cluster, app_name: str) -> None:
    await no_more_run_than_there_are_slots(cluster.url, app_name)


async def test_a_large_job_comes_to_its_turn_while_small_ones_are_sent(server: Database, app_name: str) -> None:
    heavy = Heavy(server.url, app_name)
    async with heavy.app, heavy.served(4):
        for name in "abc":
            await heavy.send(1, name)
        await heavy.begins(*"abc")
        await heavy.send(4, "large")
        for number in range(20):
            await heavy.send(1, f"later-{number}")
        for name in "abc":
            assert "large" not in heavy.begun
            heavy.release(name)
        await heavy.begins("large")
        assert heavy.begun == ["a", "b", "c", "large"], "nothing has overtaken it"
        assert heavy.used == 4
        heavy.release("large")
        await heavy.begins("later-0")
        heavy.release()


async def test_a_job_that_would_wait_for_long_goes_to_another_worker(server: Database, app_name: str) -> None:
    heavy = Heavy(server.url, app_name)
    async with heavy.app, heavy.served(4) as first:
        for name in "abc":
            await heavy.send(1, name)
        await heavy.begins(*"abc")
        await heavy.send(2, "large")
        await until(lambda: first._duties.slots.used == 5, "its claim by the worker that has one slot")
        async with heavy.served(5):
            await heavy.begins("large")
            (worker,) = [each async for each in heavy.app.workers() if each.slots == 5]
            assert [job.task for job in worker.running] == ["of-2"]
            assert worker.task_slots == {"of-2": 2, "of-4": 4}
            heavy.release()
            await until(lambda: heavy.ended == 4, "the end of all")
        assert heavy.attempts == {(1, 0)}


async def test_a_job_that_waits_goes_back_when_its_worker_stops(server: Database, app_name: str) -> None:
    heavy = Heavy(server.url, app_name)
    async with heavy.app:
        async with heavy.served(4) as worker:
            await heavy.send(1, "a")
            await heavy.begins("a")
            await heavy.send(4, "large")
            await until(lambda: worker._duties.slots.used == 5, "its claim")
            worker.stop()
            await until(lambda: worker._duties.slots.used == 1, "its return")
            heavy.release("a")
        async with heavy.served(4):
            await heavy.begins("large")
            heavy.release()
            await until(lambda: heavy.ended == 2, "its end")
        assert heavy.attempts == {(1, 0)}


async def test_a_lone_job_that_is_dispatched_obeys_too(server: Database, app_name: str) -> None:
    heavy = Heavy(server.url, app_name)
    async with heavy.app, heavy.served(5) as worker:
        await worker._serving.wait()
        await until(lambda: worker._duties.queues["mail"].fetcher.waiting, "the worker waits")
        await heavy.send(4, "first")
        await heavy.begins("first")
        await heavy.send(4, "second")
        await until(lambda: worker._duties.slots.used == 8, "its claim")
        await heavy.send(1, "small")
        assert heavy.begun == ["first"]
        heavy.release("first")
        await heavy.begins("second", "small")
        assert heavy.begun == ["first", "second", "small"]
        assert heavy.most == 5
        heavy.release()


async def test_the_share_of_a_queue_holds_for_large_jobs_too(server: Database, app_name: str) -> None:
    heavy = Heavy(server.url, app_name)
    del heavy.app.tasks["of-4"]
    async with heavy.app, heavy.served(8, queue_slots={"mail": 3}):
        await heavy.app.send_many([heavy.tasks[size].call(f"{at}") for at, size in enumerate([1, 1, 2, 1, 2, 2])])
        with anyio.fail_after(SECONDS):
            while heavy.ended < 6:
                await asyncio.sleep(0.002)
                heavy.release(*[*heavy.running][:1])
        assert heavy.most <= 3


async def test_a_large_job_that_its_share_holds_up_holds_up_no_other_queue(
    server: Database, app_name: str
) -> None:
    heavy = Heavy(server.url, app_name)
    returned: list[int] = []

    @heavy.app.task(queue="bulk")
    async def bulk(number: int) -> None:
        returned.append(number)

    @heavy.app.task(queue="bulk", slots=4)
    async def large_bulk(number: int) -> None:
        returned.append(number)

    shares = {"queues": ["mail", "bulk"], "queue_slots": {"mail": 4}}
    async with heavy.app, serving(heavy.app, concurrency=8, **shares) as worker:
        await heavy.send(1, "small")
        await heavy.begins("small")
        await heavy.send(4, "large")
        await until(lambda: worker._duties.slots.used == 5, "its claim")
        await bulk.send_many([(number,) for number in range(20)])
        await until(lambda: len(returned) == 20, "the end of the other queue's jobs")
        assert returned == [*range(20)], "in their order: none went back"
        await large_bulk.send(20)
        heavy.release("small")
        await heavy.begins("large")
        await until(lambda: len(returned) == 21, "the end of the other queue's large job")
        heavy.release()


async def test_a_job_that_waits_for_another_lends_all_its_slots(server: Database, app_name: str) -> None:
    app = App(app_name, url=server.url, log_level="warning")
    seen: list[str] = []

    @app.task(name="child", slots=3)
    async def child() -> str:
        seen.append("child")
        return "done"

    @app.task(name="parent", slots=4)
    async def parent() -> str:
        seen.append("parent")
        return await (await child.send())

    async with app, serving(app, queues=["default"], concurrency=4) as worker:
        assert await (await parent.send()) == "done"
        await until(lambda: worker._duties.slots.used == 0, "all slots are free")
    assert seen == ["parent", "child"]


async def test_a_batch_takes_the_slots_of_its_task(server: Database, app_name: str) -> None:
    app = App(app_name, url=server.url, log_level="warning")
    running: list[int] = []
    most = 0
    gate = asyncio.Event()

    @app.task(name="save", slots=2, batch=Batch(size=2, wait=0.01))
    async def save(items: list[BatchItem[int]]) -> None:
        nonlocal most
        running.append(len(items))
        most = max(most, len(running))
        await gate.wait()
        running.pop()

    async with app, serving(app, queues=["default"], concurrency=5) as worker:
        handles = await save.send_many([(number,) for number in range(8)])
        await until(lambda: len(running) == 2, "two batches run")
        assert worker._duties.slots.used in {4, 6}, "and perhaps one waits"
        gate.set()
        await asyncio.gather(*handles)
        await until(lambda: worker._duties.slots.used == 0, "all slots are free")
    assert most == 2


async def test_a_worker_is_resized_no_smaller_than_its_jobs_and_larger_for_one_that_waits(
    server: Database, app_name: str
) -> None:
    heavy = Heavy(server.url, app_name)
    async with heavy.app, heavy.served(4) as worker:
        await heavy.send(1, "a")
        await heavy.begins("a")
        await heavy.send(4, "large")
        await until(lambda: worker._duties.slots.used == 5, "its claim")
        (found,) = [each async for each in heavy.app.workers()]
        with pytest.raises(
            WorkerRefusedError, match=r"task 'of-4' takes 4 slots \(slots=4\), and this worker has 3"
        ):
            await found.resize(3)
        with pytest.raises(WorkerRefusedError, match=r"and jobs of its queue 'mail' may take 2 of this worker"):
            await found.resize(2, queue="mail")
        await found.resize(5)
        await heavy.begins("large")
        heavy.release()


def test_a_worker_without_enough_slots_does_not_start() -> None:
    app = App("shop", url="redis://nowhere")

    @app.task(name="render", queue="video", slots=4)
    def render() -> None: ...

    parts = internals_of(app).app_parts()
    with pytest.raises(
        ConfigError, match=r"task 'render' takes 4 slots \(slots=4\), and this worker has 3 \(concu"
    ):
        Worker(parts, queues=["video"], concurrency=3)
    with pytest.raises(ConfigError, match=r"jobs of its queue 'video' may take 3 of this worker \(-q video=3\)"):
        Worker(parts, queues=["video"], concurrency=8, queue_slots={"video": 3})
    Worker(parts, queues=["mail"], concurrency=3)
    Worker(parts, queues=["video"], concurrency=4)


@pytest.mark.parametrize("slots", [0, -1, True, 2.0, "2", 10**10])
def test_a_wrong_number_is_an_error_where_it_is_written(slots: object) -> None:
    app = App("shop", url="redis://nowhere")
    with pytest.raises(ConfigError, match=r"task 'render': slots=.*: expected a whole number from 1 on"):
        app.task(name="render", slots=slots)(lambda: None)  # pyright: ignore[reportCallIssue, reportArgumentType, reportUnknownLambdaType] - the bad input


async def test_a_worker_shows_how_many_slots_its_tasks_take(project: Project) -> None:
    project.write("shop.py", "from aioq import App\napp = App()\n@app.task(slots=3)\ndef render(): ...\n")
    worker = await project.ready_worker("shop:app")
    assert "shop.render (3 slots)" in worker.log
    await worker.stop()


@pytest.mark.parametrize("executor", ["thread", "process"])
async def test_a_job_knows_its_slots(project: Project, executor: str) -> None:
    project.write(
        "shop.py",
        "from aioq import App, current_job\napp = App()\n"
        f"@app.task(slots=3, executor={executor!r} if {executor!r} == 'process' else None)\n"
        "def render() -> int:\n    return current_job().slots\n",
    )
    shop = project.load("shop")
    await project.ready_worker("shop:app")
    async with shop.app:
        assert await (await shop.render.send()) == 3


async def test_a_worker_that_is_too_small_for_a_job_of_another_queue_runs_it_alone(
    server: Database, app_name: str
) -> None:
    heavy = Heavy(server.url, app_name)
    async with heavy.app, serving(heavy.app, queues=["other"], concurrency=2) as worker:
        large, small = heavy.tasks[4].options(queue="other"), heavy.tasks[1].options(queue="other")
        await small.send("a")
        await heavy.begins("a")
        await large.send("large")
        await until(lambda: worker._duties.slots.used == 5, "its claim")
        assert heavy.begun == ["a"]
        heavy.release("a")
        await heavy.begins("large")
        heavy.release("large")
        await until(lambda: worker._duties.slots.used == 0, "all slots are free")
