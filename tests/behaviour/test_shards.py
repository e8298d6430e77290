"""Sharded queues, from `send` to the result."""

import asyncio
import logging
import signal
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aioq import (
    App,
    ConfigError,
    JobNotFoundError,
    JobState,
    Limit,
    Queue,
    ServerUnavailableError,
    current_job,
    gather,
)
from aioq.app import internals_of
from aioq.jobs.shards import shard_name, shard_of
from aioq.operate import shard_changes
from aioq.producer import shards as shard_module
from aioq.worker import Worker
from benchmarks.monitor import monitored
from tests.behaviour.kit import Project, keys, until
from tests.clusters import Cluster
from tests.databases import Database

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90), pytest.mark.long(seconds=15)]

SHARDS = 4


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes of the number are noticed soon."""
    monkeypatch.setattr(shard_module, "READ_EVERY", 0.1)
    monkeypatch.setattr(shard_module, "READ_EVERY_PLAIN", 0.1)


class Shop:
    """An App with a sharded queue, and what its jobs did, in order.

    Attributes:
        app: the App.
        add: a task of the queue.
        note: a task that notes its runs.
        noted: by key the numbers that were noted, in the order of the runs.
        ran: how often each job ran.
        gates: what `wait` jobs wait for, by name.
    """

    def __init__(self, name: str, url: str, shards: int | None = SHARDS, **settings: Any) -> None:
        queues = {} if shards is None else {"mail": Queue(shards=shards)}
        self.app = app = App(name, url=url, queues=queues, poll_interval=3600, **settings)
        self.noted: defaultdict[str, list[int]] = defaultdict(list)
        self.ran: Counter[str] = Counter()

        @app.task(name="add", queue="mail")
        async def add(x: int, y: int) -> int:
            self.ran[current_job().id] += 1
            return x + y

        @app.task(name="note", queue="mail")
        async def note(key: str, number: int) -> str:
            self.noted[key].append(number)
            self.ran[current_job().id] += 1
            return current_job().queue

        self.add, self.note = add, note

    @asynccontextmanager
    async def worker(self, concurrency: int = 10) -> AsyncIterator[Worker]:
        parts = internals_of(self.app).app_parts()
        worker = Worker(parts, queues=["default", "mail"], concurrency=concurrency)
        running = asyncio.create_task(worker.run())
        try:
            yield worker
        finally:
            worker.stop()
            await running

    async def change(self, number: int, before: int) -> None:
        await (await internals_of(self.app).store()).shards.change("mail", number, before)

    async def has(self, number: int) -> None:
        """Return when this process knows that the queue has so many shards."""
        table = (await internals_of(self.app).shards()).table
        await until(lambda: table["mail"].number == number, f"{number} shards")


@pytest.fixture(params=["server", "cluster"])
def url(request: pytest.FixtureRequest) -> str:
    """That of a server, or of a cluster."""
    place: Database | Cluster = request.getfixturevalue("redis_server" if request.param == "server" else "cluster")
    return place.url


@pytest.fixture
async def shop(url: str, app_name: str) -> AsyncIterator[Shop]:
    made = Shop(app_name, url)
    async with made.app:
        yield made


# -- results, and what is asked of jobs ---------------------------------------------------------------------------


async def test_jobs_of_all_shards_are_run_and_awaited(shop: Shop) -> None:
    async with shop.worker():
        one = await shop.add.send(1, 2)
        many = await shop.add.send_many([(number, 0) for number in range(40)])
        mixed = await shop.app.send_many([shop.add.call(number, 1) for number in range(8)])
        assert await one == 3
        assert await gather(many) == tuple(range(40))
        assert await gather(mixed) == tuple(range(1, 9))
    assert Counter(handle.id.partition(".")[0] for handle in many) == dict.fromkeys(
        [shard_name("mail", shard) for shard in range(SHARDS)], 10
    )
    assert {handle.queue for handle in (one, *many, *mixed)} == {"mail"}
    assert set(shop.ran.values()) == {1}


async def test_another_process_finds_a_job_by_its_id(shop: Shop, app_name: str) -> None:
    generated = await shop.add.send_many([(number, 0) for number in range(SHARDS)])
    mine = await shop.add.options(job_id="mine").send(1, 1)
    keyed = await shop.add.options(job_id="keyed", shard_key="eu").send(2, 2)
    other = Shop(app_name, shop.app.settings.url or "", shards=None)
    async with shop.worker(), other.app:
        assert [await other.app.handle(handle.id) for handle in generated] == list(range(SHARDS))
        assert await other.app.handle("mine") == await mine == 2
        assert await other.app.handle("keyed") == await keyed == 4
        assert await other.app.handle("keyed", queue="mail") == 4
        assert (await other.app.handle("keyed").info()).queue == "mail"
        with pytest.raises(JobNotFoundError, match=r"there is no job 'nobody' in the queues default, mail"):
            await other.app.handle("nobody").info()
        with pytest.raises(JobNotFoundError, match=r"there is no job 'nobody' in queue 'mail'"):
            await other.app.handle("nobody", queue="mail")


async def test_a_job_is_cancelled_moved_and_looked_at_in_its_shard(shop: Shop) -> None:
    delayed = [await shop.add.options(delay=3600).send(number, 0) for number in range(SHARDS * 3)]
    assert len({handle.id.partition(".")[0] for handle in delayed}) == SHARDS
    every = [shop.app.handle(handle.id) for handle in delayed]
    assert {await handle.status() for handle in every} == {JobState.SCHEDULED}
    assert [await handle.cancel() for handle in every[:SHARDS]] == [True] * SHARDS
    assert {await handle.status() for handle in every[:SHARDS]} == {JobState.CANCELLED}
    assert [await handle.run_now() for handle in every[SHARDS : 2 * SHARDS]] == [True] * SHARDS
    assert [await handle.reschedule(delay=0.01) for handle in every[2 * SHARDS :]] == [True] * SHARDS
    async with shop.worker():
        assert await gather(delayed[SHARDS:]) == tuple(range(SHARDS, SHARDS * 3))


async def test_an_id_of_the_callers_own_is_one_job(shop: Shop) -> None:
    first = await shop.add.options(job_id="order-7").send(1, 1)
    again = await shop.add.options(job_id="order-7").send(1, 1)
    many = await shop.app.send_many([shop.add.options(job_id="order-7").call(1, 1)] * 3)
    assert [first.added, again.added, *(handle.added for handle in many)] == [True, False, False, False, False]
    async with shop.worker():
        assert await gather(first, again, *many) == (2,) * 5
    assert shop.ran == {"order-7": 1}


# -- which shard --------------------------------------------------------------------------------------------------


async def test_jobs_of_one_key_run_in_the_order_in_which_they_were_sent(shop: Shop) -> None:
    keys_, jobs = [f"customer-{number}" for number in range(10)], 10
    handles = [await shop.note.options(shard_key=key).send(key, number) for number in range(jobs) for key in keys_]
    for key in keys_:
        handles += await shop.note.options(shard_key=key).send_many([(key, jobs), (key, jobs + 1)])
    async with shop.worker(concurrency=1):
        assert set(await gather(handles)) == {"mail"}
    assert dict(shop.noted) == {key: list(range(jobs + 2)) for key in keys_}
    places = {handle.id.partition(".")[0] for handle in handles}
    assert places == {shard_name("mail", shard_of(key, SHARDS)) for key in keys_}


async def test_a_key_is_no_matter_where_a_queue_has_one_shard(redis_server: Database, app_name: str) -> None:
    shop = Shop(app_name, redis_server.url, shards=None)
    async with shop.app, shop.worker():
        handle = await shop.add.options(shard_key="eu").send(1, 2)
        assert await handle == 3
        assert handle.id.startswith("mail.")
    with redis_server.client() as client:
        assert not [key for key in keys(client, app_name) if "#" in key or key.endswith(":shards")]


@pytest.mark.parametrize("number", [1, 3, 400, 2_000, 2_400])
async def test_a_send_many_takes_as_many_calls_as_there_are_shards(
    number: int, redis_server: Database, app_name: str
) -> None:
    shop = Shop(app_name, redis_server.url)
    async with shop.app:
        await shop.add.send(0, 0)
        with monitored(redis_server.server) as seen:
            await shop.add.send_many([(each, 0) for each in range(number)])
        calls = min(number, SHARDS) * -(-number // (500 * SHARDS))
        assert calls <= seen.by_clients <= calls + 1, "and perhaps a read of the number"


# -- another number -----------------------------------------------------------------------------------------------


async def test_an_app_with_another_number_uses_that_of_the_server(
    shop: Shop, app_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    await shop.add.send(1, 1)
    other = Shop(app_name, shop.app.settings.url or "", shards=2)
    with caplog.at_level(logging.WARNING):
        async with other.app, other.worker():
            handles = await other.add.send_many([(number, 0) for number in range(40)])
            assert await gather(handles) == tuple(range(40))
    assert len({handle.id.partition(".")[0] for handle in handles}) == SHARDS
    found = [record.message for record in caplog.records if "declares" in record.message]
    assert found == [
        "queue mail: this App declares 2 shards and the server has 4, which are used; declare 4, or change the "
        "server's number: aioq shards MODULE:APP mail 2"
    ]


@pytest.mark.parametrize(
    ("before", "after", "url"),
    [
        *((1, 4, "server"), (4, 7, "server"), (6, 2, "server"), (3, 1, "server")),
        *((1, 4, "cluster"), (4, 7, "cluster"), (6, 2, "cluster")),
    ],
    indirect=["url"],
)
async def test_the_number_is_changed_under_load_and_nothing_is_lost(
    before: int, after: int, url: str, app_name: str
) -> None:
    shop = Shop(app_name, url, shards=None)
    old = Shop(app_name, url, shards=None)
    async with shop.app, old.app:
        if before > 1:
            await shop.change(before, 1)
        async with shop.worker():
            handles: list[Any] = []

            async def load(sender: Shop) -> None:
                while not done.is_set():
                    handles.extend(await sender.add.send_many([(1, 1)] * 10))
                    handles.append(await sender.add.send(1, 1))

            done = asyncio.Event()
            loads = [asyncio.create_task(load(each)) for each in (shop, old)]
            await until(lambda: len(shop.ran) > 50, "jobs that have run")
            await shop.change(after, before)
            for each in (shop, old):
                await each.has(after)
            already = len(handles)
            await until(lambda: len(handles) > already + 50, "jobs that are sent with the new number")
            done.set()
            await asyncio.gather(*loads)
            assert set(await gather(handles)) == {2}
    assert len(shop.ran) == len(handles)
    assert set(shop.ran.values()) == {1}
    last = {handle.id.partition(".")[0] for handle in handles[-11:]}
    assert last <= {shard_name("mail", shard) for shard in range(after)}


async def test_a_sender_with_the_number_before_is_served(
    redis_server: Database, app_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(app_name, redis_server.url, shards=6)
    old = Shop(app_name, redis_server.url, shards=6)
    monkeypatch.setattr(shard_module, "READ_EVERY", 3600)
    async with old.app:
        assert await (await old.add.send_many([(1, 1)] * 6))[0].status() is JobState.QUEUED
        monkeypatch.setattr(shard_module, "READ_EVERY", 0.05)
        async with shop.app:
            await shop.change(2, 6)
            async with shop.worker():
                await shop.has(2)
                handles = await old.add.send_many([(1, 1)] * 6)
                assert len({handle.id.partition(".")[0] for handle in handles}) == 6
                assert await gather(handles) == (2,) * 6


# -- schedules ----------------------------------------------------------------------------------------------------


async def places_of(app: App, schedule_id: str) -> list[str]:
    """The shards that have a schedule."""
    store = await internals_of(app).store()
    names = [shard_name("mail", shard) for shard in range(8)]
    return [name for name in names if (await store.timetable.read(name, [schedule_id])).entries]


async def test_a_schedule_lives_in_one_shard_and_ticks_there(shop: Shop) -> None:
    for number in range(8):
        shop.app.schedule(f"declared-{number}", shop.note.call(f"declared-{number}", 0), every=0.2)
    shop.app.schedule("keyed", shop.note.options(shard_key="eu").call("keyed", 0), every=0.2)
    async with shop.worker():
        await shop.app.schedules.put("put", shop.note.call("put", 0), every=0.2)
        names = ["put", "keyed", *(f"declared-{number}" for number in range(8))]
        await until(lambda: all(len(shop.noted[name]) >= 2 for name in names), "ticks")
        assert {each.queue for each in await shop.app.schedules.list()} == {"mail"}
        homes = {name: await places_of(shop.app, name) for name in names}
        assert {len(found) for found in homes.values()} == {1}
        assert homes["keyed"] == [shard_name("mail", shard_of("eu", SHARDS))]
        assert homes["put"] == [shard_name("mail", shard_of("put", SHARDS))]
        assert await (await shop.app.schedules.run_now("put")) == "mail"
        last = (await shop.app.schedules.get("put")).last_job or ""
        assert await shop.app.handle(last) == "mail"
        await shop.app.schedules.remove("put")
        assert await places_of(shop.app, "put") == []


async def test_another_number_moves_no_schedule_unless_its_shard_is_given_up(shop: Shop) -> None:
    ids = [f"s{number}" for number in range(12)]
    for each in ids:
        shop.app.schedule(each, shop.note.call(each, 0), every=3600)
    async with shop.worker():
        await until_async(lambda: all_placed(shop, ids))
    before = {each: await places_of(shop.app, each) for each in ids}
    await shop.app.schedules.pause("s3")
    await shop.app.schedules.put("s4", shop.note.call("s4", 1), every=7200)
    await shop.app.schedules.remove("s5")

    await shop.app.queue("mail").set_shards(8)
    async with shop.worker():
        await shop.has(8)
        assert {each: await places_of(shop.app, each) for each in ids} == before

    found = await shop.app.queue("mail").set_shards(2)
    assert sum(each.schedules for each in found if each.draining) == 0
    async with shop.worker():
        after = {each: await places_of(shop.app, each) for each in ids}
    assert {len(homes) for homes in after.values()} == {1}
    assert {name for homes in after.values() for name in homes} <= {"mail", "mail#1"}
    assert all(after[each] == homes for each, homes in before.items() if homes[0] in {"mail", "mail#1"})
    assert (await shop.app.schedules.get("s3")).paused
    assert (await shop.app.schedules.get("s4")).every == 7200
    assert "s5" not in [each.id for each in await shop.app.schedules.list()]


async def all_placed(shop: Shop, ids: list[str]) -> bool:
    return all([await places_of(shop.app, each) for each in ids])


async def until_async(holds: Callable[[], Awaitable[bool]]) -> None:
    """Return when the server says so."""
    loop = asyncio.get_running_loop()
    end = loop.time() + 20
    while not await holds():
        assert loop.time() < end
        await asyncio.sleep(0.02)


# -- looking at a queue, and changing it --------------------------------------------------------------------------


async def test_what_stands_in_each_shard(shop: Shop) -> None:
    queue = shop.app.queue("mail")
    await shop.add.send_many([(number, 0) for number in range(SHARDS * 3)])
    await shop.add.options(delay=3600, shard_key="eu").send(1, 1)
    found = await queue.shards()
    assert [each.shard for each in found] == list(range(SHARDS))
    assert [each.queued for each in found] == [3] * SHARDS
    assert [each.scheduled for each in found] == [int(each.shard == shard_of("eu", SHARDS)) for each in found]
    assert not any(each.draining for each in found)
    assert len(await shop.app.queue("default").shards()) == 1


async def test_shards_that_are_given_up_are_dropped_once_they_are_empty(shop: Shop) -> None:
    queue = shop.app.queue("mail")
    handles = await shop.add.send_many([(number, 0) for number in range(SHARDS)])
    found = await queue.set_shards(2)
    assert [(each.draining, each.queued) for each in found] == [(False, 1), (False, 1), (True, 1), (True, 1)]
    assert len(await queue.drop_drained()) == SHARDS, "they are not empty"
    async with shop.worker():
        assert await gather(handles) == tuple(range(SHARDS))
        await until_async(lambda: all_empty(shop))
    assert len(await queue.drop_drained()) == 2
    assert [each.draining for each in await queue.shards()] == [False, False]
    other = Shop(shop.app.name, shop.app.settings.url or "", shards=None)
    async with other.app, other.worker() as worker:
        await until(lambda: "mail#1" in worker.served, "it serves")
        assert worker.served == ("default", "mail", "mail#1")
        assert await other.app.handle(handles[-1].id) == 3, "results stay where they are"


async def all_empty(shop: Shop) -> bool:
    return all(each.is_empty for each in await shop.app.queue("mail").shards())


@pytest.mark.parametrize("number", [0, -1, True, 1025, "4", None, 1.0])
async def test_a_wrong_number_changes_nothing(number: Any, redis_server: Database, app_name: str) -> None:
    shop = Shop(app_name, redis_server.url)
    async with shop.app:
        with pytest.raises(ConfigError, match=r"shards must be an integer from 1 to 1024, not "):
            await shop.app.queue("mail").set_shards(number)
        assert len(await shop.app.queue("mail").shards()) == SHARDS


# -- processes ----------------------------------------------------------------------------------------------------

JOBS = """
import asyncio
from pathlib import Path
from aioq import App, Queue, current_job

