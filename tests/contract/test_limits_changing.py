"""Limits that change while jobs wait for their rates."""

import pytest

from aioq.jobs.job import JobState, Priority
from aioq.store.contract import Limits, NewJob, Store, Verb
from aioq.store.extra import Duplicate, Extra, LimitUse, Lock
from aioq.store.limits import Numbers
from aioq.store.operating import ListQuery
from aioq.store.schedules import Entry, Overlap, Tick
from tests.contract.kit import (
    BLOCK,
    BROKEN,
    CALL,
    LONG,
    QUEUE,
    REASON,
    THREE,
    Backend,
    eventually,
    joined,
    keep,
    settle,
    state,
    take_one,
)
from tests.contract.limiting import get, job, look, put, rate, taken, use, verbs

pytestmark = pytest.mark.anyio

FAST = Numbers(0, 1.0, 1, 1)


@pytest.fixture
def limits() -> Limits:
    return Limits(lease_ms=LONG, max_crashes=3)


async def test_a_raised_rate_counts_for_those_that_wait(store: Store) -> None:
    await joined(store, "w")
    await put(store, job("a", rate()), job("b", rate()))
    assert await taken(store) == ["a"]
    await verbs(store).put(QUEUE, "api", FAST)
    await get(store, "b")


async def test_a_newer_declaration_of_a_rate(store: Store) -> None:
    await joined(store, "w")
    await put(store, job("a", rate()), job("b", rate()))
    assert await taken(store) == ["a"]
    newer = rate(per_us=1)
    await put(store, job("c", type(newer)(newer.name, newer.key, 0, 1, 1, 1, declared_ms=2)))
    await get(store, "b", "c")


async def test_a_resumed_rate(store: Store) -> None:
    await joined(store, "w")
    await put(store, job("a", rate()))
    await verbs(store).pause(QUEUE, "api", None, await store.operating.now_ms(QUEUE) + LONG)
    assert await taken(store) == []
    assert await verbs(store).resume(QUEUE, "api", None)
    await get(store, "a")


async def test_a_resumed_key_with_a_rate(store: Store) -> None:
    await joined(store, "w")
    await put(store, job("a", rate()))
    await verbs(store).pause(QUEUE, "api", "", await store.operating.now_ms(QUEUE) + LONG)
    assert await taken(store) == []
    assert await verbs(store).resume(QUEUE, "api", "")
    await get(store, "a")


@pytest.mark.parametrize("way", ["cancel", "delete", "reschedule", "move", "prioritize"])
async def test_an_expensive_head_that_goes_away(store: Store, way: str) -> None:
    await joined(store, "w")
    await put(store, *(job(name, rate(burst=100, cost=cost)) for name, cost in [("a", 50), ("b", 100), ("c", 1)]))
    assert await taken(store) == ["a"]
    if way == "cancel":
        await store.cancel(QUEUE, ["b"], REASON, LONG)
    elif way == "delete":
        await store.operating.delete(QUEUE, ["b"], REASON)
    elif way == "reschedule":
        await store.reschedule(QUEUE, ["b"], delay_ms=LONG)
    elif way == "move":
        await store.outbox.move(QUEUE, ["b"], "other")
    else:
        await store.operating.prioritize(QUEUE, ["b"], Priority.LOW)
    await get(store, "c")


async def test_a_cheap_job_of_a_higher_priority(store: Store) -> None:
    await joined(store, "w")
    await put(store, *(job(name, rate(burst=100, cost=cost)) for name, cost in [("a", 50), ("b", 100)]))
    assert await taken(store) == ["a"]
    await put(store, job("c", rate(burst=100, cost=1), priority=Priority.HIGH))
    await get(store, "c")


async def test_numbers_that_were_put_before_the_first_job_stay(store: Store) -> None:
    await joined(store, "w")
    await verbs(store).put(QUEUE, "customer", Numbers(2, 0.0, 0, 0))
    await put(store, job("a"), job("b"), job("c"))
    assert sorted(await taken(store)) == ["a", "b"]
    assert (await verbs(store).list(QUEUE))[0].override == Numbers(2, 0.0, 0, 0)
    assert await verbs(store).remove(QUEUE, "customer")
    assert (await verbs(store).list(QUEUE))[0].declared.concurrency == 1


async def test_an_ordered_job_that_waits_for_its_retry_ends(store: Store) -> None:
    await joined(store, "w")
    await put(store, *(job(name, use(ordered=True)) for name in "abc"))
    first = await take_one(store, "w")
    assert await settle(store, "w", first, Verb.RETRY, REASON, delay_ms=LONG)
    assert await taken(store) == []
    await store.cancel(QUEUE, ["a"], REASON, LONG)
    second = await take_one(store, "w")
    assert second.id == "b"
    assert await settle(store, "w", second, Verb.RETRY, REASON, delay_ms=LONG)
    await store.operating.delete(QUEUE, ["b"], REASON)
    third = await take_one(store, "w")
    assert third.id == "c"
    assert await settle(store, "w", third, Verb.SUCCEEDED, THREE)
    assert await look(store) == (0, 0)


