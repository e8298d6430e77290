"""Jobs that wait by their record, in something that has vanished: a sweep finds them, however many they are."""

import pytest

from aioq.jobs.job import JobState
from aioq.store.contract import NewJob, Store, Verb
from aioq.store.extra import Extra, Gather, Lock
from aioq.store.redis.store import RedisStore
from tests.contract.kit import CALL, LONG, QUEUE, THREE, Backend, joined, keep, settle, state, take_one
from tests.contract.limiting import get, job, put, rate, recover, taken, use

pytestmark = pytest.mark.anyio

LANES = ("normal", "normal:front", "normal:rest", "low", "high")
LATEST = Lock("k", "ended", "latest")


def one(job_id: str) -> NewJob:
    return NewJob(job_id, CALL, extra=Extra(unique=LATEST))


async def swept(store: Store, backend: Backend, worker: str = "w") -> None:
    """A sweep, and what it leaves to any worker."""
    await keep(store, worker, "sweep")
    while any(each.startswith("waiting ") for each in backend.timers()):
        await store.promote(QUEUE, 10)


async def test_jobs_whose_group_has_vanished_go_on_in_their_order(
    redis_store: RedisStore, redis_backend: Backend
) -> None:
    store = redis_store
    await joined(store, "w")
    await put(store, job("a"), job("b"), job("c"))
    first = await take_one(store, "w")
    redis_backend.delete("group:customer:1", "blocked:customer")
    assert await settle(store, "w", first, Verb.SUCCEEDED, THREE)
    assert await taken(store) == []
    await put(store, job("d"))
    await swept(store, redis_backend)
    for name in "bcd":
        (claimed,) = await get(store, name)
        assert await settle(store, "w", claimed, Verb.SUCCEEDED, THREE)


async def test_a_job_that_has_a_permit_and_waits_for_another_one_keeps_it(
    redis_store: RedisStore, redis_backend: Backend
) -> None:
    store, second = redis_store, use("second", "")
    await joined(store, "w")
    await put(store, job("a", second), job("b", use(), second))
    first = await take_one(store, "w")
    assert await taken(store) == []
    await put(store, job("c"))
    redis_backend.delete("group:second:")
    await swept(store, redis_backend)
    assert await taken(store) == [], "b has the permit of its first limit"
    assert await settle(store, "w", first, Verb.SUCCEEDED, THREE)
    (claimed,) = await get(store, "b")
    assert await settle(store, "w", claimed, Verb.SUCCEEDED, THREE)
    await get(store, "c")


async def test_very_many_are_found_in_steps_once_one_of_them_is(
    redis_store: RedisStore, redis_backend: Backend
) -> None:
    store = redis_store
    await joined(store, "w")
    await put(store, *(job(f"{number:04}") for number in range(500)))
    await put(store, *(job(f"{number:04}", use(key=str(number % 50))) for number in range(500, 1_000)))
    keys = [f"group:customer:{number}" for number in range(50)]
    redis_backend.delete(*keys, "blocked:customer", "timers", "tokens", *LANES)
    await swept(store, redis_backend)
    found: list[str] = []
    while claimed := await taken(store, count=100):
        found += claimed
    assert len(found) == 50
    assert "0000" in found, "the first one of its key"


async def test_tokens_that_are_lost_while_no_worker_lives_are_given_anew(
    redis_store: RedisStore, redis_backend: Backend
) -> None:
    store = redis_store
    await joined(store, "gone")
    names = [f"{number:02}" for number in range(99)]
    await put(store, *(job(name, use(key=name)) for name in names))
    await recover(store, "gone")
    redis_backend.delete("tokens", *LANES)
    await joined(store, "w")
    await swept(store, redis_backend)
    found: list[str] = []
    while claimed := await taken(store, count=100):
        found += claimed
    assert sorted(found) == names


async def test_a_timer_of_a_rate_that_has_vanished(redis_store: RedisStore, redis_backend: Backend) -> None:
    store = redis_store
    await joined(store, "w")
    await put(store, job("a", rate(per_us=50_000)), job("b", rate(per_us=50_000)))
    assert await taken(store) == ["a"]
    redis_backend.delete("timers", "blocked:api", "group:api:")
    await swept(store, redis_backend)
    await get(store, "b")


