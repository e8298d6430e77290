"""A failover to a replica that lagged takes back the last writes. Nobody may hang for ever because of that.

A server that is killed and started with an earlier snapshot is, for its clients, such a replica.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal

import anyio
import pytest

from aioq import App, JobCancelledError, JobFailed, JobHandle, JobNotFoundError, Retry
from aioq.app import internals_of
from aioq.worker.worker import Worker
from tests.behaviour.kit import until
from tests.servers import Server

pytestmark = pytest.mark.anyio

WITHIN = 20.0
LEASE = 2.0


class Shop:
    """An App, the server that it uses, and its workers in this process.

    Attributes:
        began: how often a job of each number has begun.
        go: lets the jobs end.
    """

    def __init__(self, name: str, server: Server) -> None:
        self.server = server
        self.name = name
        self.app = App(name, url=server.url, log_level="error", lease=LEASE, poll_interval=0.3)
        self.began: Counter[int] = Counter()
        self.go = asyncio.Event()

        @self.app.task(name="hold")
        async def hold(number: int) -> int:
            self.began[number] += 1
            await self.go.wait()
            return number

        @self.app.task(name="brief", result_ttl=0)
        async def brief(number: int) -> None:
            self.began[number] += 1
            await self.go.wait()

        @self.app.task(name="stumble", retry=Retry(3, delay=0.1))
        async def stumble(number: int) -> int:
            self.began[number] += 1
            if self.began[number] < 2:
                raise ValueError("not yet")
            return number

        self.hold, self.brief, self.stumble = hold, brief, stumble

    def save(self) -> None:
        """What the server has now is what it has after `lose`."""
        with self.server.client() as client:
            client.save()

    def lose(self) -> None:
        """Take back all that was written since `save`; every connection breaks."""
        self.server.kill()
        self.server.restart()

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[Worker]:
        worker = Worker(internals_of(self.app).app_parts(), queues=["default"], concurrency=8)
        running = asyncio.create_task(worker.run())
        try:
            await until(lambda: worker.health().ready)
            yield worker
        finally:
            self.go.set()
            worker.stop()
            with anyio.fail_after(WITHIN):
                await running

    def rest(self) -> dict[str, int]:
        """What the server still has of jobs that have not ended: by its key, how much."""
        base = f"aioq:{{{self.name}:default}}:"
        with self.server.client() as client:
            held = sum(client.scard(key) for key in client.scan_iter(f"{base}held:*"))  # pyright: ignore[reportArgumentType]
            return {"held": held, "scheduled": client.zcard(f"{base}scheduled")}  # pyright: ignore[reportReturnType]

    async def works(self) -> None:
        """A new job is run and answered, and nothing is left of those before."""
        self.go.set()
        with anyio.fail_after(WITHIN):
            assert await (await self.hold.send(0)) == 0
        await until(lambda: not any(self.rest().values()))


@pytest.fixture
async def shop(start_server: Callable[..., Server], app_name: str) -> AsyncIterator[Shop]:
    shop = Shop(app_name, start_server())
    async with shop.app:
        yield shop


async def outcome(handle: JobHandle[Any]) -> object:
    with anyio.fail_after(WITHIN):
        return await handle


async def test_who_waits_is_notified_that_the_send_was_lost(shop: Shop) -> None:
    async with shop.worker() as worker:
        shop.save()
        handle = await shop.hold.send(1)
        waiting = asyncio.create_task(outcome(handle))
        await until(lambda: shop.began[1])
        shop.lose()
        with pytest.raises(JobNotFoundError):
            await waiting
        await shop.works()
        await until(lambda: worker._duties.slots.used == 0)


async def test_a_claim_that_was_lost_runs_on_and_costs_no_slot(shop: Shop) -> None:
    async with shop.worker() as worker:
        handle = await shop.hold.options(delay=1).send(1)
        shop.save()
        await until(lambda: shop.began[1])
        shop.lose()
        await asyncio.sleep(1.2)  # it is due again, and queued
        shop.go.set()
        assert await outcome(handle) == 1
        await shop.works()
        await until(lambda: worker._duties.slots.used == 0)
    assert shop.began[1] == 1


async def test_an_outcome_that_was_lost_is_written_again(shop: Shop) -> None:
    async with shop.worker():
        kept, forgotten = await shop.hold.send(1), await shop.brief.send(2)
        await until(lambda: shop.began[1] and shop.began[2])
        shop.save()
        shop.go.set()
        assert await outcome(kept) == 1
        shop.lose()
        assert await outcome(shop.app.handle(kept.id)) == 1
        await until(lambda: shop.began[2] == 2)
        await shop.works()
        with pytest.raises(JobNotFoundError):
            await outcome(forgotten)
    assert shop.began[1] == 2


async def test_a_cancellation_that_was_lost_is_that_of_no_job(shop: Shop) -> None:
    async with shop.worker():
        handle = await shop.hold.send(1)
        await until(lambda: shop.began[1])
        shop.save()
        await handle.cancel("enough")
        with pytest.raises(JobCancelledError):
            await outcome(handle)
        shop.lose()
        await until(lambda: shop.began[1] == 2)
        await handle.cancel("once more")
        with pytest.raises(JobCancelledError, match="once more"):
            await outcome(shop.app.handle(handle.id))
        await shop.works()


async def test_what_a_worker_held_that_has_left_meanwhile_is_found_after_a_lease(shop: Shop) -> None:
    async with shop.worker():
        handle = await shop.hold.send(1)
        await until(lambda: shop.began[1])
        shop.save()
    shop.lose()
    async with shop.worker():
        assert await outcome(shop.app.handle(handle.id)) == 1
        await shop.works()


async def test_a_worker_that_the_server_does_not_know_any_more_joins_again(shop: Shop) -> None:
    handle = await shop.hold.send(1)
    shop.save()
    async with shop.worker():
        await until(lambda: shop.began[1])
        shop.lose()
        await until(lambda: shop.began[1] == 2)
        shop.go.set()
        assert await outcome(handle) == 1
        await shop.works()


@pytest.mark.parametrize("overlap", ["one", "allow"])
async def test_a_schedule_ticks_on(shop: Shop, overlap: Literal["one", "allow"]) -> None:
    await shop.app.schedules.put("often", shop.hold.call(5), every=0.3, overlap=overlap)
    async with shop.worker():
        await until(lambda: shop.began[5])
        shop.save()
        shop.go.set()
        await until(lambda: shop.began[5] >= 4)
        shop.lose()
        before = shop.began[5]
        await until(lambda: shop.began[5] >= before + 4, "four more ticks")
        await shop.app.schedules.remove("often")
        await shop.works()


async def test_whenever_it_happens_everything_comes_to_an_end(shop: Shop) -> None:
    """Sends, retries, delays and cancellations, with the last writes taken back again and again."""
    chance = random.Random(7)
    handles: list[JobHandle[int]] = []

    async def act(number: int) -> None:
        task = chance.choice([shop.hold, shop.stumble])
        delay = chance.choice([None, None, 0.2, 0.6])
        handle = await (task if delay is None else task.options(delay=delay)).send(number)
        handles.append(handle)
        if chance.random() < 0.2:
            with suppress(JobNotFoundError):
                await chance.choice(handles).cancel("by chance")

    shop.go.set()
    async with shop.worker(), asyncio.TaskGroup() as group:
        waiting: list[asyncio.Task[str]] = []
        for turn in range(5):
            for number in range(30):
                if number == chance.randrange(30):
                    shop.save()
                await act(10 + turn * 30 + number)
                waiting.append(group.create_task(end_of(handles[-1])))
                await asyncio.sleep(chance.uniform(0, 0.02))
            shop.lose()
        ends = Counter([await each for each in waiting])
        assert sum(ends.values()) == 150
        assert ends["succeeded"] > 30, ends
        await shop.works()


async def end_of(handle: JobHandle[int]) -> str:
    try:
        await outcome(handle)
    except JobNotFoundError:
        return "lost"
    except (JobCancelledError, JobFailed) as error:
        return type(error).__name__
    return "succeeded"
