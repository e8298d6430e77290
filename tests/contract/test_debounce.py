"""Debounced jobs: of the calls of one key that come in quick succession one job is there, with the last call."""

from contextlib import suppress

import msgspec
import pytest

from aioq.errors import ServerError
from aioq.jobs.job import JobState, Priority
from aioq.store.contract import Added, Limits, NewJob, Settlement, Store, Verb
from aioq.store.extra import Duplicate, Expiry, Extra, LimitUse, Lock
from aioq.store.memory import MemoryStore
from aioq.store.schedules import Entry, Overlap, Tick
from aioq.util.clock import ManualClock
from aioq.wire.messages import encode_envelope
from tests.contract import limiting
from tests.contract.kit import (
    BROKEN,
    CALL,
    CRASHED,
    LONG,
    QUEUE,
    REASON,
    THREE,
    Backend,
    eventually,
    ids,
    info,
    joined,
    settle,
    state,
    take,
    take_one,
)
from tests.contract.refusing import refusing
from tests.databases import Database

pytestmark = pytest.mark.anyio

KEY = "shop.save:1"
ELSEWHERE = f"{QUEUE}-2"
LARGE = encode_envelope("shop.save", ["x" * 2_000], {}, None)


@pytest.fixture
def limits() -> Limits:
    return Limits(lease_ms=LONG, max_crashes=9)


def lock_with(wait_ms: int = LONG, max_ms: int = 0) -> Lock:
    return Lock(KEY, "started", "debounce", max_ms, wait_ms=wait_ms)


def job(
    job_id: str,
    call: bytes = CALL,
    *,
    wait_ms: int = LONG,
    max_ms: int = 0,
    nonce: str = "",
    priority: Priority = Priority.NORMAL,
    expires_ms: int = 0,
    tags: tuple[str, ...] = (),
) -> NewJob:
    expires = Expiry(span_ms=expires_ms) if expires_ms else None
    extra = Extra(tags=tags, expires=expires, unique=lock_with(wait_ms, max_ms))
    return NewJob(job_id, call, priority, delay_ms=wait_ms, nonce=nonce, extra=extra)


async def put(store: Store, *jobs: NewJob, queue: str = QUEUE, again: bool = False) -> list[Added]:
    return await store.enqueue(queue, jobs, again=again)


async def owner(store: Store, queue: str = QUEUE) -> str | None:
    return await store.operating.unique_owner(queue, KEY)


async def call_of(store: Store, job_id: str) -> bytes | None:
    return (await store.operating.calls(QUEUE, [job_id]))[0]


async def begun(store: Store, job_id: str = "a") -> None:
    """Let a job that waits be due."""
    await store.reschedule(QUEUE, [job_id])


# -- one series


async def test_a_further_call_takes_the_place_of_the_one_that_waits(store: Store) -> None:
    assert await put(store, job("a", tags=("one",))) == [True]
    assert await put(store, job("b", LARGE, tags=("two",))) == [Duplicate("a")]
    assert await state(store, "b") is None
    found = await info(store, "a")
    assert (found.state, found.tags, found.unique_key) == (JobState.SCHEDULED, ("two",), KEY)
    await begun(store)
    await joined(store, "w")
    assert (await take_one(store, "w")).envelope == LARGE


async def test_of_calls_that_are_sent_together_the_last_one_counts(store: Store) -> None:
    first = [job("a"), NewJob("x", CALL), job("b", LARGE, priority=Priority.HIGH)]
    assert await put(store, *first) == [True, True, Duplicate("a")]
    assert (await call_of(store, "a"), (await info(store, "a")).priority) == (LARGE, Priority.HIGH)
    assert await put(store, job("c", LARGE), job("d")) == [Duplicate("a")] * 2
    assert (await call_of(store, "a"), (await info(store, "a")).priority) == (CALL, Priority.NORMAL)


async def test_a_call_that_comes_after_the_start_begins_a_new_series(store: Store) -> None:
    await put(store, job("a"))
    await begun(store)
    await joined(store, "w")
    claimed = await take_one(store, "w")
    assert claimed.is_unique
    assert await owner(store) is None
    assert await put(store, job("b", LARGE)) == [True]
    assert await put(store, job("c", LARGE)) == [Duplicate("b")]
    assert await settle(store, "w", claimed, Verb.SUCCEEDED, THREE)
    assert await owner(store) == "b"


