"""The pieces of Python on the pages that are no whole programs: each is run, with the setup it needs.

A piece is found by its page and its first line, and one without a setup fails.
"""

import ast
import asyncio
import importlib
import inspect
import sys
import tempfile
import types
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from aioq import (
    App,
    Event,
    Fail,
    JobFailed,
    Middleware,
    Outgoing,
    Queue,
    Retry,
    ScheduleNotFoundError,
    ServerUnavailableError,
    Task,
    as_completed,
    current_job,
    gather,
)
from tests.behaviour.kit import ROOT
from tests.behaviour.pages import TWO_HOSTS, Block, held_by
from tests.clusters import Cluster
from tests.sentinels import Sentinels
from tests.servers import available

pytestmark = pytest.mark.anyio

BLOCKS = held_by("test_a_fragment_does_what_the_page_says")
Names = dict[str, Any]
Show = Callable[..., Awaitable[Names]]
Setup = Callable[[Show, pytest.MonkeyPatch], Awaitable[None]]
SETUPS: dict[tuple[str, str], Setup] = {}


def fragment(page: str, first: str) -> Callable[[Setup], Setup]:
    """Register the setup of the piece of a page that begins with this line, and the check of its result."""

    def register(setup: Setup) -> Setup:
        SETUPS[page, first] = setup
        return setup

    return register


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.id)
async def test_a_fragment_does_what_the_page_says(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Names] = []

    async def show(**names: Any) -> Names:
        """Run what the page shows with these names; the names that there are then."""
        module = types.ModuleType("shop.tasks")
        monkeypatch.setitem(sys.modules, "shop.tasks", module)
        module.__dict__.update(names)
        code = compile(block.text, block.id, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        made = eval(code, module.__dict__)
        if inspect.isawaitable(made):
            await made
        shown.append(module.__dict__)
        return module.__dict__

    key = (block.page, block.text.partition("\n")[0])
    assert key in SETUPS, f"no setup is registered for {key}"
    await SETUPS[key](show, monkeypatch)
    assert len(shown) == 1


def test_nothing_is_here_for_a_piece_that_no_page_has() -> None:
    assert set(SETUPS) == {(block.page, block.text.partition("\n")[0]) for block in BLOCKS}


def shop(*middleware: Middleware) -> tuple[App, Task[[int, int], int]]:
    """An App with a task."""
    app = App("shop", middleware=middleware)

    @app.task(name="shop.tasks.add")
    async def add(x: int, y: int) -> int:
        return x + y

    return app, add


def priced(app: App, name: str) -> Any:
    """A further task of it."""

    @app.task(name=name)
    async def task(*args: Any, **named: Any) -> str:
        return f"{name} {args} {named}"

    return task


# -- docs/controls.md


@fragment("docs/controls.md", 'app = App("shop", queues={"mail": Queue(weight=3), "reports": Queue(weight=1)})')
async def _weights(show: Show, _: pytest.MonkeyPatch) -> None:
    settings = (await show(App=App, Queue=Queue))["app"].settings
    assert [settings.queue(name).weight for name in ("mail", "reports", "other")] == [3, 1, None]


@fragment("docs/controls.md", 'async for worker in app.workers(queue="reports"):')
async def _shares_from_afar(show: Show, _: pytest.MonkeyPatch) -> None:
    app = App("shop", queues={"bulk": Queue()})
    app.task(queue="reports")(_no_mailbox)
    async with app.test() as session:
        await session.advance(0)
        await show(app=app)
        changed = [each.queue_slots async for each in app.workers(queue="reports")]
    assert changed == [{"reports": 8, "bulk": 2}]


# -- docs/operating.md


async def _no_mailbox(to: str, amount: int = 1) -> None:
    raise RuntimeError(f"no mailbox {to} {amount}")


@fragment("docs/operating.md", 'page = await app.jobs(state="failed").page(size=50)')
async def _pages_of_jobs(show: Show, _: pytest.MonkeyPatch) -> None:
    app = App("shop")
    mail = app.task(name="shop.mail")(_no_mailbox)
    async with app.test():
        for handle in await mail.send_many([("a",), ("b",), ("c",)]):
            with pytest.raises(JobFailed):
                await handle
        names = await show(app=app)
    assert (len(names["page"].jobs), names["page"].cursor, names["page"].looked_at) == (3, None, 3)


@fragment("docs/operating.md", "async def follow(cursor: str | None) -> None:")
async def _follows_the_ends_of_jobs(show: Show, _: pytest.MonkeyPatch) -> None:
    app, noted, enough = App("shop"), list[tuple[str, str]](), asyncio.Event()

    async def note(event: Event, cursor: str) -> None:
        if not noted:
            noted.append((event.job_id, cursor))
            raise ServerUnavailableError("gone for a moment")
        noted.append((event.job_id, cursor))
        enough.set()

    mail = app.task(name="shop.mail")(_no_mailbox)
    async with app.test() as session:
        names = await show(app=app, note=note, asyncio=asyncio, ServerUnavailableError=ServerUnavailableError)
        stream = app.events()
        await stream.start()
        handles = await mail.send_many([("a",), ("b",)])
        await session.drain()
        following = asyncio.ensure_future(names["follow"](stream.cursor))
        await enough.wait()
        following.cancel()
    assert [job_id for job_id, _ in noted] == [handle.id for handle in handles]


@fragment("docs/operating.md", "handle = app.handle(job_id)")
async def _acts_on_one_job(show: Show, _: pytest.MonkeyPatch) -> None:
    app = App("shop")
    mail = app.task(name="shop.mail")(_no_mailbox)
    async with app.test() as session:
        job = await mail.send("a")
        with pytest.raises(JobFailed):
            await job
        await show(app=app, job_id=job.id)
        await session.drain()
        failed = [str(each.error) async for each in app.jobs(state="failed")]
    assert "RuntimeError: no mailbox 7 5" in failed


async def _failed_mails(app: App) -> None:
    mail = app.task(name="shop.send")(_slow_mailbox)
    for handle in await mail.send_many([("a",), ("b",)]):
        with pytest.raises(JobFailed):
            await handle


async def _slow_mailbox(to: str) -> None:
    raise TimeoutError(f"mailbox {to}")


@fragment(
    "docs/operating.md",
    'jobs = app.jobs(state="failed", task="shop.send", error="Timeout*", since=timedelta(hours=1))',
)
async def _acts_on_all_that_match(show: Show, _: pytest.MonkeyPatch) -> None:
    app = App("shop")
    async with app.test() as session:
        await _failed_mails(app)
        moving = asyncio.create_task(session.advance(1))
        running = asyncio.ensure_future(show(app=app, timedelta=timedelta))
        while not running.done():
            await moving
            moving = asyncio.create_task(session.advance(1))
        await moving
    assert (await running)["info"].done == 2


@fragment("docs/operating.md", "op = await app.operations.get(op.id)  # from any process")
async def _goes_on_with_an_operation(show: Show, _: pytest.MonkeyPatch) -> None:
    app = App("shop")
    async with app.test():
        await _failed_mails(app)
        names = await show(app=app, op=await app.jobs(state="failed").retry(rate=0.01))
    assert (names["each"].state, names["each"].done) == ("aborted", 0)


# -- README.md


@fragment("README.md", "value = await handle  # waits without limit")
async def _results(show: Show, _: pytest.MonkeyPatch) -> None:
    app, add = shop()
    async with app.test():
        handle = await add.send(1, 2)
        handles = await add.send_many([(1, 2), (3, 4)])
        of_jobs: Names = {"handle": handle, "job_id": handles[0].id, "handles": handles}
        names = await show(app=app, gather=gather, as_completed=as_completed, **of_jobs)
    assert names["value"] == 3
    assert names["values"] == (3, 7)
    assert names["state"] == "succeeded"
    info = names["info"]
    assert (info.attempts, info.crashes, info.error, info.progress) == (1, 0, None, None)
    assert info.worker
    assert names["handle"] in handles


@fragment("README.md", "@app.lifespan")
async def _inside_a_task(show: Show, _: pytest.MonkeyPatch) -> None:
    """429 once, then 200; and 410."""
    answers = {"http://a": [429, 200], "http://b": [200], "http://gone": [410]}

    def client() -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.MockTransport(
                lambda request: httpx.Response(answers[f"http://{request.url.host}"].pop(0))
            )
        )

    app = App("shop")
    stub = types.SimpleNamespace(AsyncClient=client)
    names = await show(app=app, httpx=stub, current_job=current_job, Retry=Retry, Fail=Fail)
    async with app.test() as session:
        good = await names["fetch"].send(["http://a", "http://b"])
        await session.advance(29)
        assert await good.status() == "scheduled"
        await session.advance(1)
        assert await good == 2
        info = await good.info()
        assert info.attempts == 2
        assert info.progress is not None
        assert (info.progress.done, info.progress.total, info.progress.message) == (2, 2, "http://b")
        gone = await names["fetch"].send(["http://gone"])
        with pytest.raises(JobFailed, match="it is gone"):
            await gone
        assert (await gone.info()).attempts == 1


