"""In which order jobs come back that were set aside, while others were on their way by blocking reads."""

import pytest

from aioq.store.contract import Store, Verb
from aioq.store.redis import RedisStore
from tests.contract.kit import BLOCK, QUEUE, REASON, Backend, ids, joined, send, settle, take
from tests.contract.test_pauses import ADD, mixed, one_by_one

pytestmark = pytest.mark.anyio


async def given_back(store: Store, worker: str, name: str) -> None:
    """A job that was claimed is in the front of its lane."""
    await mixed(store, name)
    (job,) = await take(store, worker)
    assert job.id == name
    assert await settle(store, worker, job, Verb.INTERRUPT)


async def test_what_is_left_of_an_entry_keeps_its_order_where_some_is_set_aside(store: Store) -> None:
    pauses = store.operating.pauses
    await joined(store, "w")
    await pauses.pause(QUEUE, [ADD])
    await mixed(store, "a1", "o1", "a2")
    assert await one_by_one(store) == ["o1"]
    await mixed(store, "o2", "a3", "o3", "o4", "a4")
    tokens = await store.block(QUEUE, "w", BLOCK)
    assert ids((await store.claim(QUEUE, "w", 1, tokens)).jobs) == ["o2"]
    assert ids(await take(store, "w", 1)) == ["o3"], "it is not held up by those that are set aside"
    await pauses.resume(QUEUE, [ADD])
    assert await one_by_one(store) == ["a1", "a2", "a3", "o4", "a4"]


async def test_others_are_woken_for_what_is_set_aside_and_may_run(
    redis_store: RedisStore, redis_backend: Backend
) -> None:
    """The worker to which it was delivered has no slot for it."""
    store = redis_store
    for worker in ("w", "other"):
        await joined(store, worker)
    await mixed(store, "a1", "o1")
    tokens = await store.block(QUEUE, "w", BLOCK)
    await store.operating.pauses.pause(QUEUE, [ADD])
    assert await one_by_one(store, "other") == []
    blocked = await redis_backend.blocked(store, "other")
    await store.claim(QUEUE, "w", 0, tokens)
    assert ids((await store.claim(QUEUE, "other", 5, await blocked)).jobs) == ["o1"]
    assert blocked.result(), "it was woken"


async def test_what_is_given_back_of_an_entry_comes_in_its_order_after_a_resume(store: Store) -> None:
    pauses = store.operating.pauses
    await joined(store, "w")
    await mixed(store, "a1", "o1", "a2", "o2")
    tokens = await store.block(QUEUE, "w", BLOCK)
    await pauses.pause(QUEUE, [ADD])
    assert ids((await store.claim(QUEUE, "w", 0, tokens)).jobs) == []
    await pauses.resume(QUEUE, [ADD])
    assert await one_by_one(store) == ["a1", "o1", "a2", "o2"]


@pytest.mark.parametrize("how", ["paused", "cancelled"])
async def test_the_front_of_a_lane_keeps_its_order_where_some_of_it_is_passed(store: Store, how: str) -> None:
    await joined(store, "w")
    await mixed(store, *(f"{kind}{number}" for number in range(10) for kind in "ao"))
    tokens = await store.block(QUEUE, "w", BLOCK)
    # In the front each job has an entry of its own.
    assert ids((await store.claim(QUEUE, "w", 1, tokens)).jobs) in (["a0"], ["o0"])
    if how == "paused":
        await store.operating.pauses.pause(QUEUE, [ADD])
    else:
        await store.cancel(QUEUE, [f"a{number}" for number in range(1, 10)], REASON, 0)
    assert await one_by_one(store) == [f"o{number}" for number in range(10)]


async def test_what_was_given_back_comes_after_what_was_given_back_before(store: Store) -> None:
    pauses = store.operating.pauses
    await joined(store, "w")
    await given_back(store, "w", "a1")
    await pauses.pause(QUEUE, [ADD])
    assert await one_by_one(store) == []
    await given_back(store, "w", "o1")
    await pauses.resume(QUEUE, [ADD])
    assert await one_by_one(store) == ["a1", "o1"]


async def test_what_was_given_back_and_delivered_is_not_put_where_nobody_looks(
    redis_store: RedisStore, redis_backend: Backend
) -> None:
    """A job that was claimed is delivered, while jobs come back that were set aside and not claimed."""
    store, pauses = redis_store, redis_store.operating.pauses
    for worker in ("w", "other"):
        await joined(store, worker)
    await mixed(store, "o1")
    (job,) = await take(store, "w")
    await pauses.pause(QUEUE, [ADD])
    await send(store, "a1", "a2", "a3")
    assert await one_by_one(store) == []
    blocked = await redis_backend.blocked(store, "other")
    assert await settle(store, "w", job, Verb.INTERRUPT)
    tokens = await blocked
    assert [token.job_ids for token in tokens] == [("o1",)]
    await pauses.resume(QUEUE, [ADD])
    assert ids(await take(store, "w", 1)) == ["a1"]
    got = ids((await store.claim(QUEUE, "other", 1, tokens)).jobs)
    assert [*got, *await one_by_one(store, "other")] == ["o1", "a2", "a3"]
