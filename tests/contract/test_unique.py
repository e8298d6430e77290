"""Unique keys: of the jobs of one key only one is there at a time, whatever becomes of it."""

from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from aioq.errors import ServerError
from aioq.jobs.job import JobState
from aioq.store.contract import Added, Claimed, Limits, NewJob, Settlement, Store, Verb
from aioq.store.extra import Duplicate, Expiry, Extra, Lock
from aioq.store.operating import ListQuery
from aioq.store.redis.keys import base_key
from aioq.store.schedules import Entry, Overlap, Tick
from aioq.wire.messages import encode_envelope
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

KEY = "shop.sync:1"
ELSEWHERE = f"{QUEUE}-2"
SOON = 50  # ms
LARGE = encode_envelope("shop.add", ["x" * 2_000], {}, None)


@pytest.fixture
def limits() -> Limits:
    return Limits(lease_ms=LONG, max_crashes=1)


def job(
    job_id: str,
    conflict: str = "return",
    *,
    until: str = "ended",
    key: str = KEY,
    call: bytes = CALL,
    delay_ms: int | None = None,
    window_ms: int = 0,
    nonce: str = "",
    expires_ms: int = 0,
) -> NewJob:
    lock = Lock(key, until, conflict, window_ms)
    extra = Extra(unique=lock, expires=Expiry(span_ms=expires_ms) if expires_ms else None)
    return NewJob(job_id, call, delay_ms=delay_ms, nonce=nonce, extra=extra)


async def put(store: Store, *jobs: NewJob, queue: str = QUEUE, again: bool = False) -> list[Added]:
    return await store.enqueue(queue, jobs, again=again)


async def owner(store: Store, key: str = KEY, queue: str = QUEUE) -> str | None:
    return await store.operating.unique_owner(queue, key)


async def started(store: Store, *jobs: NewJob) -> list[str]:
    """These jobs, sent; returns the ids of those that `w` claims then."""
    await put(store, *jobs)
    await joined(store, "w")
    return ids(await take(store, "w"))


async def recover(store: Store) -> None:
    while (await store.recover(QUEUE, CRASHED, 100, dead="w")).more:
        pass


# -- who holds a key


async def test_a_job_whose_key_another_one_holds_is_not_added(store: Store) -> None:
    assert await put(store, job("a")) == [True]
    assert await put(store, job("b"), job("c", key="other")) == [Duplicate("a"), True]
    assert await owner(store) == "a"
    assert await state(store, "b") is None
    assert (await info(store, "a")).unique_key == KEY


async def test_of_jobs_that_are_sent_together_the_first_one_is_added(store: Store) -> None:
    jobs = [job("a"), job("b", key="other"), job("c"), NewJob("d", CALL), job("e", key="other")]
    assert await put(store, *jobs) == [True, True, Duplicate("a"), True, Duplicate("b")]
    await joined(store, "w")
    assert sorted(ids(await take(store, "w"))) == ["a", "b", "d"]


async def test_a_job_with_an_id_that_is_there_is_no_duplicate(store: Store) -> None:
    assert await put(store, job("a", nonce="1")) == [True]
    assert await put(store, job("a", nonce="2")) == [False]


async def test_a_repeated_send_is_no_duplicate_of_itself(store: Store) -> None:
    assert await put(store, job("a")) == [True]
    assert await put(store, job("a"), again=True) == [True]
    assert await put(store, job("b", nonce="n")) == [Duplicate("a")]
    assert await put(store, job("b", nonce="n"), again=True) == [Duplicate("a")]


async def test_queues_do_not_share_keys(store: Store) -> None:
    assert await put(store, job("a")) == [True]
    assert await put(store, job("a"), queue=ELSEWHERE) == [True]


ENDS: dict[str, Callable[[Store], Awaitable[object]]] = {
    "cancelled": lambda store: store.cancel(QUEUE, ["a"], REASON, LONG),
    "deleted": lambda store: store.operating.delete(QUEUE, ["a"], REASON),
    "released": lambda store: store.operating.release_unique(QUEUE, KEY),
}


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("delay_ms", [None, LONG])
async def test_the_key_is_free_once_a_job_that_waits_is(store: Store, how: str, delay_ms: int | None) -> None:
    assert await put(store, job("a", delay_ms=delay_ms)) == [True]
    await ENDS[how](store)
    assert await owner(store) is None
    assert await put(store, job("b")) == [True]


@pytest.mark.parametrize("verb", [Verb.SUCCEEDED, Verb.FAILED, Verb.CANCELLED])
@pytest.mark.parametrize("ttl_ms", [0, LONG])
async def test_the_key_is_free_once_the_job_has_ended(store: Store, verb: Verb, ttl_ms: int) -> None:
    await put(store, job("a"))
    await joined(store, "w")
    claimed = await take_one(store, "w")
    assert await put(store, job("b")) == [Duplicate("a")]
    assert await settle(store, "w", claimed, verb, THREE if verb is Verb.SUCCEEDED else BROKEN, ttl_ms=ttl_ms)
    assert await owner(store) is None
    assert await put(store, job("b")) == [True]
    assert await settle(store, "w", claimed, verb, THREE, ttl_ms=ttl_ms) is (ttl_ms > 0 or verb is Verb.FAILED)
    assert await owner(store) == "b", "the end is written again, after a lost reply"


