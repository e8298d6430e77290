"""Debounced jobs as users see them: in memory with a clock of their own, and with a server and a worker."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from aioq import App, ArgumentError, ConfigError, Debounce, JobCancelledError, JobState, Queue, Retry, Unique
from aioq.testing import MemorySession
from tests.behaviour.kit import Project, state_is
from tests.databases import Database

pytestmark = pytest.mark.anyio

app = App("shop", url="redis://nowhere")
saved: list[tuple[str, str]] = []


@app.task(debounce=Debounce(by="doc", wait=5, max_wait=12), retry=Retry(2, delay=60, jitter=False))
async def save(doc: str, text: str = "") -> str:
    saved.append((doc, text))
    if text == "bad":
        raise ValueError(text)
    return text


@app.task(debounce=Debounce(wait=timedelta(seconds=5)))
async def refresh() -> None: ...


@pytest.fixture
async def session(anyio_backend: object) -> AsyncIterator[MemorySession]:
    del anyio_backend
    saved.clear()
    async with app.test() as session:
        yield session


async def test_the_last_call_runs_once_there_was_no_further_one(session: MemorySession) -> None:
    first = await save.send("a", "1")
    await session.advance(4)
    second = await save.send("a", text="2")
    other = await save.send("b", "3")
    assert (first.added, second.added, second.id, other.added) == (True, False, first.id, True)
    await session.advance(4)
    assert saved == []
    await session.advance(1)
    assert sorted(saved) == [("a", "2"), ("b", "3")]
    assert (await first, await second) == ("2", "2")


async def test_the_job_is_not_put_off_for_longer_than_that(session: MemorySession) -> None:
    for number in range(4):
        await save.send("a", str(number))
        await session.advance(4)
    assert saved == [("a", "2")], "12 s after the first call"
    await session.advance(1)
    assert saved == [("a", "2"), ("a", "3")]


async def test_a_call_after_the_start_begins_a_new_series(session: MemorySession) -> None:
    first = await save.send("a", "bad")
    await session.advance(5)
    assert await first.status() == "scheduled"  # for its retry
    second = await save.send("a", "good")
    assert second.added
    await session.advance(5)
    assert saved == [("a", "bad"), ("a", "good")]
    await session.advance(60)
    assert saved[2:] == [("a", "bad")]


async def test_calls_that_are_sent_together_join_too(session: MemorySession) -> None:
    handles = await save.send_many([("a", "1"), ("b", "1"), ("a", "2")])
    assert [handle.added for handle in handles] == [True, True, False]
    assert handles[2].id == handles[0].id
    handles = await app.send_many([save.call("b", "2"), save.call("a", "3"), refresh.call()])
    assert [handle.added for handle in handles] == [False, False, True]
    await session.advance(5)
    assert sorted(saved) == [("a", "3"), ("b", "2")]


async def test_the_options_of_the_last_call_count(session: MemorySession) -> None:
    first = await save.options(tags=["one"], priority="low", headers={"by": "ann"}).send("a")
    await save.options(tags=["two"], priority="high", retry=1, headers={"by": "bob"}).send("a", "bad")
    info = await first.info()
    assert (info.tags, info.priority) == (("two",), "high")
    await session.advance(5)
    assert await first.status() == "failed"
    assert (await first.info()).headers == {"by": "bob"}


async def test_a_job_that_waits_can_be_found_and_ended(session: MemorySession) -> None:
    first = await save.send("a", "1")
    owner = await app.unique.owner(save.unique_key("a"))
    assert owner is not None
    assert owner.id == first.id
    assert await first.cancel()
    assert (await save.send("a", "2")).added
    await session.advance(5)
    assert saved == [("a", "2")]


async def test_a_key_of_the_callers_own_takes_the_place_of_the_arguments(session: MemorySession) -> None:
    mine = save.options(unique_key="mine")
    first = await mine.send("a", "1")
    assert (await mine.send("b", "2")).id == first.id
    await session.advance(5)
    assert saved == [("b", "2")]


async def test_ticks_are_calls() -> None:
    shop = App("shop", url="redis://nowhere")
    runs: list[str] = []

    @shop.every(60)
    @shop.task(debounce=Debounce(wait=90))
    async def clean() -> None:
        runs.append("clean")

    async with shop.test() as session:
        await session.advance(300)
        assert runs == [], "each tick has put it off"
        schedule = await shop.schedules.get(clean.name)
        assert schedule.runs == 1
        assert schedule.skipped > 2
        await shop.schedules.pause(clean.name)
        await session.advance(90)
        assert runs == ["clean"]


async def test_in_a_sharded_queue_a_key_chooses_the_shard() -> None:
    shop = App("shop", url="redis://nowhere", queues={"mail": Queue(shards=8)})
    posted: list[int] = []

    @shop.task(debounce=Debounce(by="user_id", wait=5), queue="mail")
    async def post(user_id: int, number: int) -> None:
        posted.append(number)

    async with shop.test() as session:
        first = [await post.send(user, user) for user in range(20)]
        again = await post.send_many([(user, user + 100) for user in range(20)])
        assert [handle.id for handle in again] == [handle.id for handle in first]
        with pytest.raises(ConfigError, match="shard_key and a unique key"):
            await post.options(shard_key="a").send(1, 1)
        await session.advance(5)
    assert sorted(posted) == list(range(100, 120))


async def test_a_call_by_name_joins_the_series_at_the_worker() -> None:
    shop = App("shop", url="redis://nowhere")
    posted: list[str] = []

    async with shop.test() as session:
        named = shop.by_name("post")  # before the task is declared, as in a process that does not import it

        @shop.task(name="post", debounce=Debounce(by="user", wait=5))
        async def post(user: int, text: str) -> str:
            posted.append(text)
            return text

        first = await named.send(1, "one")
        await state_is(first, JobState.SCHEDULED)
        second = await named.send(1, "two")
        with pytest.raises(JobCancelledError, match=f"job {first.id} has its call now"):
            await second
        assert (await post.send(1, "three")).id == first.id
        await session.advance(5)
        assert posted == ["three"]
        assert await first == "three"


WORK = """
from aioq import App, Debounce

