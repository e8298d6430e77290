"""Bulk operations: what an operator does to all jobs that match, and who goes on when the operator is gone."""

import asyncio
import logging
import signal
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from aioq import App, ConfigError, JobState, Operation, OperationState
from aioq.operate import carrying, jobs, listing
from aioq.operate import operations as handles
from aioq.store import operations as bounds
from aioq.testing.session import MemorySession
from aioq.worker import Worker
from tests.behaviour.kit import Project, until
from tests.clusters import Cluster
from tests.databases import Database

pytestmark = pytest.mark.anyio


def shop(name: str = "shop", **settings: Any) -> tuple[App, list[int], set[int]]:
    """An App, which numbers its task has run for, and which it succeeds for."""
    app, runs, fine = App(name, **settings), list[int](), set[int]()

    @app.task(name="shop.charge", queue="bank")
    async def charge(number: int) -> int:
        runs.append(number)
        if number not in fine:
            raise TimeoutError(f"the bank is slow for {number}")
        return number

    @app.task(name="shop.mail")
    async def mail(to: str) -> str:
        return to

    @app.task(name="shop.report", queue="night")
    async def report() -> None: ...

    return app, runs, fine


Shop = tuple[App, list[int], set[int], MemorySession]


@pytest.fixture
async def open_shop() -> AsyncIterator[Shop]:
    app, runs, fine = shop()
    async with app.test() as session:
        yield app, runs, fine, session


async def charge(app: App, session: MemorySession, count: int, first: int = 0) -> None:
    await app.by_name("shop.charge").send_many([(number,) for number in range(first, first + count)])
    await session.drain()


class TestWhatMatches:
    async def test_failed_jobs_are_retried_once_each(self, open_shop: Shop) -> None:
        app, runs, fine, session = open_shop
        await charge(app, session, 5)
        fine.update({1, 2})

        op = await app.jobs(state="failed", error="Timeout*").retry()
        await session.drain()
        info = await op

        assert (info.action, info.state, info.total, info.exact) == ("retry", OperationState.ENDED, 5, True)
        assert (info.looked_at, info.done, info.skipped) == (5, 5, 0)
        assert Counter(runs) == dict.fromkeys(range(5), 2), "those that failed again are not retried again"
        job = await app.jobs(state="failed").first()
        assert job is not None
        assert (job.attempts, len(job.failed_attempts)) == (1, 2), "counted anew, and the history is kept"

    async def test_by_filters_and_in_a_dry_run_nothing(self, open_shop: Shop) -> None:
        app, runs, _, session = open_shop
        await charge(app, session, 12)

        dry = await app.jobs(queue="bank").retry(dry_run=True)
        one = await (await app.jobs(arguments={"number": 3}, since=timedelta(hours=1)).retry(by="ann"))
        await session.drain()

        assert (dry.info.state, dry.info.total, len(dry.info.sample)) == (OperationState.DRY_RUN, 12, 10)
        assert (await dry, dry.id) == (dry.info, "")
        assert (one.done, one.by, one.filters["arguments"]) == (1, "ann", {"number": 3})
        assert Counter(runs)[3] == 2
        assert len(runs) == 13
        with pytest.raises(ConfigError, match="dry run"):
            await dry.pause()

    @pytest.mark.parametrize("looked_at", [1_000, 4])
    async def test_a_dry_run_says_how_many_cannot_be_retried(
        self, looked_at: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jobs, "MOST_LOOKED_AT", looked_at)
        monkeypatch.setattr(listing, "MOST_LOOKED_AT", looked_at)
        app, _, fine = shop("shop", dead_limit=6)[:3]
        async with app.test() as session:
            for number in range(10):  # at different times, by which they are listed
                await charge(app, session, 1, number)
                await session.advance(1)
            for error in None, "Timeout*":
                dry = (await app.jobs(state="failed", error=error).retry(dry_run=True)).info
                assert (dry.total, dry.skipped, len(dry.sample)) == (10, 4, min(looked_at, 10))
                assert dry.exact == (looked_at > 10)
            assert (await app.jobs(state="failed").delete(dry_run=True)).info.skipped == 0
            fine.update(range(10))
            done = await (await app.jobs(state="failed").retry())
            assert (done.done, done.skipped) == (6, 4)
            assert (await app.jobs(state="failed").retry(dry_run=True)).info.total == 4

    async def test_jobs_that_wait_are_moved_run_cancelled_and_deleted(self, open_shop: Shop) -> None:
        app, runs, _, session = open_shop
        later = app.by_name("shop.mail").options(delay=600)
        handles = await later.send_many([(str(number),) for number in range(8)])

        async def done(op: Operation) -> int:
            return (await op).done

        assert await done(await app.jobs(arguments={"to": "0"}).set_priority("high")) == 1
        assert await done(await app.jobs(arguments={"to": "1"}).cancel("sold out")) == 1
        assert await done(await app.jobs(arguments={"to": "2"}).delete()) == 1
        assert await done(await app.jobs(queue="default").move(queue="night")) == 6
        assert await done(await app.jobs(state="scheduled", queue="night").move(queue="night")) == 0
        assert [job.queue async for job in app.jobs(state="scheduled")] == ["night"] * 6
        assert await done(await app.jobs(queue="night", arguments={"to": "3"}).run_now()) == 1
        assert await handles[3] == "3"
        assert (await handles[0].info()).priority == "high"
        assert (await handles[1].info()).state is JobState.CANCELLED
        assert runs == []
        await session.advance(600)
        assert await handles[7] == "7"

    async def test_code_without_an_event_loop_does_the_same(self, open_shop: Shop) -> None:
        app, _, _, session = open_shop
        await charge(app, session, 2)

        def operate() -> tuple[int, str, int, int]:
            op = app.jobs(state="failed").retry_sync(rate=1)
            assert (op.pause_sync().state, op.resume_sync().state) == ("paused", "running")
            done, name = op.wait_sync(timeout=9).done, app.operations.list_sync()[0].id
            return done, name, app.operations.get_sync(name).progress_sync().done, op.abort_sync().done

        work = asyncio.ensure_future(asyncio.to_thread(operate))
        while not work.done():
            await session.advance(0.1)
        done, name, again, still = await work
        assert (done, again, still) == (2, 2, 2)
        assert name.startswith("retry-")
        jobs = app.jobs(queue="bank")
        for name in ("cancel", "delete", "run_now"):
            assert await asyncio.to_thread(lambda n=name: getattr(jobs, f"{n}_sync")(dry_run=True).id) == ""
        moved = await asyncio.to_thread(lambda: jobs.move_sync(queue="night", dry_run=True))
        assert moved.info.target == "night"
        assert (await asyncio.to_thread(lambda: jobs.set_priority_sync("low", dry_run=True))).info.total == 0