BACK = (Verb.RETRY, Verb.SNOOZE, Verb.INTERRUPT, Verb.CUT, Verb.CRASH, Verb.RELEASE, Verb.PARK)


@pytest.mark.parametrize("delay_ms", [0, LONG])
@pytest.mark.parametrize("verb", BACK)
async def test_a_job_that_comes_back_keeps_its_key(store: Store, verb: Verb, delay_ms: int) -> None:
    await started(store)
    await put(store, job("a"))
    assert await settle(store, "w", await take_one(store, "w"), verb, BROKEN, delay_ms=delay_ms)
    assert await put(store, job("b")) == [Duplicate("a")]


async def test_the_key_of_a_worker_that_dies_stays_with_the_job_until_that_has_ended(store: Store) -> None:
    assert await started(store, job("a")) == ["a"]
    await recover(store)
    assert await put(store, job("b")) == [Duplicate("a")]
    await joined(store, "w")
    await take_one(store, "w")
    await recover(store)  # once more than it may crash
    assert await state(store, "a") is JobState.FAILED
    assert await put(store, job("b")) == [True]


async def test_a_job_that_expires_gives_its_key_back(store: Store) -> None:
    await put(store, job("a", expires_ms=SOON))

    async def has_ended() -> bool:
        await store.promote(QUEUE, 10)
        return await state(store, "a") is JobState.CANCELLED

    await eventually(has_ended)
    assert await put(store, job("b")) == [True]


async def test_a_job_that_changes_its_place_keeps_its_key(store: Store) -> None:
    await put(store, job("a"))
    await store.reschedule(QUEUE, ["a"], delay_ms=LONG)
    assert await put(store, job("b")) == [Duplicate("a")]
    await store.reschedule(QUEUE, ["a"])
    assert await put(store, job("b")) == [Duplicate("a")]


async def test_a_key_whose_job_has_vanished_is_free(redis_backend: Backend) -> None:
    store = await redis_backend.open()
    await put(store, job("a"))
    redis_backend.delete("job:a")
    assert await owner(store) is None
    assert await put(store, job("b")) == [True]


async def test_a_key_is_not_that_of_another_job_with_the_id_of_its_owner(redis_backend: Backend) -> None:
    store = await redis_backend.open()
    await put(store, job("a"))
    redis_backend.delete("job:a")
    await put(store, NewJob("a", CALL))
    assert await put(store, job("b")) == [True]


async def test_a_key_of_another_type_holds_up_nobody(redis_backend: Backend) -> None:
    store = await redis_backend.open()
    assert redis_backend.database is not None
    with redis_backend.database.client() as client:
        client.hset(redis_backend.key(f"unique:{KEY}"), "a", "b")
    assert await owner(store) is None
    assert await put(store, job("a")) == [True]


# -- a dead job that is queued again


async def test_a_dead_job_takes_its_key_again(store: Store) -> None:
    await started(store)
    await put(store, job("a"))
    await settle(store, "w", await take_one(store, "w"), Verb.FAILED, BROKEN)
    assert await store.operating.reopen(QUEUE, ["a"]) == [JobState.FAILED]
    assert await put(store, job("b")) == [Duplicate("a")]


async def test_a_dead_job_whose_key_another_one_holds_is_not_queued_again(store: Store) -> None:
    await started(store)
    await put(store, job("a"))
    await settle(store, "w", await take_one(store, "w"), Verb.FAILED, BROKEN)
    assert await put(store, job("b")) == [True]
    assert await store.operating.reopen(QUEUE, ["a"]) == [Duplicate("b")]
    assert await state(store, "a") is JobState.FAILED
    await store.cancel(QUEUE, ["b"], REASON, LONG)
    assert await store.operating.reopen(QUEUE, ["a"]) == [JobState.FAILED]


async def test_a_dead_job_whose_id_a_duplicate_has_stays(store: Store) -> None:
    """A new send may use its id; but this one is not added."""
    await started(store)
    await put(store, NewJob("a", LARGE, nonce="1"))
    assert await settle(store, "w", await take_one(store, "w"), Verb.FAILED, BROKEN, ttl_ms=0)
    await put(store, job("b"))
    assert await put(store, job("a", nonce="2")) == [Duplicate("b")]
    assert (await store.operating.count_jobs(QUEUE, ListQuery(JobState.FAILED))).count == 1
    assert await store.operating.reopen(QUEUE, ["a"]) == [JobState.FAILED]


async def test_a_dead_job_that_was_moved_and_is_not_queued_again_stays(store: Store) -> None:
    await joined(store, "w", ELSEWHERE)
    await put(store, job("a"))
    assert await move(store, "a") == []
    (claimed,) = (await store.claim(ELSEWHERE, "w", 1)).jobs
    await store.settle(ELSEWHERE, "w", [Settlement("a", claimed.claim, Verb.FAILED, BROKEN, 0, LONG)])
    assert await put(store, job("b"), queue=ELSEWHERE) == [True]
    assert await store.operating.reopen(ELSEWHERE, ["a"]) == [Duplicate("b")]
    reading = await store.outbox.read(ELSEWHERE, QUEUE)
    delivery = await store.outbox.deliver(QUEUE, ELSEWHERE, reading)
    await store.outbox.remove(ELSEWHERE, QUEUE, reading, delivery)
    (there,) = await store.info(ELSEWHERE, ["a"])
    assert there is not None
    assert there.state is JobState.FAILED


