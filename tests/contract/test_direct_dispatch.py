"""Jobs that the server hands to a waiting worker, without waking it first and being asked for them."""

from collections.abc import AsyncIterator

import pytest
import redis

from aioq.errors import ServerUnavailableError
from aioq.jobs.job import JobState
from aioq.store.contract import Claimed, NewJob, Settlement, Verb
from aioq.store.extra import Duplicate, Extra, Lock
from aioq.store.redis import RedisStore
from aioq.wire.messages import encode_envelope
from tests.contract.kit import (
    BLOCK,
    CALL,
    CRASHED,
    LONG,
    QUEUE,
    THREE,
    Backend,
    Listener,
    eventually,
    ids,
    info,
    joined,
    send,
    settle,
    state,
    take,
)

pytestmark = pytest.mark.anyio


class Hands:
    """The jobs that come to a worker by direct dispatch."""

    def __init__(self) -> None:
        self.jobs: list[Claimed] = []
        self.gaps = 0
        self.wakes: list[int] = []

    def gap(self) -> None:
        self.gaps += 1

    async def next(self) -> Claimed:
        """Wait for a job."""

        async def come() -> bool:
            return bool(self.jobs)

        await eventually(come)
        return self.jobs.pop(0)


@pytest.fixture
async def hands(redis_store: RedisStore) -> AsyncIterator[Hands]:
    """Those of the worker `w`, which has joined and listens."""
    hands = Hands()
    await joined(redis_store, "w")
    leave = await redis_store.dispatched(QUEUE, "w", hands.jobs.append, hands.gap, hands.wakes.append)
    yield hands
    await leave()


@pytest.fixture
def client(redis_backend: Backend) -> redis.Redis:
    assert redis_backend.database is not None
    return redis_backend.database.client()


async def wait_for_jobs(store: RedisStore, worker: str = "w") -> None:
    """Say that the worker waits, as its fetcher does before it blocks."""
    assert (await store.claim(QUEUE, worker, 5, idle=True)).jobs == []


def waiting(client: redis.Redis, backend: Backend) -> list[str]:
    """The workers that may get a direct dispatch."""
    return client.zrangebyscore(backend.key("idle"), 0, "+inf")  # pyright: ignore[reportReturnType]


async def test_a_lone_job_is_dispatched_to_a_waiting_worker_as_claimed(
    redis_store: RedisStore, hands: Hands, client: redis.Redis, redis_backend: Backend
) -> None:
    await wait_for_jobs(redis_store)
    assert await send(redis_store, "job") == [True]
    job = await hands.next()

    assert (job.id, job.envelope, job.claims) == ("job", CALL, 1)
    assert (job.attempts, job.crashes, job.interruptions, job.sent_ms) == (0, 0, 0, job.started_ms)
    found = await info(redis_store, "job")
    assert (found.state, found.worker) == (JobState.RUNNING, "w")
    assert client.xlen(redis_backend.key("normal")) == 0
    assert client.smembers(redis_backend.key("held:w")) == {"job"}
    assert await settle(redis_store, "w", job, Verb.SUCCEEDED, THREE)
    assert await state(redis_store) is JobState.SUCCEEDED
    assert await send(redis_store, "job") == [False]


async def test_a_repeated_settle_does_not_end_a_later_job_of_the_same_id(
    redis_store: RedisStore, hands: Hands
) -> None:
    await wait_for_jobs(redis_store)
    runs: list[Claimed] = []
    for _ in range(2):
        assert await send(redis_store, "job") == [True]
        runs.append(await hands.next())
        done = Settlement("job", runs[0].claim, Verb.SUCCEEDED, THREE, 0, 0)
        assert await redis_store.settle(QUEUE, "w", [done], idle=True) == [len(runs) == 1]
    assert await state(redis_store) is JobState.RUNNING
    assert await settle(redis_store, "w", runs[1], Verb.SUCCEEDED, THREE)


async def test_a_worker_gets_no_second_dispatch_until_it_waits_again(
    redis_store: RedisStore, hands: Hands, client: redis.Redis, redis_backend: Backend
) -> None:
    await wait_for_jobs(redis_store)
    await send(redis_store, "first")
    first = await hands.next()
    assert waiting(client, redis_backend) == []
    done = Settlement("first", first.claim, Verb.SUCCEEDED, THREE, 0, LONG)
    assert await redis_store.settle(QUEUE, "w", [done], idle=True) == [True]
    await send(redis_store, "second")
    assert (await hands.next()).id == "second"


