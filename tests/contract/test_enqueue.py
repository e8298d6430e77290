"""Sending: every id once, whatever it looks like; the due time decides where a job starts."""

from datetime import UTC, datetime, timedelta

import pytest

from aioq.jobs.job import JobState, Priority
from aioq.store.contract import Limits, NewJob, Store, Verb
from aioq.store.extra import Added
from aioq.store.redis import RedisStore
from tests.clocks import SystemClock
from tests.contract.kit import (
    BROKEN,
    CALL,
    LONG,
    QUEUE,
    REASON,
    THREE,
    Backend,
    eventually,
    ids,
    info,
    joined,
    running,
    send,
    settle,
    state,
    take,
    take_one,
)

pytestmark = pytest.mark.anyio


async def test_a_sent_job_is_queued(store: Store) -> None:
    assert await send(store, "job") == [True]

    assert await state(store) is JobState.QUEUED


async def test_an_empty_batch_adds_nothing(store: Store) -> None:
    assert await store.enqueue(QUEUE, []) == []


async def test_an_id_that_is_there_is_refused_by_position(store: Store) -> None:
    await send(store, "b", "d")

    assert await send(store, "a", "b", "c", "d", "e") == [True, False, True, False, True]


async def test_an_id_twice_in_one_batch_is_added_once(store: Store) -> None:
    assert await send(store, "job", "job") == [True, False]

    assert ids(await take(store, await joined(store, "w"))) == ["job"]


async def test_a_refused_job_stays_as_it_is(store: Store) -> None:
    await send(store, "job")

    await send(store, "job", call=b"another", delay_ms=LONG)

    assert await state(store) is JobState.QUEUED
    (job,) = await take(store, await joined(store, "w"))
    assert job.envelope == CALL


async def test_an_id_is_refused_while_its_job_runs(store: Store) -> None:
    await running(store, await joined(store, "w"))

    assert await send(store, "job") == [False]


async def test_a_batch_of_a_thousand(store: Store) -> None:
    names = [f"job-{number}" for number in range(1000)]

    assert await send(store, *names) == [True] * 1000

    worker, got = await joined(store, "w"), list[str]()
    while jobs := await take(store, worker, 1000):
        got += ids(jobs)
    assert got == names


@pytest.mark.parametrize(
    "job_id",
    ["a b", " ", "ünï-cödé-✓-🦊", "a:b{c}d", "new\nline\r\n", "nul\0byte", "*?[x]", "x" * 256, "-1", "0"],
    ids=["space", "blank", "unicode", "braces", "newline", "nul", "glob", "long", "negative", "zero"],
)
async def test_an_id_may_be_any_text(store: Store, job_id: str) -> None:
    assert await send(store, job_id) == [True]
    assert await send(store, job_id) == [False]

    (job,) = await take(store, await joined(store, "w"))

    assert job.id == job_id
    assert (await info(store, job_id)).id == job_id


async def test_an_envelope_may_be_any_bytes(store: Store) -> None:
    envelope = bytes(range(256)) * 300 + b"\r\n\0"
    await send(store, "job", call=envelope)

    (job,) = await take(store, await joined(store, "w"))

    assert job.envelope == envelope


async def test_queues_do_not_see_each_others_jobs(store: Store) -> None:
    await store.enqueue("mail", [NewJob("job", CALL)])

    assert await store.info("slow", ["job"]) == [None]
    assert await store.enqueue("slow", [NewJob("job", CALL)]) == [True]


async def test_a_delayed_job_is_scheduled(store: Store) -> None:
    await send(store, "job", delay_ms=LONG)

    job = await info(store)
    assert job.state is JobState.SCHEDULED
    assert job.due_at is not None
    assert job.sent_at is not None
    assert job.due_at - job.sent_at == timedelta(milliseconds=LONG)


async def test_an_eta_is_the_due_time(store: Store) -> None:
    eta_ms = SystemClock().now_ms() + LONG
    await send(store, "job", eta_ms=eta_ms)

    assert (await info(store)).due_at == datetime.fromtimestamp(eta_ms / 1000, UTC)


@pytest.mark.parametrize("eta_ms", [0, 1, 1_000_000_000_000])
async def test_an_eta_that_has_passed_queues_at_once(store: Store, eta_ms: int) -> None:
    await send(store, "job", eta_ms=eta_ms)

    assert await state(store) is JobState.QUEUED


