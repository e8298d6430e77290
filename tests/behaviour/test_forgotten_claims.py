"""A server that goes back to an earlier state, as after a failover to a replica that lagged, forgets claims.

The jobs are queued again then, while they run. Their worker, which claims them once more, must neither run them
twice at once nor lose a slot by it.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import anyio
import pytest
import redis

from aioq import App, JobHandle, current_job, gather
from aioq.app import internals_of
from aioq.worker.worker import Worker
from tests.behaviour.kit import until
from tests.databases import Database

pytestmark = pytest.mark.anyio

# The record as it was sent, a lane that names it, and nobody who holds it.
FORGET = """
local base, id = KEYS[1], ARGV[1]
local record = cmsgpack.unpack(redis.call('GET', base .. ':job:' .. id))
redis.call('SREM', base .. ':held:' .. record[6], id)
redis.call('SET', base .. ':job:' .. id, cmsgpack.pack({record[1], record[2]}))
redis.call('XADD', base .. ':normal', '*', 'job', id)
"""


class Shop:
    """An App with a worker in this process, and a hand on its server.

    Attributes:
        began: the number of each run, as it began.
        go: lets the jobs end.
    """

    def __init__(self, name: str, database: Database, client: redis.Redis) -> None:
        self.app = App(name, url=database.url, log_level="warning")
        self.began: list[int] = []
        self.go = asyncio.Event()
        self._client = client
        self._base = f"aioq:{{{name}:default}}"

        @self.app.task(name="hold")
        async def hold(number: int) -> int:
            self.began.append(number)
            await self.go.wait()
            current_job().progress(number)
            return number

        self.hold = hold

    def forget(self, *handles: JobHandle[int]) -> None:
        for handle in handles:
            self._client.eval(FORGET, 1, self._base, handle.id)

    @asynccontextmanager
    async def worker(self, concurrency: int) -> AsyncIterator[Worker]:
        worker = Worker(internals_of(self.app).app_parts(), queues=["default"], concurrency=concurrency)
        async with self.app:
            running = asyncio.create_task(worker.run())
            try:
                await until(lambda: worker.health().ready)
                yield worker
            finally:
                self.go.set()
                worker.stop()
                with anyio.fail_after(20):
                    await running


@pytest.fixture
def shop(server: Database, app_name: str) -> Iterator[Shop]:
    with server.client() as client:
        yield Shop(app_name, server, client)


@pytest.mark.parametrize("several", [False, True])
async def test_a_job_that_is_given_again_while_it_runs_runs_once_and_costs_no_slot(
    shop: Shop, several: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with shop.worker(concurrency=8) as worker:
        # A lone one is dispatched, several are claimed.
        handles = await shop.hold.send_many([(number,) for number in range(3 if several else 1)])
        await until(lambda: len(shop.began) == len(handles))

        for _ in range(2):
            shop.forget(*handles)
            seen = len(caplog.records)
            await until(lambda seen=seen: len(caplog.records) >= seen + len(handles))

        # A claim under way reserves those that are free.
        await until(lambda: worker._duties.slots.used == worker._duties.executor.running == len(handles))
        more = [await shop.hold.send(number) for number in range(8 - len(handles))]
        await until(lambda: len(shop.began) == 8, "a run in each slot")
        shop.go.set()
        assert await gather(*handles, *more, timeout=20) == (*range(len(handles)), *range(len(more)))
        await until(lambda: worker._duties.slots.used == 0)
        assert worker.health().refused == 0, "neither an outcome nor a report"
        assert all("runs here already" in record.getMessage() for record in caplog.records)
    assert len(shop.began) == 8


async def test_it_can_be_cancelled_as_ever(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    async with shop.worker(concurrency=2) as worker:
        handle = await shop.hold.send(1)
        await until(lambda: shop.began)
        shop.forget(handle)
        await until(lambda: caplog.records)

        await handle.cancel("enough")

        await until(lambda: worker._duties.slots.used == 0)
        assert await handle.status() == "cancelled"


async def test_a_job_whose_id_an_earlier_run_still_has_waits_for_its_end(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody has deleted the record of the first one by hand, and so its id could be used anew."""
    async with shop.worker(concurrency=2) as worker:
        first = await shop.hold.options(job_id="mine").send(1)
        await until(lambda: shop.began)
        shop._client.delete(f"{shop._base}:job:{first.id}")

        second = await shop.hold.options(job_id="mine").send(2)
        await until(lambda: caplog.records)

        assert "is still run here under an earlier send" in caplog.text
        await until(lambda: worker._duties.slots.used == 1)  # a claim under way reserves the free one
        assert shop.began == [1]
        shop.go.set()
        assert await second.result(timeout=20) == 2
        await until(lambda: worker._duties.slots.used == 0)
    assert shop.began == [1, 2]
