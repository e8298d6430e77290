"""What an operator sees and does: queries for jobs, and what can be done to one of them."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from aioq import (
    App,
    ArgumentError,
    ConfigError,
    JobCount,
    JobFailed,
    JobHandle,
    JobNotFoundError,
    JobState,
    Priority,
)
from aioq.app import internals_of
from aioq.operate import ended as ended_jobs
from aioq.operate import jobs, listing
from aioq.store.operating import Counted, ListQuery
from tests.databases import Database

pytestmark = pytest.mark.anyio


def shop(name: str = "shop", **settings: Any) -> App:
    app = App(name, **settings)

    @app.task(name="shop.charge")
    async def charge(user_id: int, amount: int = 1) -> int:
        if user_id >= 5:
            raise TimeoutError(f"the bank is slow for {user_id}")
        if amount > 100:
            raise ValueError("too much")
        return user_id * 100 + amount

    @app.task(name="shop.mail", queue="mail", tags=["eu"])
    async def mail(to: str) -> str:
        raise RuntimeError(f"no such mailbox: {to}")

    return app


@pytest.fixture
async def app() -> AsyncIterator[App]:
    app = shop()
    async with app.test():
        yield app


@pytest.fixture
async def queued(server: Database, app_name: str) -> AsyncIterator[App]:
    """An App without a worker, on each server."""
    app = shop(app_name, url=server.url)
    async with app:
        yield app


async def ended(handle: JobHandle[Any]) -> JobHandle[Any]:
    with pytest.raises(JobFailed):
        await handle
    return handle


async def fails(app: App, *calls: tuple[str, Any]) -> list[str]:
    return [(await ended(await app.send(name, arg))).id for name, arg in calls]


async def ids(app: App, **filters: Any) -> list[str]:
    return [job.id async for job in app.jobs(**filters)]


class TestFilters:
    async def test_each_filter_chooses_jobs(self, app: App) -> None:
        five, six = await fails(app, ("shop.charge", 5), ("shop.charge", 6))
        (letter,) = await fails(app, ("shop.mail", "ann"))
        later = await app.by_name("shop.charge").options(delay=60, tags=["eu", "vip"]).send(7)
        choices: list[tuple[dict[str, Any], set[str]]] = [
            ({}, {five, six, letter, later.id}),
            ({"queue": "mail"}, {letter}),
            ({"queue": ["mail", "default"], "state": "failed"}, {five, six, letter}),
            ({"state": JobState.SCHEDULED}, {later.id}),
            ({"state": ["failed", "scheduled"]}, {five, six, letter, later.id}),
            ({"task": "shop.charge"}, {five, six, later.id}),
            ({"task": app.tasks["shop.mail"]}, {letter}),
            ({"task": ["*.mail", "none"]}, {letter}),
            ({"tag": "eu"}, {letter, later.id}),
            ({"tag": ["eu", "vip"]}, {later.id}),
            ({"error": "TimeoutError"}, {five, six}),
            ({"error": "Timeout*"}, {five, six}),
            ({"error": "*slow for 6"}, {six}),
            ({"error": "timeout*"}, set()),
            ({"worker": "*"}, {five, six, letter}),
            ({"worker": "nobody-*"}, set()),
            ({"arguments": {"user_id": 7}}, {later.id}),
            ({"arguments": {0: 6}}, {six}),
            ({"arguments": {"user_id": 6, "amount": 1}}, set()),
            ({"arguments": {"to": "ann"}, "since": timedelta(hours=1)}, {letter}),
            ({"state": "failed", "until": timedelta(hours=1)}, set()),
            ({"since": datetime.now(UTC) + timedelta(days=1)}, set()),
            ({"queue": None, "state": None}, {five, six, letter, later.id}),
        ]
        for filters, expected in choices:
            assert set(await ids(app, **filters)) == expected, filters
            count = await app.jobs(**filters).count()
            assert (int(count), count.exact) == (len(expected), True), filters

    async def test_arguments_of_a_task_that_is_not_known_here_have_positions(self, app: App) -> None:
        other = (
            await app.by_name("elsewhere.task").options(delay=60).send(7, when=datetime(2026, 1, 1, tzinfo=UTC))
        )
        assert await ids(app, arguments={"when": datetime(2026, 1, 1, tzinfo=UTC)}) == [other.id]
        assert await ids(app, arguments={0: 7}) == [other.id]
        assert await ids(app, arguments={0: True}) == []

    async def test_the_order_is_that_of_time(self, app: App) -> None:
        first = await app.by_name("shop.mail").options(delay=60).send("a")
        second = await app.by_name("shop.charge").options(delay=90).send(1)
        third = await app.by_name("shop.mail").options(delay=120).send("c")
        assert await ids(app, state="scheduled") == [third.id, second.id, first.id]
        assert await ids(app, order="oldest") == [first.id, second.id, third.id]

    @pytest.mark.parametrize(
        ("filters", "said"),
        [
            ({"quue": "mail"}, "unknown filter 'quue' (did you mean 'queue'?); there are: queue, state, task,"),
            ({"state": "faild"}, "state='faild' (did you mean 'failed'?); there are: queued, scheduled,"),
            ({"state": "done"}, "there are: queued, scheduled, waiting, running, failed, succeeded, cancelled"),
            ({"state": 7}, "state=[7]: expected a text"),
            ({"queue": "a b"}, "queue 'a b': expected 1 to 128 letters"),
            ({"tag": []}, "tag=[]: expected a text, or several; leave it out for all"),
            ({"task": ""}, "task=['']: expected a text"),
            ({"task": "a[b"}, "a '[' is never closed"),
            ({"error": "[!a"}, "a '[' is never closed"),
            ({"error": "a[!]"}, "a '[' is never closed"),
            ({"error": "a[z-a]"}, "nothing is from 'z' to 'a'; swap them"),
            ({"since": 3600, "until": 7200}, "since=3600 ago is after until=7200 ago"),
            ({"error": ""}, "expected a text, in which"),
            ({"worker": 3}, "worker=3: expected a text, in which"),
            ({"since": datetime(2026, 1, 1)}, "has no time zone"),
            ({"since": "an hour"}, "expected a datetime with a time zone, or how long ago"),
            ({"until": -1}, "expected a datetime with a time zone, or how long ago"),
            ({"since": True}, "expected a datetime with a time zone, or how long ago"),
            (
                {"since": datetime(2026, 1, 2, tzinfo=UTC), "until": datetime(2026, 1, 1, tzinfo=UTC)},
                "is after until=",
            ),
            ({"arguments": ["x"]}, "expected a dict such as {'user_id': 7}"),
            ({"arguments": {None: 1}}, "expected the name of a parameter, or a position"),
            ({"arguments": {"x": object()}}, "no argument can be this"),
            ({"order": "up"}, "order='up': expected 'newest' or 'oldest'"),
        ],
    )
    def test_a_wrong_filter_is_an_error_that_says_what_there_is(self, filters: dict[str, Any], said: str) -> None:
        with pytest.raises(ConfigError) as error:
            shop(url="redis://nowhere").jobs(**filters)
        assert said in str(error.value)
        assert str(error.value).startswith("app.jobs: ")

    async def test_a_queue_that_does_not_exist_is_an_error_that_names_those_that_do(self, queued: App) -> None:
        for ask in (
            queued.jobs(queue="mial").first,
            queued.jobs(queue="mial").count,
            queued.jobs(queue="mial").page,
            queued.queue("mial").stats,
            queued.queue("mial").shards,
            lambda: anext(aiter(queued.workers(queue="mial"))),
        ):
            with pytest.raises(ConfigError, match=r"no queue 'mial' \(did you mean 'mail'\?\); there are: .*mail"):
                await ask()
        elsewhere = await queued.by_name("shop.charge").options(queue="apart").send(1)
        assert await ids(queued, queue="apart") == [elsewhere.id], "the server has it"


class TestPages:
    async def test_pages_follow_one_another(self, queued: App) -> None:
        sent = [(await queued.send("shop.charge", n)).id for n in range(7)]
        sent += [(await queued.by_name("shop.mail").options(delay=60 + n).send("x")).id for n in range(4)]
        query, cursor, found = queued.jobs(), None, list[str]()
        while True:
            page = await query.page(cursor, size=3)
            assert len(page.jobs) <= 3
            assert query.looked_at == page.looked_at
            found += [job.id for job in page.jobs]
            if (cursor := page.cursor) is None:
                break
            query = queued.jobs()  # another process, which has only the cursor
        assert sorted(found) == sorted(sent)

    async def test_a_page_that_finds_little_says_how_far_it_has_looked(
        self, queued: App, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(listing, "MOST_LOOKED_AT", 50)
        charge = queued.by_name("shop.charge")
        await charge.send_many([(n,) for n in range(120)])
        query = queued.jobs(arguments={"user_id": 3}, order="oldest")
        page = await query.page()
        assert (len(page.jobs), page.looked_at) == (1, 50)
        page = await query.page(page.cursor)
        assert (len(page.jobs), page.looked_at) == (0, 50)
        page = await query.page(page.cursor)
        assert (page.cursor, page.looked_at) == (None, 20)
        assert len([job async for job in query]) == 1
        assert query.looked_at == 120
        assert await query.count() == JobCount(2, exact=False)  # 1 of 50, of 120

    async def test_of_several_queues_the_server_names_those_that_the_app_does_not_know(self, queued: App) -> None:
        call = queued.by_name("shop.charge").options(queue="hidden").call(1)
        await queued.schedules.put("tick", call, every=3600)
        other = await queued.by_name("shop.charge").options(queue="hidden").send(1)
        assert other.id in await ids(queued)

    @pytest.mark.parametrize("cursor", ["", "abc", "ä", "k8QIWI3wT-GgPeOSwMCBp2RlZmF1bHQ", 7, b"x"])
    async def test_what_is_no_cursor_is_an_error(self, app: App, cursor: Any) -> None:
        with pytest.raises(ConfigError, match="expected the cursor of a page"):
            await app.jobs().page(cursor)

    async def test_a_cursor_of_another_query_is_an_error(self, app: App) -> None:
        for n in range(2):
            await app.by_name("shop.charge").options(delay=60).send(n)
        cursor = (await app.jobs().page(size=1)).cursor
        assert (await app.jobs().page(cursor, 5)).cursor is None
        for other in (app.jobs(order="oldest"), app.jobs(state="failed"), app.jobs(arguments={"x": 1})):
            with pytest.raises(ConfigError, match="belongs to a query with other filters"):
                await other.page(cursor)

    @pytest.mark.parametrize("size", [0, 1001, True, 1.5, "9"])
    async def test_a_wrong_size_is_an_error(self, app: App, size: Any) -> None:
        with pytest.raises(ConfigError, match=r"expected 1 to 1,000"):
            await app.jobs().page(size=size)

    async def test_the_first_one(self, app: App) -> None:
        assert await app.jobs().first() is None
        (failed,) = await fails(app, ("shop.charge", 9))
        job = await app.jobs(state="failed").first()
        assert job is not None
        assert (job.id, job.task) == (failed, "shop.charge")

    async def test_what_the_server_has_counted_does_not_make_a_count_an_estimate(
        self, queued: App, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = int(await queued.jobs().count())
        monkeypatch.setattr(jobs, "MOST_LOOKED_AT", 50)
        monkeypatch.setattr(listing, "MOST_LOOKED_AT", 50)
        charge = queued.by_name("shop.charge")
        await charge.options(delay=60).send_many([(n,) for n in range(60)])
        count = queued.jobs().count
        assert await count() == JobCount(before + 60, exact=True)
        await charge.send_many([(n,) for n in range(60)])
        found = await count()
        assert (found.exact, int(found)) == (False, before + 120)

    async def test_a_count_is_a_number_that_says_whether_it_is_exact(self) -> None:
        assert [str(JobCount(12_345, exact=True)), str(JobCount(12_345, exact=False))] == [
            "12,345",
            "about 12,345",
        ]
        assert int(JobCount(3, exact=False)) == 3

    async def test_sync_code_asks_the_same(self, queued: App) -> None:
        sent = [(await queued.by_name("shop.mail").options(delay=60 + n).send("x")).id for n in range(3)]

        def look() -> tuple[list[str], int, str, int]:
            query = queued.jobs(order="oldest")
            first = query.first_sync()
            assert first is not None
            return [job.id for job in query], int(query.count_sync()), first.id, len(query.page_sync(size=2).jobs)

        assert await asyncio.to_thread(look) == (sent, 3, sent[0], 2)


class TestEndedJobs:
    async def test_those_that_succeeded_or_were_cancelled_come_out_of_the_history(
        self, app: App, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await fails(app, ("shop.charge", 9))
        done = [await app.send("shop.charge", n) for n in range(4)]
        for handle in done:
            await handle
        gone = await app.by_name("shop.charge").options(result_ttl=0).send(3)
        await gone
        cancelled = await app.by_name("shop.mail").options(delay=60).send("ann")
        await cancelled.cancel("not wanted")
        every = [handle.id for handle in done] + [gone.id]
        assert set(await ids(app, state="succeeded", order="oldest")) == {*every}
        assert set(await ids(app, state=["succeeded", "cancelled"])) == {cancelled.id, *every}
        assert await ids(app, state="cancelled", queue="default") == []
        (info,) = [job async for job in app.jobs(state="succeeded", since=60) if job.id == gone.id]
        assert (info.task, info.state) == ("shop.charge", JobState.SUCCEEDED)
        assert info.worker == (await done[0].info()).worker
        assert info.started_at is not None
        assert await app.jobs(state="succeeded").count() == JobCount(5, exact=True)
        page = await app.jobs(state="succeeded").page(size=2)
        found = [job.id for job in page.jobs]
        while page.cursor is not None:
            page = await app.jobs(state="succeeded").page(page.cursor, size=2)
            found += [job.id for job in page.jobs]
        assert sorted(found) == sorted(every)
        assert found == (await ids(app, state="succeeded", order="oldest"))[::-1]
        monkeypatch.setattr(ended_jobs, "COUNTED_ROWS", 2)
        monkeypatch.setattr(ended_jobs, "MOST_LISTED", 2)
        lists = ended_jobs.JobLists(await internals_of(app).store())
        assert await lists.count_jobs("default", ListQuery(JobState.SUCCEEDED)) == Counted(6, exact=False)

    async def test_without_a_history_there_are_none(self) -> None:
        with pytest.raises(ConfigError, match="'history' is 0"):
            shop(history=0).jobs(state=["failed", "succeeded"])


class TestOneJob:
    async def test_a_failed_job_is_retried(self, app: App) -> None:
        handle = await ended(await app.send("shop.charge", 9))
        assert await handle.retry()
        with pytest.raises(JobFailed):
            await handle  # its new run
        assert (await handle.info()).attempts == 1

    async def test_only_a_failed_job_is(self, queued: App) -> None:
        handle = await queued.send("shop.charge", 1)
        assert not await handle.retry()
        with pytest.raises(JobNotFoundError):
            await queued.handle("none", queue="mail").retry()

    async def test_a_copy_has_the_same_call(self, queued: App) -> None:
        task = queued.by_name("shop.mail").options(
            priority="high", tags=["vip"], headers={"trace": "7"}, timeout=9
        )
        handle = await task.send("ann")
        copy = await handle.copy()
        assert (copy.id != handle.id, copy.added) == (True, True)
        one, other = await handle.info(), await copy.info()
        for name in ("task", "queue", "priority", "tags", "headers", "state"):
            assert getattr(one, name) == getattr(other, name), name
        assert len(await ids(queued, arguments={"to": "ann"})) == 2

    async def test_its_arguments_are_edited_and_its_options_stay(self, app: App) -> None:
        task = app.tasks["shop.charge"].options(headers={"trace": "7"})
        handle = await ended(await task.send(9))
        copy: JobHandle[Any] = await handle.copy(2, amount=3)
        assert await copy == 203
        assert (await copy.info()).headers == {"trace": "7"}
        again = await copy.copy(user_id=3)  # the call of one that has succeeded is gone
        assert await again == 301

    @pytest.mark.parametrize("args", [("x", 2, 3), (object(),), ("seven",)])
    async def test_arguments_that_do_not_fit_send_nothing(self, app: App, args: tuple[Any, ...]) -> None:
        handle = await app.tasks["shop.charge"].options(delay=60).send(1)
        with pytest.raises(ArgumentError, match=r"shop\.charge"):
            await handle.copy(*args)
        assert int(await app.jobs().count()) == 1

    async def test_without_arguments_a_call_that_is_gone_is_an_error(self, app: App) -> None:
        handle = await app.send("shop.charge", 1)
        await handle
        with pytest.raises(ArgumentError, match=r"its call is not kept any more, as it is succeeded; give the"):
            await handle.copy()

    async def test_a_deleted_job_is_gone(self, queued: App) -> None:
        handle = await queued.send("shop.charge", 1)
        assert await handle.delete()
        for ask in (handle.info, handle.delete, handle.retry):
            with pytest.raises(JobNotFoundError):
                await ask()
        assert await ids(queued) == []

    async def test_one_that_runs_is_not_deleted(self) -> None:
        app, started, go = App("shop"), asyncio.Event(), asyncio.Event()

        @app.task
        async def wait() -> None:
            started.set()
            await go.wait()

        async with app.test():
            handle = await wait.send()
            await started.wait()
            assert [job.id async for job in app.jobs(state="running")] == [handle.id]
            assert not await handle.delete()
            go.set()
            await handle
            assert await handle.delete()

    async def test_the_priority_of_a_job_is_set(self, queued: App) -> None:
        first, second = [await queued.send("shop.charge", n) for n in range(2)]
        assert await second.set_priority("high")
        assert (await second.info()).priority is Priority.HIGH
        assert await ids(queued, order="oldest") == [second.id, first.id]
        await first.cancel()
        assert not await first.set_priority(Priority.LOW)
        with pytest.raises(ConfigError, match="expected high, normal or low"):
            await second.set_priority("urgent")  # pyright: ignore[reportArgumentType]
        with pytest.raises(ConfigError, match="give high, normal or low"):
            await second.set_priority(None)  # pyright: ignore[reportArgumentType]
        with pytest.raises(JobNotFoundError):
            await queued.handle("none", queue="mail").set_priority("low")