async def test_no_delay_queues_at_once(store: Store) -> None:
    await send(store, "job", delay_ms=0)

    assert await state(store) is JobState.QUEUED


async def test_a_scheduled_job_cannot_be_claimed(store: Store) -> None:
    await send(store, "job", delay_ms=LONG)

    assert await take(store, await joined(store, "w")) == []


async def test_what_is_due_is_promoted_into_its_lane(store: Store) -> None:
    await send(store, "later", delay_ms=5, priority=Priority.HIGH)
    await send(store, "now")

    async def promoted() -> bool:
        return (await store.promote(QUEUE, 100)).count == 1

    await eventually(promoted)

    later = await info(store, "later")
    assert (later.state, later.due_at) == (JobState.QUEUED, None)
    assert ids(await take(store, await joined(store, "w"))) == ["later", "now"]


async def test_promote_says_when_the_next_is_due(store: Store) -> None:
    assert (await store.promote(QUEUE, 100)).next_due_ms is None

    await send(store, "job", delay_ms=LONG)

    next_due_ms = (await store.promote(QUEUE, 100)).next_due_ms
    assert next_due_ms is not None
    assert LONG - 60_000 < next_due_ms <= LONG


async def test_promote_keeps_to_its_limit_and_says_that_more_is_due(store: Store) -> None:
    await send(store, *"abc", delay_ms=50)

    async def all_due() -> bool:
        found = await store.info(QUEUE, list("abc"))
        now = SystemClock().now_ms()  # servers and tests share a host here
        return all(job and job.due_at and job.due_at.timestamp() * 1000 < now for job in found)

    await eventually(all_due)

    first = await store.promote(QUEUE, 2)
    assert (first.count, first.next_due_ms) == (2, 0)
    second = await store.promote(QUEUE, 2)
    assert (second.count, second.next_due_ms) == (1, None)
    assert sorted(ids(await take(store, await joined(store, "w")))) == ["a", "b", "c"]


# There already


async def test_a_job_that_is_there_already_stays_as_it_was(store: Store) -> None:
    low = [NewJob(name, CALL, Priority.LOW) for name in ("first", "second")]
    assert await store.enqueue(QUEUE, low) == [True, True]
    assert await store.enqueue(QUEUE, [NewJob("second", CALL)]) == [False]
    assert await store.enqueue(QUEUE, [NewJob("new", CALL), NewJob("second", CALL)]) == [True, False]
    assert ids(await take(store, await joined(store, "w"))) == ["new", "first", "second"]


async def test_sending_what_is_there_already_leaves_nothing_behind(
    redis_store: RedisStore, redis_backend: Backend
) -> None:
    assert redis_backend.database is not None
    await redis_store.enqueue(QUEUE, [NewJob("job", CALL, delay_ms=LONG)])
    with redis_backend.database.client() as client:
        before = client.xlen(redis_backend.key("normal"))
        for _ in range(3):
            assert await redis_store.enqueue(QUEUE, [NewJob("job", CALL)]) == [False]
        assert client.xlen(redis_backend.key("normal")) == before


# Sent again after a reply that got lost


async def again(store: Store, job_id: str = "job", nonce: str = "") -> Added:
    (added,) = await store.enqueue(QUEUE, [NewJob(job_id, CALL, nonce=nonce)], again=True)
    return added


async def forgotten(store: Store, worker: str, job_id: str = "job", nonce: str = "") -> None:
    """A job that was sent, and whose record is gone already."""
    assert await store.enqueue(QUEUE, [NewJob(job_id, CALL, nonce=nonce)]) == [True]
    await settle(store, worker, await take_one(store, worker), Verb.SUCCEEDED, THREE, ttl_ms=0)
    assert await state(store, job_id) is None


async def test_a_send_that_arrived_counts_as_added_and_adds_nothing(store: Store) -> None:
    assert await send(store, "job") == [True]

    assert await again(store)

    assert ids(await take(store, await joined(store, "w"))) == ["job"]


async def test_a_send_that_did_not_arrive_is_added(store: Store) -> None:
    assert await again(store)

    assert ids(await take(store, await joined(store, "w"))) == ["job"]