# -- until="started"


async def test_a_job_gives_its_key_back_when_it_is_claimed(store: Store) -> None:
    assert await put(store, job("a", until="started")) == [True]
    assert await put(store, job("b", until="started")) == [Duplicate("a")]
    assert await started(store) == ["a"]
    assert await put(store, job("b", until="started")) == [True]


@pytest.mark.parametrize("verb", [Verb.RETRY, Verb.SNOOZE, Verb.INTERRUPT, Verb.CUT, Verb.CRASH])
async def test_a_job_that_comes_back_takes_its_key_again_if_that_is_free(store: Store, verb: Verb) -> None:
    await started(store)
    await put(store, job("a", until="started"))
    assert await settle(store, "w", await take_one(store, "w"), verb, BROKEN)
    assert await put(store, job("b", until="started")) == [Duplicate("a")]
    claimed = await take_one(store, "w")
    assert await put(store, job("b", until="started")) == [True]
    assert await settle(store, "w", claimed, verb, BROKEN)
    assert await owner(store) == "b" or await state(store, "a") is JobState.FAILED


@pytest.mark.parametrize("verb", [Verb.RELEASE, Verb.PARK])
async def test_a_job_that_was_not_begun_takes_its_key_again_in_any_case(store: Store, verb: Verb) -> None:
    await started(store)
    await put(store, job("a", until="started"))
    claimed = await take_one(store, "w")
    assert await put(store, job("b", until="started")) == [True]
    assert await settle(store, "w", claimed, verb, BROKEN)
    assert await owner(store) == "a"


# -- within


async def test_a_key_is_held_for_a_time_however_the_job_ends(store: Store) -> None:
    first = job("a", until="within", window_ms=LONG)
    assert await put(store, first) == [True]
    await store.cancel(QUEUE, ["a"], REASON, 0)
    assert await state(store, "a") is None
    assert await put(store, job("b", until="within", window_ms=LONG)) == [Duplicate("a")]
    assert await owner(store) == "a"
    assert await store.operating.release_unique(QUEUE, KEY) == "a"
    assert await put(store, job("b", until="within", window_ms=LONG)) == [True]


async def test_the_time_ends_by_itself_and_a_repeated_send_does_not_begin_it_anew(store: Store) -> None:
    assert await put(store, job("a", until="within", window_ms=SOON)) == [True]

    async def is_over() -> bool:
        await put(store, job("a", until="within", window_ms=SOON), again=True)
        return await owner(store) is None

    await eventually(is_over)
    assert await put(store, job("b", until="within", window_ms=LONG)) == [True]


async def test_a_call_within_the_time_may_replace_one_that_was_not_started(store: Store) -> None:
    timed = {"until": "within", "window_ms": LONG}
    assert await put(store, job("a", "replace", **timed)) == [True]  # pyright: ignore[reportArgumentType]
    assert await put(store, job("b", "replace", call=LARGE, **timed)) == [Duplicate("a")]  # pyright: ignore[reportArgumentType]
    await joined(store, "w")
    claimed = await take_one(store, "w")
    assert claimed.envelope == LARGE
    assert await put(store, job("c", "replace", **timed)) == [Duplicate("a")]  # pyright: ignore[reportArgumentType]
    assert await put(store, job("d", "latest")) == [Duplicate("a")], "the key is given back by no job"
    assert await settle(store, "w", claimed, Verb.SUCCEEDED, THREE, ttl_ms=0)
    assert await put(store, job("e", "replace", **timed)) == [Duplicate("a")]  # pyright: ignore[reportArgumentType]


# -- replace


async def test_a_job_that_was_not_started_gets_the_call_and_the_time_of_the_new_one(store: Store) -> None:
    await put(store, job("a"))
    assert await put(store, job("b", "replace", call=LARGE, delay_ms=LONG)) == [Duplicate("a")]
    assert await state(store, "a") is JobState.SCHEDULED
    assert await put(store, job("c", "replace")) == [Duplicate("a")]
    await joined(store, "w")
    (claimed,) = await take(store, "w")
    assert (claimed.id, claimed.envelope) == ("a", CALL)
    assert await put(store, job("d", "replace", call=LARGE)) == [Duplicate("a")], "it was started"
    assert await settle(store, "w", claimed, Verb.INTERRUPT)
    assert (await take_one(store, "w")).envelope == CALL


@pytest.mark.parametrize("verb", [Verb.RELEASE, Verb.PARK])
async def test_a_job_that_a_worker_has_not_begun_is_replaced(store: Store, verb: Verb) -> None:
    await started(store)
    await put(store, job("a"))
    claimed = await take_one(store, "w")
    assert await settle(store, "w", claimed, verb, BROKEN, delay_ms=LONG * (verb is Verb.PARK), ttl_ms=LONG)
    assert await put(store, job("b", "replace", call=LARGE)) == [Duplicate("a")]
    assert (await take_one(store, "w")).envelope == LARGE


