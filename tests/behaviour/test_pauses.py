"""Pausing a queue, or tasks of it: under load, with real workers and several shards, and with a clock to move."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from aioq import App, ConfigError, JobCancelledError, JobState, Queue, QueueHandle
from aioq.jobs.shards import shard_names
from aioq.operate import shard_changes
from aioq.operate.pauses import queue_info
from aioq.store.pauses import CHANGED, NO_PAUSES, PauseVerbs
from aioq.testing.session import MemorySession
from aioq.worker.duties.fetcher import Fetcher
from aioq.worker.duties.leases import LeaseService
from tests.behaviour.kit import Project, state_is, until
from tests.behaviour.test_direct_dispatch import Shop
from tests.databases import Database

pytestmark = pytest.mark.anyio

ROUNDS = 2
"""Renewals of the lease for which a paused worker is watched."""

MAIL = """
from aioq import App, Queue

app = App(queues={"mail": Queue(shards=2)})


@app.task(queue="mail")
async def send(number: int) -> int:
    return number
"""

DIES = """
import asyncio, os, signal
from aioq.jobs.shards import shard_names
from aioq.operate import shard_changes
from aioq.store.redis.pauses import RedisPauses
from mail import app

change = RedisPauses._change
shard_changes.REMINDED_AFTER_MS = 100


async def dying(self, queue, *args):
    if queue != "mail":
        os.kill(os.getpid(), signal.SIGKILL)
    await change(self, queue, *args)


