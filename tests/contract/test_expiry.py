"""Jobs that must have been started by a time: they end then and are not run; one that was started does not."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest

from aioq.jobs.job import JobInfo, JobState
from aioq.store.contract import Limits, NewJob, Settlement, Store, Verb
from aioq.store.extra import EXPIRED, Expiry, Extra
from aioq.store.schedules import Entry, Overlap, Tick
from aioq.wire.messages import decode_result_message, encode_envelope
from tests.contract.kit import (
    BROKEN,
    CALL,
    CRASHED,
    LONG,
    QUEUE,
    REASON,
    THREE,
    Backend,
    Listener,
    eventually,
    ids,
    info,
    joined,
    keep,
    send,
    settle,
    state,
    take,
    take_one,
)

pytestmark = pytest.mark.anyio

SOON = 50  # ms
AFTER = Extra(expires=Expiry(span_ms=SOON))
LATER = Extra(expires=Expiry(span_ms=LONG))
STARTABLE = Extra(expires=Expiry(span_ms=500))
"""For a job that a worker is to take before its time is over, on a busy machine too."""


@pytest.fixture
def limits() -> Limits:
    return Limits(lease_ms=LONG, max_crashes=3)


async def put(
    store: Store, job_id: str = "job", extra: Extra = AFTER, *, delay_ms: int | None = None, call: bytes = CALL
) -> None:
    job = NewJob(job_id, call, delay_ms=delay_ms, extra=extra)
    assert await store.enqueue(QUEUE, [job]) == [True]


async def expired(store: Store, job_id: str = "job") -> JobInfo:
    """The job once it has ended by its time."""

    async def has_ended() -> bool:
        await store.promote(QUEUE, 10)
        return await state(store, job_id) is JobState.CANCELLED

    await eventually(has_ended)
    return await info(store, job_id)


async def passed(store: Store) -> None:
    """Wait until the time is over; nobody sees to timers meanwhile."""
    job = await info(store)
    assert job.expires_at is not None
    await asyncio.sleep(max(0.0, (job.expires_at - datetime.now(UTC)).total_seconds()))

    async def is_over() -> bool:
        await send(store, probe := f"at-{time.monotonic_ns()}")  # whose time is the store's
        sent = (await info(store, probe)).sent_at
        await store.cancel(QUEUE, [probe], REASON, 0)
        return sent is not None and job.expires_at is not None and sent > job.expires_at

    await eventually(is_over)


async def test_a_job_that_was_not_started_ends_as_cancelled_and_its_waiters_are_notified(store: Store) -> None:
    await put(store, call=encode_envelope("shop.add", [1], {}, None))
    listener = await Listener.on(store, "me")
    assert await store.wait(QUEUE, "me", ["job"]) == [None]

    job = await expired(store)

    assert decode_result_message(await listener.next()) == [("job", EXPIRED)]
    assert await store.wait(QUEUE, "me", ["job"]) == [EXPIRED]
    assert (job.task, job.started_at, job.attempts) == ("shop.add", None, 0)
    assert await take(store, await joined(store, "w")) == []
    assert (await store.promote(QUEUE, 10)).next_due_ms is None


async def test_a_claim_after_the_time_skips_a_job_that_no_timer_has_ended(store: Store) -> None:
    await joined(store, "w")
    await put(store)
    await send(store, "other")
    await passed(store)

    claim = await store.claim(QUEUE, "w", 10)

    assert ids(claim.jobs) == ["other"]
    assert claim.next_due_ms == 0, "the worker is to see to it"
    assert await state(store) is JobState.QUEUED
    await expired(store)


async def test_the_time_counts_from_when_a_job_is_due(store: Store) -> None:
    await put(store, delay_ms=LONG)
    job = await info(store)
    assert job.due_at is not None
    assert job.expires_at == job.due_at + timedelta(milliseconds=SOON)
    await store.reschedule(QUEUE, ["job"], delay_ms=2 * LONG)
    moved = await info(store)
    assert moved.due_at is not None
    assert moved.expires_at == moved.due_at + timedelta(milliseconds=SOON)
    await store.reschedule(QUEUE, ["job"])
    assert (await expired(store)).due_at is None


async def test_a_time_of_its_own_stays_where_the_job_is_moved_beyond_it(store: Store) -> None:
    at = datetime.now(UTC) + timedelta(seconds=0.5)
    await put(store, extra=Extra(expires=Expiry(at_ms=round(at.timestamp() * 1000))), delay_ms=50)
    await store.reschedule(QUEUE, ["job"], delay_ms=LONG)
    job = await expired(store)
    assert job.expires_at == at.replace(microsecond=round(at.timestamp() * 1000) % 1000 * 1000)
    assert job.due_at is None


@pytest.mark.parametrize(
    ("verb", "delay_ms"),
    [(Verb.RETRY, 0), (Verb.RETRY, 1), (Verb.SNOOZE, 1), (Verb.INTERRUPT, 0), (Verb.CUT, 0), (Verb.CRASH, 0)],
)
async def test_a_job_that_was_started_never_expires(store: Store, verb: Verb, delay_ms: int) -> None:
    await joined(store, "w")
    await put(store, extra=STARTABLE)
    job = await take_one(store, "w")
    await passed(store)
    assert (await store.promote(QUEUE, 10)).expired == 0
    assert await state(store) is JobState.RUNNING

    await settle(store, "w", job, verb, BROKEN, delay_ms=delay_ms)

    async def claimed() -> list[str]:
        await store.promote(QUEUE, 10)
        return ids(await take(store, "w"))

    assert await eventually(claimed) == ["job"]


async def test_a_job_whose_worker_died_does_not_expire(store: Store) -> None:
    await joined(store, "w")
    await put(store, extra=STARTABLE)
    await take_one(store, "w")
    await passed(store)
    while (await store.recover(QUEUE, CRASHED, 10, dead="w")).more:
        pass
    assert (await store.promote(QUEUE, 10)).expired == 0
    assert ids(await take(store, await joined(store, "other"))) == ["job"]


@pytest.mark.parametrize(("verb", "delay_ms"), [(Verb.RELEASE, 0), (Verb.PARK, LONG)])
async def test_one_that_its_worker_has_never_started_still_does(store: Store, verb: Verb, delay_ms: int) -> None:
    await joined(store, "w")
    await put(store, extra=STARTABLE)
    job = await take_one(store, "w")
    await passed(store)
    await store.promote(QUEUE, 10)  # its timer is over

    assert await settle(store, "w", job, verb, BROKEN, delay_ms=delay_ms)

    assert await take(store, "w") == []
    assert (await expired(store)).due_at is None


@pytest.mark.parametrize(
    ("first", "then"), [(Verb.RETRY, Verb.RELEASE), (Verb.SNOOZE, Verb.PARK), (Verb.INTERRUPT, Verb.RELEASE)]
)
async def test_one_that_was_started_before_does_not_where_it_is_given_back_later(
    store: Store, first: Verb, then: Verb
) -> None:
    await joined(store, "w")
    await put(store, extra=STARTABLE)
    await settle(store, "w", await take_one(store, "w"), first, BROKEN)
    await passed(store)

    for _ in range(2):
        await settle(store, "w", await take_one(store, "w"), then, BROKEN, ttl_ms=LONG)

    assert (await store.promote(QUEUE, 10)).expired == 0
    assert ids(await take(store, "w")) == ["job"]


async def test_a_dead_job_that_was_opened_again_does_not_where_it_is_given_back(store: Store) -> None:
    await joined(store, "w")
    await put(store, extra=STARTABLE)
    await settle(store, "w", await take_one(store, "w"), Verb.FAILED, BROKEN, ttl_ms=LONG)
    await passed(store)
    assert await store.operating.reopen(QUEUE, ["job"]) == [JobState.FAILED]

    await settle(store, "w", await take_one(store, "w"), Verb.RELEASE, BROKEN)

    assert (await store.promote(QUEUE, 10)).expired == 0
    assert ids(await take(store, "w")) == ["job"]


async def test_a_job_that_has_ended_leaves_no_timer(store: Store, backend: Backend) -> None:
    await joined(store, "w")
    for job_id in ("done", "called off"):
        await put(store, job_id, LATER)
    assert backend.timers() == ["expire called off", "expire done"]

    await store.cancel(QUEUE, ["called off"], REASON, LONG)
    await settle(store, "w", await take_one(store, "w"), Verb.SUCCEEDED, THREE)

    assert backend.timers() == []


async def test_it_does_not_keep_others_from_being_due_nor_they_it(store: Store) -> None:
    await joined(store, "w")
    await put(store, "late", LATER)
    await send(store, "due", delay_ms=1)
    await put(store)
    await expired(store)
    assert ids(await take(store, "w")) == ["late", "due"]


async def test_every_reply_that_says_what_is_due_next_counts_it(store: Store) -> None:
    await joined(store, "w")
    await put(store, extra=LATER)
    await store.cancel(QUEUE, ["job"], REASON, LONG)
    await put(store, "other", LATER, delay_ms=LONG)
    await put(store, "first")
    for due_ms in (
        (await store.claim(QUEUE, "w", 0)).next_due_ms,
        (await keep(store, "w")).next_due_ms,
        (await store.promote(QUEUE, 0)).next_due_ms,
    ):
        assert due_ms is not None
        assert due_ms <= SOON


async def test_many_end_in_bounded_steps(store: Store) -> None:
    jobs = [NewJob(f"job-{number}", CALL, extra=AFTER) for number in range(25)]
    await store.enqueue(QUEUE, jobs)
    ended: list[int] = []

    async def all_have() -> bool:
        ended.append((await store.promote(QUEUE, 10)).expired)
        return sum(ended) == len(jobs)

    await eventually(all_have)
    assert max(ended) <= 10
    assert {each and each.state for each in await store.info(QUEUE, [job.id for job in jobs])} == {
        JobState.CANCELLED
    }


async def test_a_job_of_a_schedule_expires_after_its_tick_also_while_it_is_held_back(store: Store) -> None:
    await joined(store, "w")
    entry = Entry(
        id="s", definition=b"any", envelope=CALL, next_ms=1, extra=Extra(("nightly",), STARTABLE.expires)
    )
    assert await store.timetable.write(QUEUE, [entry]) == [True]
    (stored,) = (await store.timetable.read(QUEUE)).entries
    assert stored.extra == entry.extra
    jobs = [("s@1", 1, 1), ("s@2", 2, 2)]
    tick = Tick(id="s", rev=stored.rev, jobs=jobs, next_ms=None, overlap=Overlap.ONE, max_runs=0)
    await store.timetable.tick(QUEUE, [tick])
    claimed = await take_one(store, "w")
    assert (claimed.id, claimed.tags) == ("s@1", ("nightly",))
    assert await state(store, "s@2") is JobState.WAITING

    assert (await expired(store, "s@2")).tags == ("nightly",)

    assert await settle(store, "w", claimed, Verb.SUCCEEDED, THREE)
    assert await take(store, "w") == []


async def test_tags_are_shown_to_the_end_and_given_to_the_worker(store: Store) -> None:
    await joined(store, "w")
    tags = ("eu", "größer als 1")
    await put(store, extra=Extra(tags))
    assert (await info(store)).tags == tags
    job = await take_one(store, "w")
    assert job.tags == tags
    assert await settle(store, "w", job, Verb.RETRY, BROKEN)
    job = await take_one(store, "w")
    assert (job.tags, job.attempts) == (tags, 1)
    assert await settle(store, "w", job, Verb.SUCCEEDED, THREE)
    assert ((await info(store)).tags, (await info(store)).expires_at) == (tags, None)


async def test_a_send_that_is_repeated_adds_a_job_once_and_one_of_its_id_anew_has_its_own(store: Store) -> None:
    await joined(store, "w")
    job = NewJob("job", CALL, nonce="first", extra=Extra(("a",), LATER.expires))
    assert await store.enqueue(QUEUE, [job]) == [True]
    assert await store.enqueue(QUEUE, [job], again=True) == [True]
    claimed = await take_one(store, "w")
    assert await take(store, "w") == []
    done = Settlement("job", claimed.claim, Verb.SUCCEEDED, THREE, 0, 0)
    assert await store.settle(QUEUE, "w", [done]) == [True]
    assert await store.enqueue(QUEUE, [NewJob("job", CALL, nonce="second")]) == [True]
    assert ((await info(store)).tags, (await info(store)).expires_at) == ((), None)
    assert ids(await take(store, "w")) == ["job"]