async def test_nothing_overtakes_what_is_queued(
    redis_store: RedisStore, hands: Hands, client: redis.Redis, redis_backend: Backend
) -> None:
    await wait_for_jobs(redis_store)
    await send(redis_store, "first")
    first = await hands.next()
    await send(redis_store, "second")
    done = Settlement("first", first.claim, Verb.SUCCEEDED, THREE, 0, LONG)
    assert await redis_store.settle(QUEUE, "w", [done], idle=True) == [True]
    assert waiting(client, redis_backend) == [], "there is something in a lane, and it has to look"
    await send(redis_store, "third")
    assert ids((await redis_store.claim(QUEUE, "w", 5, idle=True)).jobs) == ["second", "third"]
    await send(redis_store, "fourth")
    assert (await hands.next()).id == "fourth"


@pytest.mark.parametrize("how", ["several", "given-back", "due", "moved", "unclaimed"])
async def test_whatever_is_queued_ends_the_waiting(
    redis_store: RedisStore, hands: Hands, client: redis.Redis, redis_backend: Backend, how: str
) -> None:
    other = await joined(redis_store, "other")
    await send(redis_store, "running")
    (running,) = await take(redis_store, other)
    await send(redis_store, "later", delay_ms=LONG if how != "due" else 1)
    if how == "unclaimed":
        await send(redis_store, "delivered")
        await redis_store.block(QUEUE, other, BLOCK)
    await redis_store.claim(QUEUE, "w", 5)
    await wait_for_jobs(redis_store)
    assert waiting(client, redis_backend) == ["w"]
    if how == "several":
        await send(redis_store, "a", "b")
    elif how == "given-back":
        assert await settle(redis_store, other, running, Verb.RELEASE)
    elif how == "due":
        await eventually(lambda: promoted(redis_store))
    elif how == "moved":
        await redis_store.reschedule(QUEUE, ["later"])
    else:
        await redis_store.depart(QUEUE, other)
    assert waiting(client, redis_backend) == []


async def promoted(store: RedisStore) -> bool:
    return (await store.promote(QUEUE, 5)).count == 1


async def test_a_server_that_is_out_of_memory_refuses_it_as_any_other(
    redis_store: RedisStore, hands: Hands, client: redis.Redis, redis_backend: Backend
) -> None:
    await wait_for_jobs(redis_store)
    client.config_set("maxmemory", "1")
    try:
        with pytest.raises(ServerUnavailableError, match="out of memory"):
            await send(redis_store, "job")
    finally:
        client.config_set("maxmemory", "0")
    assert await redis_store.info(QUEUE, ["job"]) == [None]
    assert waiting(client, redis_backend) == ["w"]


async def test_a_claim_ends_the_waiting(
    redis_store: RedisStore, hands: Hands, client: redis.Redis, redis_backend: Backend
) -> None:
    await wait_for_jobs(redis_store)
    assert waiting(client, redis_backend) == ["w"]
    await redis_store.claim(QUEUE, "w", 0)
    assert waiting(client, redis_backend) == []
    await send(redis_store, "job")
    assert ids((await redis_store.claim(QUEUE, "w", 1, idle=True)).jobs) == ["job"]
    assert waiting(client, redis_backend) == [], "it has what it asked for, and does not wait"


async def test_jobs_that_come_together_are_queued(redis_store: RedisStore, hands: Hands) -> None:
    await wait_for_jobs(redis_store)
    await send(redis_store, "a", "b")
    assert ids(await take(redis_store, "w")) == ["a", "b"]
    assert hands.jobs == []


@pytest.mark.parametrize("waiter", ["", "me"])
async def test_a_job_whose_delay_is_none_comes_by_direct_dispatch(
    redis_store: RedisStore, hands: Hands, waiter: str
) -> None:
    await wait_for_jobs(redis_store)
    await redis_store.enqueue(QUEUE, [NewJob("job", CALL, delay_ms=0, waiter=waiter)])
    assert (await hands.next()).id == "job"


@pytest.mark.parametrize("what", ["delayed", "large", "known", "urgent"])
async def test_what_is_no_plain_job_is_queued(redis_store: RedisStore, hands: Hands, what: str) -> None:
    await wait_for_jobs(redis_store)
    if what == "delayed":
        await send(redis_store, "job", delay_ms=LONG)
    elif what == "urgent":
        await redis_store.enqueue(QUEUE, [NewJob("job", CALL, nonce="mine")])
    elif what == "large":
        await redis_store.enqueue(QUEUE, [NewJob("job", encode_envelope("large", ["x" * 2000], {}, None))])
    else:
        await redis_store.enqueue(QUEUE, [NewJob("job", CALL)], again=True)
    assert await state(redis_store) is (JobState.SCHEDULED if what == "delayed" else JobState.QUEUED)
    assert hands.jobs == []