async def test_a_dead_job_that_is_queued_again_is_replaced(store: Store) -> None:
    await started(store)
    await put(store, job("a"))
    await settle(store, "w", await take_one(store, "w"), Verb.INTERRUPT)
    await settle(store, "w", await take_one(store, "w"), Verb.FAILED, BROKEN)
    assert await store.operating.reopen(QUEUE, ["a"]) == [JobState.FAILED]
    assert await put(store, job("b", "replace", call=LARGE)) == [Duplicate("a")]
    assert (await take_one(store, "w")).envelope == LARGE


async def test_a_repeated_send_does_not_replace_what_a_later_one_has_replaced(store: Store) -> None:
    await put(store, job("a"))
    assert await put(store, job("b", "replace", call=LARGE)) == [Duplicate("a")]
    assert await put(store, job("c", "replace", call=CALL)) == [Duplicate("a")]
    assert await put(store, job("b", "replace", call=LARGE), again=True) == [Duplicate("a")]
    await joined(store, "w")
    assert (await take_one(store, "w")).envelope == CALL


async def test_a_new_time_counts_for_the_expiry_too(store: Store) -> None:
    await put(store, job("a", expires_ms=LONG))
    before = (await info(store, "a")).expires_at
    assert await put(store, job("b", "replace", delay_ms=LONG, expires_ms=LONG)) == [Duplicate("a")]
    after = (await info(store, "a")).expires_at
    assert before is not None
    assert after is not None
    assert (after - before).total_seconds() > LONG / 1000 - 60
    assert await put(store, job("c", "replace")) == [Duplicate("a")]
    assert (await info(store, "a")).expires_at is None


# -- latest


def latest(job_id: str, call: bytes = CALL, **options: int) -> NewJob:
    return job(job_id, "latest", call=call, **options)  # pyright: ignore[reportArgumentType] - delay_ms


async def test_one_job_follows_the_one_that_runs_with_the_arguments_of_the_last_call(store: Store) -> None:
    await started(store)
    await put(store, latest("a"))
    claimed = await take_one(store, "w")
    assert await put(store, latest("b", CALL)) == [True]
    assert await state(store, "b") is JobState.WAITING
    assert await put(store, latest("c", LARGE)) == [Duplicate("b")]
    assert await take(store, "w") == []
    assert await owner(store) == "a"
    assert await settle(store, "w", claimed, Verb.SUCCEEDED, THREE)
    assert await owner(store) == "b"
    (following,) = await take(store, "w")
    assert (following.id, following.envelope) == ("b", LARGE)
    assert await settle(store, "w", following, Verb.SUCCEEDED, THREE)
    assert await owner(store) is None


async def test_of_jobs_that_are_sent_together_the_last_call_counts(store: Store) -> None:
    assert await put(store, latest("a"), latest("b", LARGE)) == [True, Duplicate("a")]
    await joined(store, "w")
    claimed = await take_one(store, "w")
    assert claimed.envelope == LARGE
    assert await put(store, latest("c"), latest("d", LARGE), latest("e")) == [True, Duplicate("c"), Duplicate("c")]
    assert await settle(store, "w", claimed, Verb.SUCCEEDED, THREE)
    assert [(each.id, each.envelope) for each in await take(store, "w")] == [("c", CALL)]


async def test_a_job_that_is_followed_is_not_tried_again(store: Store) -> None:
    await started(store)
    await put(store, latest("a"))
    claimed = await take_one(store, "w")
    await put(store, latest("b"))
    assert await settle(store, "w", claimed, Verb.RETRY, BROKEN, delay_ms=LONG)
    assert await state(store, "a") is JobState.FAILED
    assert ids(await take(store, "w")) == ["b"]


@pytest.mark.parametrize("verb", [Verb.INTERRUPT, Verb.CRASH, Verb.SNOOZE, Verb.RELEASE])
async def test_a_job_that_is_followed_and_comes_back_is_run_before(store: Store, verb: Verb) -> None:
    await started(store)
    await put(store, latest("a"))
    claimed = await take_one(store, "w")
    await put(store, latest("b"))
    assert await settle(store, "w", claimed, verb, BROKEN)
    (claimed,) = await take(store, "w")
    assert claimed.id == "a"
    assert await settle(store, "w", claimed, Verb.SUCCEEDED, THREE)
    assert ids(await take(store, "w")) == ["b"]


@pytest.mark.parametrize("others", [0, 1, 2, 5])
async def test_a_job_that_a_start_lets_follow_is_run(store: Store, others: int) -> None:
    """The claim that starts the one before queues it, in a lane that the claim has read to its end."""
    await started(store)
    await put(store, job("a", "latest", until="started"))
    parked = await take_one(store, "w")
    await put(store, job("x", "latest"))
    await take_one(store, "w")
    assert await put(store, job("b", "latest", call=LARGE)) == [True]
    await put(store, *(NewJob(f"c{number}", CALL) for number in range(others)))
    assert await settle(store, "w", parked, Verb.PARK, BROKEN, delay_ms=1, ttl_ms=LONG)

    async def is_back() -> bool:
        await store.promote(QUEUE, 10)
        return await state(store, "a") is JobState.QUEUED

    await eventually(is_back)
    assert (await owner(store), await state(store, "b")) == ("a", JobState.WAITING)
    assert "a" in (taken := ids(await take(store, "w")))
    assert "b" in taken + ids(await take(store, "w"))
    assert await owner(store) == "b"


