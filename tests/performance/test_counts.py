"""What a job costs, counted and not timed, so that it can be held on any machine.

Each limit is a little above what was counted when it was set, on Python 3.11 and Redis 7.0; the comment says
how much that was. A change that needs more says why, and one that needs less lowers the limit. `make bench`
measures the times behind these counts.
"""

import asyncio
import gc
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from aioq import App, Queue, Unique
from aioq.app import internals_of
from aioq.store.contract import Limits
from aioq.store.redis import RedisStore
from aioq.tasks.task import AsyncTask
from aioq.worker import Worker
from aioq.worker.app_parts import worker_queues
from benchmarks.monitor import monitored
from tests.behaviour.kit import keys
from tests.contract.kit import joined, keep
from tests.databases import Database

# Alone, because a busy machine decides how many jobs go together in a call, and so what each of them costs.
pytestmark = [pytest.mark.anyio, pytest.mark.alone]

JOBS = 1_000
MANY = 5_000
"""Jobs where the machine's other work decides how many leave together: a moment of that is not to tell."""
SENDERS = 100
ROUNDS = 5

ALONE = 20
"""Jobs that are sent one at a time."""

ROOT = Path(__file__).parents[2]
DESIGN = (ROOT / "docs/design.md").read_text()


def walk_of(what: str) -> dict[str, list[str]]:
    """The functions of each file that a send or a run passes, as docs/design.md has them."""
    section = DESIGN.partition(f"### The walk of a {what}\n")[2].partition("\n#")[0]
    rows = re.findall(r"^\| `([\w/]+\.py)` \| (.+) \|$", section, re.MULTILINE)
    return {file: re.findall(r"`([\w.]+)`", functions) for file, functions in rows}


def shown(walk: dict[str, list[str]]) -> str:
    """A walk as the page has it."""
    return "\n".join(f"| `{file}` | `{'`, `'.join(names)}` |" for file, names in walk.items())


class Jobs:
    """An App of one task, and the worker that runs it on this loop; `kept`: with a history and statistics."""

    def __init__(self, url: str, name: str, *, kept: bool = False) -> None:
        if kept:
            self.app = App(name, url=url, log_level="warning")
        else:
            self.app = App(name, url=url, log_level="warning", history=0, stats=False)

        async def noop(number: int) -> int:
            return number

        self.noop: AsyncTask[[int], int] = self.app.task(noop)

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[None]:
        """A worker that has run some jobs, so that all scripts are loaded and all connections are made."""
        app_parts = internals_of(self.app).app_parts()
        worker = Worker(app_parts, queues=worker_queues(app_parts, ()), concurrency=100)
        running = asyncio.create_task(worker.run())
        try:
            for number in range(5):
                await (await self.noop.send(number))
            yield
        finally:
            worker.stop()
            await running

    async def send_from_many(self, jobs: int) -> list[int]:
        """100 coroutines that send and await jobs, until as many are done."""
        numbers = iter(range(jobs))

        async def sender() -> list[int]:
            return [await (await self.noop.send(number)) for number in numbers]

        parts = await asyncio.gather(*(sender() for _ in range(SENDERS)))
        return [number for part in parts for number in part]


@pytest.fixture
async def jobs(redis_server: Database, app_name: str) -> AsyncIterator[Jobs]:
    made = Jobs(redis_server.url, app_name)
    async with made.app:
        yield made


@pytest.fixture
async def kept_jobs(redis_server: Database, app_name: str) -> AsyncIterator[Jobs]:
    """The same with a history and statistics, as by default."""
    made = Jobs(redis_server.url, app_name, kept=True)
    async with made.app:
        yield made


@contextmanager
def counted_calls() -> Generator[list[int]]:
    """Count the calls of Python and C functions in this thread; the one number is there at the end."""
    found = [0]

    def count(_frame: FrameType, event: str, _argument: Any) -> None:
        if event in {"call", "c_call"}:
            found[0] += 1

    sys.setprofile(count)
    try:
        yield found
    finally:
        sys.setprofile(None)


async def test_commands_a_job_under_load(redis_server: Database, jobs: Jobs) -> None:
    # 0.08 a job: an enqueue, a claim and a settle for each batch of what 100 senders send meanwhile.
    async with jobs.worker():
        with monitored(redis_server.server) as seen:
            assert sorted(await jobs.send_from_many(MANY)) == list(range(MANY))
    count = seen.by_clients
    assert 0 < count <= 0.1 * MANY


