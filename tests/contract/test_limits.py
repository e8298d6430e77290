"""Limits of one key: never more of its jobs run than it allows, in order, and its end lets the next one run."""

import pytest

from aioq.jobs.job import JobState, Priority
from aioq.store.contract import Limits, NewJob, Settlement, Store, Verb
from aioq.store.memory import MemoryStore
from aioq.store.operating import ListQuery
from aioq.wire.messages import encode_envelope
from tests.contract.kit import (
    BROKEN,
    CALL,
    LONG,
    QUEUE,
    REASON,
    THREE,
    Backend,
    eventually,
    joined,
    settle,
    state,
    take,
    take_one,
)
from tests.contract.limiting import get, job, look, put, recover, taken, use

pytestmark = pytest.mark.anyio

ELSEWHERE = f"{QUEUE}-2"


@pytest.fixture
def limits() -> Limits:
    return Limits(lease_ms=LONG, max_crashes=3)


# -- what runs


async def test_of_one_key_only_so_many_run_and_the_end_of_one_lets_the_next_run(store: Store) -> None:
    await joined(store, "w")
    await put(store, *(job(name, use(most=2)) for name in "abcd"))
    assert [await state(store, name) for name in "abcd"] == [JobState.WAITING] * 4
    first, second = await take(store, "w")
    assert [first.id, second.id] == ["a", "b"]
    assert await look(store) == (2, 2)
    assert await taken(store) == []
    assert await settle(store, "w", first, Verb.SUCCEEDED, THREE)
    assert await taken(store) == ["c"]
    assert await settle(store, "w", second, Verb.SUCCEEDED, THREE)
    assert await taken(store) == ["d"]
    assert await look(store) == (2, 0)


async def test_a_worker_takes_a_job_of_which_it_does_not_know_that_it_was_settled(store: Store) -> None:
    """The reply was lost, and the job has come back for its retry meanwhile."""
    await joined(store, "w")
    await put(store, job("a", use()))
    (first,) = await take(store, "w")
    assert await settle(store, "w", first, Verb.RETRY, BROKEN, delay_ms=1)

    async def found() -> list[str]:
        await store.promote(QUEUE, 10)
        return [each.id for each in (await store.claim(QUEUE, "w", 10, known=["a"])).jobs]

    assert await eventually(found) == ["a"]
    assert await look(store) == (1, 0)


async def test_keys_take_turns_and_none_waits_for_another(store: Store) -> None:
    await joined(store, "w")
    await put(store, *(job(f"{key}{at}", use(key=key)) for key in "ab" for at in range(3)))
    await put(store, NewJob("plain", CALL))
    assert await taken(store) == ["a0", "b0", "plain"]


async def test_a_key_with_much_room_takes_turns_with_others(store: Store) -> None:
    await joined(store, "w")
    await put(store, *(job(f"{key}{at}", use(key=key, most=9)) for key in "ab" for at in range(3)))
    got = await taken(store, count=4)
    assert sorted(got) == ["a0", "a1", "a2", "b0"]  # a token brings as many as there is room for
    assert await taken(store) == ["b1", "b2"]


async def test_a_worker_takes_no_more_than_it_asks_for(store: Store) -> None:
    await joined(store, "w")
    await put(store, *(job(name, use(most=9)) for name in "abc"))
    for name in "abc":
        assert await taken(store, count=1) == [name]


async def test_the_higher_lane_of_a_key_is_served_first(store: Store) -> None:
    await joined(store, "w")
    await put(store, job("running"))
    first = await take_one(store, "w")
    await put(store, job("low", priority=Priority.LOW), job("normal"), job("high", priority=Priority.HIGH))
    for name in ("high", "normal", "low"):
        assert await settle(store, "w", first, Verb.SUCCEEDED, THREE)
        first = await take_one(store, "w")
        assert first.id == name


