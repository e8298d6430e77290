"""Limits at run time: other numbers, pauses, and what operators see."""

import msgspec
import pytest

from aioq.jobs.job import JobState
from aioq.store.contract import Limits, NewJob, Store, Verb
from aioq.store.limits import Blocked, LimitState, Numbers
from tests.contract.kit import CALL, LONG, QUEUE, THREE, eventually, joined, settle, state, take, take_one
from tests.contract.limiting import HOUR_US, blocked, get, job, look, put, rate, taken, use, verbs

pytestmark = pytest.mark.anyio

TWO, ONE = Numbers(2, 0.0, 0, 0), Numbers(1, 0.0, 0, 0)


@pytest.fixture
def limits() -> Limits:
    return Limits(lease_ms=LONG, max_crashes=3)


async def known(store: Store) -> list[LimitState]:
    return await verbs(store).list(QUEUE)


# -- numbers


async def test_a_limit_is_known_once_a_job_has_used_it(store: Store) -> None:
    assert await known(store) == []
    await put(store, job("a"), job("b", use("api", "", 3)))
    assert [(each.name, each.declared.concurrency, each.override) for each in await known(store)] == [
        ("api", 3, None),
        ("customer", 1, None),
    ]


async def test_a_raised_limit_lets_those_run_that_wait(store: Store) -> None:
    await joined(store, "w")
    await put(store, *(job(f"{key}{at}", use(key=key)) for key in "ab" for at in range(3)))
    assert await taken(store) == ["a0", "b0"]
    await verbs(store).put(QUEUE, "customer", TWO)
    assert sorted(await taken(store)) == ["a1", "b1"]
    assert await taken(store) == []


async def test_a_lowered_limit_counts_those_that_run(store: Store) -> None:
    await joined(store, "w")
    await put(store, *(job(name, use(most=2)) for name in "abc"))
    first, second = await take(store, "w")
    await verbs(store).put(QUEUE, "customer", ONE)
    assert await settle(store, "w", first, Verb.SUCCEEDED, THREE)
    assert await taken(store) == []
    assert await settle(store, "w", second, Verb.SUCCEEDED, THREE)
    assert await taken(store) == ["c"]


async def test_the_numbers_of_the_code_count_again(store: Store) -> None:
    await joined(store, "w")
    await put(store, *(job(name) for name in "abc"))
    await verbs(store).put(QUEUE, "customer", TWO)
    assert await taken(store) == ["a", "b"]
    assert (await known(store))[0].override == TWO
    assert await verbs(store).remove(QUEUE, "customer") is True
    assert await verbs(store).remove(QUEUE, "customer") is False
    assert (await known(store))[0].override is None


async def test_operators_win_until_the_declaration_changes(store: Store) -> None:
    await joined(store, "w")
    await put(store, job("a"))
    await verbs(store).put(QUEUE, "customer", TWO)
    await put(store, job("b", use(most=1)))
    assert (await known(store))[0].override == TWO
    newer = use(most=3)
    await put(store, job("c", type(newer)(newer.name, newer.key, 3, declared_ms=2)))
    (found,) = await known(store)
    assert (found.declared.concurrency, found.override) == (3, None)
    assert sorted(await taken(store)) == ["a", "b", "c"]


async def test_an_older_declaration_changes_nothing(store: Store) -> None:
    await joined(store, "w")
    one = use()
    await put(store, job("a", type(one)(one.name, one.key, 1, declared_ms=5)))
    await put(store, job("b", type(one)(one.name, one.key, 9, declared_ms=4)))
    assert (await known(store))[0].declared.concurrency == 1
    assert await taken(store) == ["a"]


async def test_an_operator_may_be_first(store: Store) -> None:
    await joined(store, "w")
    await verbs(store).put(QUEUE, "customer", TWO)
    await put(store, *(job(name) for name in "abc"))
    (found,) = await known(store)
    assert (found.declared.concurrency, found.override) == (1, TWO)
    assert await taken(store) == ["a", "b"]


# -- rates

QUICK, SLOW = Numbers(0, 1.0, 50_000, 1.0), Numbers(0, 1.0, HOUR_US, 1.0)


async def test_a_faster_rate_counts_at_once(store: Store) -> None:
    await joined(store, "w")
    await put(store, *(job(f"{key}{at}", rate(key=key)) for key in ("", "7") for at in range(2)))
    assert await taken(store) == ["0", "70"]
    assert await taken(store) == []
    await verbs(store).put(QUEUE, "api", Numbers(0, 1.0, 600_000_000, 1.0))
    for key in ("", "7"):
        due = (await verbs(store).look(QUEUE, "api", key)).next_ms
        assert due is not None
        assert due - await store.operating.now_ms(QUEUE) <= 600_001
    await verbs(store).put(QUEUE, "api", QUICK)
    assert await get_any(store, 2) == ["1", "71"]