async def test_commands_of_a_job_alone(redis_server: Database, jobs: Jobs) -> None:
    # 2.2: the enqueue and the settle, for it is dispatched directly, and its waiter registers with the send;
    # and once the wait, the blocking read and its claim.
    async with jobs.worker():
        with monitored(redis_server.server) as seen:
            for number in range(ALONE):
                assert await (await jobs.noop.send(number)) == number
    count = seen.by_clients
    assert 2 * ALONE <= count <= 3 * ALONE


async def test_commands_within_scripts(redis_server: Database, jobs: Jobs) -> None:
    # 1.6 with a waiter a job: what the settle stores, and a share of what is done for a batch.
    async with jobs.worker():
        with monitored(redis_server.server) as seen:
            await jobs.send_from_many(MANY)
    count = seen.by_scripts
    assert MANY < count <= 1.8 * MANY


async def test_commands_of_an_idle_worker(redis_server: Database, jobs: Jobs) -> None:
    # 2 to 5 in 4 s, half a lease: renewals, and a blocking read that has come to its end, with its claim.
    window = 4.0
    async with jobs.worker():
        with monitored(redis_server.server) as seen:
            await asyncio.sleep(window)
    count = seen.by_clients
    assert 1 <= count <= 1.5 * window


async def test_what_workers_and_pauses_cost_that_nobody_watches(redis_server: Database, app_name: str) -> None:
    # With a history one EXISTS each, and nothing for a renewal.
    without, kept = [await _counts_of_a_worker(redis_server, app_name, history) for history in (0, 1_000)]
    assert all(without)
    assert [more - less for more, less in zip(kept, without, strict=True)] == [1, 0, 1, 1, 1]


async def _counts_of_a_worker(redis_server: Database, app_name: str, history: int) -> list[int]:
    """What scripts do when a worker joins and renews, its queue is paused and resumed, and it departs."""
    limits, queue = Limits(lease_ms=3_600_000, history=history), f"kept-{history}"
    store = RedisStore(app_name, redis_server.url, shown_url="-", limits=limits)
    await store.open()
    pauses, counts = store.operating.pauses, list[int]()
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: joined(store, "w", queue),
        lambda: keep(store, "w", "renew", queue),
        lambda: pauses.pause(queue, []),
        lambda: pauses.resume(queue, []),
        lambda: store.depart(queue, "w"),
    ]
    try:
        for call in calls:
            with monitored(redis_server.server) as seen:
                await call()
            counts.append(seen.by_scripts)
    finally:
        await store.close()
    return counts


async def test_bytes_of_a_queued_job(redis_server: Database, jobs: Jobs, app_name: str) -> None:
    @jobs.app.task
    async def keep(text: str) -> str:
        return text

    # 264, by the server's own account: 80 of payload, the rest is the record, the id and the lane's entry.
    await keep.send_many([(f"{number:080}",) for number in range(JOBS)])
    with redis_server.client() as client:
        used = sum(client.memory_usage(key, samples=0) or 0 for key in keys(client, app_name))
    assert 80 * JOBS < used <= 270 * JOBS


async def test_function_calls_of_a_drained_job(jobs: Jobs) -> None:
    # 139, all that the worker's loop does for a job: claim, decode, run, encode, settle, and a share of the rest:
    # of that, 15 are of its start, where it tries each command of the server; those of flows are 1.2 of them.
    await jobs.noop.send_many([(number,) for number in range(JOBS)])
    with counted_calls() as calls:
        await _drain(jobs)
    assert JOBS < calls[0] <= 146 * JOBS


async def test_function_calls_of_a_sent_job(jobs: Jobs) -> None:
    # 6.7: check the arguments, encode, make the id and the handle, and its share of the flush.
    await jobs.noop.send(0)
    with counted_calls() as calls:
        await jobs.noop.send_many([(number,) for number in range(JOBS)])
    assert JOBS < calls[0] <= 8 * JOBS


async def test_function_calls_of_a_send_among_many(jobs: Jobs) -> None:
    # 42.6 to 44.1, by how many a flush takes: as above, a future, the turn of whoever awaits it, and a
    # share of a flush of some 50.
    numbers = iter(range(JOBS))

    async def sender() -> None:
        for number in numbers:
            await jobs.noop.send(number)

    await jobs.noop.send(0)
    with counted_calls() as calls:
        await asyncio.gather(*(sender() for _ in range(SENDERS)))
    assert JOBS < calls[0] <= 45 * JOBS


