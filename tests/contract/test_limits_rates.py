"""Rates: a key's jobs start as its bucket allows, at the exact moment, whatever else holds them back."""

import pytest

from aioq.jobs.job import JobState
from aioq.store.contract import Limits, Store, Verb
from tests.contract.kit import (
    BROKEN,
    LONG,
    QUEUE,
    REASON,
    THREE,
    eventually,
    joined,
    settle,
    state,
    take,
    take_one,
)
from tests.contract.limiting import get, job, look, put, rate, taken, use, verbs

pytestmark = pytest.mark.anyio

SOON_US = 50_000


@pytest.fixture
def limits() -> Limits:
    return Limits(lease_ms=LONG, max_crashes=3)


async def test_as_many_start_at_once_as_the_burst_allows(store: Store) -> None:
    await joined(store, "w")
    await put(store, *(job(name, rate(burst=2)) for name in "abc"))
    assert await taken(store) == ["a", "b"]
    assert await state(store, "c") is JobState.WAITING
    assert await taken(store) == []


async def test_the_next_one_starts_when_there_is_a_token_again(store: Store) -> None:
    await joined(store, "w")
    begun = await store.operating.now_ms(QUEUE)
    await put(store, *(job(name, rate(per_us=SOON_US)) for name in "abc"))
    for name in "abc":
        await get(store, name)
    assert await store.operating.now_ms(QUEUE) - begun >= 2 * SOON_US // 1000


async def test_a_claim_says_when_the_next_one_may_start(store: Store) -> None:
    await joined(store, "w")
    await put(store, job("a", rate()), job("b", rate()))
    assert await taken(store) == ["a"]
    claim = await store.claim(QUEUE, "w", 10)
    assert claim.jobs == []
    assert claim.next_due_ms is not None
    assert 0 < claim.next_due_ms < 2 * LONG


async def test_a_job_takes_as_many_tokens_as_it_costs(store: Store) -> None:
    await joined(store, "w")
    await put(
        store, job("a", rate(burst=5, cost=3)), job("b", rate(burst=5, cost=2)), job("c", rate(burst=5, cost=1))
    )
    assert await taken(store) == ["a", "b"]


async def test_what_was_taken_is_not_given_back(store: Store) -> None:
    await joined(store, "w")
    await put(store, job("a", rate()), job("b", rate()))
    assert await settle(store, "w", await take_one(store, "w"), Verb.SUCCEEDED, THREE)
    assert await taken(store) == []


async def test_a_retry_takes_a_token_too(store: Store) -> None:
    await joined(store, "w")
    await put(store, job("a", rate()))
    assert await settle(store, "w", await take_one(store, "w"), Verb.RETRY, BROKEN)
    assert await taken(store) == []
    assert await state(store, "a") is JobState.WAITING


async def test_keys_have_buckets_of_their_own(store: Store) -> None:
    await joined(store, "w")
    await put(store, *(job(f"{key}{at}", rate(key=key)) for key in "ab" for at in range(2)))
    assert await taken(store) == ["a0", "b0"]


async def test_a_job_that_waits_for_a_token_can_be_cancelled(store: Store) -> None:
    await joined(store, "w")
    await put(store, *(job(name, rate(per_us=SOON_US)) for name in "abc"))
    assert await taken(store) == ["a"]
    assert await store.cancel(QUEUE, ["b"], REASON, LONG) == [JobState.WAITING]
    await get(store, "c")


# -- with other limits


async def test_a_job_that_waits_for_a_token_holds_no_permit(store: Store) -> None:
    await joined(store, "w")
    await put(store, job("a", use(), rate()))
    first = await take_one(store, "w")
    await put(store, job("b", use(), rate()), job("c", use()))
    assert await settle(store, "w", first, Verb.SUCCEEDED, THREE)
    assert await taken(store) == ["c"]
    assert await look(store, "api", "") == (0, 1)


async def test_it_asks_for_its_permit_again_once_there_is_a_token(store: Store) -> None:
    await joined(store, "w")
    later = rate(per_us=2_000_000)  # a busy machine has so long until it asks for the second one
    await put(store, job("a", use(), later), job("b", use(), later))
    first = await take_one(store, "w")
    assert await settle(store, "w", first, Verb.SUCCEEDED, THREE)
    assert await taken(store) == []
    await put(store, job("c", use()), job("d", use()))
    (third,) = await take(store, "w")
    assert third.id == "c"

    async def asked_again() -> bool:
        await store.promote(QUEUE, 10)
        await taken(store)
        return await look(store) == (1, 2)

    await eventually(asked_again)
    assert await settle(store, "w", third, Verb.SUCCEEDED, THREE)
    assert await taken(store) == ["b"]  # at the front of its key


async def test_a_limit_may_have_both(store: Store) -> None:
    await joined(store, "w")
    both = use(rate=1.0, per_us=SOON_US, burst=2.0)
    await put(store, *(job(name, both) for name in "abc"))
    first = await take_one(store, "w")
    assert await taken(store) == []
    assert await settle(store, "w", first, Verb.SUCCEEDED, THREE)
    (second,) = await take(store, "w")
    assert second.id == "b"
    assert await settle(store, "w", second, Verb.SUCCEEDED, THREE)
    await get(store, "c")


async def test_newcomers_do_not_overtake_those_that_wait_for_a_token(store: Store) -> None:
    await joined(store, "w")
    soon = rate(per_us=SOON_US)
    await put(store, job("a", use(key="1"), soon), job("b", use(key="2"), soon), job("c", use(key="3"), soon))
    for name in "abc":
        await get(store, name)


async def test_nothing_is_left_of_a_bucket_once_it_is_full(store: Store) -> None:
    await joined(store, "w")
    await put(store, job("a", rate(per_us=SOON_US)))
    assert await settle(store, "w", await take_one(store, "w"), Verb.SUCCEEDED, THREE)
    assert (await verbs(store).look(QUEUE, "api", "")).waiting == 0