async def test_a_job_that_follows_one_whose_key_has_vanished(
    redis_store: RedisStore, redis_backend: Backend
) -> None:
    store = redis_store
    await joined(store, "w")
    await store.enqueue(QUEUE, [one("a")])
    await take_one(store, "w")
    await store.enqueue(QUEUE, [one("b")])
    redis_backend.delete("unique:k", "timers")
    await swept(store, redis_backend)
    assert await taken(store) == ["b"]


async def test_it_waits_for_the_one_that_has_taken_the_key_since(
    redis_store: RedisStore, redis_backend: Backend
) -> None:
    store = redis_store
    await joined(store, "w")
    await store.enqueue(QUEUE, [one("a")])
    first = await take_one(store, "w")
    await store.enqueue(QUEUE, [one("b")])
    redis_backend.delete("unique:k", "timers")
    assert await settle(store, "w", first, Verb.SUCCEEDED, THREE)
    await store.enqueue(QUEUE, [one("c")])
    await swept(store, redis_backend)
    owner = await take_one(store, "w")
    assert owner.id == "c"
    assert await taken(store) == [], "one at a time"
    assert await settle(store, "w", owner, Verb.SUCCEEDED, THREE)
    assert await taken(store) == ["b"]


async def test_the_timer_of_a_job_that_follows_is_set_again(
    redis_store: RedisStore, redis_backend: Backend
) -> None:
    store = redis_store
    await joined(store, "w")
    await store.enqueue(QUEUE, [one("a")])
    await take_one(store, "w")
    await store.enqueue(QUEUE, [one("b")])
    redis_backend.delete("timers")
    await swept(store, redis_backend)
    assert redis_backend.timers() == ["follow b"]
    assert await taken(store) == []
    assert await state(store, "b") is JobState.WAITING


async def test_who_has_vanished_is_not_listed_any_more(redis_store: RedisStore, redis_backend: Backend) -> None:
    store = redis_store
    await joined(store, "w")
    await put(store, job("a"), job("b"), job("c"))
    assert await taken(store) == ["a"]
    await store.enqueue(QUEUE, [NewJob("d", CALL, extra=Extra(batch=Gather("k", 9, LONG, 1_000)))])
    assert await taken(store) == []
    redis_backend.delete("job:b", "job:d")
    await swept(store, redis_backend)
    assert redis_backend.database is not None
    with redis_backend.database.client() as client:
        assert client.smembers(redis_backend.key("waiting")) == {"c"}


async def test_nothing_is_done_where_nothing_is_wrong(redis_store: RedisStore, redis_backend: Backend) -> None:
    store = redis_store
    await joined(store, "w")
    await put(store, job("a"), job("b"), job("free", use(key="2")), job("d", rate()), job("e", rate()))
    await store.enqueue(QUEUE, [one("x")])
    assert len(await taken(store)) == 4
    await store.enqueue(QUEUE, [one("y")])

    async def everything() -> list[object]:
        assert redis_backend.database is not None
        with redis_backend.database.client() as client:
            names = sorted(client.scan_iter(redis_backend.key("*")))
            kept = [each for each in names if not each.endswith((":workers", ":fetched", ":leases"))]
            return [(name, client.dump(name)) for name in kept]

    await keep(store, "w", "sweep")
    before = await everything()
    await keep(store, "w", "sweep")
    assert await everything() == before
    assert not any(each.startswith("waiting ") for each in redis_backend.timers())


async def test_a_batch_whose_jobs_have_vanished_with_its_timer(
    redis_store: RedisStore, redis_backend: Backend
) -> None:
    store = redis_store
    await joined(store, "w")
    later = Extra(batch=Gather("k", 500, LONG, 10_000_000))
    await store.enqueue(QUEUE, [NewJob(f"{number:03}", CALL, extra=later) for number in range(300)])
    assert not (await store.claim(QUEUE, "w", 1)).batches
    redis_backend.delete("batch:normal k", "timers")
    await swept(store, redis_backend)
    assert not (await store.claim(QUEUE, "w", 1)).batches
    assert redis_backend.database is not None
    with redis_backend.database.client() as client:
        assert client.zcard(redis_backend.key("batch:normal k")) == 300
    assert redis_backend.timers() == ["batch normal k"]