app = App(queues={"mail": Queue(shards=4)})


@app.task(queue="mail")
async def run(gate: str) -> str:
    with Path(f"{gate}.ran").open("a") as file:
        print(current_job().id, current_job().queue, file=file)
    while not Path(gate).exists():
        await asyncio.sleep(0.02)
    return current_job().id
"""


@pytest.fixture
def jobs(project: Project) -> Project:
    project.write("jobs.py", JOBS)
    project.settings["AIOQ_LEASE"] = "2"
    return project


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


async def test_jobs_of_all_shards_come_back_when_their_worker_is_killed(jobs: Project, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    worker = await jobs.ready_worker("jobs:app")
    assert "│ queues      │ default, mail (4 shards)" in worker.log
    module = jobs.load("jobs")
    async with module.app:
        handles = await module.run.send_many([(str(gate),)] * 8)
        ran = Path(f"{gate}.ran")
        await until(lambda: len(lines(ran)) == 8, "all run")
        worker.signal(signal.SIGKILL)
        await worker.ended()
        await jobs.ready_worker("jobs:app")
        await until(lambda: len(lines(ran)) == 16, "all run again")
        gate.touch()
        assert await gather(handles) == tuple(handle.id for handle in handles)
    assert set(Counter(lines(ran)).values()) == {2}
    assert {line.split()[1] for line in lines(ran)} == {"mail"}


async def shown(jobs: Project, *arguments: str) -> tuple[int, str]:
    process = jobs.python("-m", "aioq", *arguments)
    code = await process.ended()
    return code, "\n".join([*process.printed, *process.lines])


async def test_the_commands_know_shards(jobs: Project) -> None:
    code, text = await shown(jobs, "shards", "jobs:app")
    assert (code, shards_in(text)) == (0, ["in use"] * 4), text
    worker = await jobs.ready_worker("jobs:app")
    await until_async(lambda: checked(jobs, 4))
    code, text = await shown(jobs, "shards", "jobs:app", "mail", "6")
    assert (code, shards_in(text)) == (0, ["in use"] * 6)
    await worker.saw(r"queue mail: it has 6 shards now, it had 4")
    code, text = await shown(jobs, "doctor", "jobs:app")
    assert "has 6 shards of queue mail, and the App declares 4" in text
    assert "default, mail (6 shards)" in text
    assert "keys of queues that the App does not know" not in text
    await until_async(lambda: checked(jobs, 6))
    code, text = await shown(jobs, "shards", "jobs:app", "mail", "2")
    assert shards_in(text) == ["in use"] * 2 + ["to drain"] * 4
    assert "aioq shards jobs:app mail --drop-drained" in text
    code, text = await shown(jobs, "shards", "jobs:app", "mail", "--drop-drained")
    assert (code, shards_in(text)) == (0, ["in use"] * 2)
    assert await worker.stop() == 0


def shards_in(text: str) -> list[str]:
    """The states of the shards of queue mail, in the lines of `aioq shards`."""
    rows = [line.split("\t") for line in text.splitlines() if line.startswith("mail\t")]
    assert [row[1] for row in rows] == [str(number) for number in range(len(rows))]
    assert all(len(row) == 7 for row in rows)
    return [row[-1] for row in rows]


async def checked(jobs: Project, shards: int) -> bool:
    code, text = await shown(jobs, "check", "jobs:app", "-q", "mail")
    return code == 0 and f"mail ({shards} shards)" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["jobs:app", "mail", "0"], "0 is not in the range 1<=x<=1024"),
        (["jobs:app", "mail", "many"], "'many' is not a valid integer"),
        (["jobs:app", "mail#1"], "'mail#1' is one shard; name the queue, 'mail'"),
        (["jobs:app", "no queue"], "expected 1 to 128 letters"),
        (["jobs:app", "--drop-drained"], "--drop-drained needs the QUEUE"),
        (["jobs:app", "mial", "3"], "no queue 'mial' (did you mean 'mail'?); there are: "),
    ],
)
async def test_a_wrong_command_is_one_error(jobs: Project, arguments: list[str], words: str) -> None:
    code, text = await shown(jobs, "shards", *arguments)
    assert code == 2
    assert words in text
    assert "Traceback" not in text


async def test_settings_of_a_queue_that_nobody_uses_are_named(jobs: Project) -> None:
    jobs.write("typo.py", JOBS.replace('"mail": Queue(shards=4)', '"mial": Queue(shards=4)'))
    worker = await jobs.ready_worker("typo:app")
    await worker.saw(
        r"the setting queues has 'mial', which is the queue of no task, schedule or route of this App "
        r"\(did you mean 'mail'\?\)"
    )
    assert await worker.stop() == 0


# -- in memory ----------------------------------------------------------------------------------------------------


async def test_it_is_the_same_in_memory(app_name: str) -> None:
    shop = Shop(app_name, "redis://nowhere")
    shop.app.schedule("hourly", shop.note.call("hourly", 0), every=3600)
    async with shop.app.test() as session:
        handles = await shop.add.send_many([(number, 0) for number in range(SHARDS * 2)])
        assert await gather(handles) == tuple(range(SHARDS * 2))
        assert len({handle.id.partition(".")[0] for handle in handles}) == SHARDS
        keyed = [await shop.note.options(shard_key="eu").send("eu", number) for number in range(5)]
        await gather(keyed)
        assert shop.noted["eu"] == list(range(5))
        delayed = [await shop.add.options(delay=60).send(number, 0) for number in range(SHARDS)]
        assert {await handle.status() for handle in delayed} == {JobState.SCHEDULED}
        await session.advance(61)
        assert await gather(delayed) == tuple(range(SHARDS))
        await session.advance(3600)
        assert len(shop.noted["hourly"]) == 1
        assert len(await places_of(shop.app, "hourly")) == 1
        await shop.app.queue("mail").set_shards(6)
        assert await gather(await shop.add.send_many([(1, 1)] * 12)) == (2,) * 12
        await session.drain()
        assert {each.is_empty for each in await shop.app.queue("mail").shards()} == {True, False}, "the schedule"
    async with shop.app.test():
        assert len(await shop.app.queue("mail").shards()) == SHARDS, "each session begins anew"


async def test_a_limit_of_jobs_that_were_sent_by_name(app_name: str, caplog: pytest.LogCaptureFixture) -> None:
    app = App(app_name, url="redis://nowhere", queues={"mail": Queue(shards=SHARDS)})
    sender = App(app_name, url="redis://nowhere", queues={"mail": Queue(shards=SHARDS)})
    most, running, key = 0, 0, next(key for key in map(str, range(99)) if shard_of(key, SHARDS) == 2)

    @app.task(name="sync", queue="mail", limits=[Limit("customer", by="customer", concurrency=1)])
    async def sync(customer: str) -> None:
        nonlocal most, running
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    async def send(shard: int, **options: Any) -> str:
        call = sender.by_name("sync").options(queue="mail", **options).call(key)
        job = internals_of(sender).sender.prepare(call)[1]  # as by a process that does not import the task
        await (await internals_of(app).store()).enqueue(shard_name("mail", shard), [job])
        return job.id

    with caplog.at_level(logging.WARNING, logger="aioq.limits"):
        async with app.test() as session:
            assert shard_of(key, SHARDS) == 2
            await sync.send(key)
            await send(2, shard_key=key)
            await session.drain()
            assert (most, caplog.messages) == (1, [])
            strays = [await send(1), await send(1)]
            await session.drain()
    (message,) = caplog.messages
    assert message.endswith(f"limits hold within each shard. Send it with options(shard_key={key!r})")
    assert any(stray in message for stray in strays)


async def test_workers_move_the_schedules_of_a_change_that_was_interrupted(
    app_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a schedule that was stored in its new shard and not deleted in the old one would tick in both."""
    shop = Shop(app_name, "redis://nowhere")
    names = [f"each-{number}" for number in range(8)]
    for name in names:
        shop.app.schedule(name, shop.note.call(name, 0), every=3600)

    async def homes() -> list[int]:
        return [len(await places_of(shop.app, name)) for name in names]

    async with shop.app.test() as session:
        await session.advance(1)
        queue, timetable = shop.app.queue("mail"), session._store.timetable
        stored = timetable.write

        async def write(place: str, entries: Any) -> Any:
            if place != "mail":
                raise ServerUnavailableError("it dies before it deletes what it has stored elsewhere")
            return await stored(place, entries)

        with monkeypatch.context() as patch:
            patch.setattr(timetable, "write", write)
            with pytest.raises(ServerUnavailableError):
                await queue.set_shards(1)
        assert sorted(await homes()) == [1] * 7 + [2]
        await session.advance(shard_changes.REMINDED_AFTER_MS / 1000)
        assert [await places_of(shop.app, name) for name in names] == [["mail"]] * 8
        assert len(await queue.drop_drained()) == 1


# -- between queues -----------------------------------------------------------------------------------------------


async def test_a_job_is_moved_into_a_sharded_queue_and_out_of_it(shop: Shop) -> None:
    app = shop.app
    into = [await shop.add.options(queue="other", delay=3600).send(number, 1) for number in range(4)]
    out = [await shop.add.options(delay=3600).send(number, 2) for number in range(4)]
    assert [await handle.move(queue="mail") for handle in into] == [True] * 4
    assert [await handle.move(queue="other") for handle in out] == [True] * 4
    assert {(await app.handle(handle.id).info()).queue for handle in into} == {"mail"}
    assert {(await app.handle(handle.id).info()).queue for handle in out} == {"other"}
    assert {handle._queue for handle in into} == {shard_name("mail", shard_of(each.id, SHARDS)) for each in into}
    assert await into[0].move(queue="mail") is True
    for handle in into:
        await handle.run_now()
    async with shop.worker():
        assert await gather(into) == tuple(range(1, 5))
