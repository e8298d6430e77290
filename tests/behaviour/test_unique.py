"""Unique jobs as users see them: in memory, and with a server and workers that die."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import pytest

from aioq import (
    App,
    ArgumentError,
    Cancel,
    ConfigError,
    DuplicateJobError,
    JobCancelledError,
    JobContext,
    JobFailed,
    JobState,
    Middleware,
    Outcome,
    OutcomeKind,
    Outgoing,
    Queue,
    Retry,
    Unique,
)
from aioq.testing import MemorySession
from tests.behaviour.kit import Project, state_is
from tests.databases import Database

pytestmark = pytest.mark.anyio

app = App("shop", url="redis://nowhere")
gates: list[asyncio.Event] = []  # of the test that runs; its jobs wait there
ran: list[tuple[int, str]] = []


@app.task(unique=Unique(by="user_id"))
async def sync(user_id: int, why: str = "") -> str:
    ran.append((user_id, why))
    await gates[0].wait()
    if why == "cancel":
        raise Cancel("no more")
    return why


@app.task(unique=Unique(by="user_id", conflict="raise"))
async def strict(user_id: int) -> None:
    await gates[0].wait()


@app.task(unique=Unique(by="user_id", conflict="replace"))
async def digest(user_id: int, why: str = "") -> str:
    await gates[0].wait()
    return why


@app.task(unique=Unique(by="user_id", conflict="latest"), retry=Retry(3, delay=60))
async def index(user_id: int, why: str = "") -> str:
    ran.append((user_id, why))
    await gates[0].wait()
    if why == "bad":
        raise ValueError(why)
    return why


@app.task(unique=Unique(within=60))
async def ping(user_id: int) -> None: ...


@app.task(unique=Unique(until="started"))
async def export(user_id: int) -> None:
    await gates[0].wait()


@app.task(unique=Unique(by="user_id", scope="sync"))
async def other_sync(user_id: int) -> None: ...


@app.task(unique=Unique(by="user", scope="sync"))
async def another_sync(user: int) -> str:
    return f"user {user}"


def open_gate() -> None:
    gates[0].set()


@pytest.fixture
async def session(anyio_backend: object) -> AsyncIterator[MemorySession]:
    del anyio_backend
    ran.clear()
    gates[:] = [asyncio.Event()]
    async with app.test() as session:
        yield session
        open_gate()


async def test_a_further_send_gives_a_handle_of_the_job_that_is_there(session: MemorySession) -> None:
    first = await sync.send(1, "first")
    second = await sync.send(user_id=1, why="second")
    assert (first.added, second.added, second.id) == (True, False, first.id)
    assert (await sync.send(2)).added
    open_gate()
    assert await second == "first"
    await session.drain()
    assert (await sync.send(1)).added
    assert ran[:2] == [(1, "first"), (2, "")]


@pytest.mark.usefixtures("session")
async def test_however_calls_are_sent_they_have_their_keys() -> None:
    first = await sync.send(1)
    alike = await sync.send_many([(1,), (2,), (2,)])
    mixed = await app.send_many([sync.call(2), sync.call(user_id=3), digest.call(1), sync.call(3)])
    assert [handle.added for handle in (*alike, *mixed)] == [False, True, False, False, True, True, False]
    assert alike[0].id == first.id
    assert alike[1].id == alike[2].id == mixed[0].id
    assert mixed[1].id == mixed[3].id
    named = await app.send(f"{__name__}.sync", 1)
    assert (named.added, named.id) == (False, first.id)
    given = await sync.options(unique_key="mine").send(1)
    assert given.added
    assert (await sync.options(unique_key="mine").send(2)).id == given.id


@pytest.mark.usefixtures("session")
async def test_a_call_may_fail_where_another_job_holds_its_key() -> None:
    first = await strict.send(1)
    with pytest.raises(
        DuplicateJobError, match=rf"it was not sent, because job {first.id} holds its unique key"
    ) as e:
        await strict.send(1)
    assert e.value.job_id == first.id
    with pytest.raises(DuplicateJobError):
        await strict.send_many([(2,), (1,)])
    assert await app.unique.owner(strict.unique_key(2)) is not None, "the others were sent"
    with pytest.raises(DuplicateJobError):
        await app.send_many([strict.call(1)])


@pytest.mark.usefixtures("session")
async def test_a_job_that_was_not_started_gets_the_new_arguments_and_time() -> None:
    first = await digest.options(delay=60).send(1, "old")
    due = (await first.info()).due_at
    second = await digest.options(delay=120).send(1, "new")
    assert (second.added, second.id) == (False, first.id)
    now_due = (await first.info()).due_at
    assert due is not None
    assert now_due == due + timedelta(seconds=60)
    assert await digest.options(tags=["now"]).send(1, "newest")
    open_gate()
    assert await first == "newest"
    assert (await first.info()).tags == ("now",)


async def test_one_job_runs_after_the_one_that_runs(session: MemorySession) -> None:
    first = await index.send(1, "a")
    await state_is(first, JobState.RUNNING)
    second = await index.send(1, "b")
    third = await index.send(1, "c")
    assert (second.added, third.added, third.id) == (True, False, second.id)
    why = await second.why()
    assert why.reasons[0].job == first.id
    assert why.text == f"job {first.id} has not ended, and holds its unique key"
    open_gate()
    assert (await first, await second) == ("a", "c")
    await session.drain()
    assert ran == [(1, "a"), (1, "c")]


async def test_a_job_that_is_followed_is_not_retried(session: MemorySession) -> None:
    first = await index.send(1, "bad")
    await state_is(first, JobState.RUNNING)
    second = await index.send(1, "good")
    open_gate()
    with pytest.raises(JobFailed, match="ValueError: bad"):
        await first
    assert await second == "good"
    await session.drain()


async def test_middleware_hears_that_a_job_which_is_followed_has_failed() -> None:
    seen: list[tuple[str, OutcomeKind, float | None]] = []

    class Noting(Middleware):
        async def settled(self, job: JobContext, outcome: Outcome) -> None:
            seen.append((job.id, outcome.kind, outcome.retry_in))

    shop = App("shop", url="redis://nowhere", middleware=[Noting()])
    go_on = asyncio.Event()

    @shop.task(unique=Unique(by="user_id", conflict="latest"), retry=Retry(3, delay=60))
    async def index(user_id: int, why: str) -> None:
        await go_on.wait()
        if why == "bad":
            raise ValueError(why)

    async with shop.test() as session:
        first = await index.send(1, "bad")
        await state_is(first, JobState.RUNNING)
        second = await index.send(1, "good")
        go_on.set()
        await session.drain()
    assert seen == [(first.id, OutcomeKind.FAILED, None), (second.id, OutcomeKind.SUCCEEDED, None)]


async def test_a_throttle_holds_for_its_time_only(session: MemorySession) -> None:
    first = await ping.send(1)
    await first
    assert (await ping.send(1)).id == first.id
    await session.advance(59)
    assert not (await ping.send(1)).added
    await session.advance(1)
    assert (await ping.send(1)).added


@pytest.mark.usefixtures("session")
async def test_a_key_that_is_held_until_the_start() -> None:
    first = await export.options(delay=60).send(1)
    assert not (await export.send(1)).added
    assert await first.run_now()
    await state_is(first, JobState.RUNNING)
    assert (await export.send(1)).added


@pytest.mark.usefixtures("session")
async def test_a_job_that_waits_for_its_retry_keeps_its_key() -> None:
    open_gate()
    first = await index.send(1, "bad")
    await state_is(first, JobState.SCHEDULED)
    assert (await index.send(1, "good")).id == first.id
    assert await first == "good", "it waited for its retry, so it got the new arguments"


@pytest.mark.usefixtures("session")
async def test_tasks_of_one_scope_share_their_keys() -> None:
    open_gate()
    first = await another_sync.options(delay=60).send(user=7)
    second = await other_sync.send(7)
    assert second.id == first.id
    assert await first.run_now()
    assert await second == "user 7", "it is the other task's result, of that one's type"
    assert (await sync.send(7)).added


@pytest.mark.usefixtures("session")
async def test_a_dead_job_is_queued_again_only_if_its_key_is_free() -> None:
    open_gate()
    failing = index.options(retry=1)
    dead = await failing.send(1, "bad")
    with pytest.raises(JobFailed):
        await dead
    other = await index.options(delay=60).send(1)
    with pytest.raises(DuplicateJobError, match=rf"job {dead.id} was not queued again: job {other.id} holds"):
        await dead.retry()
    done = await (await app.jobs(state="failed").retry())
    assert (done.done, done.skipped) == (0, 1)
    assert await other.cancel()
    assert await dead.retry()
    assert (await index.send(1, "good")).id == dead.id


@pytest.mark.usefixtures("session")
async def test_a_job_is_not_moved_to_a_queue_where_another_one_holds_its_key() -> None:
    first = await sync.options(delay=60).send(1)
    other = await sync.options(delay=60, queue="night").send(1)
    assert other.added, "a key holds within a queue"
    with pytest.raises(
        ConfigError, match=r"another job with this id or its unique key 'tests.*stays in 'default'"
    ):
        await first.move(queue="night")
    assert first.queue == "default"
    assert await other.cancel()
    assert await first.move(queue="night")
    assert (await sync.send(1)).added


@pytest.mark.usefixtures("session")
async def test_a_key_can_be_looked_at_and_given_back() -> None:
    first = await sync.send(1)
    key = sync.unique_key(1)
    owner = await app.unique.owner(key)
    assert owner is not None
    assert owner.id == first.id
    assert (await first.info()).unique_key == key
    assert await app.unique.owner(key, queue="other") is None
    released = await app.unique.release(key)
    assert released is not None
    assert released.id == first.id
    assert await app.unique.owner(key) is None
    assert await app.unique.release(key) is None
    assert (await sync.send(1)).added


@pytest.mark.usefixtures("session")
async def test_a_cancelled_job_gives_its_key_back() -> None:
    first = await sync.options(delay=60).send(1)
    assert await first.cancel()
    second = await sync.send(1, "cancel")
    assert second.added
    open_gate()
    with pytest.raises(JobCancelledError, match="no more"):
        await second
    assert (await sync.send(1)).added


async def test_a_key_is_made_after_the_middleware_and_its_reply_is_that_of_a_send() -> None:
    seen: list[bool] = []

    class Lower(Middleware):
        async def send(self, call: Outgoing, forward: Callable[[Outgoing], Awaitable[bool]]) -> bool:
            call.args = tuple(each.lower() for each in call.args)
            seen.append(await forward(call))
            return seen[-1]

    shop = App("shop", url="redis://nowhere", middleware=[Lower()])

    @shop.task(unique=Unique())
    async def greet(name: str) -> None: ...

    async with shop.test():
        first = await greet.options(delay=60).send("Ann")
        assert (await greet.send("ANN")).id == first.id
        (third,) = await greet.send_many([("ann",)])
        assert (third.added, third.id) == (False, first.id)
    assert seen == [True, False, False]


async def test_in_a_sharded_queue_a_key_chooses_the_shard() -> None:
    shop = App("shop", url="redis://nowhere", queues={"mail": Queue(shards=8)})

    @shop.task(unique=Unique(by="user_id"), queue="mail")
    async def post(user_id: int) -> None: ...

    async with shop.test():
        later = post.options(delay=60)
        first = [await later.send(number) for number in range(40)]
        again = [*await later.send_many([(number,) for number in range(20)])]
        again += await shop.send_many([later.call(number) for number in range(20, 40)])
        assert [handle.id for handle in first] == [handle.id for handle in again]
        assert not any(handle.added for handle in again)
        with pytest.raises(ConfigError, match="shard_key and a unique key"):
            await later.options(shard_key="a").send(1)
        owner = await shop.unique.owner(post.unique_key(3))
        assert owner is not None
        assert owner.id == first[3].id


async def test_in_a_sharded_queue_a_middleware_may_not_change_what_the_key_is_made_of() -> None:
    class Lower(Middleware):
        async def send(self, call: Outgoing, forward: Callable[[Outgoing], Awaitable[bool]]) -> bool:
            call.args = (call.args[0].lower(), call.args[1].lower())
            return await forward(call)

    shop = App("shop", url="redis://nowhere", queues={"mail": Queue(shards=8)}, middleware=[Lower()])

    @shop.task(unique=Unique(by="name"), queue="mail")
    async def greet(name: str, text: str) -> None: ...

    async with shop.test():
        assert (await greet.send("ann", "HELLO")).added
        with pytest.raises(ArgumentError, match="a middleware has changed an argument of which the unique key"):
            await greet.send("Ann", "hello")
        with pytest.raises(ArgumentError, match="queue 'mail' is sharded"):
            await greet.send_many([("bob", "hello"), ("Ann", "hello")])
        with pytest.raises(ArgumentError, match="queue 'mail' is sharded"):
            await shop.send_many([greet.call("Ann", "hello")])


async def test_a_job_that_is_moved_to_a_sharded_queue_is_met_there_by_its_key() -> None:
    shop = App("shop", url="redis://nowhere", queues={"mail": Queue(shards=8)})

    @shop.task(unique=Unique(by="user_id"))
    async def post(user_id: int) -> None: ...

    async with shop.test() as session:
        later = post.options(delay=60)
        moved = [await later.send(number) for number in range(16)]
        assert all([await handle.move(queue="mail") for handle in moved[:8]])
        operation = await shop.jobs(queue="default", state="scheduled").move(queue="mail")
        await operation
        again = [await later.options(queue="mail").send(number) for number in range(16)]
        assert [handle.id for handle in again] == [handle.id for handle in moved]
        await session.advance(60)


async def test_schedules_take_part() -> None:
    shop = App("shop", url="redis://nowhere", queues={"mail": Queue(shards=8)})

    @shop.every(60)
    @shop.task(unique=Unique(), queue="mail")
    async def clean() -> None: ...

    async with shop.test() as session:
        first = await clean.options(delay=3600).send()
        await session.advance(120)
        schedule = await shop.schedules.get(clean.name)
        assert (schedule.runs, schedule.skipped) == (0, 2)
        now = await shop.schedules.run_now(clean.name)
        assert (now.id, now.added) == (first.id, False)
        assert await first.cancel()
        await session.advance(60)
        assert (await shop.schedules.get(clean.name)).runs == 1


async def test_a_key_that_cannot_be_made_sends_nothing(session: MemorySession) -> None:
    class Opaque: ...

    with pytest.raises(ArgumentError):
        await sync.send_many([(1,), (Opaque(),)])
    await session.drain()
    assert not ran


PROJECT = """
import asyncio
import os
import signal
from pathlib import Path

