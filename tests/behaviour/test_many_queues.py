"""A worker of many queues: it stands, which takes no connection for each queue, and no job waits for long."""

import asyncio
import random
import signal
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aioq import App, gather
from aioq.app import internals_of
from aioq.tasks.task import AsyncTask
from aioq.worker import Worker, wait_plan
from aioq.worker.duties.recovery import recover_dead
from tests.behaviour.kit import Project, keys, until
from tests.clusters import Cluster
from tests.databases import Database
from tests.proxies import Proxy
from tests.servers import Server

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=20)]

QUEUES = [f"q{number}" for number in range(60)]

NEVER = 1_000_000.0
"""Seconds after which a worker claims by itself, where only messages are to wake it."""


HELD = -1.0
"""The duration of a job that runs until its test lets it end."""


class Program:
    """An App with a task in many queues, and workers of all of them on this loop."""

    def __init__(self, url: str, name: str, queues: Sequence[str] = QUEUES) -> None:
        self.app = App(name, url=url, log_level="warning")
        self.queues = queues
        self.ended: list[int] = []
        self.released = asyncio.Event()
        self.took: dict[str, list[float]] = defaultdict(list)

        async def work(number: int, seconds: float, sent: float, queue: str) -> None:
            self.took[queue].append(time.monotonic() - sent)
            await (self.released.wait() if seconds == HELD else asyncio.sleep(seconds))
            self.ended.append(number)

        self._work: AsyncTask[[int, float, float, str], None] = self.app.task(work)

    async def send(self, queue: str, first: int, count: int = 1, seconds: float = 0.0) -> None:
        """Send jobs to a queue, together if they are several."""
        task = self._work.options(queue=queue)
        calls = [(number, seconds, time.monotonic(), queue) for number in range(first, first + count)]
        if count == 1:
            await task.send(*calls[0])
        else:
            await task.send_many(calls)

    @asynccontextmanager
    async def workers(self, *concurrency: int, burst: bool = False) -> AsyncIterator[list[Worker]]:
        """Workers with so many slots each, which stand at all queues."""
        parts = internals_of(self.app).app_parts()
        workers = [Worker(parts, queues=self.queues, concurrency=each, burst=burst) for each in concurrency]
        running = [asyncio.create_task(worker.run()) for worker in workers]
        try:
            if not burst:
                await until(lambda: all(map(stands, workers)), "standing at all queues")
            yield workers
        finally:
            for worker in workers:
                worker.stop()
            await asyncio.gather(*running)


def stands(worker: Worker) -> bool:
    """Whether the worker waits at all of its queues, and is subscribed to what wakes it."""
    if not worker.health().ready:
        return False
    fetchers = [duties.fetcher for duties in worker._duties.queues.values()]
    return all(each.waiting and each._waits.listens for each in fetchers)


@pytest.fixture
def _only_messages_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait_plan, "STAND", NEVER)


async def sent_at_random(program: Program, jobs: int, seed: int) -> None:
    """Send jobs to all queues, alone and together, and wait until all have ended."""
    random_ = random.Random(seed)
    sent = 0
    while sent < jobs:
        count = min(random_.choice([1, 1, 1, 2, 5, 70]), jobs - sent)
        await program.send(random_.choice(program.queues), sent, count, random_.choice([0, 0.001, 0.01]))
        sent += count
        await asyncio.sleep(random_.choice([0, 0, 0.002, 0.02]))
    await until(lambda: len(program.ended) >= jobs, "the end of all jobs", lambda: str(program.took))
    assert sorted(program.ended) == list(range(jobs))


@pytest.mark.usefixtures("_only_messages_wake")
@pytest.mark.parametrize("concurrency", [(3,), (2, 2), (1, 3, 5)], ids=str)
async def test_messages_alone_wake_workers_for_every_job(
    server: Database, app_name: str, concurrency: tuple[int, ...]
) -> None:
    program = Program(server.url, app_name, QUEUES[:12])
    async with program.app, program.workers(*concurrency):
        await sent_at_random(program, 400, seed=sum(concurrency))


@pytest.mark.usefixtures("_only_messages_wake")
async def test_the_same_in_a_cluster(cluster: Cluster, app_name: str) -> None:
    program = Program(cluster.url, app_name, QUEUES[:12])
    async with program.app, program.workers(2, 2):
        await sent_at_random(program, 200, seed=1)