class TestOnTheWay:
    async def test_a_rate_is_kept_and_it_is_paused_resumed_and_aborted(self, open_shop: Shop) -> None:
        app, runs, _, session = open_shop
        await charge(app, session, 60)
        op = await app.jobs(state="failed").retry(rate=10)
        done: list[int] = []

        async def after(seconds: float) -> None:
            await session.advance(seconds)
            done.append((await op.progress()).done)

        await after(0)
        await after(1)
        await after(1)
        assert (await op.pause()).state is OperationState.PAUSED
        await after(30)
        await session.drain()
        assert (await op.resume()).state is OperationState.RUNNING
        await after(1)
        assert (await (await app.operations.get(op.id)).abort()).state is OperationState.ABORTED
        await after(30)

        assert done == [0, 10, 20, 20, 30, 30]
        assert len(runs) == 60 + 30
        assert (await op).state is OperationState.ABORTED
        assert (await op.resume()).state is OperationState.ABORTED
        (audited,) = await app.operations.list()
        assert (audited.by, audited.done, audited.rate) == (op.info.by, 30, 10)
        assert "@" in audited.by
        assert audited.ended_at is not None
        assert audited.ended_at - audited.began_at == timedelta(seconds=33)

    async def test_what_is_asked_wrongly_is_an_error_that_says_what_there_is(self, open_shop: Shop) -> None:
        app, runs, _, session = open_shop
        await charge(app, session, 1)
        jobs = app.jobs(state="failed")
        for ask, said in (
            (app.jobs(state="queued").retry, r"retry: it does not apply to jobs that are queued; .* to: failed"),
            (app.jobs(state=["failed", "queued"]).run_now, "are queued or failed; it applies to: scheduled"),
            (app.jobs(state="running").delete, "applies to: waiting, scheduled, queued, failed"),
            (lambda: jobs.move(queue="night"), "applies to: scheduled, queued"),
            (lambda: jobs.set_priority("low"), "it does not apply to jobs that are failed"),
            (lambda: app.jobs().set_priority("lower"), "lower"),  # pyright: ignore[reportArgumentType]
            (lambda: app.jobs().move(queue="a b"), "expected 1 to 128 letters"),
            (lambda: app.jobs().move(queue="nigth"), "no queue 'nigth' .did you mean 'night'.*; there are: "),
            (lambda: app.jobs().cancel(7), "reason=7: expected a text"),  # pyright: ignore[reportArgumentType]
            (lambda: jobs.retry(rate=0), "rate=0: expected jobs a second"),
            (lambda: jobs.retry(rate=True), "rate=True: expected"),
            (lambda: jobs.retry(rate="9"), "rate='9': expected"),  # pyright: ignore[reportArgumentType]
            (lambda: jobs.retry(dry_run=1), "expected True or False"),  # pyright: ignore[reportArgumentType]
            (lambda: jobs.retry(by=" "), "by=' ': expected a name"),
            (lambda: jobs.retry(rte=5), r"'rte' \(did you mean 'rate'\?\); there are: rate, dry_run, by"),  # pyright: ignore[reportCallIssue]
            (app.jobs(queue="bnak").retry, r"no queue 'bnak' \(did you mean 'bank'"),
            (lambda: app.operations.get("none"), "no operation 'none'"),
            (lambda: app.operations.list(0), "expected 1 to 1,000"),
        ):
            with pytest.raises(ConfigError, match=said):
                await ask()
        assert await app.operations.list() == []
        assert len(runs) == 1

    async def test_one_that_is_not_kept_any_more_says_so(self, open_shop: Shop) -> None:
        app, _, _, session = open_shop
        await charge(app, session, 1)
        op = await app.jobs(state="failed").retry()
        await op
        session.clock.advance(bounds.KEPT_MS / 1000)
        for ask in (op.progress, op.pause, op.wait, lambda: app.operations.get(op.id)):
            with pytest.raises(ConfigError, match=r"those of the last 30 days"):
                await ask()


