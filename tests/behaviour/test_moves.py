"""`handle.move`: a job that waits goes to another queue, and every handle of it keeps working."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from aioq import (
    App,
    ConfigError,
    JobCancelledError,
    JobInfo,
    JobNotFoundError,
    Queue,
    Retry,
    ServerUnavailableError,
    current_job,
    gather,
)
from aioq.app import internals_of
from aioq.jobs.job import JobState
from aioq.store.contract import Store
from aioq.store.relay import relay
from tests.behaviour.kit import Project, cleared
from tests.clusters import Cluster
from tests.databases import Database
from tests.servers import Server

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60), pytest.mark.long(seconds=30)]

TASKS = """
from aioq import App, Queue, Retry, current_job

app = App(queues={"night": Queue(), "weekend": Queue()})


@app.task(name="echo", queue="day")
async def echo(text: str) -> str:
    return f"{text} in {current_job().queue}"


@app.task(name="stumble", queue="day", retry=Retry(2, delay=3600, jitter=False))
async def stumble() -> int:
    if current_job().attempt == 1:
        raise ValueError("not yet")
    return current_job().attempt
"""


def make_app(name: str, url: str, *, night: str = "night") -> App:
    app = App(name, url=url, queues={night: Queue(), "weekend": Queue()})

    @app.task(name="echo", queue="day")
    async def echo(text: str) -> str:
        return text

    del echo
    return app


@pytest.fixture
async def app(redis_server: Database, app_name: str) -> AsyncIterator[App]:
    """An App whose queues no worker serves."""
    async with make_app(app_name, redis_server.url) as app:
        yield app


async def store_of(app: App) -> Store:
    return await internals_of(app).store()


async def sent(app: App, text: str = "x", **options: Any) -> Any:
    return await app.by_name("echo").options(queue="day", **options).send(text)


class TestWithWorkers:
    async def test_the_other_queues_worker_runs_it_and_all_handles_get_the_result(self, project: Project) -> None:
        project.write("jobs.py", TASKS)
        jobs = project.load("jobs")
        async with jobs.app:
            handle = await jobs.echo.send("hello")
            by_id = jobs.app.handle(handle.id)
            waiting = asyncio.create_task(by_id.result())
            assert await handle.move(queue="night") is True
            assert handle.queue == "night"
            assert (await by_id.info()).queue == "night"
            worker = await project.ready_worker("jobs:app", "-q", "night")

            assert await handle == await by_id == await waiting == "hello in night"
            assert await jobs.app.handle(handle.id).result() == "hello in night"
            assert (await jobs.app.handle(handle.id).info()).state == "succeeded"
        assert await worker.stop() == 0

    @pytest.mark.parametrize("queues", [("day", "night"), ("night",)], ids=["both served", "one served"])
    async def test_results_that_are_not_kept_reach_who_waits_at_the_old_queue(
        self, project: Project, queues: tuple[str, ...]
    ) -> None:
        project.write("jobs.py", TASKS)
        project.settings["AIOQ_POLL_INTERVAL"] = "3600"  # a lost message would be missed
        jobs = project.load("jobs")
        async with jobs.app:
            echo = jobs.echo.options(result_ttl=0)
            handles = [await echo.send(str(number)) for number in range(20)]
            others = [jobs.app.handle(handle.id) for handle in handles]
            waiting = [asyncio.create_task(other.result()) for other in others]
            await asyncio.gather(*(handle.move(queue="night") for handle in handles))
            worker = await project.ready_worker("jobs:app", *(part for queue in queues for part in ("-q", queue)))

            assert await asyncio.gather(*waiting) == [f"{number} in night" for number in range(20)]
            # The new queue keeps it until it has the old one's receipt.
            await until_async(lambda: is_gone(jobs.app, handles[0].id))
        assert await worker.stop() == 0

    async def test_a_worker_of_the_old_queue_completes_a_move(self, project: Project) -> None:
        project.write("jobs.py", TASKS)
        jobs = project.load("jobs")
        async with jobs.app:
            handle = await jobs.echo.options(delay=3600).send("hello")
            await (await store_of(jobs.app)).outbox.move("day", [handle.id], "night")  # and dies
            worker = await project.ready_worker("jobs:app", "-q", "day", "-q", "night")
            await until_async(lambda: found_in(jobs.app, "night", handle.id))
            assert await handle.run_now()
            assert await handle == "hello in night"
        assert await worker.stop() == 0

    async def test_a_job_that_waits_for_its_retry_keeps_its_count(self, project: Project) -> None:
        project.write("jobs.py", TASKS)
        jobs = project.load("jobs")
        worker = await project.ready_worker("jobs:app", "-q", "day", "-q", "night")
        async with jobs.app:
            handle = await jobs.stumble.send()
            await until_async(lambda: state(handle, "scheduled"))
            assert await handle.move(queue="night")
            info = await handle.info()
            assert (info.attempts, info.error and info.error.type) == (1, "ValueError")
            assert await handle.run_now()
            assert await handle == 2
        assert await worker.stop() == 0

    async def test_a_burst_worker_tells_of_the_ends_before_it_goes(self, project: Project) -> None:
        project.write("jobs.py", TASKS)
        jobs = project.load("jobs")
        async with jobs.app:
            handles = [await jobs.echo.send(str(number)) for number in range(5)]
            waiting = [asyncio.create_task(jobs.app.handle(handle.id).result()) for handle in handles]
            await asyncio.gather(*(handle.move(queue="night") for handle in handles))
            worker = project.worker("jobs:app", "-q", "night", "--burst")
            assert await worker.ended() == 0
            assert await asyncio.wait_for(asyncio.gather(*waiting), 5) == [f"{n} in night" for n in range(5)]


async def until_async(check: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not await check():  # noqa: ASYNC110 - nothing says when it holds
            await asyncio.sleep(0.01)


async def found_in(app: App, queue: str, job_id: str) -> JobInfo | None:
    return (await (await store_of(app)).info(queue, [job_id]))[0]


async def state(handle: Any, wanted: str) -> bool:
    return await handle.status() == wanted


class TestWithoutWorkers:
    async def test_verbs_follow_the_job(self, app: App) -> None:
        handle = await sent(app, delay=3600)
        by_id = app.handle(handle.id)
        assert by_id.queue is None
        assert await handle.move(queue="night")

        assert await by_id.reschedule(delay=60)
        assert await by_id.run_now()
        assert await by_id.status() == "queued"
        assert await by_id.move(queue="weekend")
        assert await handle.status() == "queued"
        assert (await handle.info()).queue == "weekend"
        assert await handle.cancel("enough") is True
        assert await by_id.cancel() is False
        for each in (handle, by_id, app.handle(handle.id)):
            with pytest.raises(JobCancelledError, match="enough"):
                await each.result(timeout=5)

    async def test_who_waits_is_notified_of_a_cancellation_elsewhere(self, app: App) -> None:
        handle = await sent(app)
        waiting = asyncio.create_task(app.handle(handle.id).result())
        await handle.move(queue="night")
        assert await app.handle(handle.id).cancel("no more")
        with pytest.raises(JobCancelledError, match="no more"):
            await asyncio.wait_for(waiting, 5)

    async def test_there_and_back(self, app: App) -> None:
        handle = await sent(app)
        for queue in ("night", "day", "night", "day"):
            assert await handle.move(queue=queue)
            assert (await app.handle(handle.id).info()).queue == queue

    async def test_to_the_queue_where_it_is(self, app: App) -> None:
        handle = await sent(app)
        assert await handle.move(queue="day") is True
        assert (await handle.info()).queue == "day"
        await handle.cancel()
        assert await handle.move(queue="day") is False
        assert await handle.move(queue="night") is False

    async def test_bad_input(self, app: App) -> None:
        handle = await sent(app)
        for name in ("", "two words", "a:b", "x" * 200, None, 5):
            with pytest.raises(ConfigError, match="move: queue"):
                await handle.move(queue=name)  # pyright: ignore[reportArgumentType]
        said = r"move: there is no queue 'nihgt' \(did you mean 'night'\?\); there are: .*day.*weekend"
        with pytest.raises(ConfigError, match=said):
            await handle.move(queue="nihgt")
        with pytest.raises(JobNotFoundError):
            await app.handle("unknown").move(queue="night")
        assert (await handle.info()).queue == "day"

    async def test_a_queue_that_only_the_server_knows(self, app: App) -> None:
        handle = await sent(app)
        await app.by_name("echo").options(queue="other").send("theirs")
        async with App(app.name, url=app.settings.url) as caller:
            assert await caller.handle(handle.id).move(queue="other") is True

    async def test_a_queue_that_has_another_job_of_this_id(self, app: App) -> None:
        ours = await sent(app, job_id="mine")
        theirs = await app.by_name("echo").options(queue="night", job_id="mine").send("theirs")

        with pytest.raises(ConfigError, match=r"'night' has another job with this id, .*; it stays in 'day'"):
            await ours.move(queue="night")

        assert (await ours.info()).state == (await theirs.info()).state == "queued"
        assert (await ours.info()).queue == "day"

    async def test_a_worker_has_delivered_it_first(
        self, app: App, app_name: str, redis_server: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Then the worker got the answer whether the other queue takes it, and the caller must find out."""
        ours = await sent(app, job_id="mine")
        await app.by_name("echo").options(queue="night", job_id="mine").send("theirs")
        free = await sent(app)
        outbox = (await store_of(app)).outbox
        async with make_app(app_name, redis_server.url) as worker:
            other = (await store_of(worker)).outbox
            move = outbox.move

            async def moved(queue: str, job_ids: Sequence[str], target: str) -> list[JobState | None]:
                states = await move(queue, job_ids, target)
                await relay(other, queue, target)
                return states

            monkeypatch.setattr(outbox, "move", moved)
            with pytest.raises(
                ConfigError, match="another job with this id, or a key of another type; it stays in 'day'"
            ):
                await ours.move(queue="night")
            assert await free.move(queue="night") is True
        assert (ours.queue, free.queue) == ("day", "night")
        assert (await ours.info()).queue == "day"

    async def test_an_id_stays_taken_at_the_old_queue(self, app: App) -> None:
        first = await sent(app, job_id="mine")
        await first.move(queue="night")
        second = await sent(app, job_id="mine")
        assert second.added is False
        assert (await second.info()).queue == "night"

    async def test_many_at_once(self, app: App) -> None:
        handles = await app.send_many([app.by_name("echo").options(queue="day").call(str(n)) for n in range(100)])
        assert all(await asyncio.gather(*(handle.move(queue="night") for handle in handles)))
        infos = await asyncio.gather(*(app.handle(handle.id).info() for handle in handles))
        assert {info.queue for info in infos} == {"night"}
        assert {info.state for info in infos} == {"queued"}

    async def test_moves_and_cancellations_at_the_same_time(self, app: App) -> None:
        handles = await app.send_many([app.by_name("echo").options(queue="day").call(str(n)) for n in range(40)])

        async def both(handle: Any) -> None:
            await asyncio.gather(
                *(app.handle(handle.id).move(queue=queue) for queue in ("night", "weekend")),
                app.handle(handle.id).cancel("enough"),
            )

        await asyncio.gather(*map(both, handles))
        for handle in handles:
            with pytest.raises(JobCancelledError):
                await app.handle(handle.id).result(timeout=5)

    async def test_sync_code(self, redis_server: Database, app_name: str) -> None:
        app = make_app(app_name, redis_server.url)

        def steps() -> str:
            handle = app.by_name("echo").options(queue="day").send_sync("x")
            assert handle.move_sync(queue="night")
            return handle.info_sync().queue

        assert await asyncio.to_thread(steps) == "night"

    async def test_why_a_result_is_late_names_the_new_queue(self, app: App) -> None:
        handle = await sent(app)
        await handle.move(queue="night")
        with pytest.raises(TimeoutError, match="no worker serves queue 'night'"):
            await app.handle(handle.id).result(timeout=0.1)