@fragment("README.md", '@app.cron("*/5 * * * mon-fri", tz="Asia/Shanghai")')
async def _again_and_again(show: Show, _: pytest.MonkeyPatch) -> None:
    app, add = shop()
    async with app.test():
        await show(app=app, add=add, report=priced(app, "report"))
        assert "report" in {schedule.id for schedule in await app.schedules.list()}
    async with app.test():
        found = {schedule.id: schedule.description for schedule in await app.schedules.list()}
    assert set(found) == {"shop.tasks.sweep", "add-every-30-seconds"}
    assert found["add-every-30-seconds"] == "Every 30 s"


# -- docs/tasks.md


class _Sent(Middleware):
    """Notes the calls that are sent."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def send(self, call: Outgoing, forward: Callable[[Outgoing], Awaitable[bool]]) -> bool:
        """Note the call, and send it."""
        where = "" if call.queue == "default" else f" in {call.queue}"
        self.calls.append(call.task.rpartition(".")[2] + where)
        return await forward(call)


@fragment("docs/tasks.md", 'app = App("shop", routes={"shop.mail.*": "mail", "*.nightly_*": "slow"})')
async def _routes(show: Show, _: pytest.MonkeyPatch) -> None:
    app = (await show(App=App))["app"]
    async with app.test():
        names = ("shop.mail.welcome", "shop.nightly_sum", "shop.add")
        assert [(await (await app.send(name)).info()).queue for name in names] == ["mail", "slow", "default"]


@fragment("docs/scaling.md", 'app = App("shop", queues={"mail": Queue(shards=8)})')
async def _a_sharded_queue(show: Show, _: pytest.MonkeyPatch) -> None:
    app = App("shop", queues={"mail": Queue(shards=8)})
    async with app.test():

        class Opened:
            """Stands for `App` on the page: its App is in a session already."""

            def __new__(cls, name: str, queues: Any) -> Any:
                assert (name, queues) == ("shop", {"mail": Queue(shards=8)})
                return app

        names = await show(App=Opened, Queue=Queue)
        assert await names["handle"] == "Dear Ada"
        again = await names["welcome"].options(shard_key="customer-17").send("Ada")
        assert again.id.partition(".")[0] == names["handle"].id.partition(".")[0]


@fragment("docs/scaling.md", 'queue = app.queue("mail")')
async def _another_number(show: Show, _: pytest.MonkeyPatch) -> None:
    app = App("shop", queues={"mail": Queue(shards=8)})
    async with app.test():
        await show(app=app)
        assert len(await app.queue("mail").shards()) == 12


@fragment("docs/tasks.md", "handle = await add.send(1, 2)  # one call")
async def _sending(show: Show, _: pytest.MonkeyPatch) -> None:
    sent = _Sent()
    app, add = shop(sent)

    @app.task(name="shop.tasks.mul")
    async def mul(x: int, y: int) -> int:
        return x * y

    async with app.test() as session:
        names = await show(app=app, add=add, mul=mul)
        await session.drain()
        assert await gather(names["handles"]) == (3, 12)
        assert await names["handle"] == 3
        assert (await names["handle"].info()).attempts == 1
    assert sent.calls == ["add", "add", "add", "add", "mul", "add in slow", "add", "add"]


@fragment("docs/tasks.md", "@app.task")
async def _jobs_that_wait_for_jobs(show: Show, _: pytest.MonkeyPatch) -> None:
    app = App("shop", concurrency=1)

    @app.task
    async def month(year: int, number: int) -> int:
        return year * number

    names = await show(app=app, month=month, gather=gather)
    async with app.test():
        assert await (await names["report"].send(2)) == 2 * 78


@fragment("docs/tasks.md", "@app.task(retry=5)  # up to five attempts, whatever is raised")
async def _retries(show: Show, _: pytest.MonkeyPatch) -> None:
    """Five attempts, those that the rule is for, and two for the call."""
    app = App("shop")

    def declared(function: Any = None, **options: Any) -> Any:
        """`@app.task`, over a function that does nothing: here it fails."""
        if function is None:
            return partial(declared, **options)

        async def failing(error: str = "OSError") -> None:
            raise {"OSError": OSError, "ConnectionError": ConnectionError, "MyError": MyError}[error]

        return app.task(**options, name=function.__name__)(failing)

    async with app.test() as session:
        names = await show(app=types.SimpleNamespace(task=declared), Retry=Retry, MyError=MyError)
        handles = [await names["simple"].send()]
        handles += [await names["choosy"].send(error) for error in ("OSError", "ConnectionError", "MyError")]
        await session.drain()
        assert [(await handle.info()).attempts for handle in handles] == [5, 1, 5, 1]


class MyError(ConnectionError):
    """The page's."""