async def test_limits_of_other_names_and_queues_are_others(store: Store) -> None:
    await joined(store, "w")
    await joined(store, "w", ELSEWHERE)
    await put(store, job("a", use("one")), job("b", use("two")))
    await put(store, job("c", use("one")), queue=ELSEWHERE)
    assert await taken(store) == ["a", "b"]
    assert len((await store.claim(ELSEWHERE, "w", 10)).jobs) == 1


async def test_a_blocked_worker_gets_what_may_run_now(backend: Backend) -> None:
    store = await backend.open()
    await joined(store, "w")
    await joined(store, "blocks")
    await put(store, job("a"), job("b"))
    first = await take_one(store, "w")
    assert await taken(store) == []
    await store.claim(QUEUE, "blocks", 1, idle=True)
    blocked = await backend.blocked(store, "blocks")
    assert await settle(store, "w", first, Verb.SUCCEEDED, THREE)
    tokens = await blocked
    claim = await store.claim(QUEUE, "blocks", 1, tokens)
    assert [each.id for each in claim.jobs] == ["b"]


async def test_the_token_of_a_worker_that_departs_comes_to_another_one(backend: Backend) -> None:
    store = await backend.open()
    await joined(store, "blocks")
    await store.claim(QUEUE, "blocks", 1, idle=True)
    blocked = await backend.blocked(store, "blocks")
    await put(store, job("a"), job("b"))
    assert await blocked
    await store.depart(QUEUE, "blocks")
    await joined(store, "w")
    await get(store, "a")


# -- the ways out


@pytest.mark.parametrize("verb", [Verb.SUCCEEDED, Verb.FAILED, Verb.CANCELLED])
async def test_every_end_gives_the_permit_back(store: Store, verb: Verb) -> None:
    await joined(store, "w")
    await put(store, job("a"), job("b"))
    assert await settle(store, "w", await take_one(store, "w"), verb, BROKEN)
    assert await taken(store) == ["b"]


@pytest.mark.parametrize("verb", [Verb.RETRY, Verb.SNOOZE, Verb.PARK])
async def test_a_job_that_is_put_off_gives_its_permit_back(store: Store, verb: Verb) -> None:
    await joined(store, "w")
    await put(store, job("a"), job("b"))
    assert await settle(store, "w", await take_one(store, "w"), verb, BROKEN, delay_ms=LONG)
    assert await taken(store) == ["b"]


@pytest.mark.parametrize("verb", [Verb.INTERRUPT, Verb.CUT, Verb.CRASH, Verb.RELEASE])
async def test_a_job_that_is_given_back_runs_before_those_that_wait(store: Store, verb: Verb) -> None:
    await joined(store, "w")
    await put(store, job("a"), job("b"))
    assert await settle(store, "w", await take_one(store, "w"), verb, BROKEN)
    assert await taken(store) == ["a"]
    assert await taken(store) == []


async def test_the_jobs_of_a_worker_that_dies_give_their_permits_back(store: Store) -> None:
    await joined(store, "w")
    await put(store, job("a", use(most=2)), job("b", use(most=2)), job("c", use(most=2)))
    assert await taken(store) == ["a", "b"]
    await recover(store)
    await joined(store, "x")
    assert sorted(await taken(store, "x")) == ["a", "b"]
    assert await taken(store, "x") == []


async def test_the_jobs_of_a_worker_that_departs_give_their_permits_back(store: Store) -> None:
    await joined(store, "w")
    await put(store, job("a"), job("b"))
    assert await taken(store) == ["a"]
    await store.depart(QUEUE, "w")
    await joined(store, "x")
    assert await taken(store, "x") == ["a"]


async def test_a_job_that_crashed_too_often_gives_its_permit_back(store: Store) -> None:
    await put(store, job("a"), job("b"))
    for _ in range(4):
        await joined(store, "w")
        assert await taken(store) == ["a"]
        await recover(store)
    await joined(store, "w")
    assert await taken(store) == ["b"]