BACK = (Verb.RETRY, Verb.SNOOZE, Verb.INTERRUPT, Verb.CUT, Verb.CRASH)


@pytest.mark.parametrize("verb", BACK)
async def test_a_job_that_was_begun_has_left_its_series(store: Store, verb: Verb) -> None:
    await put(store, job("a"))
    await begun(store)
    await joined(store, "w")
    assert await settle(store, "w", await take_one(store, "w"), verb, BROKEN, delay_ms=LONG)
    assert await owner(store) is None
    assert await put(store, job("b", LARGE)) == [True]
    assert await call_of(store, "a") == CALL


@pytest.mark.parametrize("verb", [Verb.RELEASE, Verb.PARK])
async def test_a_job_that_was_not_begun_comes_back_into_its_series(store: Store, verb: Verb) -> None:
    await put(store, job("a"))
    await begun(store)
    await joined(store, "w")
    claimed = await take_one(store, "w")
    assert await settle(store, "w", claimed, verb, BROKEN, delay_ms=LONG * (verb is Verb.PARK), ttl_ms=LONG)
    assert await put(store, job("b", LARGE)) == [Duplicate("a")]
    assert await state(store, "a") is JobState.SCHEDULED


@pytest.mark.parametrize("verb", [Verb.RELEASE, Verb.PARK])
async def test_it_leaves_the_next_series_alone(store: Store, verb: Verb) -> None:
    """Else the newest call would be run before an older one, or be replaced by it."""
    await put(store, job("a"))
    await begun(store)
    await joined(store, "w")
    claimed = await take_one(store, "w")
    assert await put(store, job("b")) == [True]
    assert await settle(store, "w", claimed, verb, BROKEN, delay_ms=LONG * (verb is Verb.PARK), ttl_ms=LONG)
    assert await put(store, job("c", LARGE)) == [Duplicate("b")]
    assert (await call_of(store, "a"), await call_of(store, "b")) == (CALL, LARGE)


async def test_the_job_of_a_worker_that_dies_has_left_its_series(store: Store) -> None:
    await put(store, job("a"))
    await begun(store)
    await joined(store, "w")
    await take_one(store, "w")
    while (await store.recover(QUEUE, CRASHED, 100, dead="w")).more:
        pass
    assert await put(store, job("b", LARGE)) == [True]
    assert await state(store, "a") is JobState.QUEUED


async def test_a_call_puts_off_a_job_that_is_due_and_was_not_begun(store: Store) -> None:
    await put(store, job("a", priority=Priority.LOW))
    await begun(store)
    assert await put(store, job("b", LARGE, priority=Priority.HIGH)) == [Duplicate("a")]
    assert await state(store, "a") is JobState.SCHEDULED
    await joined(store, "w")
    assert await take(store, "w") == []
    await begun(store)
    assert [(each.id, each.envelope) for each in await take(store, "w")] == [("a", LARGE)]


async def test_the_expiry_counts_from_the_new_time(store: Store) -> None:
    await put(store, job("a", expires_ms=LONG))
    before = (await info(store, "a")).expires_at
    await put(store, job("b", wait_ms=2 * LONG, expires_ms=LONG))
    after = (await info(store, "a")).expires_at
    assert before is not None
    assert after is not None
    assert (after - before).total_seconds() > LONG / 1000 - 60


# -- ends


@pytest.mark.parametrize("how", ["cancelled", "deleted", "released", "expired", "vanished"])
async def test_whatever_ends_the_job_ends_the_series(backend: Backend, how: str) -> None:
    store = await backend.open()
    await put(store, job("a", expires_ms=1 if how == "expired" else 0, wait_ms=1 if how == "expired" else LONG))
    if how == "cancelled":
        await store.cancel(QUEUE, ["a"], REASON, LONG)
    elif how == "deleted":
        await store.operating.delete(QUEUE, ["a"], REASON)
    elif how == "released":
        assert await store.operating.release_unique(QUEUE, KEY) == "a"
    elif how == "vanished":
        if backend.database is None:
            return
        backend.delete("job:a")
    else:

        async def has_expired() -> bool:
            await store.promote(QUEUE, 10)
            return await state(store, "a") is JobState.CANCELLED

        await eventually(has_expired)
    assert await owner(store) is None
    assert await put(store, job("b", LARGE)) == [True]
    assert await owner(store) == "b"