async def test_it_stands_at_all_queues_at_once_with_a_handful_of_connections_and_leaves_them_all_at_once(
    start_server: Callable[..., Server], app_name: str
) -> None:
    server = start_server(tcp=True)
    assert server.port is not None
    async with Proxy(server.port) as proxy:
        proxy.latency = 0.2
        program = Program(proxy.url, app_name)
        with server.client() as client:
            # One after the other, their claims would take 12 s; all would have to come again every 8 s.
            async with program.app, program.workers(10):
                clients: Any = client.client_list()
                assert 3 <= len(clients) - 1 <= 5, [each["cmd"] for each in clients]
            left = [key for key in keys(client, app_name) if not key.endswith(("high", "normal", "low"))]
            left = [key for key in left if not key.endswith((":front", ":rest"))]
            assert left == [f"aioq:{{{app_name}:}}:served"], "which queues there were is known for a while"


async def test_in_a_cluster_these_are_a_handful_at_each_node(cluster: Cluster, app_name: str) -> None:
    def connections() -> list[int]:
        counts: list[int] = []
        for node in cluster.nodes:
            with node.client() as client:
                clients: Any = client.client_list()
                counts.append(len(clients))
        return counts

    before = connections()
    program = Program(cluster.url, app_name)
    async with program.app, program.workers(10):
        assert all(after - first <= 6 for first, after in zip(before, connections(), strict=True))


@pytest.mark.usefixtures("_only_messages_wake")
async def test_a_busy_queue_does_not_starve_the_others(redis_server: Database, app_name: str) -> None:
    program = Program(redis_server.url, app_name)
    busy, *others = QUEUES
    async with program.app, program.workers(4):
        await program.send(busy, 0, 3000, 0.005)
        for number, queue in enumerate(others):
            await program.send(queue, 3000 + number)
        await until(lambda: all(program.took[queue] for queue in others), "a job of each queue")
        waited = sorted(program.took[queue][0] for queue in others)
        assert len(program.ended) < 2500, "the busy queue is not done"
        assert waited[-1] < 2.0, waited


@pytest.mark.usefixtures("_only_messages_wake")
async def test_a_worker_that_stops_leaves_what_comes_to_those_that_stand(
    redis_server: Database, app_name: str
) -> None:
    program = Program(redis_server.url, app_name)
    async with program.app, program.workers(3, 5) as (leaves, _):
        await program.send(QUEUES[0], 0, 2, HELD)
        await until(lambda: len(program.took[QUEUES[0]]) == 2, "the jobs that hold up the stop")
        leaves.stop()
        await until(lambda: not any(d.fetcher.waiting for d in leaves._duties.queues.values()), "its stop")
        for number, queue in enumerate(QUEUES[1:]):
            await program.send(queue, 2 + 2 * number, 2)
        await until(lambda: all(len(program.took[queue]) == 2 for queue in QUEUES), "the jobs of all queues")
        program.released.set()


async def all_queues_run(program: Program, first: int) -> None:
    """Send two jobs to each queue, which nobody gets by direct dispatch, and wait for their ends."""
    before = len(program.ended)
    for number, queue in enumerate(program.queues):
        await program.send(queue, first + 2 * number, 2)
    await until(
        lambda: len(program.ended) == before + 2 * len(program.queues), "the end of two jobs of each queue"
    )


@pytest.mark.usefixtures("_only_messages_wake")
async def test_after_a_gap_in_the_subscription_it_claims_from_all_queues(
    redis_server: Database, app_name: str
) -> None:
    program = Program(redis_server.url, app_name, QUEUES[:12])
    async with program.app, program.workers(3):
        with redis_server.client() as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await all_queues_run(program, 0)


async def test_a_message_that_is_lost_costs_the_time_until_it_claims_by_itself(
    redis_server: Database, app_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wait_plan, "STAND", 1.0)
    program = Program(redis_server.url, app_name, QUEUES[:12])
    async with program.app, program.workers(3):
        with redis_server.client() as client:
            for queue in program.queues:  # as if their messages had been published and were lost
                client.unlink(
                    *(f"aioq:{{{app_name}:{queue}}}:{name}" for name in ("standing", "wakeable", "idle"))
                )
        await all_queues_run(program, 0)
        assert max(times[0] for times in program.took.values()) < 3.0
        await all_queues_run(program, 100)


@pytest.mark.usefixtures("_only_messages_wake")
async def test_a_worker_that_has_lost_its_leases_stands_again(redis_server: Database, app_name: str) -> None:
    program = Program(redis_server.url, app_name, QUEUES[:12])
    async with program.app, program.workers(3) as (worker,):
        store = await internals_of(program.app).app_parts().store()
        before = {queue: duties.membership.worker for queue, duties in worker._duties.queues.items()}
        for queue, each in before.items():
            await recover_dead(store, queue, each, max_crashes=3)
        await until(
            lambda: all(duties.membership.worker != before[q] for q, duties in worker._duties.queues.items()),
            "new ids",
        )
        await until(lambda: stands(worker), "standing under them")
        await all_queues_run(program, 0)