from aioq import App, Unique

app = App()


@app.task(unique=Unique(by="user_id"))
async def sync(user_id: int, kill: str = "") -> str:
    if kill and not Path(kill).exists():
        Path(kill).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"
"""


async def test_the_key_of_a_worker_that_is_killed_goes_on_with_its_job(project: Project) -> None:
    project.write("work.py", PROJECT)
    tasks = project.load("work")
    async with tasks.app:
        await project.ready_worker("work:app", AIOQ_LEASE="2")
        first = await tasks.sync.send(1, str(project.folder / "killed"))
        assert (await tasks.sync.send(1)).id == first.id
        project.worker("work:app", AIOQ_LEASE="2")
        assert await first.result(timeout=20) == "done"
        assert (await first.info()).crashes == 1
        assert await tasks.app.unique.owner(tasks.sync.unique_key(1)) is None
        again = await tasks.sync.send(1)
        assert again.added
        assert await again.result(timeout=20) == "done"


async def test_senders_at_once_add_one_job(server: Database, app_name: str) -> None:
    shops = [App(app_name, url=server.url) for _ in range(3)]
    tasks = [shop.task(name="sync", unique=Unique())(_do) for shop in shops]
    handles = await asyncio.gather(*(tasks[number % 3].send(number % 5) for number in range(60)))
    assert sum(handle.added or False for handle in handles) == 5
    assert len({handle.id for handle in handles}) == 5
    for shop in shops:
        await shop.aclose()


async def _do(number: int) -> None:
    del number


def test_sync_code_asks_for_keys_too() -> None:
    with app.test() as session:
        first = sync.options(delay=60).send_sync(1)
        owner = app.unique.owner_sync(sync.unique_key(1))
        assert owner is not None
        assert owner.id == first.id
        released = app.unique.release_sync(sync.unique_key(1))
        assert released is not None
        assert first.cancel_sync()
        session.drain()


NAMED = """
import asyncio
from pathlib import Path