async def test_a_rate_that_is_put_where_code_declares_none(store: Store) -> None:
    await joined(store, "w")
    await put(store, job("a", use(most=9)), job("b", use(most=9)))
    await verbs(store).put(QUEUE, "customer", Numbers(9, 1.0, LONG * 1000, 1))
    assert await taken(store) == ["a"]
    assert await look(store) == (1, 1)
    await verbs(store).remove(QUEUE, "customer")
    await get(store, "b")


async def test_a_job_that_waits_behind_others_does_not_put_them_off(store: Store) -> None:
    await joined(store, "w")

    def costs(tokens: int) -> LimitUse:
        return rate(per_us=100_000, burst=100_000, cost=tokens)

    await put(store, job("a", costs(100_000)))
    assert await taken(store) == ["a"]
    await put(store, job("b", costs(1)))
    await put(store, job("c", use(), costs(50_000)))
    await get(store, "b")


async def test_a_job_alone_does_not_wait_for_the_time_of_one_before_it(store: Store) -> None:
    await joined(store, "w")
    await put(store, *(job(name, rate(burst=100, cost=cost)) for name, cost in [("a", 50), ("b", 100)]))
    assert await taken(store) == ["a"]
    await store.cancel(QUEUE, ["b"], REASON, LONG)
    await put(store, job("c", rate(burst=100, cost=50)))
    await get(store, "c")


async def test_a_unique_job_that_gets_another_key_still_waits(store: Store) -> None:
    await joined(store, "w")
    await put(store, job("a"), job("b", use(key="2")))
    assert await taken(store) == ["a", "b"]
    lock = Lock("task:1", conflict="replace")
    first, second = (NewJob(key, CALL, extra=Extra(unique=lock, limits=(use(key=key),))) for key in "12")
    await put(store, first)
    assert await store.enqueue(QUEUE, [second]) == [Duplicate("1")]
    assert await look(store, key="2") == (1, 1)
    listed = await store.operating.list_jobs(QUEUE, ListQuery(JobState.WAITING), (), 10)
    assert [item.info.id for item in listed.items if item.info is not None] == ["1"]


async def test_jobs_that_come_by_a_lane_keep_their_order_whoever_waits_for_them(store: Store) -> None:
    await joined(store, "w")
    await put(store, *(job(name) for name in "abcd"))
    for name in "abc":
        claimed = await take_one(store, "w")
        assert claimed.id == name
        assert await settle(store, "w", claimed, Verb.FAILED, BROKEN)
    last = await take_one(store, "w")
    for name in "abc":
        await store.operating.reopen(QUEUE, [name])
        tokens = await store.block(QUEUE, "w", BLOCK)
        assert (await store.claim(QUEUE, "w", 10, tokens)).jobs == []
    assert await settle(store, "w", last, Verb.SUCCEEDED, THREE)
    for name in "abc":
        claimed = await take_one(store, "w")
        assert claimed.id == name
        assert await settle(store, "w", claimed, Verb.SUCCEEDED, THREE)


async def test_a_tick_and_a_job_with_a_delay_wait_whatever_becomes_of_others(store: Store) -> None:
    await joined(store, "w")
    dropped = use(on_limit="drop")
    await put(store, job("a", dropped))
    entry = Entry(id="s", definition=b"any", envelope=CALL, next_ms=1, extra=Extra(limits=(dropped,)))
    assert await store.timetable.write(QUEUE, [entry]) == [True]
    (stored,) = (await store.timetable.read(QUEUE)).entries
    made = Tick(id="s", rev=stored.rev, jobs=[("t", 1, 1)], next_ms=1, overlap=Overlap.ALLOW, max_runs=0)
    assert (await store.timetable.tick(QUEUE, [made])).made == [1]
    await put(store, job("b", dropped, delay_ms=1))
    first = await take_one(store, "w")
    assert first.id == "a"

    async def is_due() -> bool:
        await store.promote(QUEUE, 10)
        return await state(store, "b") is JobState.WAITING

    await eventually(is_due)
    assert await settle(store, "w", first, Verb.SUCCEEDED, THREE)
    for name in "tb":
        claimed = await take_one(store, "w")
        assert claimed.id == name
        assert await settle(store, "w", claimed, Verb.SUCCEEDED, THREE)


async def test_a_permit_of_a_job_that_has_vanished_is_nobodys_however_many_came_before(
    redis_store: Store, redis_backend: Backend
) -> None:
    store = redis_store
    await joined(store, "w")
    await put(store, *(job(name, use(most=5)) for name in "abcdef"))
    assert await taken(store) == ["a", "b", "c", "d", "e"]
    redis_backend.delete("job:e")

    async def goes_on() -> bool:
        await keep(store, "w", "sweep")
        return await taken(store) == ["f"]

    await eventually(goes_on)
