"""What a worker takes first: priorities that do not starve each other, and the shares of its queues."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from aioq import App, ConfigError, Queue, WorkerInfo, WorkerRefusedError
from aioq.app import internals_of
from aioq.worker import Worker
from tests.behaviour.kit import SECONDS, Project, until
from tests.clusters import Cluster
from tests.databases import Database

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def serving(app: App, *, queues: Sequence[str], concurrency: int, **options: Any) -> AsyncIterator[Worker]:
    """A worker on this loop."""
    worker = Worker(internals_of(app).app_parts(), queues=queues, concurrency=concurrency, **options)
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        worker.stop()
        await task


async def runs_in_shares(url: str, name: str) -> None:
    app = App(name, url=url, queues={"mail": Queue(priorities="weighted")}, log_level="warning")
    order: list[str] = []

    @app.task(queue="mail")
    async def work(kind: str) -> None:
        order.append(kind)

    async with app:
        for kind in ("low", "normal", "high"):
            await work.options(priority=kind).send_many([(kind,)] * 100)
        async with serving(app, queues=["mail"], concurrency=2):
            await until(lambda: len(order) == 300, "the end of all jobs")
    first = order[:100]
    # Two claims may be under way: what they bring is begun in their order, give or take one job.
    counts = [first.count(kind) for kind in ("high", "normal", "low")]
    assert [abs(count - share) <= 2 for count, share in zip(counts, (60, 30, 10), strict=True)] == [True] * 3, (
        counts
    )
    assert [order.count(kind) for kind in ("high", "normal", "low")] == [100] * 3


async def test_lower_priorities_get_their_share(server: Database, app_name: str) -> None:
    await runs_in_shares(server.url, app_name)


async def test_so_they_do_in_a_cluster(cluster: Cluster, app_name: str) -> None:
    await runs_in_shares(cluster.url, app_name)


class Held:
    """An App with a task in two queues, whose jobs run until they are let go."""

    def __init__(self, url: str, name: str, queues: dict[str, Queue] | None = None) -> None:
        self.app = App(name, url=url, queues=queues, log_level="warning")
        self.running: list[tuple[str, asyncio.Event]] = []
        self.most: Counter[str] = Counter()
        self.ended = 0

        async def hold(queue: str) -> None:
            mine = (queue, asyncio.Event())
            self.running.append(mine)
            self.most[queue] = max(self.most[queue], self.count(queue))
            await mine[1].wait()
            self.running.remove(mine)
            self.ended += 1

        self._task = self.app.task(hold)

    async def send(self, queue: str, count: int) -> None:
        await self._task.options(queue=queue).send_many([(queue,)] * count)

    def count(self, queue: str) -> int:
        return sum(each == queue for each, _ in self.running)

    def counts(self) -> dict[str, int]:
        return {queue: self.count(queue) for queue in ("mail", "bulk")}

    async def becomes(self, **counts: int) -> None:
        await until(lambda: self.counts() == counts, f"{counts}", lambda: str(self.counts()))

    def let_go(self, queue: str, count: int = 1) -> None:
        for _, event in [each for each in self.running if each[0] == queue and not each[1].is_set()][:count]:
            event.set()

    async def let_all_go(self, jobs: int) -> None:
        while self.ended < jobs:
            for _, event in self.running:
                event.set()
            await asyncio.sleep(0)


@pytest.mark.parametrize("in_shards", [False, True], ids=["plain", "shards"])
async def test_a_queue_takes_no_more_slots_than_it_may_and_others_take_the_rest(
    server: Database, app_name: str, in_shards: bool
) -> None:
    held = Held(server.url, app_name, {"mail": Queue(shards=3)} if in_shards else None)
    async with held.app:
        await held.send("mail", 20)
        async with serving(held.app, queues=["mail", "bulk"], concurrency=5, queue_slots={"mail": 2}):
            await held.becomes(mail=2, bulk=0)
            await held.send("bulk", 10)
            await held.becomes(mail=2, bulk=3)
            held.let_go("mail")
            await until(lambda: held.ended == 1 and held.counts() == {"mail": 2, "bulk": 3}, "the next one")
            await held.let_all_go(30)
    assert held.most["mail"] == 2


async def test_so_it_is_in_a_cluster(cluster: Cluster, app_name: str) -> None:
    held = Held(cluster.url, app_name)
    async with held.app:
        await held.send("mail", 6)
        async with serving(held.app, queues=["mail", "bulk"], concurrency=4, queue_slots={"mail": 1}):
            await held.becomes(mail=1, bulk=0)
            await held.send("bulk", 6)
            await held.becomes(mail=1, bulk=3)
            await held.let_all_go(12)
    assert held.most["mail"] == 1


async def test_a_lone_job_is_not_dispatched_to_a_worker_whose_slots_for_that_queue_are_taken(
    server: Database, app_name: str
) -> None:
    held = Held(server.url, app_name)
    async with (
        held.app,
        serving(held.app, queues=["mail", "bulk"], concurrency=5, queue_slots={"mail": 1}) as worker,
    ):
        await until(lambda: worker.health().ready, "the worker's lease")
        for _ in range(4):
            await held.send("mail", 1)
            await held.send("bulk", 1)
        await held.becomes(mail=1, bulk=4)
        await held.let_all_go(8)
    assert held.most["mail"] == 1


async def test_weights_share_the_slots_where_both_have_jobs_and_none_is_left_idle(
    server: Database, app_name: str
) -> None:
    held = Held(server.url, app_name, {"mail": Queue(weight=3)})
    async with held.app, serving(held.app, queues=["mail", "bulk"], concurrency=8):
        await held.send("bulk", 30)
        await held.becomes(mail=0, bulk=8)  # alone it has all
        await held.send("mail", 30)
        for ended in range(1, 20):  # the first may end before mail has noticed its jobs
            if held.count("mail") == 6:
                break
            held.let_go("bulk")
            await until(lambda ended=ended: (held.ended, len(held.running)) == (ended, 8), "the next one's start")
        await held.becomes(mail=6, bulk=2)
        for queue in ("mail", "bulk", "mail", "bulk"):
            ended = held.ended
            held.let_go(queue)
            await until(lambda ended=ended: held.ended > ended, "its end")
            await held.becomes(mail=6, bulk=2)
        await held.let_all_go(60)


async def test_where_there_is_one_slot_the_queues_take_turns(server: Database, app_name: str) -> None:
    app = App(app_name, url=server.url, queues={"mail": Queue(weight=3)}, log_level="warning")
    order: list[str] = []

    @app.task
    async def work(queue: str) -> None:
        order.append(queue)

    async with app:
        for queue in ("mail", "bulk"):
            await work.options(queue=queue).send_many([(queue,)] * 60)
        async with serving(app, queues=["mail", "bulk"], concurrency=1):
            await until(lambda: len(order) == 120, "the end of all jobs")
    begin = max(order.index("mail"), order.index("bulk"))  # one of the queues may be served a moment earlier
    assert 7 <= order[begin : begin + 40].count("bulk") <= 13, order


async def test_the_shares_are_on_the_command_line_shown_and_changed_from_afar(project: Project) -> None:
    project.copy("steered")
    app: App = project.load("steered").app
    options = ("--queue", "default=4", "--queue", "mail", "--concurrency", "9", "--processes", "1")
    process = await project.ready_worker("steered:app", *options)
    await process.saw(r"queues +│ default \(up to 4 slots\), mail")

    async def worker() -> WorkerInfo:
        with anyio.fail_after(SECONDS):
            while not (found := [each async for each in app.workers() if each.alive]):  # noqa: ASYNC110 - as `until`
                await anyio.sleep(0.01)
        return found[0]

    async with app:
        found = await worker()
        assert (found.queues, found.queue_slots, found.queue_weights) == (("default", "mail"), {"default": 4}, {})
        found = await found.resize(2, queue="mail")
        assert found.queue_slots == {"default": 4, "mail": 2}
        with pytest.raises(WorkerRefusedError, match=r"does not serve queue 'mai' \(did you mean 'mail'"):
            await found.resize(2, queue="mai")
        with pytest.raises(ConfigError, match="slots=0: expected 1 or more"):
            await found.add_queue("mail", slots=0)
        await found.remove_queue("mail")
        found = await (await worker()).refresh()
        assert (found.queues, found.queue_slots) == (("default",), {"default": 4})
        while "mail" not in found.queues:
            try:
                found = await found.add_queue("mail", slots=3)
            except WorkerRefusedError as error:  # it has not left it yet
                assert "still runs jobs" in str(error)  # noqa: PT017
        assert found.queue_slots == {"default": 4, "mail": 3}
    assert await process.stop() == 0


@pytest.mark.parametrize(
    ("queues", "words"),
    [
        (("mail=0",), "expected NAME=SLOTS with a number of slots from 1 to"),
        (("mail=x",), "expected NAME=SLOTS"),
        (("mail=",), "expected NAME=SLOTS"),
        (("mail=10000000000",), "expected NAME=SLOTS"),
        (("mail=1", "mail=2"), "this queue is given twice, with different numbers of slots"),
        (("ma il=1",), "expected 1 to 128 letters"),
    ],
)
async def test_wrong_slots_are_an_error_of_the_command(
    project: Project, queues: tuple[str, ...], words: str
) -> None:
    project.copy("steered")
    process = project.worker("steered:app", *(word for queue in queues for word in ("-q", queue)))
    assert await process.ended() == 2
    assert words in process.log