# -- docs/scheduling.md


@fragment("docs/scheduling.md", '@app.cron("0 6 * * mon-fri")')
async def _two_schedules(show: Show, _: pytest.MonkeyPatch) -> None:
    app = App("shop")
    await show(app=app)
    async with app.test():
        found = {schedule.id: (schedule.task, schedule.queue) for schedule in await app.schedules.list()}
    task = ("shop.tasks.report", "reports")
    assert found == {"shop.tasks.report": task, "report-at-weekends": task}


@fragment(
    "docs/scheduling.md",
    'schedule = await app.schedules.put("report", report.call("eu"), cron="0 6 * * mon-fri", tz="Europe/Berlin")',
)
async def _at_run_time(show: Show, _: pytest.MonkeyPatch) -> None:
    app = App("shop")
    async with app.test():
        names = await show(app=app, report=priced(app, "report"))
        assert await names["handle"] == "report ('eu',) {}"
        with pytest.raises(ScheduleNotFoundError):
            await app.schedules.get("report")
    schedule = names["schedule"]
    assert schedule.next_at > datetime.now(UTC) - timedelta(days=1)
    assert len(schedule.next_runs(5)) == 5


# -- elsewhere


@fragment("docs/results.md", 'handle = await echo.options(delay=3600).send("hello")')
async def _a_move(show: Show, _: pytest.MonkeyPatch) -> None:
    app = App("shop", queues={"night": Queue()})

    @app.task
    async def echo(text: str) -> str:
        return f"{text} in {current_job().queue}"

    async with app.test() as session:
        names = await show(app=app, echo=echo)
        await session.advance(3600)
        assert await app.handle(names["handle"].id) == "hello in night"