class TestInMemory:
    async def test_times_are_kept(self) -> None:
        app = App("shop", queues={"night": Queue()})

        @app.task(queue="day")
        async def add(x: int, y: int) -> int:
            return x + y

        async with app.test() as session:
            handle = await add.options(delay=60, result_ttl=0).send(1, 2)
            other = app.handle(handle.id)
            waiting = asyncio.create_task(other.result())
            await asyncio.sleep(0)
            assert await handle.move(queue="night")
            assert await other.status() == "scheduled"
            await session.advance(59)
            assert await other.status() == "scheduled"
            await session.advance(1)
            assert await asyncio.wait_for(waiting, 5) == 3

    async def test_the_next_tick_waits_for_a_job_that_was_moved(self) -> None:
        """`overlap="one"`: the schedule is notified of the end of a tick's job wherever the job runs."""
        app = App("shop", queues={"night": Queue()})
        ran: list[str] = []

        @app.every(60, schedule_id="report", overlap="one")
        @app.task(queue="day", retry=Retry(2, delay=3600, jitter=False))
        async def report() -> None:
            job = current_job()
            ran.append(job.queue)
            if len(ran) == 1:
                raise ValueError("not yet")

        async with app.test() as session:
            await session.advance(60)
            schedule = await app.schedules.get("report")
            assert schedule.last_job is not None
            handle = app.handle(schedule.last_job)
            assert await handle.move(queue="night")
            await session.advance(120)
            assert ran == ["day"], "the next tick's job waits for this one"
            assert await handle.run_now()
            await session.advance(0)
            assert ran[:3] == ["day", "night", "day"]

    async def test_drain_runs_what_was_moved(self) -> None:
        app = App("shop", queues={"night": Queue()})

        @app.task(queue="day")
        async def add(x: int, y: int) -> int:
            return x + y

        async with app.test() as session:
            handles = [await add.options(delay=timedelta(hours=number + 1)).send(number, 1) for number in range(5)]
            for handle in handles[::2]:
                assert await handle.move(queue="night")
            await session.drain()
            assert await gather(handles) == (1, 2, 3, 4, 5)