app = App()


@app.task(debounce=Debounce(by="doc", wait=0.3))
async def save(doc: str, text: str) -> str:
    return text
"""


async def test_a_worker_runs_the_last_call_of_senders_that_know_the_task_and_that_do_not(project: Project) -> None:
    project.write("work.py", WORK)
    tasks = project.load("work")
    sender = App(project.name, url=project.settings["AIOQ_URL"])
    async with tasks.app, sender:
        await project.ready_worker("work:app")
        first = await tasks.save.send("a", "1")
        last = await tasks.save.send("a", "2")
        assert await first.result(timeout=20) in {"1", "2"}
        assert await last.result(timeout=20) == "2"
        named = await sender.send("work.save", "b", "3")
        assert await named.result(timeout=20) == "3"


async def test_senders_at_once_make_one_series(server: Database, app_name: str) -> None:
    shops = [App(app_name, url=server.url) for _ in range(2)]
    tasks = [shop.task(name="save", debounce=Debounce(by="doc", wait=600))(_save) for shop in shops]
    handles = await asyncio.gather(*(tasks[number % 2].send(number % 3, number) for number in range(60)))
    assert sum(handle.added or False for handle in handles) == 3
    assert len({handle.id for handle in handles}) == 3
    for shop in shops:
        await shop.aclose()


async def _save(doc: int, number: int) -> None:
    del doc, number


# -- what is refused where it is written

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"wait": 0}, r"wait=0: expected more than 0 s and at most ten years"),
    ({"wait": -1}, r"wait=-1: expected more than 0 s"),
    ({"wait": "5"}, r"wait='5': expected more than 0 s"),
    ({"wait": None}, r"wait=None: expected more than 0 s"),
    ({"wait": 5, "max_wait": 0}, r"max_wait=0: expected more than 0 s"),
    ({"wait": 5, "max_wait": 4}, r"max_wait=4 is shorter than wait=5"),
    (
        {"wait": 5, "max_wait": timedelta(days=36_600)},
        r"max_wait=.*: expected more than 0 s and at most ten years",
    ),
    ({"wait": 5, "by": []}, r"by=\[\]: expected the name of a parameter"),
    ({"wait": 5, "by": 7}, r"by=7: expected the name of a parameter"),
]


def test_what_is_wrong_is_refused_where_it_is_written() -> None:
    for given, message in WRONG:
        with pytest.raises(ConfigError, match=f"^Debounce: {message}"):
            Debounce(**given)
    with pytest.raises(TypeError, match="wait"):
        Debounce(by="doc")  # pyright: ignore[reportCallIssue] - the point of it


def declare(**options: Any) -> Any:
    @App("shop", url="redis://nowhere").task(name="save", **options)
    async def save(doc: str) -> None: ...

    return save


def test_options_that_contradict_a_debounce_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"Debounce: by='docs': there is no parameter 'docs' .did you mean 'doc'"
    ):
        declare(debounce=Debounce(by="docs", wait=5))
    with pytest.raises(ConfigError, match=r"task 'save': debounce=5: expected a Debounce"):
        declare(debounce=5)
    with pytest.raises(ConfigError, match=r"task 'save': give unique or debounce, not both"):
        declare(debounce=Debounce(wait=5), unique=Unique())
    task = declare(debounce=Debounce(wait=5))
    for given in ({"delay": 5}, {"eta": datetime.now(UTC) + timedelta(hours=1)}):
        with pytest.raises(ConfigError, match=r"task 'save': delay or eta and debounce"):
            task.options(**given)
    with pytest.raises(ConfigError, match=r"give unique or debounce, not both"):
        task.options(unique=Unique())
    assert task.options(delay=0, debounce=Debounce(wait=1))


async def test_a_function_that_makes_no_key_sends_nothing() -> None:
    shop = App("shop", url="redis://nowhere")

    @shop.task(debounce=Debounce(by=lambda call: call["doc"] or None, wait=5))
    async def save(doc: str) -> None: ...

    async with shop.test():
        with pytest.raises(ArgumentError, match=r"the function of Debounce\(by=...\) returned None"):
            await save.send("")
    with pytest.raises(ConfigError, match=r"Debounce\(\): the task is not known here; give unique_key"):
        async with shop.test():
            await shop.by_name("other").options(debounce=Debounce(wait=5)).send(1)