async def test_function_calls_of_a_send_alone(jobs: Jobs) -> None:
    # 200: as above, with a flush of its own, and what the loop does for a reply.
    await jobs.noop.send(0)
    with counted_calls() as calls:
        for number in range(JOBS):
            await jobs.noop.send(number)
    assert JOBS < calls[0] <= 206 * JOBS


async def test_function_calls_of_a_send_to_a_shard(redis_server: Database, app_name: str) -> None:
    # 2 more than to a queue without shards, and 5 with a key: the shard is chosen.
    app = App(app_name, url=redis_server.url, queues={"mail": Queue(shards=8)})

    async def noop(number: int) -> int:
        return number

    plain, sharded = (app.task(name=queue, queue=queue)(noop) for queue in ("default", "mail"))
    counts: list[int] = []
    async with app:
        for task in (plain, sharded, sharded.options(shard_key="customer-17")):
            for number in range(20):  # each shard has sent by then
                await task.send(number)
            with counted_calls() as calls:
                for number in range(JOBS):
                    await task.send(number)
            counts.append(calls[0])
    assert counts[1] <= counts[0] + 5 * JOBS
    assert counts[2] <= counts[0] + 9 * JOBS


async def walk_until(jobs: Jobs, last: str, *, within: frozenset[str] = frozenset()) -> dict[str, list[str]]:
    """The functions of each file that a job alone passes until `last` is called; `within`: under which of them."""
    walk: dict[str, list[str]] = {}
    arrived = [False]

    def is_under(frame: FrameType | None) -> bool:
        while frame is not None:
            if frame.f_code.co_qualname in within:
                return True
            frame = frame.f_back
        return not within

    def follow(frame: FrameType, event: str, _argument: Any) -> None:
        _, inside, file = frame.f_code.co_filename.rpartition("/aioq/")
        name = frame.f_code.co_qualname
        if event != "call" or not inside or arrived[0] or "<" in name or not is_under(frame):
            return
        functions = walk.setdefault(file, [])
        if name not in functions:
            functions.append(name)
        arrived[0] = name == last

    async with jobs.worker():
        sys.setprofile(follow)
        try:
            assert await (await jobs.noop.send(7)) == 7
        finally:
            sys.setprofile(None)
    return walk


async def test_the_walk_of_a_send_alone(kept_jobs: Jobs, jobs: Jobs) -> None:
    # 12 files and 25 functions, as listed in docs/design.md, with a history and statistics or without.
    walk = await walk_until(kept_jobs, "Connection.send")
    assert walk == walk_of("send"), shown(walk)
    assert len(walk) <= 12
    assert await walk_until(jobs, "Connection.send") == walk


async def test_the_walk_of_a_run(kept_jobs: Jobs, jobs: Jobs) -> None:
    # 12 files and 39 functions, as listed in docs/design.md: from the claimed job to the settler.
    within = frozenset({"Executor.submit", "Executor._execute"})
    walk = await walk_until(kept_jobs, "Settler.put", within=within)
    assert walk == walk_of("run"), shown(walk)
    assert len(walk) <= 12
    assert await walk_until(jobs, "Settler.put", within=within) == walk


async def test_commands_within_the_scripts_of_a_job_alone(redis_server: Database, jobs: Jobs) -> None:
    # 16: ten of a direct dispatch, six of a settle that notifies one waiter. The least of five rounds: a worker
    # that a busy machine keeps from being idle again before the next send claims the job, which costs more.
    counts: list[int] = []
    async with jobs.worker():
        for _ in range(ROUNDS):
            with monitored(redis_server.server) as seen:
                for number in range(ALONE):
                    await (await jobs.noop.send(number))
            counts.append(seen.by_scripts)
    assert ALONE < min(counts) <= 17 * ALONE, counts


async def test_a_job_leaves_nothing_behind(jobs: Jobs) -> None:
    # Blocks of memory that this process still holds after a job, beside what the first jobs have filled: 0. What
    # grows once, such as a table, is not counted: the least of the rounds.
    held: list[int] = []
    for _ in range(ROUNDS):
        await jobs.noop.send_many([(number,) for number in range(JOBS)])
        await _drain(jobs)
        gc.collect()
        held.append(sys.getallocatedblocks())
    assert min(after - before for before, after in pairwise(held[1:])) <= 0.1 * JOBS, held


# Unique jobs


class UniqueJobs(Jobs):
    """The same with a unique task, of which each job has a key of its own."""

    def __init__(self, url: str, name: str) -> None:
        super().__init__(url, name)

        async def unique(number: int) -> int:
            return number

        self.noop = self.app.task(unique=Unique(by="number"))(unique)


