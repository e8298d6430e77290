import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import pytest

from aioq.errors import ServerError, ServerUnavailableError
from aioq.jobs.job import JobState
from aioq.store.contract import NewJob
from aioq.store.extra import MovedJob
from aioq.store.memory import MemoryStore
from aioq.store.outbox import DeliveryResult, MovedJobsReport, Reading
from aioq.store.upkeep import Promotion
from aioq.util.clock import ManualClock
from aioq.worker.duties import relays as module
from aioq.worker.duties.relays import Relays
from tests.unit.kit import QUEUE, call, memory_store, running, until

pytestmark = pytest.mark.anyio

OTHER, THIRD = "post", "night"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.Backoff, "next", lambda _: 0.0)
    monkeypatch.setattr(module, "REFUSED_PAUSE", 0.0)


async def moving(store: MemoryStore, target: str, job_id: str = "a") -> Promotion:
    await store.enqueue(QUEUE, [NewJob(job_id, call())])
    assert await store.outbox.move(QUEUE, [job_id], target) == [JobState.QUEUED]
    return await store.promote(QUEUE, 10)


async def is_in(store: MemoryStore, queue: str, job_id: str = "a") -> bool:
    return (await store.info(queue, [job_id])) != [None]


def failing(store: MemoryStore, monkeypatch: pytest.MonkeyPatch, target: str, errors: list[Any]) -> None:
    """A store in which one queue cannot be reached, as often as there are errors."""
    deliver = store.outbox.deliver

    async def delivered(to: str, source: str, reading: Reading) -> DeliveryResult:
        if to == target and errors:
            raise errors.pop()
        return await deliver(to, source, reading)

    monkeypatch.setattr(store.outbox, "deliver", delivered)


async def test_what_a_promotion_asks_for_is_relayed() -> None:
    store = memory_store(ManualClock())
    relays = Relays(store, QUEUE)
    async with running(relays.run()):
        relays.request(await moving(store, OTHER))
        async with asyncio.timeout(10):
            while not await is_in(store, OTHER):  # noqa: ASYNC110 - nothing says when
                await asyncio.sleep(0)


async def test_a_queue_that_is_away_is_tried_again_and_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = memory_store(ManualClock())
    errors = [ServerUnavailableError("away")] * 1_000_000
    failing(store, monkeypatch, OTHER, errors)
    relays = Relays(store, QUEUE)
    with caplog.at_level(logging.WARNING, "aioq.worker"):
        relays.request(await moving(store, OTHER))
        relays.request(await moving(store, THIRD, "b"))
        relays._start()
        await until(lambda: len(relays._tasks) == 1)
        assert await is_in(store, THIRD, "b")
        assert not await is_in(store, OTHER)
        errors.clear()
        await relays.drain()
    assert await is_in(store, OTHER)
    assert len(caplog.records) == 1, "one line an outage"
    assert "what is meant for queue post waits: away" in caplog.text


async def test_a_queue_that_refuses_is_tried_again_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = memory_store(ManualClock())
    failing(store, monkeypatch, OTHER, [ServerError("WRONGTYPE")])
    relays = Relays(store, QUEUE)
    with caplog.at_level(logging.WARNING, "aioq.worker"):
        relays.request(await moving(store, OTHER))
        await relays.drain()
    assert await is_in(store, OTHER)
    assert "queue post refuses what is meant for it: WRONGTYPE" in caplog.text


async def test_jobs_that_have_vanished_fail(caplog: pytest.LogCaptureFixture) -> None:
    store = memory_store(ManualClock())
    relays = Relays(store, QUEUE)
    relays.request(await moving(store, OTHER))
    relays.request(await moving(store, OTHER, "b"))
    await relays.drain()
    del store._queues[OTHER]._records["a"]
    with caplog.at_level(logging.WARNING, "aioq.worker"):
        relays.request(Promotion(1, None, 0, (), [MovedJob("a", OTHER, ""), MovedJob("b", OTHER, "")]))
        await relays.drain()
    (found, other) = await store.info(QUEUE, ["a", "b"])
    assert found is not None
    assert other is not None
    assert (found.state, found.error and found.error.type) == (JobState.FAILED, "JobLost")
    assert other.state is JobState.QUEUED
    assert "job a was moved from queue mail to queue post, and is not there any more" in caplog.text


async def test_a_look_at_a_queue_that_is_away_is_left_for_later(monkeypatch: pytest.MonkeyPatch) -> None:
    store = memory_store(ManualClock())
    relays = Relays(store, QUEUE)

    asked: list[object] = []

    async def away(target: str, source: str, jobs: Sequence[MovedJob]) -> None:
        asked.append((target, source, [job.job_id for job in jobs]))
        raise ServerUnavailableError("away")

    async def lost(*_: object) -> None:
        raise AssertionError("nobody has said that the job is gone")

    monkeypatch.setattr(store.outbox, "look", away)
    monkeypatch.setattr(store.outbox, "lost", lost)
    relays.request(Promotion(1, None, 0, (), [MovedJob("a", OTHER, "")]))
    await relays.drain()
    assert asked == [(OTHER, QUEUE, ["a"])], "it asks once, and a timer brings the job again"


async def test_nothing_is_left_when_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    store = memory_store(ManualClock())
    failing(store, monkeypatch, OTHER, [ServerUnavailableError("away")] * 1_000_000)
    relays = Relays(store, QUEUE)
    async with running(relays.run()):
        relays.request(await moving(store, OTHER))
        await until(lambda: len(relays._tasks) == 1)
    assert not relays._tasks


async def test_what_is_asked_for_meanwhile_is_done_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of very many jobs that were moved each promotion names some, and may come before these were looked for."""
    store = memory_store(ManualClock())
    asked: list[str] = []
    answer = asyncio.Event()

    async def look(_target: str, _source: str, jobs: Sequence[MovedJob]) -> MovedJobsReport:
        asked.extend(job.job_id for job in jobs)
        await answer.wait()
        return MovedJobsReport()

    monkeypatch.setattr(store.outbox, "look", look)
    relays = Relays(store, QUEUE)
    async with running(relays.run()):
        for job_id in ("a", "b", "c"):
            relays.request(Promotion(1, None, 0, (), [MovedJob(job_id, OTHER, "")]))
            await until(lambda: bool(asked))
        answer.set()
        await until(lambda: len(asked) == 3)
    assert asked == ["a", "b", "c"]