@pytest.mark.usefixtures("_only_messages_wake")
async def test_a_burst_ends_when_all_queues_are_empty(server: Database, app_name: str) -> None:
    program = Program(server.url, app_name, QUEUES[:12])
    async with program.app:
        for number, queue in enumerate(program.queues):
            await program.send(queue, 10 * number, 10)
        worker = Worker(internals_of(program.app).app_parts(), queues=program.queues, concurrency=3, burst=True)
        await asyncio.wait_for(worker.run(), 20)
        assert len(program.ended) == 120


@pytest.mark.usefixtures("_only_messages_wake")
async def test_delays_and_priorities_are_as_with_few_queues(server: Database, app_name: str) -> None:
    app = App(app_name, url=server.url, log_level="warning")
    ran: list[str] = []

    @app.task
    async def note(what: str, seconds: float = 0.0) -> None:
        ran.append(what)
        await asyncio.sleep(seconds)

    queue = QUEUES[3]
    worker = Worker(internals_of(app).app_parts(), queues=QUEUES[:12], concurrency=1)
    async with app:
        running = asyncio.create_task(worker.run())
        await until(lambda: stands(worker), "standing at all queues")
        await note.options(queue=queue, delay=0.3).send("delayed")
        await until(lambda: ran == ["delayed"], "the delayed job")
        await note.options(queue=QUEUES[5]).send("other queue", 0.3)
        await until(lambda: len(ran) == 2, "the job that takes the only slot")
        for priority in ("low", "normal", "high"):
            await note.options(queue=queue, priority=priority).send(priority)
        await until(lambda: len(ran) == 5, "the others")
        worker.stop()
        await running
    assert ran == ["delayed", "other queue", "high", "normal", "low"]


@pytest.mark.usefixtures("_only_messages_wake")
async def test_a_job_that_waits_lends_its_slot_to_jobs_of_other_queues(server: Database, app_name: str) -> None:
    app = App(app_name, url=server.url, log_level="warning")

    @app.task(queue=QUEUES[1])
    async def child(number: int) -> int:
        return number

    @app.task(queue=QUEUES[0])
    async def parent() -> int:
        return sum([await each for each in await child.send_many([(1,), (2,), (3,)])])

    worker = Worker(internals_of(app).app_parts(), queues=QUEUES[:12], concurrency=1)
    async with app:
        running = asyncio.create_task(worker.run())
        await until(lambda: stands(worker), "standing at all queues")
        assert await asyncio.wait_for(await parent.send(), 20) == 6
        worker.stop()
        await running


@pytest.mark.parametrize(("how", "most"), [(signal.SIGKILL, 4.0), (signal.SIGSTOP, 8.0)], ids=str)
async def test_a_worker_that_dies_or_hangs_while_it_stands_holds_up_its_queues_for_its_lease_at_most(
    project: Project, redis_server: Database, how: signal.Signals, most: float
) -> None:
    """The one that is killed holds up nothing: the server sees at once that it does not listen any more."""
    project.copy("lines")
    lines = project.load("lines")
    queues = QUEUES[:8]
    named = [part for queue in queues for part in ("--queue", queue)]
    first = await project.ready_worker("lines:app", *named, AIOQ_LEASE="2")
    second = await project.ready_worker("lines:app", *named, AIOQ_LEASE="2")
    with redis_server.client() as client:
        standing = [f"aioq:{{{project.name}:{queue}}}:standing" for queue in queues]
        await until(lambda: all(client.zcard(key) == 2 for key in standing), "both standing at all queues")
    first.signal(how)
    began = time.monotonic()
    jobs = [job for queue in queues for job in await lines.add.options(queue=queue).send_many([(1, 2), (3, 4)])]
    assert await gather(*jobs, timeout=20) == (3, 7) * len(queues)
    assert time.monotonic() - began < most
    if how is signal.SIGSTOP:
        # By chance all jobs went to the other one, at once. That it stands no more is no sign: it may have been
        # woken.
        leases = [f"aioq:{{{project.name}:{queue}}}:workers" for queue in queues]
        with redis_server.client() as client:
            await until(lambda: all(client.zcard(key) == 1 for key in leases), "the end of its lease everywhere")
        first.signal(signal.SIGCONT)
        await first.saw(r"the lease of .* was lost")
        assert await first.stop() == 0
    assert await second.stop() == 0