async def test_a_dead_job_that_is_queued_again_belongs_to_no_series(store: Store) -> None:
    await put(store, job("a"))
    await begun(store)
    await joined(store, "w")
    assert await settle(store, "w", await take_one(store, "w"), Verb.FAILED, BROKEN)
    assert await put(store, job("b", LARGE)) == [True]
    assert await store.operating.reopen(QUEUE, ["a"]) == [JobState.FAILED]
    assert await owner(store) == "b"
    assert ids(await take(store, "w")) == ["a"]


async def move(store: Store) -> list[str]:
    await store.outbox.move(QUEUE, ["a"], ELSEWHERE)
    return await deliver(store)


async def deliver(store: Store) -> list[str]:
    reading = await store.outbox.read(QUEUE, ELSEWHERE)
    delivery = await store.outbox.deliver(ELSEWHERE, QUEUE, reading)
    return list((await store.outbox.remove(QUEUE, ELSEWHERE, reading, delivery)).returned)


async def test_a_job_that_is_moved_leaves_its_series_and_goes_on_with_it_there(store: Store) -> None:
    await put(store, job("a"))
    assert await move(store) == []
    assert await put(store, job("b")) == [True]
    assert await put(store, job("c", LARGE), queue=ELSEWHERE) == [Duplicate("a")]


async def test_a_job_is_moved_to_where_there_is_a_series_already(store: Store) -> None:
    await put(store, job("b"), queue=ELSEWHERE)
    await put(store, job("a"))
    assert await move(store) == []
    assert await put(store, job("c", LARGE), queue=ELSEWHERE) == [Duplicate("b")]


async def test_a_call_that_comes_while_the_job_is_on_its_way_begins_a_new_series(store: Store) -> None:
    await put(store, job("a"))
    await store.outbox.move(QUEUE, ["a"], ELSEWHERE)
    assert await put(store, job("b")) == [True]
    assert await deliver(store) == []
    assert await owner(store) == "b"


# -- times


async def test_the_job_is_run_once_there_was_no_call_for_the_wait_or_at_the_end_of_the_longest() -> None:
    clock = ManualClock()
    store = MemoryStore("test", clock=clock, limits=Limits(lease_ms=LONG))
    await joined(store, "w")

    async def runs() -> list[str]:
        await store.promote(QUEUE, 10)
        return ids(await take(store, "w"))

    await put(store, job("a", wait_ms=5_000, max_ms=12_000))
    for number in range(3):
        clock.advance(4.9)
        assert await runs() == ([] if number < 2 else ["a"]), "12 s after the first call"
        await put(store, job(f"b{number}", wait_ms=5_000, max_ms=12_000))
    clock.advance(4.9)
    assert await runs() == []
    clock.advance(0.1)
    assert await runs() == ["b2"], "the last call has begun a series of its own"
    await store.close()


async def test_no_call_puts_a_series_off_beyond_its_longest_time(store: Store) -> None:
    await put(store, job("a", wait_ms=LONG, max_ms=LONG))
    before = (await info(store, "a")).due_at
    assert await put(store, job("b", LARGE, wait_ms=2 * LONG, max_ms=2 * LONG)) == [Duplicate("a")]
    after = (await info(store, "a")).due_at
    assert before is not None
    assert after is not None
    assert (after - before).total_seconds() < LONG / 2000, "its own time would be a whole `LONG` later"


async def test_a_call_after_that_time_finds_a_place_if_the_job_was_not_begun(store: Store) -> None:
    await joined(store, "w")
    await put(store, job("a", wait_ms=1, max_ms=1))

    async def is_due() -> bool:
        await store.promote(QUEUE, 10)
        return await state(store, "a") is JobState.QUEUED

    await eventually(is_due)
    assert await put(store, job("b", LARGE)) == [Duplicate("a")]
    assert (await take_one(store, "w")).envelope == LARGE