async def get_any(store: Store, count: int) -> list[str]:
    """Claim until so many jobs came."""
    found: list[str] = []

    async def came() -> bool:
        await store.promote(QUEUE, 100)
        found.extend(await taken(store))
        return len(found) >= count

    await eventually(came)
    return sorted(found)


@pytest.mark.parametrize("key", ["", "7"])
async def test_a_larger_burst_counts_at_once(store: Store, key: str) -> None:
    await joined(store, "w")
    await put(store, *(job(name, rate(key=key)) for name in "abc"))
    assert await taken(store) == ["a"]
    assert await taken(store) == []
    await verbs(store).put(QUEUE, "api", Numbers(0, 1.0, HOUR_US, 2.0))
    assert await taken(store) == ["b"]
    assert await taken(store) == []


async def test_a_larger_burst_counts_for_all_that_it_lets_run(store: Store) -> None:
    await joined(store, "w")
    await put(store, *(job(name, rate()) for name in "abcd"))
    assert await taken(store) == ["a"]
    assert await taken(store) == []
    await verbs(store).put(QUEUE, "api", Numbers(0, 1.0, HOUR_US, 3.0))
    assert await taken(store, count=1) == ["b"]
    assert await taken(store, count=1) == ["c"]
    assert await taken(store) == []


async def test_a_larger_burst_counts_once_a_full_key_has_room(store: Store) -> None:
    await joined(store, "w")
    await put(store, *(job(name, use(most=2, rate=1.0, per_us=HOUR_US, burst=1.0)) for name in "ab"))
    first = await take_one(store, "w")
    assert await taken(store) == []
    await verbs(store).put(QUEUE, "customer", Numbers(1, 1.0, HOUR_US, 2.0))
    assert await taken(store) == []
    assert await settle(store, "w", first, Verb.SUCCEEDED, THREE)
    assert await taken(store) == ["b"]


async def test_a_slower_rate_counts_at_once(store: Store) -> None:
    await joined(store, "w")
    slowly = 600_000_000  # a token comes only after ten minutes, however busy the machine is
    await put(store, *(job(name, rate(per_us=slowly, burst=2)) for name in "abcd"))
    assert await taken(store) == ["a", "b"]
    await verbs(store).put(QUEUE, "api", Numbers(0, 1.0, HOUR_US, 2.0))
    due = (await verbs(store).look(QUEUE, "api", "")).next_ms
    assert due is not None
    assert due - await store.operating.now_ms(QUEUE) > HOUR_US // 2000
    assert await taken(store) == []


async def test_a_bucket_that_was_empty_is_not_full_of_slower_tokens(store: Store) -> None:
    await joined(store, "w")
    await put(store, *(job(f"{at:02}", rate(per_us=600_000_000, burst=10)) for at in range(20)))
    assert len(await taken(store, count=20)) == 10
    await verbs(store).put(QUEUE, "api", Numbers(0, 1.0, HOUR_US, 10.0))
    assert await taken(store, count=20) == []


async def test_a_rate_that_was_declared_anew_counts_at_once(store: Store) -> None:
    await joined(store, "w")
    await put(store, job("a", rate()), job("b", rate()))
    assert await taken(store) == ["a"]
    assert await taken(store) == []
    newer = msgspec.structs.replace(rate(per_us=50_000), declared_ms=2)
    await put(store, job("c", newer))
    for name in "bc":
        await get(store, name)


async def test_the_rate_of_the_code_counts_again_at_once(store: Store) -> None:
    await joined(store, "w")
    await put(store, *(job(name, rate(per_us=50_000)) for name in "ab"))
    await verbs(store).put(QUEUE, "api", SLOW)
    assert await taken(store) == ["a"]
    assert await taken(store) == []
    assert await verbs(store).remove(QUEUE, "api") is True
    await get(store, "b")


async def test_a_key_that_comes_after_the_change_is_judged_by_it(store: Store) -> None:
    await joined(store, "w")
    await put(store, job("a", rate()))
    assert await taken(store) == ["a"]
    await verbs(store).put(QUEUE, "api", QUICK)
    await put(store, job("b", rate()))
    await get(store, "b")


# -- pauses


async def test_a_paused_limit_starts_nothing_until_it_is_resumed(store: Store) -> None:
    await joined(store, "w")
    await put(store, job("a"), job("b", use(key="2")), NewJob("plain", CALL))
    await verbs(store).pause(QUEUE, "customer", None, 0)
    assert await taken(store) == ["plain"]
    assert (await known(store))[0].paused_until == 0
    assert await verbs(store).resume(QUEUE, "customer", None) is True
    assert sorted(await taken(store)) == ["a", "b"]
    assert await verbs(store).resume(QUEUE, "customer", None) is False


async def test_one_key_is_paused(store: Store) -> None:
    await joined(store, "w")
    await verbs(store).pause(QUEUE, "customer", "1", 0)
    await put(store, job("a"), job("b", use(key="2")))
    assert await taken(store) == ["b"]
    assert (await verbs(store).look(QUEUE, "customer", "1")).paused_until == 0
    assert (await known(store))[0].paused_keys == (("1", 0),)
    assert await verbs(store).resume(QUEUE, "customer", "1") is True
    assert await taken(store) == ["a"]