async def test_a_job_that_waits_for_its_retry_is_replaced(store: Store) -> None:
    await started(store)
    await put(store, latest("a"))
    assert await settle(store, "w", await take_one(store, "w"), Verb.RETRY, BROKEN, delay_ms=LONG)
    assert await put(store, latest("b", LARGE)) == [Duplicate("a")]
    (claimed,) = await take(store, "w")
    assert (claimed.id, claimed.envelope, claimed.attempts) == ("a", LARGE, 0)


async def test_the_job_that_follows_has_its_own_time(store: Store) -> None:
    await started(store)
    await put(store, latest("a"))
    claimed = await take_one(store, "w")
    await put(store, latest("b", delay_ms=LONG))
    assert await settle(store, "w", claimed, Verb.SUCCEEDED, THREE)
    assert await state(store, "b") is JobState.SCHEDULED


async def test_jobs_that_follow_are_listed_and_counted_among_those_that_wait(store: Store) -> None:
    await started(store)
    keys = [f"shop.sync:{number}" for number in range(3)]
    await put(store, *(job(f"a{number}", "latest", key=key) for number, key in enumerate(keys)))
    assert len(await take(store, "w")) == 3
    await put(store, *(job(f"b{number}", "latest", key=key) for number, key in enumerate(keys)))
    query = ListQuery(JobState.WAITING)
    found = [item.info.id for item in (await store.operating.list_jobs(QUEUE, query, (), 10)).items if item.info]
    assert sorted(found) == ["b0", "b1", "b2"]
    assert (await store.operating.count_jobs(QUEUE, query)).count == 3
    assert await store.operating.release_unique(QUEUE, keys[0]) == "a0"
    assert (await store.operating.count_jobs(QUEUE, query)).count == 2
    assert await store.cancel(QUEUE, ["b1"], REASON, 0) == [JobState.WAITING]
    assert (await store.operating.count_jobs(QUEUE, query)).count == 1
    assert await store.cancel(QUEUE, sorted(found), REASON, 0) == [JobState.QUEUED, None, JobState.WAITING]


async def test_a_job_that_follows_may_be_cancelled(store: Store) -> None:
    await started(store)
    await put(store, latest("a"))
    claimed = await take_one(store, "w")
    await put(store, latest("b"))
    assert await store.cancel(QUEUE, ["b"], REASON, LONG) == [JobState.WAITING]
    assert await put(store, latest("c")) == [True]
    assert await settle(store, "w", claimed, Verb.SUCCEEDED, THREE)
    assert ids(await take(store, "w")) == ["c"]


async def test_a_release_lets_the_job_that_follows_run(store: Store) -> None:
    await started(store)
    await put(store, latest("a"))
    claimed = await take_one(store, "w")
    await put(store, latest("b"))
    assert await store.operating.release_unique(QUEUE, KEY) == "a"
    assert await owner(store) == "b"
    assert ids(await take(store, "w")) == ["b"]
    assert await settle(store, "w", claimed, Verb.SUCCEEDED, THREE)
    assert await owner(store) == "b"