RedisPauses._change = dying
app.queue("mail").pause_sync()
"""


async def test_a_queue_is_paused_and_resumed_under_load(redis_server: Database, app_name: str) -> None:
    shop = Shop(app_name, redis_server.url, lease=2.0)
    sent = iter(range(401))

    async def send(count: int) -> None:
        for _ in range(count):
            await shop.note.send(next(sent))

    async with shop.worker(concurrency=1) as worker:
        queue, lease = shop.app.queue("default"), worker._duties.lease
        sending = asyncio.create_task(send(200))
        await until(lambda: len(shop.ran) > 20)
        for tasks in None, ["note"]:
            await queue.pause(tasks=tasks)
            await send(50)
            await sending
            ran = len(shop.ran)
            with redis_server.client() as client:
                client.config_resetstat()
                await _rounds(lease)
                stats: Any = client.info("commandstats")
            assert len(shop.ran) <= ran + 1, "the job that ran when the queue was paused"
            assert worker.health().ready
            if tasks is None:
                calls = {name.removeprefix("cmdstat_"): row["calls"] for name, row in stats.items()}
                assert calls.get("xreadgroup", 0) == 0
                by_client = sum(calls.get(name, 0) for name in ("fcall", "evalsha", "client|unblock"))
                assert by_client <= ROUNDS + 1, "renewals only, which an idle worker makes too"
                assert worker.health().queues["default"].last_fetch_age < 1
            await queue.resume(tasks=tasks)
            sending = asyncio.create_task(send(50))
        await sending
        last = next(sent)
        await until(lambda: len(shop.ran) == last)
        assert await (await shop.note.send(last)) == last
    assert shop.ran == list(range(last + 1))


async def _rounds(lease: LeaseService) -> None:
    """Wait for some renewals."""
    begun = lease._round
    await until(lambda: lease._round >= begun + ROUNDS)


@pytest.mark.parametrize("queues", [1, 6], ids=["blocks", "stands"])
async def test_a_worker_that_has_missed_the_message_learns_of_a_pause_by_a_renewal(
    redis_server: Database, app_name: str, monkeypatch: pytest.MonkeyPatch, queues: int
) -> None:
    def woken(fetcher: Fetcher, worker: str, jobs: int) -> None:
        if jobs != CHANGED:
            original(fetcher, worker, jobs)

    original = Fetcher.woken
    monkeypatch.setattr(Fetcher, "woken", woken)
    shop = Shop(app_name, redis_server.url, lease=2.0)
    async with shop.worker(queues=["default", *(f"other-{number}" for number in range(queues - 1))]) as worker:
        queue, fetcher = shop.app.queue("default"), worker._duties.queues["default"].fetcher
        await queue.pause()
        await shop.note.send(1)  # a worker that still waits is given it, and leaves it as it is
        await until(lambda: not fetcher.waiting)
        handle = await shop.note.send(2)
        assert shop.ran == []
        await queue.resume()
        await handle
    assert shop.ran == [1, 2]


async def test_workers_say_what_is_paused_and_shards_that_are_added_are_paused_too(
    project: Project, redis_server: Database
) -> None:
    project.write("mail.py", MAIL)
    worker = await project.ready_worker("mail:app")
    async with App(project.name, url=redis_server.url, queues={"mail": Queue(shards=2)}) as app:
        queue, task = app.queue("mail"), app.by_name("mail.send").options(queue="mail")
        assert await (await task.send(0)) == 0
        info = await queue.pause(until=timedelta(hours=1))
        assert info.is_paused
        assert info.shards == 2
        await worker.saw(r"queue mail: paused since [\d-]+ [\d:]+ UTC until [\d-]+ [\d:]+ UTC")
        await queue.set_shards(3)
        handles = [await task.send(number) for number in range(6)]
        assert [each.queued for each in await queue.shards()] == [2, 2, 2]
        await worker.stop()

        worker = await project.ready_worker("mail:app")
        assert "│ paused      │ mail: paused since " in worker.log
        await worker.saw(r"queue mail: paused since")
        while await (check := project.python("-m", "aioq", "check", "mail:app")).ended():
            assert "no worker on this host serves" in check.log, "it has only just begun to"
        assert {(await each.info()).state for each in handles} == {JobState.QUEUED}
        await queue.resume()
        assert [await each for each in handles] == list(range(6))
        await worker.saw("queue mail: nothing is paused any more")
        # By name: a worker's statistics tell this process, which has no code, that there is such a task.
        assert [each.name for each in await queue.tasks()] == ["mail.send"]
        assert (await queue.pause(tasks=["mail.send"])).tasks.keys() == {"mail.send"}
        await worker.saw(r"queue mail: paused tasks: mail\.send \(since .* UTC\)")
        handle = await task.send(7)
        await queue.resume(tasks=["mail.send"])
        assert await handle == 7
    assert await worker.stop() == 0


async def test_a_worker_does_what_a_killed_process_has_left(project: Project, redis_server: Database) -> None:
    project.write("mail.py", MAIL)
    project.write("dies.py", DIES)
    worker = await project.ready_worker("mail:app")
    async with App(project.name, url=redis_server.url, queues={"mail": Queue(shards=2)}) as app:
        queue = app.queue("mail")
        assert await project.python("dies.py").ended() == -signal.SIGKILL
        await worker.saw("queue mail: whoever has paused or .* interrupted; this now holds in mail#1 too")
        info = await queue.info()
        assert (info.is_paused, info.uneven) == (True, [])
        await queue.resume()
        assert await (await app.by_name("mail.send").options(queue="mail").send(1)) == 1
    assert await worker.stop() == 0


class Half:
    """Callers that come to the first shard only."""

    def __init__(self, pauses: PauseVerbs) -> None:
        self._pauses = pauses

    async def stops(self, change: Callable[[], Awaitable[Any]]) -> "asyncio.Future[Any]":
        """Stop a caller before its change of another shard."""
        self.came, self.gate = asyncio.Event(), asyncio.Event()
        came, gate = self.came, self.gate

        def stopped(verb: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
            async def stop(queue: str, *args: Any) -> None:
                if asyncio.current_task() is not me and queue != "mail":
                    came.set()
                    await gate.wait()
                await verb(queue, *args)

            return stop

        me = asyncio.current_task()
        with pytest.MonkeyPatch.context() as patch:
            for name in "pause", "resume":
                patch.setattr(self._pauses, name, stopped(getattr(self._pauses, name)))
            caller = asyncio.ensure_future(change())
            await came.wait()
        return caller

    def go_on(self) -> None:
        """Let it go on."""
        self.gate.set()

    async def dies(self, change: Callable[[], Awaitable[Any]]) -> None:
        """End it there."""
        caller = await self.stops(change)
        caller.cancel()
        await asyncio.wait([caller])


@asynccontextmanager
async def half_sharded() -> AsyncIterator[tuple[MemorySession, QueueHandle, Half]]:
    app = App("shop", queues={"mail": Queue(shards=3)})

    @app.task(name="note", queue="mail")
    async def note() -> None: ...

    async with app.test() as session:
        yield session, app.queue("mail"), Half(session._store.operating.pauses)


class TestInMemory:
    """With `app.test()`, whose clock is moved."""

    async def test_what_goes_on_while_a_queue_is_paused(self) -> None:
        app = App("shop")
        ran: list[str] = []

        @app.task(name="note")
        async def note(word: str) -> None:
            ran.append(word)

        @app.every(60)
        async def tick() -> None:
            ran.append("tick")

        async with app.test() as session:
            queue = app.queue("default")
            info = await queue.pause(until=180)
            assert info.paused is not None
            assert info.paused.until == info.paused.since + timedelta(seconds=180)
            assert info == await queue.info()
            due = await note.options(delay=30).send("due")
            late = await note.options(expires=60).send("late")
            await session.advance(150)
            assert ran == []
            assert (await due.info()).state is JobState.QUEUED
            with pytest.raises(JobCancelledError, match="expired"):
                await late
            await session.advance(60)
            assert ran.count("due") == 1
            assert ran.count("tick") == len(ran) - 1 >= 3, "a tick each minute"
            assert not (await queue.info()).is_paused

            await queue.pause(tasks=[note])
            assert (await queue.info()).tasks.keys() == {"note"}
            again = await note.send("again")
            await session.advance(60)
            assert (await again.info()).state is JobState.QUEUED
            await queue.resume(tasks=["note"])
            await again
            assert ran[-2:] == ["tick", "again"]

    async def test_a_pause_whose_caller_dies_between_two_shards_is_seen_and_made_whole_by_another_call(
        self,
    ) -> None:
        app = App("shop", queues={"mail": Queue(shards=4)})

        @app.task(name="note", queue="mail")
        async def note() -> None: ...

        async with app.test() as session:
            queue, pauses, until = app.queue("mail"), session._store.operating.pauses, timedelta(hours=1)
            assert (await queue.info()).uneven == []
            await pauses.pause("mail", [])
            await pauses.pause("mail#2", [])  # and dies
            info = await queue.info()
            assert (info.is_paused, info.uneven) == (True, [1, 3])
            assert (await queue.pause()).uneven == []
            await pauses.resume("mail#1", [])  # and dies
            assert (await queue.info()).uneven == [1]
            assert (await queue.resume()).uneven == []
            await pauses.pause("mail#3", ["note"])
            info = await queue.info()
            assert (info.is_paused, info.tasks.keys(), info.uneven) == (False, {"note"}, [3])
            assert (await queue.pause(tasks=[note], until=until)).uneven == []
            assert (await queue.resume(tasks=[note])).uneven == []

    @pytest.mark.parametrize("tasks", [None, ["note"]], ids=["queue", "task"])
    async def test_workers_do_what_a_caller_who_died_between_two_shards_has_left(
        self, tasks: list[str] | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with half_sharded() as (session, queue, half):
            caplog.set_level("INFO", "aioq.operations")
            for change in [
                lambda: queue.pause(tasks=tasks),
                lambda: queue.pause(tasks=tasks, until=timedelta(hours=1)),
                lambda: queue.resume(tasks=tasks),
            ]:
                await half.dies(change)
                first = await session._store.operating.pauses.read("mail")
                assert (await queue.info()).uneven == [1, 2]
                await session.advance(shard_changes.REMINDED_AFTER_MS / 1000)
                after = await queue.info()
                assert after.uneven == []
                assert after == queue_info("mail", [first] * 3)
                assert "interrupted; this now holds in mail#1, mail#2 too" in caplog.text
                caplog.clear()
            assert (after.is_paused, after.tasks) == (False, {})
            assert all(each.timers == 0 for each in await queue.shards())

    async def test_a_caller_that_is_slow_before_it_changes_anything_is_carried_on_too(self) -> None:
        async with half_sharded() as (session, queue, half):
            store = session._store

            async def pause_late(shard: str) -> None:
                await session.advance(shard_changes.REMINDED_AFTER_MS / 1000)  # a worker finds nothing to do
                await store.operating.pauses.pause(shard, [])

            names = shard_names("mail", 3)
            await half.dies(lambda: shard_changes.change_pauses(store, names, pause_late))
            assert (await queue.info()).uneven == [1, 2]
            await session.advance(shard_changes.REMINDED_AFTER_MS / 1000)
            assert (await queue.info()).uneven == []

    async def test_of_two_callers_the_last_one_counts_in_all_shards(self) -> None:
        async with half_sharded() as (session, queue, half):
            pausing = await half.stops(queue.pause)
            nothing = queue_info("mail", [NO_PAUSES] * 3)
            assert await queue.resume() == nothing
            half.go_on()
            assert await pausing == nothing
            pausing = await half.stops(queue.pause)
            await queue.resume()
            pausing.cancel()  # the other one has long stopped its own timer
            half.go_on()
            await session._store.operating.pauses.pause("mail#2", [])  # what it was about to do
            assert (await queue.info()).uneven == [2]
            await session.advance(shard_changes.REMINDED_AFTER_MS / 1000)
            assert await queue.info() == nothing

    async def test_a_purge_tells_those_who_wait(self) -> None:
        app = App("shop")
        started, go = asyncio.Event(), asyncio.Event()

        @app.task(name="wait")
        async def wait() -> None:
            started.set()
            await go.wait()

        @app.task(name="fail")
        async def fail() -> None:
            raise ValueError("no")

        async with app.test() as session:
            queue = app.queue("default")
            running, dead = await wait.send(), await fail.send()
            await started.wait()
            await state_is(dead, "failed")
            await queue.pause()
            queued = [await wait.options(headers={"n": str(number % 2)}).send() for number in range(250)]
            later = await wait.options(delay=60).send()
            waiting = asyncio.gather(*queued, later, return_exceptions=True)
            records = session._store._queues["default"]._records
            await until(lambda: all(records[each.id].waiters for each in (*queued, later)))
            assert await queue.purge() == 251
            assert await queue.purge() == 0
            for error in await waiting:
                assert isinstance(error, JobCancelledError)
                assert "purged" in str(error)
            assert int(await app.jobs().count()) == 2
            assert await queue.purge(states=["failed"]) == 1
            assert [job.id async for job in app.jobs()] == [running.id]
            go.set()
            await running
            await queue.resume()
            await session.advance(0)

    async def test_bad_input_is_an_error_that_names_what_there_is(self) -> None:
        app = App("shop", queues={"mail": Queue()})

        @app.task(name="shop.charge")
        async def charge() -> None: ...

        async with app.test():
            queue = app.queue("mail")
            now = datetime.now(UTC)
            for given, words in [
                (
                    {"tasks": ["shop.chrage"]},
                    r"no task 'shop\.chrage' \(did you mean 'shop\.charge'\?\); there are: ",
                ),
                ({"tasks": []}, r"tasks=\[\]: expected a list of tasks"),
                ({"tasks": "shop.charge"}, "expected a list of tasks; leave it out for the whole queue"),
                ({"tasks": [7]}, "expected a list of tasks"),
                ({"until": now.replace(tzinfo=None)}, "has no time zone"),
                ({"until": now - timedelta(days=1)}, "is over already: the server's time is "),
                ({"until": 0}, "more than 0, and up to ten years"),
                ({"until": timedelta(seconds=-1)}, "more than 0"),
                ({"until": "tomorrow"}, "expected a datetime with a time zone"),
                ({"until": float("nan")}, "expected a datetime"),
            ]:
                with pytest.raises(ConfigError, match=f"queue mail: pause: .*{words}"):
                    await queue.pause(**given)  # pyright: ignore[reportArgumentType]
            assert (await queue.info()).tasks == {}
            # What is not paused stays so, and a task that there is not is named.
            assert await queue.resume(tasks=[charge]) == await queue.resume() == await queue.info()
            await queue.pause(tasks=[charge])
            with pytest.raises(ConfigError, match=r"resume: no task 'shop'; paused are: shop\.charge"):
                await queue.resume(tasks=["shop"])
            with pytest.raises(ConfigError, match=r"states='queue' \(did you mean 'queued'\?\); there are: w"):
                await queue.purge(states=["queue"])
            with pytest.raises(ConfigError, match="a running job is cancelled, not purged"):
                await queue.purge(states="running")
            for ask in (
                lambda each: each.pause(),
                lambda each: each.purge(),
                lambda each: each.tasks(),
                lambda each: each.set_shards(3),
                lambda each: each.drop_drained(),
            ):
                with pytest.raises(ConfigError, match=r"no queue 'mial' \(did you mean 'mail'\?\); there are: "):
                    await ask(app.queue("mial"))

    def test_sync_code_does_the_same(self) -> None:
        app = App("shop")

        @app.task(name="add")
        def add(x: int) -> int:
            return x + 1

        with app.test():
            queue = app.queue("default")
            assert queue.pause_sync(tasks=[add]).tasks.keys() == {"add"}
            handle = add.send_sync(1)
            assert [each.name for each in queue.tasks_sync()] == ["add"]
            assert queue.resume_sync(tasks=[add]) == queue.info_sync()
            assert handle.result_sync() == 2
            queue.pause_sync()
            add.send_sync(2)
            assert queue.purge_sync() == 1
            assert not queue.resume_sync().is_paused