@pytest.fixture
async def unique_jobs(redis_server: Database, app_name: str) -> AsyncIterator[Jobs]:
    made = UniqueJobs(redis_server.url, app_name)
    async with made.app:
        yield made


async def test_commands_a_unique_job_under_load(redis_server: Database, unique_jobs: Jobs) -> None:
    # From clients as many as for a plain job; within scripts 1.7, for a batch has three commands more: its keys
    # are taken, looked at and deleted together.
    async with unique_jobs.worker():
        with monitored(redis_server.server) as seen:
            assert sorted(await unique_jobs.send_from_many(MANY)) == list(range(MANY))
    assert 0 < seen.by_clients <= 0.1 * MANY
    assert MANY < seen.by_scripts <= 1.9 * MANY


async def test_function_calls_of_a_drained_unique_job(unique_jobs: Jobs) -> None:
    # 145: as a plain one, and two for whether it is known that its key is held.
    await unique_jobs.noop.send_many([(number,) for number in range(JOBS)])
    with counted_calls() as calls:
        await _drain(unique_jobs)
    assert JOBS < calls[0] <= 149 * JOBS


async def test_function_calls_of_a_sent_unique_job(unique_jobs: Jobs) -> None:
    # 24.8: as a plain one, its key, what it has beside its call, and what the script is given of that.
    await unique_jobs.noop.send(-1)
    with counted_calls() as calls:
        await unique_jobs.noop.send_many([(number,) for number in range(JOBS)])
    assert JOBS < calls[0] <= 27 * JOBS


async def test_function_calls_of_a_unique_send_among_many(unique_jobs: Jobs) -> None:
    # 61.4 to 62.3, by how many a flush takes: likewise.
    numbers = iter(range(JOBS))

    async def sender() -> None:
        for number in numbers:
            await unique_jobs.noop.send(number)

    await unique_jobs.noop.send(-1)
    with counted_calls() as calls:
        await asyncio.gather(*(sender() for _ in range(SENDERS)))
    assert JOBS < calls[0] <= 65 * JOBS


# With a history and statistics


async def test_function_calls_of_a_drained_job_that_is_kept(kept_jobs: Jobs) -> None:
    # 150: as without, and 11 for its report, its row and the buckets of its times.
    await kept_jobs.noop.send_many([(number,) for number in range(JOBS)])
    with counted_calls() as calls:
        await _drain(kept_jobs)
    assert JOBS < calls[0] <= 154 * JOBS


async def test_commands_a_job_under_load_that_is_kept(redis_server: Database, kept_jobs: Jobs) -> None:
    # 0.08 a job from clients, as without; within scripts 1.8, for a batch has six commands more: a history's entry
    # and its number, and the statistics of a minute and an hour, of what ended and of what was sent.
    async with kept_jobs.worker():
        with monitored(redis_server.server) as seen:
            assert sorted(await kept_jobs.send_from_many(MANY)) == list(range(MANY))
    assert 0 < seen.by_clients <= 0.1 * MANY
    assert MANY < seen.by_scripts <= 2.1 * MANY


async def test_commands_within_the_scripts_of_a_job_alone_that_is_kept(
    redis_server: Database, kept_jobs: Jobs
) -> None:
    # 22: the 16 of a job alone, and six as above. The least of five rounds, as there.
    counts: list[int] = []
    async with kept_jobs.worker():
        for _ in range(ROUNDS):
            with monitored(redis_server.server) as seen:
                for number in range(ALONE):
                    await (await kept_jobs.noop.send(number))
            counts.append(seen.by_scripts)
    assert ALONE < min(counts) <= 23 * ALONE, counts


async def test_bytes_of_a_job_that_is_kept(redis_server: Database, kept_jobs: Jobs, app_name: str) -> None:
    # 38 in all: the history, and the counters.
    await kept_jobs.noop.send_many([(number,) for number in range(JOBS)])
    await _drain(kept_jobs)
    with redis_server.client() as client:
        names = [key for key in keys(client, app_name) if ":history" in str(key) or ":stats:" in str(key)]
        used = sum(client.memory_usage(key, samples=0) or 0 for key in names)
    assert len(names) >= 5
    assert 16 * JOBS < used <= 60 * JOBS, used


async def _drain(jobs: Jobs) -> None:
    app_parts = internals_of(jobs.app).app_parts()
    await Worker(app_parts, queues=worker_queues(app_parts, ()), concurrency=100, burst=True).run()
