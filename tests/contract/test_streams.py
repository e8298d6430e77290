"""What stays in the server: lanes do not grow, however many jobs have passed."""

from collections.abc import Callable

import pytest

from aioq.store.contract import NewJob, Settlement, Verb
from aioq.store.redis import RedisStore
from tests.contract.kit import (
    BLOCK,
    CALL,
    QUEUE,
    REASON,
    THREE,
    Backend,
    joined,
    running,
    send,
    settle,
    take,
    take_one,
)

pytestmark = pytest.mark.anyio

BATCH = 500
SHORT = 300  # entries; Redis frees whole nodes of 100, so a lane keeps up to two that are in use


async def pass_by(store: RedisStore, worker: str, number: int, batch: int = BATCH) -> None:
    """Send jobs and finish them, without keeping their results."""
    for start in range(0, number, batch):
        await store.enqueue(QUEUE, [NewJob(f"job-{start + i}", CALL) for i in range(batch)])
        jobs = await take(store, worker, batch)
        done = [Settlement(job.id, job.claim, Verb.SUCCEEDED, THREE) for job in jobs]
        assert await store.settle(QUEUE, worker, done) == [True] * batch


def length(backend: Backend, lane: str = "normal") -> int:
    assert backend.database is not None
    with backend.database.client() as client:
        return client.xlen(backend.key(lane))  # pyright: ignore[reportReturnType]


@pytest.mark.scale(minutes=2)
async def test_a_long_job_does_not_hold_the_lane(
    redis_store: RedisStore, redis_backend: Backend, size: Callable[[int, int], int]
) -> None:
    worker = await joined(redis_store, "w")
    await running(redis_store, worker, "long")

    await pass_by(redis_store, worker, size(3_000, 20_000))

    assert length(redis_backend) < SHORT


@pytest.mark.scale(minutes=2)
async def test_a_lane_that_is_never_empty_is_trimmed(
    redis_store: RedisStore, redis_backend: Backend, size: Callable[[int, int], int]
) -> None:
    worker = await joined(redis_store, "w")
    await send(redis_store, *(f"waiting-{number}" for number in range(10)))
    for start in range(0, size(1_000, 3_000), 50):
        await send(redis_store, *(f"job-{start + i}" for i in range(50)))
        for job in await take(redis_store, worker, 50):
            await settle(redis_store, worker, job, Verb.SUCCEEDED, THREE, ttl_ms=0)

    assert length(redis_backend) < SHORT


async def test_entries_that_came_by_blocking_leave_the_lane(
    redis_store: RedisStore, redis_backend: Backend
) -> None:
    worker = await joined(redis_store, "w")
    for number in range(50):
        await send(redis_store, f"job-{number}")
        tokens = await redis_store.block(QUEUE, worker, BLOCK)
        (job,) = (await redis_store.claim(QUEUE, worker, 1, tokens)).jobs
        await settle(redis_store, worker, job, Verb.SUCCEEDED, THREE, ttl_ms=0)

    assert length(redis_backend) == 0


async def test_front_lanes_are_trimmed_too(redis_store: RedisStore, redis_backend: Backend) -> None:
    worker = await joined(redis_store, "w")
    await send(redis_store, "job")
    for _ in range(300):
        await settle(redis_store, worker, await take_one(redis_store, worker), Verb.RELEASE)

    assert length(redis_backend, "normal:front") < SHORT


async def test_jobs_whose_outcome_is_not_kept_leave_nothing_that_does_not_expire(
    redis_store: RedisStore, redis_backend: Backend
) -> None:
    worker = await joined(redis_store, "w")
    await pass_by(redis_store, worker, 100, 50)
    job = await running(redis_store, worker)
    await redis_store.cancel(QUEUE, ["job"], REASON, 0)
    await settle(redis_store, worker, job, Verb.CANCELLED, REASON, ttl_ms=0)
    await redis_store.depart(QUEUE, worker)

    assert redis_backend.database is not None
    with redis_backend.database.client() as client:
        expiring = {key for key in client.scan_iter() if client.pttl(key) > 0}  # pyright: ignore[reportOperatorIssue]
        kinds = [str(key).split("}:")[1].partition(":")[0] for key in expiring]
        assert sorted(kinds) == ["receipt"] + ["tombstone"] * 101
        lanes = set(client.keys("*")) - expiring  # pyright: ignore[reportArgumentType]
        names = {str(key).rpartition("}:")[2] for key in lanes}
        assert names == {lane + end for lane in ("high", "normal", "low") for end in ("", ":front", ":rest")}
        assert sum(client.xlen(key) for key in lanes) < SHORT  # pyright: ignore[reportArgumentType]