from aioq import App, Unique

app = App()


@app.task(unique=Unique(by="user_id"))
async def sync(user_id: int, gate: str = "") -> str:
    while gate and not Path(gate).exists():
        await asyncio.sleep(0.01)
    return gate


@app.task(unique=Unique(by="user_id", conflict="latest"))
async def index(user_id: int, version: int, gate: str = "") -> int:
    while gate and not Path(gate).exists():
        await asyncio.sleep(0.01)
    return version


@app.task(unique=Unique(by="user_id", conflict="latest"), executor="process")
def heavy(user_id: int) -> int:
    return user_id
"""


async def test_a_job_that_is_sent_by_name_gets_its_key_from_the_worker(project: Project) -> None:
    project.write("work.py", NAMED)
    tasks = project.load("work")
    sender = App(project.name, url=project.settings["AIOQ_URL"])
    gate = project.folder / "gate"
    async with tasks.app, sender:
        await project.ready_worker("work:app", "--concurrency", "4")
        first = await sender.send("work.sync", 1, str(gate))
        await state_is(first, JobState.RUNNING)
        second = await sender.send("work.sync", 1)
        with pytest.raises(JobCancelledError, match=f"job {first.id} holds its unique key"):
            await second.result(timeout=20)
        assert (await tasks.sync.send(1)).id == first.id
        assert (await sender.send("work.heavy", 5)).added

        running = await sender.send("work.index", 1, 1, gate=str(gate))
        await state_is(running, JobState.RUNNING)
        later = await sender.send("work.index", 1, 2)
        await state_is(later, JobState.SCHEDULED)  # it waits for the end of the other one
        gate.touch()
        assert await running.result(timeout=20) == 1
        assert await later.result(timeout=20) == 2
        assert await first.result(timeout=20) == str(gate)
        again = await sender.send("work.sync", 1)
        assert await again.result(timeout=20) == ""
        assert await tasks.app.unique.owner(tasks.sync.unique_key(1)) is None


async def test_in_memory_a_job_that_is_sent_by_name_gets_its_key_too() -> None:
    shop = App("shop", url="redis://nowhere")
    waits = asyncio.Event()

    async with shop.test() as session:
        named = shop.by_name("sync")  # before the task is declared, as in a process that does not import it

        @shop.task(name="sync", unique=Unique(by="user_id", conflict="replace"))
        async def sync(user_id: int, why: str = "") -> str:
            await waits.wait()
            return why

        later = await sync.options(delay=60).send(1, "old")
        with pytest.raises(JobCancelledError, match=f"job {later.id} holds its unique key"):
            await (await named.send(1, "new"))
        waits.set()
        assert await later == "new", "its call took the place of the other one, and its time"
        first = await named.send(2, "first")
        assert await first == "first"
        await session.drain()