async def test_of_a_batch_each_job_is_looked_at_alone(store: Store) -> None:
    worker = await joined(store, "w")
    await forgotten(store, worker, "forgotten")
    await store.enqueue(QUEUE, [NewJob("theirs", CALL, nonce="another"), NewJob("there", CALL)])
    batch = [NewJob(job_id, CALL) for job_id in ("new", "there", "forgotten", "theirs")]

    assert await store.enqueue(QUEUE, batch, again=True) == [True, True, True, False]

    assert ids(await take(store, worker)) == ["theirs", "there", "new"]


@pytest.mark.parametrize("ttl_ms", [0, 1])
@pytest.mark.parametrize("verb", [Verb.SUCCEEDED, Verb.CANCELLED])
async def test_a_job_that_ended_and_was_forgotten_is_not_run_again(store: Store, verb: Verb, ttl_ms: int) -> None:
    worker = await joined(store, "w")
    await settle(store, worker, await running(store, worker), verb, THREE, ttl_ms=ttl_ms)

    async def gone() -> bool:
        return await state(store) is None

    await eventually(gone)

    assert await again(store)
    assert await take(store, worker) == []


async def test_nor_is_one_that_was_cancelled_before_it_ran(store: Store) -> None:
    await send(store, "job")
    await store.cancel(QUEUE, ["job"], REASON, 0)

    assert await again(store)

    assert await take(store, await joined(store, "w")) == []


async def test_nor_is_one_that_was_cancelled_while_it_ran(store: Store) -> None:
    worker = await joined(store, "w")
    job = await running(store, worker)
    await store.cancel(QUEUE, ["job"], REASON, 0)
    await settle(store, worker, job, Verb.INTERRUPT)

    assert await again(store)

    assert await take(store, worker) == []


async def test_an_id_whose_job_was_forgotten_can_be_used_anew_at_once(store: Store) -> None:
    worker = await joined(store, "w")
    await forgotten(store, worker)

    assert await send(store, "job") == [True]

    assert ids(await take(store, worker)) == ["job"]


async def test_a_later_send_of_the_same_id_is_not_taken_for_the_one_that_was_forgotten(store: Store) -> None:
    """Its first attempt did not arrive: if the second found the other send's trace, the job would be lost."""
    worker = await joined(store, "w")
    await forgotten(store, worker, nonce="first")

    assert await again(store, nonce="second")

    assert ids(await take(store, worker)) == ["job"]


async def test_a_send_that_was_forgotten_is_found_behind_a_later_send_of_the_same_id(store: Store) -> None:
    worker = await joined(store, "w")
    await forgotten(store, worker, nonce="first")
    await forgotten(store, worker, nonce="second")
    assert await store.enqueue(QUEUE, [NewJob("job", CALL, nonce="third")]) == [True]

    assert [await again(store, nonce=nonce) for nonce in ("first", "second", "third", "fourth")] == [
        *(True, True, True),
        False,
    ]
    assert ids(await take(store, worker)) == ["job"]


class TestTheTombstone:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(tombstone_ms=200, dead_ttl_ms=0, lease_ms=LONG)

    async def test_it_is_there_for_its_time(self, store: Store) -> None:
        worker = await joined(store, "w")
        await forgotten(store, worker)
        found = list[str]()

        async def added() -> bool:
            assert await again(store)
            found.extend(ids(await take(store, worker)))
            return bool(found)

        await eventually(added)

        assert found == ["job"]

    async def test_a_failure_that_is_not_kept_leaves_one_too(self, store: Store) -> None:
        worker = await joined(store, "w")
        await settle(store, worker, await running(store, worker), Verb.FAILED, BROKEN, ttl_ms=0)

        assert await again(store)

        assert await take(store, worker) == []


@pytest.mark.parametrize(("ttl_ms", "left"), [(0, 1), (Limits().tombstone_ms, 0), (LONG, 0)])
async def test_a_record_that_is_kept_long_enough_needs_no_tombstone(
    redis_store: RedisStore, redis_backend: Backend, ttl_ms: int, left: int
) -> None:
    worker = await joined(redis_store, "w")
    await settle(redis_store, worker, await running(redis_store, worker), Verb.SUCCEEDED, THREE, ttl_ms=ttl_ms)

    assert redis_backend.database is not None
    with redis_backend.database.client() as client:
        tombstones = list(client.scan_iter(redis_backend.key("tombstone:*")))
        assert len(tombstones) == left
        for key in tombstones:
            assert 0 < client.pttl(key) <= Limits().tombstone_ms  # pyright: ignore[reportOperatorIssue]
