"""Several limits of one job: it runs once it has a permit of each, and what it holds meanwhile starves nobody."""

import pytest

from aioq.jobs.job import JobState
from aioq.store.contract import Limits, Store, Verb
from tests.contract.kit import LONG, QUEUE, REASON, THREE, joined, settle, state, take, take_one
from tests.contract.limiting import fair, job, look, put, recover, taken, use

pytestmark = pytest.mark.anyio

API = use("api", "", 2)


@pytest.fixture
def limits() -> Limits:
    return Limits(lease_ms=LONG, max_crashes=3)


async def test_a_job_runs_once_it_has_a_permit_of_each(store: Store) -> None:
    await joined(store, "w")
    await put(store, *(job(name, use(key=name), API) for name in "abc"))
    first, _ = await take(store, "w")
    assert await look(store, key="c") == (1, 0)
    assert await look(store, "api", "") == (2, 1)
    assert await settle(store, "w", first, Verb.SUCCEEDED, THREE)
    assert await taken(store) == ["c"]


async def test_many_jobs_of_one_key_leave_the_second_limit_to_others(store: Store) -> None:
    await joined(store, "w")
    await put(store, *(job(f"a{at}", use(key="a"), API) for at in range(10)))
    await put(store, job("b", use(key="b"), API))
    assert await taken(store) == ["a0", "b"]


async def test_each_end_gives_back_both_permits(store: Store) -> None:
    await joined(store, "w")
    await put(store, job("a", use(), use("api", "")), job("b", use(), use("api", "")))
    for name in "ab":
        first = await take_one(store, "w")
        assert first.id == name
        assert await settle(store, "w", first, Verb.SUCCEEDED, THREE)
    assert await look(store) == (0, 0)
    assert await look(store, "api", "") == (0, 0)


async def test_a_job_that_is_cancelled_while_it_waits_for_the_second_gives_back_the_first(store: Store) -> None:
    await joined(store, "w")
    one = use("api", "")
    await put(store, job("a", use(key="a"), one), job("b", use(key="b"), one), job("c", use(key="b"), one))
    first = await take_one(store, "w")
    assert await taken(store) == []
    assert await look(store, key="b") == (1, 1)
    assert await store.cancel(QUEUE, ["b"], REASON, LONG) == [JobState.WAITING]
    assert await taken(store) == []
    assert await settle(store, "w", first, Verb.SUCCEEDED, THREE)
    assert await taken(store) == ["c"]


async def test_the_death_of_a_worker_gives_back_all(store: Store) -> None:
    await joined(store, "w")
    one = use("api", "")
    await put(store, job("a", use(key="a"), one), job("b", use(key="b"), one))
    assert await taken(store) == ["a"]
    assert await taken(store) == []
    await recover(store)
    await joined(store, "x")
    got: list[str] = []
    for _ in range(2):
        (claimed,) = await take(store, "x")
        got.append(claimed.id)
        assert await settle(store, "x", claimed, Verb.SUCCEEDED, THREE)
    assert sorted(got) == ["a", "b"]


# -- in turn


async def test_keys_are_served_in_turn(store: Store) -> None:
    await joined(store, "w")
    await put(
        store, *(job(f"a{at}", fair("a")) for at in range(4)), *(job(f"b{at}", fair("b")) for at in range(2))
    )
    got = [(await taken(store, count=1))[0] for _ in range(6)]
    assert got == ["a0", "b0", "a1", "b1", "a2", "a3"]


async def test_a_key_with_more_weight_has_more_in_its_turn(store: Store) -> None:
    await joined(store, "w")
    await put(
        store, *(job(f"a{at}", fair("a", 2)) for at in range(4)), *(job(f"b{at}", fair("b")) for at in range(2))
    )
    assert await taken(store) == ["a0", "a1", "b0", "a2", "a3", "b1"]


async def test_the_first_job_of_a_key_waits_for_one_round(store: Store) -> None:
    await joined(store, "w")
    await put(store, *(job(f"a{at:03}", fair("a")) for at in range(100)))
    await put(store, job("b", fair("b")))
    assert "b" in await taken(store, count=3)


async def test_limits_hold_beside_the_turns(store: Store) -> None:
    await joined(store, "w")
    await put(
        store, *(job(f"a{at}", fair("a"), use(key="x")) for at in range(3)), job("b", fair("b"), use(key="y"))
    )
    assert sorted(await taken(store)) == ["a0", "b"]
    assert await state(store, "a1") is JobState.WAITING


# -- in order


@pytest.mark.parametrize("verb", [Verb.RETRY, Verb.SNOOZE, Verb.PARK, Verb.INTERRUPT, Verb.CRASH, Verb.RELEASE])
@pytest.mark.parametrize("delay_ms", [0, LONG])
async def test_an_ordered_key_waits_for_the_job_that_comes_back(store: Store, verb: Verb, delay_ms: int) -> None:
    await joined(store, "w")
    await put(store, *(job(name, use(ordered=True)) for name in "ab"))
    first = await take_one(store, "w")
    assert await settle(store, "w", first, verb, REASON, delay_ms=delay_ms)
    later = delay_ms > 0 and verb in {Verb.RETRY, Verb.SNOOZE, Verb.PARK}
    if later:
        assert await taken(store) == []
        assert await store.reschedule(QUEUE, ["a"]) == [JobState.SCHEDULED]
    (again,) = await take(store, "w")
    assert again.id == "a"
    assert await settle(store, "w", again, Verb.SUCCEEDED, THREE)
    assert await taken(store) == ["b"]


async def test_an_ordered_key_goes_on_when_the_job_ends_before_its_retry(store: Store) -> None:
    await joined(store, "w")
    await put(store, *(job(name, use(ordered=True)) for name in "ab"))
    assert await settle(store, "w", await take_one(store, "w"), Verb.RETRY, REASON, delay_ms=LONG)
    assert await store.cancel(QUEUE, ["a"], REASON, LONG) == [JobState.SCHEDULED]
    assert await taken(store) == ["b"]


async def test_the_jobs_of_an_ordered_key_keep_their_order_when_a_worker_dies(store: Store) -> None:
    await joined(store, "w")
    await put(store, *(job(name, use(ordered=True)) for name in "ab"))
    assert await taken(store) == ["a"]
    await recover(store)
    await joined(store, "x")
    (again,) = await take(store, "x")
    assert again.id == "a"
    assert await settle(store, "x", again, Verb.SUCCEEDED, THREE)
    assert await taken(store, "x") == ["b"]