async def test_a_pause_ends_by_itself(store: Store) -> None:
    await joined(store, "w")
    await put(store, job("a"))
    await verbs(store).pause(QUEUE, "customer", None, await store.operating.now_ms(QUEUE) + LONG)
    assert await taken(store) == []
    await verbs(store).pause(QUEUE, "customer", None, await store.operating.now_ms(QUEUE) + 50)

    async def goes_on() -> bool:
        await store.promote(QUEUE, 10)
        return await taken(store) == ["a"]

    await eventually(goes_on)


@pytest.mark.parametrize("key", [None, "7"])
async def test_a_rate_goes_on_when_its_pause_is_ended_early(store: Store, key: str | None) -> None:
    await joined(store, "w")
    await put(store, job("a", rate(key="7")))
    await verbs(store).pause(QUEUE, "api", key, await store.operating.now_ms(QUEUE) + LONG)
    assert await taken(store) == []
    assert await verbs(store).resume(QUEUE, "api", key) is True
    assert await taken(store) == ["a"]


# -- what operators see


async def test_holders_and_those_that_wait_are_shown(store: Store) -> None:
    await joined(store, "w")
    await put(store, *(job(name, use(most=2)) for name in "abcd"), job("other", use(key="2", most=2)))
    assert await taken(store, count=2) == ["a", "b"]
    found = await verbs(store).look(QUEUE, "customer", "1")
    assert [job_id for job_id, _ in found.holders] == ["a", "b"]
    assert (found.held, found.waiting, found.next_ms, found.paused_until) == (2, 2, None, None)
    keys, position = await verbs(store).keys(QUEUE, "customer", "")
    assert sorted((each.key, each.held, each.waiting) for each in keys) == [("1", 2, 2), ("2", 0, 1)]
    assert position == ""
    assert await look(store, "nobody", "") == (0, 0)


async def test_a_job_that_waits_says_why(store: Store) -> None:
    await joined(store, "w")
    await put(store, *(job(name) for name in "abc"))
    assert await taken(store) == ["a"]
    assert await blocked(store, "c") == Blocked("customer", "1", "full", 1, ("a",))
    assert await blocked(store, "a") is None
    await put(store, job("d", rate()), job("e", rate()))
    assert await taken(store) == ["d"]
    found = await blocked(store, "e")
    assert found is not None
    assert (found.name, found.reason, found.ahead) == ("api", "rate", 0)
    assert found.at_ms is not None
    assert found.at_ms > await store.operating.now_ms(QUEUE)
    await verbs(store).pause(QUEUE, "api", None, 0)
    assert await blocked(store, "e") == Blocked("api", "", "paused", 0, ())


async def test_a_job_that_only_has_to_wait_for_its_turn_says_so(store: Store) -> None:
    await put(store, job("a"), job("b"))
    found = await blocked(store, "a")
    assert found is not None
    assert (found.reason, found.ahead) == ("turn", 0)


# -- jobs whose sender did not know their limits


async def test_a_running_job_gets_its_limits(store: Store) -> None:
    await joined(store, "w")
    await put(store, NewJob("a", CALL))
    claimed = await take_one(store, "w")
    assert claimed.is_limited is False
    assert await verbs(store).hold(QUEUE, "w", "a", claimed.claim, [use()]) is True
    assert await verbs(store).hold(QUEUE, "w", "a", claimed.claim, [use()]) is True  # after a lost reply
    assert await look(store) == (1, 0)
    await put(store, job("b"))
    assert await taken(store) == []
    assert await settle(store, "w", claimed, Verb.SUCCEEDED, THREE)
    assert await taken(store) == ["b"]


async def test_one_that_may_not_run_waits_behind_the_others(store: Store) -> None:
    await joined(store, "w")
    await put(store, NewJob("late", CALL))
    claimed = await take_one(store, "w")
    await put(store, job("a"), job("b"))
    first = await take_one(store, "w")
    assert first.is_limited is True
    assert await verbs(store).hold(QUEUE, "w", "late", claimed.claim, [use()]) is False
    assert await state(store, "late") is JobState.WAITING
    assert await settle(store, "w", claimed, Verb.SUCCEEDED, THREE) is False
    for name in ("b", "late"):
        assert await settle(store, "w", first, Verb.SUCCEEDED, THREE)
        first = await take_one(store, "w")
        assert first.id == name


async def test_a_job_that_is_not_run_by_this_worker_gets_none(store: Store) -> None:
    await joined(store, "w")
    await put(store, NewJob("a", CALL))
    claimed = await take_one(store, "w")
    assert await verbs(store).hold(QUEUE, "x", "a", claimed.claim, [use()]) is False
    assert await verbs(store).hold(QUEUE, "w", "a", claimed.claim + 1, [use()]) is False
    assert await verbs(store).hold(QUEUE, "w", "none", claimed.claim, [use()]) is False
    assert await look(store) == (0, 0)
