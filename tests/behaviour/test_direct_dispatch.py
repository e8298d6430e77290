"""Direct dispatch to workers that wait: in order, once, and never while another one is free."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar

import anyio
import pytest

from aioq import App
from aioq.app import internals_of
from aioq.worker.worker import Worker
from tests.behaviour.kit import until
from tests.databases import Database

pytestmark = pytest.mark.anyio

request: ContextVar[str] = ContextVar("request", default="none")


class Shop:
    """An App with a worker in this process.

    Attributes:
        ran: the numbers of the jobs that ran, in the order they began.
        seen: the request that each found in its context.
    """

    def __init__(self, name: str, url: str, *, lease: float = 8.0) -> None:
        self.app = App(name, url=url, log_level="warning", lease=lease)
        self.ran: list[int] = []
        self.seen: set[str] = set()
        self.go = asyncio.Event()

        @self.app.task(name="note")
        async def note(number: int) -> int:
            self.ran.append(number)
            self.seen.add(request.get())
            return number

        @self.app.task(name="block")
        async def block() -> None:
            self.ran.append(-1)
            await self.go.wait()

        self.note, self.block = note, block

    @asynccontextmanager
    async def worker(
        self, *, concurrency: int = 10, queues: Sequence[str] = ("default",)
    ) -> AsyncIterator[Worker]:
        worker = Worker(internals_of(self.app).app_parts(), queues=queues, concurrency=concurrency)
        async with self.app:
            running = asyncio.create_task(worker.run())
            try:
                await until(lambda: self.waits(worker))
                yield worker
            finally:
                self.go.set()
                worker.stop()
                with anyio.fail_after(20):
                    await running

    @staticmethod
    def waits(worker: Worker) -> bool:
        """Whether a worker waits for jobs in all of its queues."""
        return worker.health().ready and all(duties.fetcher.waiting for duties in worker._duties.queues.values())


@pytest.fixture
def shop(redis_server: Database, app_name: str) -> Shop:
    return Shop(app_name, redis_server.url)


@pytest.mark.parametrize("concurrency", [1, 10])
@pytest.mark.parametrize("together", [0, 10], ids=["alone", "after-several"])
async def test_what_is_sent_first_begins_first(shop: Shop, concurrency: int, together: int) -> None:
    async with shop.worker(concurrency=concurrency):
        sent = 0
        for _ in range(40):
            await shop.note.send_many([(sent + each,) for each in range(together)])
            for number in range(sent + together, sent + together + 5):
                await shop.note.send(number)
            sent += together + 5
        await until(lambda: len(shop.ran) == sent)
    assert shop.ran == list(range(sent))


async def test_a_worker_without_a_free_slot_gives_back_a_dispatched_job(
    redis_server: Database, app_name: str
) -> None:
    """It waits in two queues, and one of them has filled its only slot."""
    busy, free = Shop(app_name, redis_server.url), Shop(app_name, redis_server.url)
    async with busy.worker(concurrency=1, queues=["q1", "q2"]), free.app:
        await busy.block.options(queue="q1").send()
        await until(lambda: busy.ran == [-1])
        async with free.worker(concurrency=1, queues=["q2"]):
            with anyio.fail_after(3):
                assert await (await free.note.options(queue="q2").send(7)) == 7
        assert free.ran == [7]


async def test_a_subscription_that_breaks_again_and_again_makes_no_job_run_twice(
    shop: Shop, redis_server: Database
) -> None:
    async def cut() -> None:
        while True:
            await asyncio.to_thread(client.execute_command, "CLIENT", "KILL", "TYPE", "pubsub")
            await asyncio.sleep(0.02)

    with redis_server.client() as client:
        async with shop.worker():
            cutting = asyncio.create_task(cut())
            for number in range(600):
                await shop.note.send(number)
                await asyncio.sleep(0.001)
            cutting.cancel()
            with anyio.fail_after(20):
                await until(lambda: len(set(shop.ran)) == 600)
    assert len(shop.ran) == 600


async def test_a_job_sees_nothing_of_the_request_that_opened_the_subscription(shop: Shop) -> None:
    async def ask() -> None:
        request.set("somebody's")
        assert await (await shop.note.send(0)) == 0

    async with shop.worker():
        await asyncio.create_task(ask())
        for number in range(10):
            await (await shop.note.send(number))
    assert shop.seen == {"none"}


async def test_a_job_dispatched_to_a_worker_that_stops_runs_elsewhere(
    redis_server: Database, app_name: str
) -> None:
    first, second = Shop(app_name, redis_server.url), Shop(app_name, redis_server.url)
    async with first.worker() as worker:
        worker.stop()
        handles = [await first.note.send(number) for number in range(20)]
    async with second.worker():
        with anyio.fail_after(20):
            assert [await second.app.handle(handle.id) for handle in handles] == list(range(20))
    assert sorted(first.ran + second.ran) == list(range(20))