@fragment("docs/sync.md", "from shop.tasks import add")
async def _a_notebook(show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    app, add = shop()
    async with app.test():
        names = await show(add=add)
        assert await names["handle"] == 3


@fragment(TWO_HOSTS, "from proj.task1 import add")
async def _where_the_modules_are(show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples" / "two_hosts")
    task1 = importlib.import_module("proj.task1")
    monkeypatch.setattr(task1, "time", types.SimpleNamespace(sleep=lambda _: None))
    async with task1.app.test():
        assert await (await show())["handle"] == 30


@fragment("tests/README.md", "import pytest")
async def _a_test(show: Show, _: pytest.MonkeyPatch) -> None:
    names = await show()
    await names["test_a_job_runs"](types.SimpleNamespace(url="redis://nowhere"), "shop")


@fragment("tests/README.md", "def test_a_key_that_has_moved(start_cluster: Callable[..., Cluster]) -> None:")
async def _a_cluster(show: Show, _: pytest.MonkeyPatch) -> None:
    names = await show(Callable=Callable, Cluster=Cluster)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as started:

        def start(**options: Any) -> Cluster:
            return started.enter_context(Cluster.start(available()[-1], Path(folder), **options))

        await asyncio.to_thread(names["test_a_key_that_has_moved"], start)


@fragment("tests/README.md", "def test_a_new_primary(start_sentinels: Callable[..., Sentinels]) -> None:")
async def _sentinels(show: Show, _: pytest.MonkeyPatch) -> None:
    names = await show(Callable=Callable, Sentinels=Sentinels)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as started:

        def start(**options: Any) -> Sentinels:
            return started.enter_context(Sentinels.start(available()[-1], Path(folder), **options))

        await asyncio.to_thread(names["test_a_new_primary"], start)