def unique(job_id: str, until: str = "ended", conflict: str = "return", key: str = "k") -> NewJob:
    return NewJob(job_id, CALL, extra=Extra(unique=Lock(key, until, conflict)))


@pytest.mark.parametrize("conflict", ["return", "raise", "replace", "latest"])
async def test_a_lone_unique_job_is_dispatched_with_its_key(
    redis_store: RedisStore, hands: Hands, client: redis.Redis, redis_backend: Backend, conflict: str
) -> None:
    await wait_for_jobs(redis_store)
    assert await redis_store.enqueue(QUEUE, [unique("job", conflict=conflict)]) == [True]
    job = await hands.next()
    assert (job.id, job.envelope, job.claims, job.is_unique) == ("job", CALL, 1, True)
    assert await state(redis_store) is JobState.RUNNING
    assert client.xlen(redis_backend.key("normal")) == 0
    assert await redis_store.operating.unique_owner(QUEUE, "k") == "job"
    assert await redis_store.enqueue(QUEUE, [unique("other")]) == [Duplicate("job")]
    assert await settle(redis_store, "w", job, Verb.SUCCEEDED, THREE)
    assert await redis_store.operating.unique_owner(QUEUE, "k") is None


async def test_a_key_that_is_held_until_the_start_is_free_once_its_job_was_dispatched(
    redis_store: RedisStore, hands: Hands
) -> None:
    await wait_for_jobs(redis_store)
    assert await redis_store.enqueue(QUEUE, [unique("job", "started")]) == [True]
    job = await hands.next()
    assert await redis_store.operating.unique_owner(QUEUE, "k") is None
    assert await redis_store.enqueue(QUEUE, [unique("other", "started")]) == [True]
    assert await settle(redis_store, "w", job, Verb.SUCCEEDED, THREE)
    assert await redis_store.operating.unique_owner(QUEUE, "k") == "other"


async def test_a_duplicate_is_not_dispatched(
    redis_store: RedisStore, hands: Hands, client: redis.Redis, redis_backend: Backend
) -> None:
    await redis_store.enqueue(QUEUE, [unique("job")])
    (job,) = await take(redis_store, "w")
    await wait_for_jobs(redis_store)
    assert await redis_store.enqueue(QUEUE, [unique("other")]) == [Duplicate("job")]
    assert waiting(client, redis_backend) == ["w"]
    assert await settle(redis_store, "w", job, Verb.SUCCEEDED, THREE)
    await redis_store.enqueue(QUEUE, [NewJob("plain", CALL)])
    plain = await hands.next()
    assert (plain.id, plain.is_unique) == ("plain", False)


async def test_a_unique_job_that_cannot_be_dispatched_is_queued_with_its_key(
    redis_store: RedisStore, client: redis.Redis, redis_backend: Backend
) -> None:
    await wait_for_jobs(redis_store, await joined(redis_store, "deaf"))
    assert await redis_store.enqueue(QUEUE, [unique("job", "started")]) == [True]
    assert await state(redis_store) is JobState.QUEUED
    assert await redis_store.operating.unique_owner(QUEUE, "k") == "job"


async def test_nothing_is_dispatched_to_a_worker_that_does_not_listen(
    redis_store: RedisStore, client: redis.Redis, redis_backend: Backend
) -> None:
    await wait_for_jobs(redis_store, await joined(redis_store, "deaf"))
    await send(redis_store, "job")
    assert await state(redis_store) is JobState.QUEUED
    assert waiting(client, redis_backend) == []


async def test_it_is_dispatched_to_the_next_worker_where_one_is_gone(
    redis_store: RedisStore, hands: Hands
) -> None:
    await wait_for_jobs(redis_store, await joined(redis_store, "deaf"))
    await wait_for_jobs(redis_store)
    await send(redis_store, "job")
    assert (await hands.next()).id == "job"


async def test_what_is_there_already_stays_with_the_worker_that_runs_it(
    redis_store: RedisStore, hands: Hands, client: redis.Redis, redis_backend: Backend
) -> None:
    await wait_for_jobs(redis_store)
    await send(redis_store, "job")
    await hands.next()
    await wait_for_jobs(redis_store)
    assert await redis_store.enqueue(QUEUE, [NewJob("job", CALL)]) == [False]
    assert client.smembers(redis_backend.key("held:w")) == {"job"}
    assert (await redis_store.recover(QUEUE, CRASHED, 10, dead="w")).returned == 1