async def test_a_running_job_that_is_cancelled_gives_its_permit_back_when_it_ends(store: Store) -> None:
    await joined(store, "w")
    await put(store, job("a"), job("b"))
    first = await take_one(store, "w")
    assert await store.cancel(QUEUE, ["a"], REASON, LONG) == [JobState.RUNNING]
    assert await taken(store) == []
    await settle(store, "w", first, Verb.CANCELLED, REASON)
    assert await taken(store) == ["b"]


# -- jobs that wait


async def test_a_waiting_job_that_is_cancelled_or_deleted_is_passed_over(store: Store) -> None:
    await joined(store, "w")
    await put(store, *(job(name) for name in "abcd"))
    first = await take_one(store, "w")
    assert await store.cancel(QUEUE, ["b"], REASON, LONG) == [JobState.WAITING]
    assert await store.operating.delete(QUEUE, ["c"], REASON) == [JobState.WAITING]
    assert [await state(store, name) for name in "bc"] == [JobState.CANCELLED, None]
    assert await look(store) == (1, 1)
    assert await settle(store, "w", first, Verb.SUCCEEDED, THREE)
    assert await taken(store) == ["d"]


async def test_a_waiting_job_expires(store: Store) -> None:
    await joined(store, "w")
    await put(store, job("a"), job("b", expires_ms=50), job("c"))
    first = await take_one(store, "w")

    async def has_expired() -> bool:
        await store.promote(QUEUE, 10)
        return await state(store, "b") is JobState.CANCELLED

    await eventually(has_expired)
    assert await look(store) == (1, 1)
    assert await settle(store, "w", first, Verb.SUCCEEDED, THREE)
    assert await taken(store) == ["c"]


async def test_a_job_that_has_expired_where_it_may_run_holds_no_permit(store: Store) -> None:
    await joined(store, "w")
    await put(store, job("a", expires_ms=1), job("b"))
    after = await store.operating.now_ms(QUEUE) + 2

    async def is_over() -> bool:
        return await store.operating.now_ms(QUEUE) >= after

    await eventually(is_over)
    assert await taken(store) == ["b"]


async def test_a_waiting_job_that_is_put_off_comes_back_behind_the_others(store: Store) -> None:
    await joined(store, "w")
    await put(store, *(job(name) for name in "abc"))
    first = await take_one(store, "w")
    assert await store.reschedule(QUEUE, ["b"], delay_ms=LONG) == [JobState.WAITING]
    assert await state(store, "b") is JobState.SCHEDULED
    assert await store.reschedule(QUEUE, ["b"]) == [JobState.SCHEDULED]
    assert await state(store, "b") is JobState.WAITING
    for name in "cb":
        assert await settle(store, "w", first, Verb.SUCCEEDED, THREE)
        first = await take_one(store, "w")
        assert first.id == name


async def test_run_now_changes_nothing_for_a_waiting_job(store: Store) -> None:
    await joined(store, "w")
    await put(store, job("a"), job("b"), job("c"))
    assert await taken(store) == ["a"]
    assert await store.reschedule(QUEUE, ["c"]) == [JobState.WAITING]
    assert await look(store) == (1, 2)


async def test_a_waiting_job_gets_another_priority(store: Store) -> None:
    await joined(store, "w")
    await put(store, *(job(name) for name in "abc"))
    first = await take_one(store, "w")
    assert await store.operating.prioritize(QUEUE, ["c"], Priority.HIGH) == [JobState.WAITING]
    assert await settle(store, "w", first, Verb.SUCCEEDED, THREE)
    assert await taken(store) == ["c"]


