"""How many shards each queue has, and what stands in one: on every store."""

import pytest

from aioq.errors import ServerError
from aioq.jobs.job import Priority
from aioq.jobs.shards import shard_names
from aioq.store.contract import NewJob, Store, Verb
from aioq.store.extra import Expiry, Extra
from aioq.store.redis import RedisStore
from aioq.store.schedules import Entry
from aioq.store.shards import StoredShards
from aioq.store.upkeep import Backlog
from tests.contract.kit import BLOCK, CALL, QUEUE, REASON, THREE, Backend, joined, send, settle, take

pytestmark = pytest.mark.anyio

HOUR = 3_600_000


# -- the register -------------------------------------------------------------------------------------------------


async def test_nothing_is_stored_at_first(store: Store) -> None:
    assert await store.shards.read() == {}


async def test_every_process_reads_the_last_number_and_those_before(backend: Backend, store: Store) -> None:
    other = await backend.open()
    await store.shards.change("mail", 8, None)
    await store.shards.change("bulk", 2, None)
    assert await other.shards.read() == {"mail": StoredShards(8), "bulk": StoredShards(2)}
    await other.shards.change("mail", 4, 8)
    assert await store.shards.read() == {"mail": StoredShards(4, (8,)), "bulk": StoredShards(2)}
    assert (await store.shards.read())["mail"].served == 8


async def test_the_same_change_twice_is_one(store: Store) -> None:
    for _ in range(2):
        await store.shards.change("mail", 4, 8)
    assert await store.shards.read() == {"mail": StoredShards(4, (8,))}


async def test_numbers_are_forgotten_but_not_the_present_one(store: Store) -> None:
    await store.shards.change("mail", 8, None)
    await store.shards.change("mail", 2, 8)
    await store.shards.forget("mail", [8, 100])
    await store.shards.forget("mail", [])
    assert await store.shards.read() == {"mail": StoredShards(2)}
    await store.shards.forget("mail", [2])
    assert await store.shards.read() == {"mail": StoredShards(2)}


async def test_a_key_of_another_type_is_an_error_that_says_so(
    redis_backend: Backend, redis_store: RedisStore
) -> None:
    assert redis_backend.database is not None
    with redis_backend.database.client() as client:
        client.set(redis_backend.key("shards").replace(QUEUE, ""), "no hash")
    with pytest.raises(ServerError, match="WRONGTYPE"):
        await redis_store.shards.read()


# -- what stands in a queue ---------------------------------------------------------------------------------------


async def test_an_empty_queue(store: Store) -> None:
    assert await store.shards.backlog(QUEUE) == Backlog()
    assert (await store.shards.backlog(QUEUE)).is_empty
    await joined(store, "w")
    assert await store.shards.backlog(QUEUE) == Backlog()


async def test_jobs_are_counted_by_what_they_wait_for(store: Store) -> None:
    for priority in Priority:
        await send(store, *(f"{priority.value}-{number}" for number in range(3)), priority=priority)
    await send(store, "later", delay_ms=HOUR)
    await store.enqueue(QUEUE, [NewJob("expires", CALL, delay_ms=HOUR, extra=Extra((), Expiry(span_ms=HOUR)))])
    await store.timetable.write(QUEUE, [Entry(id="s", definition=b"any", envelope=CALL, next_ms=HOUR)])
    assert await store.shards.backlog(QUEUE) == Backlog(queued=9, scheduled=2, schedules=1, timers=1)
    assert not (await store.shards.backlog(QUEUE)).is_empty


async def test_jobs_that_workers_hold_are_counted_until_they_end(store: Store) -> None:
    await joined(store, "w")
    await joined(store, "other")
    await send(store, "a", "b", "c")
    one = (await take(store, "w", 1))[0]
    two = (await take(store, "other", 1))[0]
    assert await store.shards.backlog(QUEUE) == Backlog(queued=1, held=2)
    await settle(store, "w", one, Verb.SUCCEEDED, THREE, ttl_ms=HOUR)
    await settle(store, "other", two, Verb.RETRY, THREE, delay_ms=HOUR)
    assert await store.shards.backlog(QUEUE) == Backlog(queued=1, scheduled=1)


async def test_what_is_on_its_way_to_a_worker_stands_there_still(store: Store) -> None:
    await joined(store, "w")
    await send(store, "a")
    assert await store.block(QUEUE, "w", BLOCK)
    assert (await store.shards.backlog(QUEUE)).queued == 1
    await store.depart(QUEUE, "w")
    assert (await store.shards.backlog(QUEUE)).queued == 1


async def test_each_job_of_what_is_on_its_way_counts_and_what_only_wakes_a_worker_does_not(store: Store) -> None:
    await joined(store, "w")
    await send(store, "later", delay_ms=HOUR)
    assert await store.block(QUEUE, "w", BLOCK), "because of the first time"
    assert await store.shards.backlog(QUEUE) == Backlog(scheduled=1)
    await send(store, "a", "b", "c")
    await store.claim(QUEUE, "w", 0)
    assert await store.block(QUEUE, "w", BLOCK)
    assert await store.shards.backlog(QUEUE) == Backlog(queued=3, scheduled=1)


async def test_a_cancelled_job_counts_no_longer_once_a_claim_has_met_it(store: Store) -> None:
    await joined(store, "w")
    await send(store, "a", "b")
    await store.cancel(QUEUE, ["a"], REASON, HOUR)
    assert 1 <= (await store.shards.backlog(QUEUE)).queued <= 2
    assert [job.id for job in await take(store, "w")] == ["b"]
    assert await store.shards.backlog(QUEUE) == Backlog(held=1)


async def test_of_many_jobs_so_many_are_counted(redis_store: RedisStore) -> None:
    jobs = [NewJob(f"{number:08}", CALL) for number in range(640)]
    for start in range(0, 640, 64):
        await redis_store.enqueue(QUEUE, jobs[start : start + 64])  # an entry
    full = await redis_store.shards.backlog(QUEUE)
    assert (full.queued, full.more) == (640, False)
    reply = await redis_store.call_retried("backlog", QUEUE, [3, 10])
    assert reply[:2] == [192, 1]


async def test_shards_are_queues_of_their_own(store: Store) -> None:
    for number, name in enumerate(shard_names(QUEUE, 3)):
        await store.enqueue(name, [NewJob(f"{number}-{each}", CALL) for each in range(number + 1)])
    assert [(await store.shards.backlog(name)).queued for name in shard_names(QUEUE, 3)] == [1, 2, 3]