async def test_a_release_that_is_repeated_takes_no_key_from_the_job_that_follows(
    redis_backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aioq.store.redis.operating._name", lambda: "the same")
    store = await redis_backend.open()
    await started(store)
    await put(store, latest("a"))
    await take_one(store, "w")
    await put(store, latest("b"))
    for _ in range(2):
        assert await store.operating.release_unique(QUEUE, KEY) == "a"
    assert await owner(store) == "b"


async def test_a_job_whose_predecessor_has_vanished_is_queued(redis_backend: Backend) -> None:
    store = await redis_backend.open()
    assert redis_backend.database is not None
    await started(store)
    await put(store, latest("a"))
    await take_one(store, "w")
    await put(store, latest("b"))
    with redis_backend.database.client() as client:
        client.zadd(redis_backend.key("timers"), {"follow b": 1})
        client.zadd(redis_backend.key("scheduled"), {"": 1})
        await store.promote(QUEUE, 10)
        assert await state(store, "b") is JobState.WAITING
        client.zadd(redis_backend.key("timers"), {"follow b": 1})
        client.zadd(redis_backend.key("scheduled"), {"": 1})
    redis_backend.delete("job:a")
    await store.promote(QUEUE, 10)
    assert ids(await take(store, "w")) == ["b"]
    assert await owner(store) == "b"


# -- jobs that were sent without their key


async def named(
    store: Store, job_id: str, conflict: str = "return", call: bytes = CALL
) -> tuple[str, bool] | None:
    """A job whose sender does not know its key is run, and asks for it; twice, as after a lost reply."""
    assert await put(store, NewJob(job_id, call)) == [True]
    (claimed,) = [each for each in await take(store, "w") if each.id == job_id]
    assert not claimed.is_unique
    lock = Lock(KEY, conflict=conflict)
    holder = await store.operating.hold_unique(QUEUE, "w", job_id, claimed.claim, lock)
    assert await store.operating.hold_unique(QUEUE, "w", job_id, claimed.claim, lock) == holder
    return holder


async def test_a_job_that_runs_takes_its_key_and_gives_it_back(store: Store) -> None:
    await started(store)
    assert await named(store, "a") is None
    assert await put(store, job("b")) == [Duplicate("a")]
    assert (await info(store, "a")).unique_key == KEY
    await recover(store)
    await joined(store, "w")
    claimed = await take_one(store, "w")
    assert claimed.is_unique
    assert await settle(store, "w", claimed, Verb.SUCCEEDED, THREE)
    assert await put(store, job("b")) == [True]


async def test_a_job_that_runs_and_whose_key_another_one_holds_names_that_one(store: Store) -> None:
    await started(store)
    await put(store, job("a"))
    assert await named(store, "b") == ("a", False)
    assert await named(store, "c", "replace", LARGE) == ("a", False)
    assert (await store.operating.calls(QUEUE, ["a"])) == [CALL], "it runs"


async def test_a_job_that_runs_gives_its_call_to_the_one_that_waits_with_its_key(store: Store) -> None:
    await started(store)
    await put(store, job("a", delay_ms=LONG))
    assert await named(store, "b", "replace", LARGE) == ("a", False)
    assert (await store.operating.calls(QUEUE, ["a"])) == [LARGE]
    assert await state(store, "a") is JobState.QUEUED


async def test_a_job_that_runs_waits_for_the_one_that_runs_with_its_key(store: Store) -> None:
    await started(store)
    await put(store, latest("a"))
    assert await named(store, "b", "latest") == ("a", True)
    assert await owner(store) == "a"


async def call_of(store: Store, job_id: str) -> bytes | None:
    return (await store.operating.calls(QUEUE, [job_id]))[0]


async def asked(store: Store, claimed: Claimed) -> tuple[str, bool] | None:
    lock = Lock(KEY, conflict="latest")
    return await store.operating.hold_unique(QUEUE, "w", claimed.id, claimed.claim, lock)


async def runs_again(store: Store, job_id: str) -> Claimed:
    await store.reschedule(QUEUE, [job_id])
    return await take_one(store, "w")


async def test_of_jobs_that_run_and_wait_for_the_same_one_the_last_call_stays(store: Store) -> None:
    await started(store)
    await put(store, latest("a"), NewJob("b", CALL))
    first, second = await take(store, "w")
    assert await asked(store, second) == ("a", True)
    assert await settle(store, "w", second, Verb.SNOOZE, delay_ms=LONG)
    assert await put(store, latest("c", LARGE)) == [Duplicate("b")]
    assert await call_of(store, "b") == LARGE
    await store.reschedule(QUEUE, ["b"], delay_ms=LONG)
    assert await named(store, "d", "latest") == ("b", False)
    second = await runs_again(store, "b")
    assert (second.envelope, second.is_unique) == (CALL, False)
    assert await asked(store, second) == ("a", True)
    assert await settle(store, "w", second, Verb.SNOOZE, delay_ms=LONG)
    assert await settle(store, "w", first, Verb.SUCCEEDED, THREE)
    assert await owner(store) == "b"
    second = await runs_again(store, "b")
    assert await asked(store, second) is None
    assert await put(store, latest("f")) == [True]
    assert await settle(store, "w", second, Verb.SUCCEEDED, THREE)
    assert ids(await take(store, "w")) == ["f"]


async def test_a_call_that_comes_while_a_worker_asks_is_the_one_that_runs(store: Store) -> None:
    await started(store)
    await put(store, latest("a"), NewJob("b", CALL))
    first, second = await take(store, "w")
    assert await asked(store, second) == ("a", True)
    assert await settle(store, "w", second, Verb.SNOOZE, delay_ms=LONG)
    second = await runs_again(store, "b")
    assert await put(store, latest("c", LARGE)) == [Duplicate("b")]
    assert await state(store, "b") is JobState.RUNNING
    assert await settle(store, "w", first, Verb.SUCCEEDED, THREE)
    assert await asked(store, second) == ("b", True), "its worker has the call of before"
    assert await settle(store, "w", second, Verb.SNOOZE, delay_ms=LONG)
    second = await runs_again(store, "b")
    assert second.envelope == LARGE
    assert await asked(store, second) is None
    assert await owner(store) == "b"


@pytest.mark.parametrize("how", ["cancelled", "deleted"])
async def test_a_job_that_asks_now_and_then_may_be_ended(store: Store, how: str) -> None:
    await started(store)
    await put(store, latest("a"), NewJob("b", CALL))
    first, second = await take(store, "w")
    assert await asked(store, second) == ("a", True)
    assert await settle(store, "w", second, Verb.SNOOZE, delay_ms=LONG)
    if how == "cancelled":
        assert await store.cancel(QUEUE, ["b"], REASON, LONG) == [JobState.SCHEDULED]
    else:
        await store.operating.delete(QUEUE, ["b"], REASON)
    assert await put(store, latest("c")) == [True]
    assert await settle(store, "w", first, Verb.SUCCEEDED, THREE)
    assert ids(await take(store, "w")) == ["c"]


@pytest.mark.parametrize("conflict", ["replace", "latest"])
async def test_a_question_that_is_repeated_replaces_nothing_newer(store: Store, conflict: str) -> None:
    await started(store)
    await put(store, job("a", delay_ms=LONG), NewJob("b", CALL))
    (claimed,) = await take(store, "w")
    lock = Lock(KEY, conflict=conflict)
    assert await store.operating.hold_unique(QUEUE, "w", "b", claimed.claim, lock) == ("a", False)
    assert await put(store, job("c", conflict, call=LARGE)) == [Duplicate("a")]
    assert await store.operating.hold_unique(QUEUE, "w", "b", claimed.claim, lock) == ("a", False)
    assert (await store.operating.calls(QUEUE, ["a"])) == [LARGE]


async def test_only_who_runs_a_job_may_hold_its_key(store: Store) -> None:
    await started(store)
    await put(store, NewJob("a", CALL))
    claimed = await take_one(store, "w")
    lock = Lock(KEY)
    for worker, claim in (("other", claimed.claim), ("w", claimed.claim + 1)):
        assert await store.operating.hold_unique(QUEUE, worker, "a", claim, lock) is None
    assert await store.operating.hold_unique(QUEUE, "w", "none", 1, lock) is None
    assert await owner(store) is None


# -- moves


async def move(store: Store, job_id: str) -> list[str]:
    """Move a job; returns the ids of those that are here again because they were refused there."""
    await store.outbox.move(QUEUE, [job_id], ELSEWHERE)
    reading = await store.outbox.read(QUEUE, ELSEWHERE)
    delivery = await store.outbox.deliver(ELSEWHERE, QUEUE, reading)
    return list((await store.outbox.remove(QUEUE, ELSEWHERE, reading, delivery)).returned)


async def test_a_job_that_is_moved_holds_the_key_of_its_new_queue(store: Store) -> None:
    await put(store, job("a"))
    assert await move(store, "a") == []
    assert await put(store, job("b")) == [True]
    assert await put(store, job("c"), queue=ELSEWHERE) == [Duplicate("a")]


async def test_a_job_stays_whose_key_another_one_holds_there(store: Store) -> None:
    await put(store, job("a"))
    await put(store, job("b"), queue=ELSEWHERE)
    assert await move(store, "a") == ["a"]
    assert await owner(store) == "a"
    assert await owner(store, queue=ELSEWHERE) == "b"
    assert await state(store, "a") is JobState.QUEUED


async def test_a_job_on_its_way_holds_the_key_of_its_old_queue(store: Store) -> None:
    await put(store, job("a"))
    await store.outbox.move(QUEUE, ["a"], ELSEWHERE)
    assert await put(store, job("b")) == [Duplicate("a")]


async def test_a_job_may_follow_one_that_is_on_its_way(store: Store) -> None:
    await joined(store, "w")
    await put(store, latest("a"))
    await store.outbox.move(QUEUE, ["a"], ELSEWHERE)
    assert await put(store, latest("b", LARGE)) == [True]
    assert await take(store, "w") == []
    reading = await store.outbox.read(QUEUE, ELSEWHERE)
    delivery = await store.outbox.deliver(ELSEWHERE, QUEUE, reading)
    assert (await store.outbox.remove(QUEUE, ELSEWHERE, reading, delivery)).returned == []
    assert [(each.id, each.envelope) for each in await take(store, "w")] == [("b", LARGE)]


# -- schedules


async def tick(store: Store, number: int, lock: Lock, overlap: Overlap = Overlap.ALLOW) -> int | None:
    if number == 1:
        entry = Entry(id="s", definition=b"any", envelope=CALL, next_ms=1, extra=Extra(unique=lock))
        assert await store.timetable.write(QUEUE, [entry]) == [True]
    (stored,) = (await store.timetable.read(QUEUE)).entries
    made = Tick(
        id="s", rev=stored.rev, jobs=[(f"s@{number}", number, number)], next_ms=1, overlap=overlap, max_runs=0
    )
    return (await store.timetable.tick(QUEUE, [made])).made[0]


async def test_a_tick_whose_key_a_job_holds_is_skipped(store: Store) -> None:
    lock = Lock(KEY)
    assert await tick(store, 1, lock) == 1
    assert await put(store, job("a")) == [Duplicate("s@1")]
    assert await tick(store, 2, lock) == 0
    (stored,) = (await store.timetable.read(QUEUE)).entries
    assert (stored.runs, stored.skipped) == (1, 1)
    await store.cancel(QUEUE, ["s@1"], REASON, LONG)
    assert await tick(store, 3, lock) == 1
    assert await owner(store) == "s@3"


async def test_one_tick_follows_the_job_that_runs(store: Store) -> None:
    lock = Lock(KEY, conflict="latest")
    await started(store)
    assert await tick(store, 1, lock) == 1
    assert await tick(store, 2, lock) == 0, "the first one was not started"
    claimed = await take_one(store, "w")
    assert await tick(store, 3, lock) == 1
    assert await state(store, "s@3") is JobState.WAITING
    assert await tick(store, 4, lock) == 0
    await store.settle(QUEUE, "w", [Settlement(claimed.id, claimed.claim, Verb.SUCCEEDED, THREE, 0, LONG)])
    assert ids(await take(store, "w")) == ["s@3"]


# -- what is left


async def test_keys_leave_nothing_behind(redis_backend: Backend) -> None:
    store = await redis_backend.open()
    assert redis_backend.database is not None
    await started(store)
    await put(store, job("a"), latest("b", key="l"), job("c", until="started", key="s"))  # pyright: ignore[reportArgumentType]
    jobs = await take(store, "w")
    await put(store, latest("d", key="l"))  # pyright: ignore[reportArgumentType]
    await store.settle(QUEUE, "w", [Settlement(each.id, each.claim, Verb.SUCCEEDED, THREE, 0, 0) for each in jobs])
    await store.cancel(QUEUE, ["d"], REASON, 0)
    with redis_backend.database.client() as client:
        assert client.keys(redis_backend.key("unique:*")) == []


# -- scripts that fail half-way


async def test_a_send_that_fails_half_way_is_carried_out_once_it_is_repeated(
    server: Database, app_name: str
) -> None:
    """Of a job that follows, and of one whose call replaces another one's."""
    async with refusing(server, app_name, Limits(lease_ms=LONG)) as at:
        for queue in at.each("enqueue"):
            await joined(at.full, "w", queue)
            await put(at.full, latest("a"), queue=queue)
            (claimed,) = (await at.full.claim(queue, "w", 9)).jobs
            await put(at.full, job("c", key="other", delay_ms=LONG), queue=queue)
            new = [latest("b", LARGE), job("d", "replace", key="other", call=LARGE)]
            with suppress(ServerError):
                await at.limited.enqueue(queue, new)
            assert await at.full.enqueue(queue, new, again=True) == [True, Duplicate("c")], queue
            settlement = Settlement("a", claimed.claim, Verb.SUCCEEDED, THREE, 0, LONG)
            assert await at.full.settle(queue, "w", [settlement]) == [True]
            jobs = (await at.full.claim(queue, "w", 9)).jobs
            assert sorted((each.id, each.envelope) for each in jobs) == [("b", LARGE), ("c", LARGE)], queue
            ends = [Settlement(each.id, each.claim, Verb.SUCCEEDED, THREE, 0, LONG) for each in jobs]
            assert await at.full.settle(queue, "w", ends) == [True, True]
            assert [await owner(at.full, key, queue) for key in (KEY, "other")] == [None, None]


async def test_sends_of_one_key_that_fail_half_way_leave_the_last_call(server: Database, app_name: str) -> None:
    async with refusing(server, app_name, Limits(lease_ms=LONG)) as at:
        for queue in at.each("enqueue"):
            await joined(at.full, "w", queue)
            new = [latest("a"), latest("b", LARGE)]
            with suppress(ServerError):
                await at.limited.enqueue(queue, new)
            assert await at.full.enqueue(queue, new, again=True) == [True, Duplicate("a")], queue
            jobs = (await at.full.claim(queue, "w", 9)).jobs
            assert [(each.id, each.envelope) for each in jobs] == [("a", LARGE)], queue


async def test_a_send_that_fails_half_way_holds_no_key_for_a_time(server: Database, app_name: str) -> None:
    """Unless its job is there."""
    async with refusing(server, app_name, Limits(lease_ms=LONG)) as at:
        for queue in at.each("enqueue"):
            first, second = (job(each, until="within", window_ms=LONG) for each in "ab")
            with suppress(ServerError):
                await at.limited.enqueue(queue, [first])
            is_there = await at.full.info(queue, ["a"]) != [None]
            assert await at.full.enqueue(queue, [second]) == [Duplicate("a") if is_there else True], queue
            assert await at.full.enqueue(queue, [first], again=True) == [True if is_there else Duplicate("b")]
            await at.full.cancel(queue, ["a", "b"], REASON, 0)
            assert await owner(at.full, queue=queue) == ("a" if is_there else "b"), queue


@pytest.mark.parametrize("dies", [False, True], ids=["lives", "dies"])
async def test_an_end_that_fails_half_way_never_lets_two_jobs_of_a_key_run(
    server: Database, app_name: str, dies: bool
) -> None:
    async with refusing(server, app_name, Limits(lease_ms=LONG)) as at:
        for queue in at.each("settle"):
            await joined(at.full, "w", queue)
            await put(at.full, latest("a"), queue=queue)
            (claimed,) = (await at.full.claim(queue, "w", 9)).jobs
            assert await put(at.full, latest("b"), queue=queue) == [True]
            settlement = Settlement("a", claimed.claim, Verb.SUCCEEDED, THREE, 0, LONG)
            with suppress(ServerError):
                await at.limited.settle(queue, "w", [settlement])
            if dies:
                while (await at.full.recover(queue, CRASHED, 100, dead="w")).more:
                    pass
                await joined(at.full, "w", queue)
            else:
                assert await at.full.settle(queue, "w", [settlement]) == [True], queue
            for _ in range(2):
                jobs = (await at.full.claim(queue, "w", 9)).jobs
                assert len(jobs) <= 1, queue
                ends = [Settlement(each.id, each.claim, Verb.SUCCEEDED, THREE, 0, LONG) for each in jobs]
                await at.full.settle(queue, "w", ends)
            with at.client_of(queue) as client:  # where the job was not let go, it looks for the other one later
                base = base_key(app_name, queue)
                client.zadd(f"{base}:timers", {"follow b": 1})
                client.zadd(f"{base}:scheduled", {"": 1})
            await at.full.promote(queue, 10)
            jobs = (await at.full.claim(queue, "w", 9)).jobs
            ends = [Settlement(each.id, each.claim, Verb.SUCCEEDED, THREE, 0, LONG) for each in jobs]
            assert all(await at.full.settle(queue, "w", ends))
            assert [each and each.state for each in await at.full.info(queue, ["a", "b"])] == [
                JobState.SUCCEEDED
            ] * 2
            assert await owner(at.full, queue=queue) is None, queue