async def test_a_waiting_job_is_moved_and_obeys_the_limit_of_its_new_queue(store: Store) -> None:
    await joined(store, "w")
    await joined(store, "w", ELSEWHERE)
    await put(store, *(job(name) for name in "abc"))
    await put(store, job("there"), queue=ELSEWHERE)
    first = await take_one(store, "w")
    (other,) = (await store.claim(ELSEWHERE, "w", 10)).jobs
    assert await store.outbox.move(QUEUE, ["b"], ELSEWHERE) == [JobState.WAITING]
    reading = await store.outbox.read(QUEUE, ELSEWHERE)
    await store.outbox.remove(QUEUE, ELSEWHERE, reading, await store.outbox.deliver(ELSEWHERE, QUEUE, reading))
    assert (await store.claim(ELSEWHERE, "w", 10)).jobs == []
    assert await settle(store, "w", first, Verb.SUCCEEDED, THREE)
    assert await taken(store) == ["c"]
    await store.settle(ELSEWHERE, "w", [Settlement(other.id, other.claim, Verb.SUCCEEDED, THREE, 0, LONG)])
    assert [each.id for each in (await store.claim(ELSEWHERE, "w", 10)).jobs] == ["b"]


async def test_waiting_jobs_are_listed_and_counted(store: Store) -> None:
    await joined(store, "w")
    await put(store, *(job(name) for name in "abc"))
    assert await taken(store) == ["a"]
    query = ListQuery(JobState.WAITING)
    assert (await store.operating.count_jobs(QUEUE, query)).count == 2
    found = await store.operating.list_jobs(QUEUE, query, (), 10)
    assert sorted(item.info.id for item in found.items if item.info is not None) == ["b", "c"]


async def test_a_job_that_comes_due_waits_behind_those_that_came_before(store: Store) -> None:
    await joined(store, "w")
    await put(store, job("late", delay_ms=20), job("a"), job("b"))
    first = await take_one(store, "w")
    assert first.id == "a"

    async def waits() -> bool:
        await store.promote(QUEUE, 10)
        return await state(store, "late") is JobState.WAITING

    await eventually(waits)
    for name in ("b", "late"):
        assert await settle(store, "w", first, Verb.SUCCEEDED, THREE)
        first = await take_one(store, "w")
        assert first.id == name


async def test_a_dead_job_that_is_queued_again_waits_for_its_limit(store: Store) -> None:
    await joined(store, "w")
    await put(store, job("a"))
    assert await settle(store, "w", await take_one(store, "w"), Verb.FAILED, BROKEN)
    await put(store, job("b"))
    first = await take_one(store, "w")
    assert await store.operating.reopen(QUEUE, ["a"]) == [JobState.FAILED]
    assert await taken(store) == []
    assert await state(store, "a") is JobState.WAITING
    assert await settle(store, "w", first, Verb.SUCCEEDED, THREE)
    assert await taken(store) == ["a"]


async def test_jobs_whose_task_is_paused_do_not_hold_up_their_key(store: Store) -> None:
    other = encode_envelope("shop.other", [], {}, None)
    await joined(store, "w")
    await put(store, job("a"), job("b"), job("c", call=other), job("d"))
    first = await take_one(store, "w")
    await store.operating.pauses.pause(QUEUE, ["shop.add"])
    assert await settle(store, "w", first, Verb.SUCCEEDED, THREE)
    assert await taken(store) == ["c"]
    await store.operating.pauses.resume(QUEUE, ["shop.add"])
    assert await taken(store) == []


async def test_nothing_is_left_of_a_key_once_its_jobs_have_ended(backend: Backend) -> None:
    store = await backend.open()
    await joined(store, "w")
    await put(store, *(job(name) for name in "abc"))
    first = await take_one(store, "w")
    await store.cancel(QUEUE, ["b"], REASON, LONG)
    assert await settle(store, "w", first, Verb.SUCCEEDED, THREE)
    assert await settle(store, "w", await take_one(store, "w"), Verb.SUCCEEDED, THREE)
    assert await taken(store) == []
    assert groups(backend) == 0


def groups(backend: Backend) -> int:
    """How many keys of limits have left something."""
    if backend.database is None:
        memory = backend._make()
        assert isinstance(memory, MemoryStore)
        return len(memory._queues[QUEUE].limits.groups)
    with backend.database.client() as client:
        return len(client.keys(backend.key("group*")))  # pyright: ignore[reportArgumentType]