# -- repeated


async def test_a_repeated_send_replaces_nothing_newer(store: Store) -> None:
    assert await put(store, job("a", nonce="n")) == [True]
    assert await put(store, job("b", LARGE)) == [Duplicate("a")]
    assert await put(store, job("a", nonce="n"), again=True) == [True]
    assert await call_of(store, "a") == LARGE
    assert await put(store, job("c")) == [Duplicate("a")]
    assert await put(store, job("b", LARGE), again=True) == [Duplicate("a")]
    assert await call_of(store, "a") == CALL
    await begun(store)
    await joined(store, "w")
    claimed = await take_one(store, "w")
    assert await settle(store, "w", claimed, Verb.SUCCEEDED, THREE, ttl_ms=0)
    assert await put(store, job("b", LARGE), again=True) == [Duplicate("a")]
    assert await owner(store) is None


@pytest.mark.parametrize("is_there", [False, True], ids=["first", "further"])
async def test_a_send_that_fails_half_way_leaves_the_last_call_once_it_is_repeated(
    server: Database, app_name: str, is_there: bool
) -> None:
    async with refusing(server, app_name, Limits(lease_ms=LONG)) as at:
        for queue in at.each("enqueue"):
            first, expected = "b", [True, Duplicate("b")]
            if is_there:
                first, expected = "a", [Duplicate("a"), Duplicate("a")]
                await put(at.full, job("a", priority=Priority.HIGH), queue=queue)
            new = [job("b", LARGE), job("c")]
            with suppress(ServerError):
                await at.limited.enqueue(queue, new)
            assert await at.full.enqueue(queue, new, again=True) == expected, queue
            assert await at.full.operating.calls(queue, [first]) == [CALL], queue
            await at.full.reschedule(queue, [first])
            await joined(at.full, "w", queue)
            jobs = (await at.full.claim(queue, "w", 9)).jobs
            assert [(each.id, each.envelope) for each in jobs] == [(first, CALL)], queue
            assert await owner(at.full, queue) is None, queue


# -- jobs that were sent without their key


async def named(store: Store, job_id: str, call: bytes = CALL, wait_ms: int = LONG) -> tuple[str, bool] | None:
    """A job whose sender does not know that its task is debounced is run, and asks; twice, after a lost reply."""
    assert await put(store, NewJob(job_id, call)) == [True]
    (claimed,) = [each for each in await take(store, "w") if each.id == job_id]
    lock = lock_with(wait_ms)
    holder = await store.operating.hold_unique(QUEUE, "w", job_id, claimed.claim, lock)
    assert await store.operating.hold_unique(QUEUE, "w", job_id, claimed.claim, lock) == holder
    if holder == (job_id, True):
        assert await settle(store, "w", claimed, Verb.SNOOZE, delay_ms=wait_ms)
    return holder


async def test_a_job_that_runs_begins_a_series_and_is_put_off(store: Store) -> None:
    await joined(store, "w")
    assert await named(store, "a") == ("a", True)
    assert (await state(store, "a"), await owner(store)) == (JobState.SCHEDULED, "a")
    assert await put(store, job("b", LARGE)) == [Duplicate("a")]
    assert await named(store, "c") == ("a", False)
    assert await call_of(store, "a") == CALL
    await begun(store)
    claimed = await take_one(store, "w")
    assert claimed.is_unique
    assert await put(store, job("d")) == [True]
    assert await settle(store, "w", claimed, Verb.SNOOZE, delay_ms=LONG)
    assert await owner(store) == "d"


async def test_a_call_that_comes_before_it_is_put_off_replaces_its_call(store: Store) -> None:
    await joined(store, "w")
    await put(store, NewJob("a", CALL))
    claimed = await take_one(store, "w")
    assert await store.operating.hold_unique(QUEUE, "w", "a", claimed.claim, lock_with()) == ("a", True)
    assert await put(store, job("b", LARGE)) == [Duplicate("a")]
    assert await state(store, "a") is JobState.RUNNING
    assert await settle(store, "w", claimed, Verb.SNOOZE, delay_ms=LONG)
    await begun(store)
    assert [(each.id, each.envelope) for each in await take(store, "w")] == [("a", LARGE)]


