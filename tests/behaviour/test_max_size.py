"""Queues with a bound: a sender learns that its queue is full, and nothing that comes back is refused."""

import asyncio

import pytest

from aioq import App, JobNotFoundError, Queue, QueueFullError, Retry, SendError
from aioq.tasks.task import AsyncTask
from tests.behaviour.kit import until
from tests.behaviour.test_shares import serving
from tests.clusters import Cluster
from tests.databases import Database

pytestmark = pytest.mark.anyio

MOST = 20


class Bounded:
    """An App with a queue of few jobs, one of which fails at first."""

    def __init__(self, url: str, name: str, queue: Queue | None = None) -> None:
        self.app = App(name, url=url, queues={"mail": queue or Queue(max_size=MOST)}, log_level="error")
        self.ended: list[int] = []
        self.failed: set[int] = set()
        self.released = asyncio.Event()
        self.begun = 0

        async def work(number: int) -> None:
            self.begun += 1
            await self.released.wait()
            if number % 7 == 0 and number not in self.failed:
                self.failed.add(number)
                raise ConnectionError
            self.ended.append(number)

        self.work: AsyncTask[[int], None] = self.app.task(queue="mail", retry=Retry(delays=[0]))(work)


async def of_many_senders_as_many_succeed_as_there_is_room(url: str, name: str) -> None:
    bounded = Bounded(url, name)
    async with bounded.app:
        numbers = range(1, 3 * MOST + 1)
        replies = await asyncio.gather(*(bounded.work.send(each) for each in numbers), return_exceptions=True)
        refused = [each for each in replies if isinstance(each, QueueFullError)]
        assert len(refused) == 2 * MOST
        assert all(len(each.job_ids) == 1 for each in refused)
        stats = await bounded.app.queue("mail").stats()
        assert (stats.queued, stats.max_size) == (MOST, MOST)
        bounded.released.set()
        async with serving(bounded.app, queues=["mail"], concurrency=5):
            await until(lambda: len(bounded.ended) == MOST, "the end of those that were sent")
            await bounded.work.send(0)
            await until(lambda: 0 in bounded.ended, "the end of one more")


async def test_of_many_senders_as_many_succeed_as_there_is_room(server: Database, app_name: str) -> None:
    await of_many_senders_as_many_succeed_as_there_is_room(server.url, app_name)


async def test_so_it_is_in_a_cluster(cluster: Cluster, app_name: str) -> None:
    await of_many_senders_as_many_succeed_as_there_is_room(cluster.url, app_name)


async def test_many_at_once_fill_the_queue_and_the_error_names_the_others(server: Database, app_name: str) -> None:
    bounded = Bounded(server.url, app_name, Queue(max_size=700))
    async with bounded.app:
        with pytest.raises(
            SendError, match=r"queue 'mail' is full: 700 jobs of 700 \(max_size\) are there; "
        ) as error:
            await bounded.work.send_many([(number,) for number in range(1, 1_001)])
        assert isinstance(error.value, QueueFullError)
        assert len(error.value.job_ids) == len({*error.value.job_ids}) == 300
        assert int(await bounded.app.jobs(queue="mail", state="queued").count()) == 700
        with pytest.raises(JobNotFoundError):
            await bounded.app.handle(error.value.job_ids[0]).info()


async def test_retries_come_back_to_a_full_queue(server: Database, app_name: str) -> None:
    bounded = Bounded(server.url, app_name, Queue(max_size=2))
    async with bounded.app, serving(bounded.app, queues=["mail"], concurrency=2):
        await bounded.work.send_many([(7,), (14,)])
        await until(lambda: bounded.begun == 2, "the start of both")
        await bounded.work.send_many([(1,), (2,)])
        with pytest.raises(QueueFullError):
            await bounded.work.send(3)
        bounded.released.set()
        await until(lambda: len(bounded.ended) == 4, "the end of all")
    assert bounded.failed == {7, 14}
    assert sorted(bounded.ended) == [1, 2, 7, 14]


async def test_each_shard_has_the_bound(server: Database, app_name: str) -> None:
    bounded = Bounded(server.url, app_name, Queue(max_size=1, shards=2))
    async with bounded.app:
        await bounded.work.send(1)
        await bounded.work.send(2)
        with pytest.raises(QueueFullError) as error:
            await bounded.work.send(3)
    assert (error.value.queue, error.value.size, error.value.max_size) == ("mail", 1, 1)