class TestInACluster:
    async def test_from_one_node_to_another(self, cluster: Cluster, tmp_path: Any, app_name: str) -> None:
        with cleared(Project(tmp_path / "project", cluster.url, app_name)) as project:
            night = apart(cluster, app_name, "day")
            project.write("jobs.py", TASKS.replace('"night"', repr(night)))
            project.settings["AIOQ_POLL_INTERVAL"] = "3600"
            jobs = project.load("jobs")
            async with jobs.app:
                echo = jobs.echo.options(result_ttl=0)
                handles = [await echo.send(str(number)) for number in range(10)]
                waiting = [asyncio.create_task(jobs.app.handle(handle.id).result()) for handle in handles]
                assert all(await asyncio.gather(*(handle.move(queue=night) for handle in handles)))
                worker = await project.ready_worker("jobs:app", "-q", night)
                assert await asyncio.gather(*waiting) == [f"{number} in {night}" for number in range(10)]
            assert await worker.stop() == 0

    async def test_to_a_node_that_hangs(
        self, start_cluster: Callable[..., Cluster], tmp_path: Any, app_name: str
    ) -> None:
        """The move is written; what asks for more says that the node is away, and later all is as it should be."""
        cluster = start_cluster()
        night = apart(cluster, app_name, "day")
        node = cluster.node_of(cluster.slot_of(f"aioq:{{{app_name}:{night}}}"))
        async with make_app(app_name, cluster.url, night=night) as app:
            handle, other = await sent(app), await sent(app)
            await (await store_of(app)).info(night, ["x"])
            cluster.stop(node)
            try:
                assert await handle.move(queue=night) is True
                assert handle.queue == "day"
                with pytest.raises(ServerUnavailableError):
                    await handle.move(queue="weekend")
                assert await other.cancel() is True
            finally:
                cluster.resume(node)
                await asyncio.to_thread(cluster.wait_until_agreed)
            await until_async(lambda: moves(handle, "day"))
            assert (await handle.info()).queue == "day"


async def is_gone(app: App, job_id: str) -> bool:
    try:
        await app.handle(job_id).result()
    except JobNotFoundError:
        return True
    return False


async def moves(handle: Any, queue: str) -> bool:
    try:
        return await handle.move(queue=queue)
    except ServerUnavailableError:
        return False


def apart(cluster: Cluster, app_name: str, queue: str) -> str:
    """A queue at another node."""
    own = cluster.node_of(cluster.slot_of(f"aioq:{{{app_name}:{queue}}}"))
    names = (f"night{number}" for number in range(100))
    return next(n for n in names if cluster.node_of(cluster.slot_of(f"aioq:{{{app_name}:{n}}}")).id != own.id)


async def test_a_server_that_is_away(start_server: Callable[..., Server], app_name: str) -> None:
    server = start_server()
    async with make_app(app_name, server.url) as app:
        handle = await sent(app)
        server.kill()
        with pytest.raises(ServerUnavailableError):
            await handle.move(queue="night")