async def test_a_question_that_is_repeated_replaces_nothing_newer(store: Store) -> None:
    await joined(store, "w")
    await put(store, job("a"), NewJob("b", LARGE))
    claimed = await take_one(store, "w")
    lock = lock_with()
    assert await store.operating.hold_unique(QUEUE, "w", "b", claimed.claim, lock) == ("a", False)
    assert await put(store, job("c")) == [Duplicate("a")]
    assert await store.operating.hold_unique(QUEUE, "w", "b", claimed.claim, lock) == ("a", False)
    assert await call_of(store, "a") == CALL


# -- schedules


async def test_a_tick_is_a_call_as_any_other(store: Store) -> None:
    entry = Entry(id="s", definition=b"any", envelope=LARGE, next_ms=1, extra=Extra(unique=lock_with()))
    assert await store.timetable.write(QUEUE, [entry]) == [True]

    async def tick(number: int) -> int | None:
        (stored,) = (await store.timetable.read(QUEUE)).entries
        jobs = [(f"s@{number}", number, number)]
        made = Tick(id="s", rev=stored.rev, jobs=jobs, next_ms=1, overlap=Overlap.ALLOW, max_runs=0)
        return (await store.timetable.tick(QUEUE, [made])).made[0]

    assert await tick(1) == 1
    assert await state(store, "s@1") is JobState.SCHEDULED
    assert await put(store, job("a")) == [Duplicate("s@1")]
    assert await call_of(store, "s@1") == CALL
    assert await tick(2) == 0
    assert await call_of(store, "s@1") == LARGE
    await begun(store, "s@1")
    await joined(store, "w")
    claimed = await take_one(store, "w")
    assert await tick(3) == 1
    await store.settle(QUEUE, "w", [Settlement(claimed.id, claimed.claim, Verb.SUCCEEDED, THREE, 0, LONG)])
    assert await owner(store) == "s@3"


# -- what is left


async def test_series_leave_nothing_behind(redis_backend: Backend) -> None:
    store = await redis_backend.open()
    assert redis_backend.database is not None
    await put(store, job("a"))
    await put(store, job("b", LARGE))
    await begun(store)
    await joined(store, "w")
    claimed = await take_one(store, "w")
    await settle(store, "w", msgspec.structs.replace(claimed), Verb.SUCCEEDED, THREE, ttl_ms=0)
    with redis_backend.database.client() as client:
        assert client.keys(redis_backend.key("unique:*")) == []
        assert client.keys(redis_backend.key("body:*")) == []


# -- with limits


@pytest.mark.parametrize("ordered", [False, True])
async def test_a_job_that_waits_for_a_limit_is_put_off_by_a_further_call(store: Store, ordered: bool) -> None:
    """Its key does not wait for it meanwhile, also if it is to keep the order."""
    await joined(store, "w")
    use = limiting.use(ordered=ordered)
    limited = [with_limit(each, use) for each in (job("a"), job("b", LARGE))]
    await put(store, limiting.job("x", use))
    first = await take_one(store, "w")
    assert await put(store, limited[0]) == [True]
    await begun(store)
    await store.promote(QUEUE, 10)
    assert await take(store, "w") == []
    assert await state(store, "a") is JobState.WAITING
    assert await put(store, limited[1]) == [Duplicate("a")]
    assert await state(store, "a") is JobState.SCHEDULED
    assert await settle(store, "w", first, Verb.SUCCEEDED, THREE)
    await put(store, limiting.job("y", use))
    third = await take_one(store, "w")
    assert third.id == "y"
    assert await settle(store, "w", third, Verb.SUCCEEDED, THREE)
    await begun(store)
    second = await take_one(store, "w")
    assert (second.id, second.envelope) == ("a", LARGE)
    assert await put(store, job("c")) == [True]
    assert await settle(store, "w", second, Verb.SUCCEEDED, THREE)
    await put(store, limiting.job("z", use))
    assert ids(await take(store, "w")) == ["z"], "all permits are given back"


def with_limit(each: NewJob, use: LimitUse) -> NewJob:
    assert each.extra is not None
    return msgspec.structs.replace(each, extra=msgspec.structs.replace(each.extra, limits=(use,)))