async def test_nothing_is_dispatched_to_a_worker_whose_lease_has_ended(
    redis_store: RedisStore, hands: Hands, client: redis.Redis, redis_backend: Backend
) -> None:
    await wait_for_jobs(redis_store)
    client.zadd(redis_backend.key("workers"), {"w": 1})
    await send(redis_store, "job")
    assert await state(redis_store) is JobState.QUEUED
    assert hands.jobs == []


async def test_a_job_whose_message_got_lost_is_found_by_the_next_claim_with_known_jobs(
    redis_store: RedisStore, hands: Hands
) -> None:
    await wait_for_jobs(redis_store)
    await send(redis_store, "job")
    await hands.next()
    assert ids((await redis_store.claim(QUEUE, "w", 5, known=["job"])).jobs) == []
    (job,) = (await redis_store.claim(QUEUE, "w", 5, known=[])).jobs
    assert (job.id, job.claims) == ("job", 2)


async def test_a_job_that_was_dispatched_to_a_worker_that_died_is_recovered(
    redis_store: RedisStore, hands: Hands, client: redis.Redis, redis_backend: Backend
) -> None:
    await wait_for_jobs(redis_store)
    await send(redis_store, "job")
    await hands.next()
    assert (await redis_store.recover(QUEUE, CRASHED, 10, dead="w")).returned == 1
    assert waiting(client, redis_backend) == []
    (job,) = await take(redis_store, await joined(redis_store, "other"))
    assert (job.id, job.claims, job.crashes) == ("job", 2, 1)


async def test_a_worker_that_has_lost_its_lease_waits_for_nothing(
    redis_store: RedisStore, hands: Hands, client: redis.Redis, redis_backend: Backend
) -> None:
    await redis_store.recover(QUEUE, CRASHED, 10, dead="w")
    await redis_store.settle(QUEUE, "w", [], idle=True)
    assert (await redis_store.claim(QUEUE, "w", 5, idle=True)).lost
    assert waiting(client, redis_backend) == []
    assert hands.jobs == []


async def test_a_worker_that_departs_gives_it_back_at_no_cost(redis_store: RedisStore, hands: Hands) -> None:
    await wait_for_jobs(redis_store)
    await send(redis_store, "job")
    await hands.next()
    await redis_store.depart(QUEUE, "w")
    (job,) = await take(redis_store, await joined(redis_store, "other"))
    assert (job.id, job.crashes, job.interruptions) == ("job", 0, 0)


async def test_a_cancellation_of_a_dispatched_job_reaches_its_worker(
    redis_store: RedisStore, hands: Hands
) -> None:
    await wait_for_jobs(redis_store)
    await send(redis_store, "job")
    job = await hands.next()
    assert await redis_store.cancel(QUEUE, ["job"], THREE, LONG) == [JobState.RUNNING]
    assert await settle(redis_store, "w", job, Verb.RETRY, THREE)
    assert await state(redis_store) is JobState.CANCELLED


@pytest.mark.parametrize("what", ["string", "list"])
async def test_a_key_of_another_type_in_place_of_idle_is_harmless(
    redis_store: RedisStore, hands: Hands, client: redis.Redis, redis_backend: Backend, what: str
) -> None:
    def spoil() -> None:
        client.delete(redis_backend.key("idle"))
        if what == "string":
            client.set(redis_backend.key("idle"), "mine")
        else:
            client.rpush(redis_backend.key("idle"), "mine")

    spoil()
    listener = await Listener.on(redis_store, "me")
    await wait_for_jobs(redis_store)
    await redis_store.enqueue(QUEUE, [NewJob("job", CALL, waiter="me")])
    spoil()
    (job,) = (await redis_store.claim(QUEUE, "w", 5, idle=True)).jobs
    spoil()
    done = Settlement("job", job.claim, Verb.SUCCEEDED, THREE, 0, LONG)
    assert await redis_store.settle(QUEUE, "w", [done], idle=True) == [True]
    assert await listener.result_message() == [("job", THREE)]
    await redis_store.depart(QUEUE, "w")
    assert await redis_store.workers(QUEUE) == []


async def test_truncated_records_stop_no_claim(
    redis_store: RedisStore, hands: Hands, client: redis.Redis, redis_backend: Backend
) -> None:
    names = [f"cut-{number}" for number in range(7)]
    await send(redis_store, *names, "whole")
    cut = [b"\x92\xd9", b"\x92\xda\x01", b"\x92", b"\x98\xd9", b"\x9b\xda", b"\x92\xa5ab", b"\x9b\xa1x\xcf"]
    for name, text in zip(names, cut, strict=True):
        client.set(redis_backend.key(f"job:{name}"), text)
    assert ids(await take(redis_store, "w", 9)) == ["whole"]
