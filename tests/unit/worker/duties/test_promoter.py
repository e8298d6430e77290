import asyncio

import pytest

from aioq.errors import ServerUnavailableError
from aioq.jobs.job import JobState
from aioq.store.contract import NewJob
from aioq.store.memory import MemoryStore
from aioq.store.upkeep import Promotion
from aioq.util.clock import ManualClock
from aioq.worker.duties import promoter as module
from aioq.worker.duties.promoter import LIMIT, Promoter
from tests.unit.kit import QUEUE, call, memory_store, running, turns, until

pytestmark = pytest.mark.anyio


class Counting:
    """A store that promotes as the script says, and notes it."""

    def __init__(self, *script: Promotion | Exception) -> None:
        self.script = list(script)
        self.steps: list[tuple[str, int]] = []

    async def promote(self, queue: str, limit: int) -> Promotion:
        self.steps.append((queue, limit))
        step = self.script.pop(0) if self.script else Promotion(0, None)
        if isinstance(step, Exception):
            raise step
        return step


def _nothing(_: Promotion) -> None: ...


def make(store: object) -> Promoter:
    return Promoter(store, QUEUE, on_outbox=_nothing, on_operations=_nothing, on_flows=_nothing)  # pyright: ignore[reportArgumentType]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.Backoff, "next", lambda _: 0.0)


async def state(store: MemoryStore, job_id: str) -> JobState | None:
    (found,) = await store.info(QUEUE, [job_id])
    return found and found.state


async def test_a_job_is_queued_when_it_is_due():
    clock = ManualClock()
    store = memory_store(clock)
    await store.enqueue(QUEUE, [NewJob("a", call(), delay_ms=1000)])
    assert await state(store, "a") is JobState.SCHEDULED
    clock.advance(1)
    promoter = make(store)
    async with running(promoter.run()):
        promoter.expect(0)
        async with asyncio.timeout(10):
            while await state(store, "a") is not JobState.QUEUED:  # noqa: ASYNC110 - nothing says when
                await asyncio.sleep(0)


async def test_it_sleeps_while_nothing_is_expected():
    store = Counting()
    promoter = make(store)
    async with running(promoter.run()):
        promoter.expect(None)
        promoter.expect(3_600_000)
        await turns()
        assert store.steps == []


async def test_an_earlier_expectation_wakes_it_and_a_later_one_does_not_put_it_off():
    store = Counting()
    promoter = make(store)
    async with running(promoter.run()):
        promoter.expect(3_600_000)
        await turns()
        promoter.expect(1)
        promoter.expect(3_600_000)
        await until(lambda: store.steps)
    assert store.steps == [(QUEUE, LIMIT)]


async def test_while_more_are_due_it_goes_on():
    store = Counting(Promotion(LIMIT, 0), Promotion(LIMIT, 0), Promotion(3, 3_600_000))
    promoter = make(store)
    async with running(promoter.run()):
        promoter.expect(0)
        await until(lambda: len(store.steps) == 3)
        await turns()
    assert len(store.steps) == 3


async def test_an_outage_is_waited_out():
    store = Counting(ServerUnavailableError("down"), ServerUnavailableError("down"), Promotion(1, None))
    promoter = make(store)
    async with running(promoter.run()):
        promoter.expect(0)
        await until(lambda: len(store.steps) == 3)


async def test_what_is_expected_while_it_promotes_is_not_forgotten():
    store = Counting()
    promoter = make(store)
    promote = store.promote

    async def meanwhile(queue: str, limit: int) -> Promotion:
        if not store.steps:
            promoter.expect(0)
        return await promote(queue, limit)

    store.promote = meanwhile  # pyright: ignore[reportAttributeAccessIssue]
    async with running(promoter.run()):
        promoter.expect(0)
        await until(lambda: len(store.steps) == 2)
