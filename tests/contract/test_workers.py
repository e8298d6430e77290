"""Who serves a queue, and the jobs of workers that are known to have died before their lease says so."""

import asyncio

import msgspec
import pytest

from aioq.jobs.job import JobState
from aioq.store.contract import Limits, Store, Verb
from aioq.store.upkeep import RecoveryStep
from tests.contract.kit import (
    CRASHED,
    QUEUE,
    THREE,
    Backend,
    info,
    joined,
    keep,
    send,
    settle,
    state,
    take,
    take_one,
)

pytestmark = pytest.mark.anyio


async def bury(store: Store, prefix: str, limit: int = 100) -> RecoveryStep:
    step = await store.recover(QUEUE, CRASHED, limit, dead=prefix)
    return msgspec.structs.replace(step, buried=tuple(step.buried))


async def test_the_workers_of_a_queue_are_returned_with_their_leases(store: Store) -> None:
    await joined(store, "w1")
    await joined(store, "w2")
    await joined(store, "elsewhere", "slow")

    found = {w.worker: w for w in await store.workers(QUEUE)}

    assert set(found) == {"w1", "w2"}
    assert all(3_500_000 < w.lease_ms <= 3_600_000 for w in found.values())
    assert all(0 <= w.fetched_ms < 60_000 for w in found.values())
    assert await store.workers("nobody") == []


async def test_a_renewal_says_when_the_worker_last_fetched(store: Store) -> None:
    await joined(store, "w")
    lease_client = store.lease_client()
    try:
        lease_client.renew(QUEUE, "w", fetched_ms=30_000)
    finally:
        lease_client.close()

    (worker,) = await store.workers(QUEUE)

    assert 30_000 <= worker.fetched_ms < 90_000


@pytest.mark.parametrize("limits", [Limits(lease_ms=20)])
async def test_a_lease_that_has_ended_says_how_long_ago(store: Store) -> None:
    await joined(store, "w")
    ended = list[int]()
    while not ended or ended[-1] < 50:
        (worker,) = await store.workers(QUEUE)
        assert not (worker.lease_ms and worker.ended_ms)
        ended.append(worker.ended_ms)
        await asyncio.sleep(0.005)
    assert ended == sorted(ended)


async def test_a_worker_that_departs_or_is_recovered_is_not_returned_any_more(store: Store) -> None:
    for worker in ("leaves", "dies", "stays"):
        await joined(store, worker)

    await store.depart(QUEUE, "leaves")
    await bury(store, "dies")

    assert [w.worker for w in await store.workers(QUEUE)] == ["stays"]


async def test_what_the_dead_held_comes_back_whatever_their_lease_says(store: Store) -> None:
    await joined(store, "host-1-abc-1")
    await send(store, "a", "b")
    jobs = await take(store, "host-1-abc-1")

    step = await bury(store, "host-1-abc-")

    assert (step.worker, step.returned, step.buried, step.more) == ("host-1-abc-1", 2, (), False)
    assert [(await info(store, id_)).crashes for id_ in ("a", "b")] == [1, 1]
    assert [await state(store, id_) for id_ in ("a", "b")] == [JobState.QUEUED] * 2
    assert (await keep(store, "host-1-abc-1")).lost
    assert not await settle(store, "host-1-abc-1", jobs[0], Verb.SUCCEEDED, THREE)


async def test_others_keep_what_they_hold(store: Store) -> None:
    for worker in ("host-1-abc-1", "host-1-abcd-1", "host-11-abc-1"):
        await joined(store, worker)
        await send(store, f"of {worker}")
        await take_one(store, worker)

    await bury(store, "host-1-abc-")

    assert await state(store, "of host-1-abc-1") is JobState.QUEUED
    assert await state(store, "of host-1-abcd-1") is JobState.RUNNING
    assert await state(store, "of host-11-abc-1") is JobState.RUNNING


async def test_every_id_of_an_incarnation_is_buried_in_bounded_steps(store: Store) -> None:
    for number in (1, 2):
        await joined(store, f"incarnation-{number}")
        await send(store, *(f"{number}-{n}" for n in range(3)))
        await take(store, f"incarnation-{number}", 3)

    returned, steps, more = 0, 0, True
    while more:
        step = await bury(store, "incarnation-", limit=2)
        returned, steps, more = returned + step.returned, steps + 1, step.more

    assert returned == 6
    assert steps >= 4
    assert await bury(store, "incarnation-") == RecoveryStep()
    assert await store.workers(QUEUE) == []


async def test_without_a_dead_worker_nothing_happens(store: Store, backend: Backend) -> None:
    await joined(store, "w")

    assert await bury(store, "x") == RecoveryStep()
    assert [w.worker for w in await store.workers(QUEUE)] == ["w"]