OPERATOR = """
import asyncio
import sys
from aioq import App
from aioq.operate import carrying
from aioq.store.redis import operations

carrying.LARGE_STEP = 10
operations.LEASE_MS = 100


async def main():
    op = await App().jobs(queue="bank", state="failed").retry(rate=100, by="ann")
    print("began", op.id, file=sys.stderr)
    await op


asyncio.run(main())
"""


PURGER = """
import asyncio
import os
import signal
from aioq import App
from aioq.operate import carrying
from aioq.operate import operations as handles
from aioq.store.redis import operations

carrying.SMALL_STEP = 10
operations.LEASE_MS = handles.LEASE_MS = 100
make_step = operations.RedisOperations.step


async def step(*args):
    verdict, note = await make_step(*args)
    if note.done.done >= 30:
        os.kill(os.getpid(), signal.SIGKILL)
    return verdict, note


operations.RedisOperations.step = step
asyncio.run(App().queue("bank").purge())
"""


class TestWhoGoesOn:
    async def test_the_operator_is_killed_half_way_and_a_worker_goes_on(self, project: Project) -> None:
        """What it retries fails again all the time, and more fails meanwhile."""
        app, runs, _ = shop(project.name, url=project.settings["AIOQ_URL"])
        async with app:
            await app.by_name("shop.charge").send_many([(number,) for number in range(100)])
            await Worker(app_parts(app), queues=["bank"], burst=True).run()
            assert len(runs) == 100
            operator = project.python("-c", OPERATOR)
            (line,) = await operator.saw("began")
            op = await app.operations.get(line.split()[1])
            while (await op.progress()).done < 10:  # noqa: ASYNC110 - it is in another process
                await asyncio.sleep(0.01)
            operator.signal(signal.SIGKILL)
            await operator.ended()
            await asyncio.sleep(0.1)
            left = await op.progress()
            assert left.state is OperationState.RUNNING
            assert left.done < 100

            await app.by_name("shop.charge").send_many([(number,) for number in range(100, 120)])
            worker = Worker(app_parts(app), queues=["bank"])
            serving = asyncio.create_task(worker.run())
            info = await op.wait(timeout=30)
            await until(lambda: len(runs) == 100 + 100 + 20)
            worker.stop()
            await serving

        assert (info.done, info.skipped, info.by) == (100, 0, "ann")
        assert Counter(runs) == {**dict.fromkeys(range(100), 2), **dict.fromkeys(range(100, 120), 1)}

    async def test_a_worker_that_comes_later_goes_on_whichever_queue_it_serves(
        self, redis_server: Database, app_name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(handles, "LEASE_MS", 100)
        app, _, _ = shop(app_name, url=redis_server.url)
        queues = [f"q{number:02}" for number in range(12)]
        async with app:
            for queue in queues:
                await app.by_name("shop.mail").options(queue=queue, delay=3600).send("a")
            op = await app.jobs(queue=queues).set_priority("high")
            aborted = await app.jobs(queue=queues).set_priority("low")
            await aborted.abort()
            worker = Worker(app_parts(app), queues=queues[-1:])
            serving = asyncio.create_task(worker.run())
            while not (await op.progress()).state.is_over:  # noqa: ASYNC110 - to wait for it would carry it on
                await asyncio.sleep(0.02)
            worker.stop()
            await serving
            with redis_server.client() as client:
                timers = [key for key in client.scan_iter(f"aioq:{{{app_name}:*:timers") if client.exists(key)]

        assert (op.info.done, op.info.state) == (12, OperationState.ENDED)
        assert timers == [], "nothing reminds of what is over"

    async def test_without_a_worker_who_waits_for_it_carries_it_on_and_says_so(
        self, server: Database, app_name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(carrying, "LARGE_STEP", 7)
        app, _, _ = shop(app_name, url=server.url, queues={"bank": {"shards": 3}})
        async with app:
            await app.by_name("shop.charge").send_many([(number,) for number in range(60)])
            with caplog.at_level(logging.WARNING, "aioq.operations"):
                op = await app.jobs(queue="bank").set_priority("high", rate=1_000)
                assert (await op.progress()).done == 0, "nobody else is there"
                info = await op.wait(timeout=20)
                both = await asyncio.gather(
                    (await app.jobs(queue="bank").move(queue="night")), (await app.jobs(queue="bank").cancel())
                )
            jobs = [job async for job in app.jobs(queue=["bank", "night"])]

        assert (info.done, info.skipped) == (60, 0)
        assert sum(each.done for each in both) == 60, "each job was moved, or cancelled before"
        assert {(job.queue, job.priority.value) for job in jobs} <= {("night", "high")}
        assert len(jobs) == both[0].done
        assert "no worker serves bank, bank#1, bank#2; this process carries it on" in caplog.text

    async def test_in_a_cluster_it_goes_through_the_queues_of_all_nodes(
        self, cluster: Cluster, app_name: str
    ) -> None:
        app, _, _ = shop(app_name, url=cluster.url)
        queues = [f"q{number}" for number in range(6)]
        async with app:
            mail = app.by_name("shop.mail")
            for queue in queues:
                await mail.options(queue=queue, delay=60).send_many([("a",), ("b",)])
            op = await app.jobs(queue=queues, task="shop.mail").run_now(by="ann")
            assert (await op.pause()).state is OperationState.PAUSED
            assert (await op.resume()).state is OperationState.RUNNING
            info = await op.wait(timeout=20)
            moved = await (await app.jobs(queue=queues[:5], state="queued").move(queue="q5"))
            left = await app.jobs(queue=queues, state="queued").count()
            q5 = await app.jobs(queue="q5", state="queued").count()
            assert [each.action for each in await app.operations.list()] == ["move", "run_now"]

        assert (info.done, info.total, moved.done) == (12, 12, 10)
        assert (int(left), int(q5)) == (12, 12)

    async def test_a_purge_whose_caller_is_killed_half_way_is_seen_and_a_worker_goes_on(
        self, project: Project
    ) -> None:
        app, runs, _ = shop(project.name, url=project.settings["AIOQ_URL"])
        async with app:
            queue = app.queue("bank")
            await app.by_name("shop.charge").send_many([(number,) for number in range(60)])
            await app.by_name("shop.charge").options(delay=3600).send_many([(number,) for number in range(20)])
            await queue.pause()
            operator = project.python("-c", PURGER)
            assert await operator.ended() == -signal.SIGKILL
            (left,) = await app.operations.list()
            worker = Worker(app_parts(app), queues=["bank"])
            serving = asyncio.create_task(worker.run())
            info = await (await app.operations.get(left.id)).wait(timeout=30)
            worker.stop()
            await serving
            assert [job async for job in app.jobs(queue="bank")] == []

        assert (left.action, left.state, left.total, left.done) == ("purge", OperationState.RUNNING, 80, 30)
        assert (info.state, info.done, info.skipped) == (OperationState.ENDED, 80, 0)
        assert "@" in info.by
        assert runs == []


def app_parts(app: App) -> Any:
    return app._internals.app_parts()
