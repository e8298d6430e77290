"""What is shown of a job in each state, and the progress it reports."""

import msgspec
import pytest

from aioq.errors import Failure
from aioq.jobs.job import UNKNOWN_TASK, JobInfo, JobState, Priority, Progress
from aioq.store.contract import Store, Verb
from aioq.wire.messages import CallOptions, encode_cancellation, encode_envelope, encode_result, with_headers
from tests.contract.kit import (
    BROKEN,
    LONG,
    QUEUE,
    REASON,
    THREE,
    info,
    joined,
    running,
    send,
    settle,
    take_one,
)

pytestmark = pytest.mark.anyio

HALF = msgspec.msgpack.encode(Progress(5, 10, "half"))
WITH_HEADERS = encode_envelope("shop.add", [], {}, CallOptions(headers={"trace": "abc"}))


def times(job: JobInfo) -> dict[str, bool]:
    """Which timestamps there are."""
    names = ("sent_at", "due_at", "started_at", "ended_at")
    return {name: getattr(job, name) is not None for name in names}


async def test_an_unknown_job_has_no_state(store: Store) -> None:
    assert await store.info(QUEUE, []) == []
    assert await store.info(QUEUE, ["a", "b"]) == [None, None]


async def test_a_queued_job(store: Store) -> None:
    await send(store, "job", call=WITH_HEADERS, priority=Priority.LOW)

    job = await info(store)

    assert job == JobInfo(
        id="job",
        queue=QUEUE,
        task="shop.add",
        state=JobState.QUEUED,
        priority=Priority.LOW,
        sent_at=job.sent_at,
        headers={"trace": "abc"},
    )
    assert job.sent_at is not None
    assert job.sent_at.tzinfo is not None


async def test_a_scheduled_job(store: Store) -> None:
    await send(store, "job", delay_ms=LONG)

    job = await info(store)

    assert (job.state, job.priority) == (JobState.SCHEDULED, Priority.NORMAL)
    assert times(job) == {"sent_at": True, "due_at": True, "started_at": False, "ended_at": False}


async def test_a_running_job(store: Store) -> None:
    await running(store, await joined(store, "w"))

    job = await info(store)

    assert (job.state, job.worker, job.attempts) == (JobState.RUNNING, "w", 1)
    assert times(job) == {"sent_at": True, "due_at": False, "started_at": True, "ended_at": False}


async def test_a_job_that_waits_for_its_next_attempt(store: Store) -> None:
    worker = await joined(store, "w")
    await settle(store, worker, await running(store, worker), Verb.RETRY, BROKEN, delay_ms=LONG)

    job = await info(store)

    assert (job.state, job.worker, job.attempts) == (JobState.SCHEDULED, None, 1)
    assert job.error == Failure("ValueError", "no", "Traceback ...")
    assert times(job) == {"sent_at": True, "due_at": True, "started_at": True, "ended_at": False}


async def test_a_job_that_is_put_off_says_why(store: Store) -> None:
    worker = await joined(store, "w")
    await settle(store, worker, await running(store, worker), Verb.PARK, BROKEN, delay_ms=LONG, ttl_ms=LONG)

    job = await info(store)

    assert (job.state, job.attempts) == (JobState.SCHEDULED, 0)
    assert job.error == Failure(UNKNOWN_TASK, "no worker that has seen it knows the task 'shop.add'")


async def test_one_that_was_put_off_shows_its_own_failure_later(store: Store) -> None:
    worker = await joined(store, "w")
    await settle(store, worker, await running(store, worker), Verb.PARK, BROKEN, delay_ms=0, ttl_ms=LONG)
    again = await take_one(store, worker)
    assert (await info(store)).error is None

    await settle(store, worker, again, Verb.RETRY, BROKEN, delay_ms=LONG)

    assert (await info(store)).error == Failure("ValueError", "no", "Traceback ...")


async def test_a_succeeded_job(store: Store) -> None:
    worker = await joined(store, "w")
    await send(store, "job", call=WITH_HEADERS)
    await settle(store, worker, await take_one(store, worker), Verb.SUCCEEDED, THREE)

    job = await info(store)

    assert (job.state, job.task, job.worker, job.attempts) == (JobState.SUCCEEDED, "shop.add", "w", 1)
    assert (job.headers, job.error) == ({}, None), (
        "the envelope is dropped; the outcome names the task, and the headers where there are any"
    )
    assert times(job) == {"sent_at": True, "due_at": False, "started_at": True, "ended_at": True}


@pytest.mark.parametrize("verb", [Verb.SUCCEEDED, Verb.CANCELLED])
async def test_headers_stay_where_the_outcome_brings_them(store: Store, verb: Verb) -> None:
    worker = await joined(store, "w")
    await send(store, "job", call=WITH_HEADERS)
    outcome = THREE if verb is Verb.SUCCEEDED else REASON

    await settle(store, worker, await take_one(store, worker), verb, with_headers(outcome, {"trace": "abc"}))

    job = await info(store)
    assert (job.state, job.headers) == (verb, {"trace": "abc"})


async def test_headers_and_the_task_stay_where_a_cancellation_brings_them(store: Store) -> None:
    await send(store, "job", call=WITH_HEADERS)

    await store.cancel(QUEUE, ["job"], with_headers(encode_cancellation("shop.add", ""), {"trace": "abc"}), LONG)

    job = await info(store)
    assert (job.state, job.task, job.headers) == (JobState.CANCELLED, "shop.add", {"trace": "abc"})


async def test_results_come_encoded_and_where_they_are_asked_for(store: Store) -> None:
    worker = await joined(store, "w")
    await send(store, "good")
    await settle(store, worker, await take_one(store, worker), Verb.SUCCEEDED, THREE)
    await send(store, "bad")
    await settle(store, worker, await take_one(store, worker), Verb.FAILED, BROKEN)
    await send(store, "large")
    await settle(store, worker, await take_one(store, worker), Verb.SUCCEEDED, encode_result("t", "x" * 2000))
    await send(store, "queued")
    ids = ["good", "bad", "large", "queued"]

    asked = await store.info(QUEUE, ids, results=True)

    found = [None if each is None or each.result is None else bytes(each.result) for each in asked]
    assert found == [b"\x03", None, msgspec.msgpack.encode("x" * 2000), None]
    assert [each and each.result for each in await store.info(QUEUE, ids)] == [None] * 4


async def test_a_failed_job(store: Store) -> None:
    worker = await joined(store, "w")
    await send(store, "job", call=WITH_HEADERS)
    await settle(store, worker, await take_one(store, worker), Verb.FAILED, BROKEN)

    job = await info(store)

    assert (job.state, job.task, job.attempts) == (JobState.FAILED, "shop.add", 1)
    assert (job.headers, job.error) == ({"trace": "abc"}, Failure("ValueError", "no", "Traceback ...")), (
        "kept for the operator"
    )
    assert times(job) == {"sent_at": True, "due_at": False, "started_at": True, "ended_at": True}


async def test_a_job_that_was_cancelled_before_it_ran(store: Store) -> None:
    await send(store, "job", call=WITH_HEADERS)
    await store.cancel(QUEUE, ["job"], REASON, LONG)

    job = await info(store)

    assert (job.state, job.task, job.worker, job.attempts) == (JobState.CANCELLED, "", None, 0)
    assert (job.headers, job.error) == ({}, None)
    assert times(job) == {"sent_at": True, "due_at": False, "started_at": False, "ended_at": True}


async def test_the_call_may_be_none(store: Store) -> None:
    """A newer aioq's envelope, or rubbish: the rest is shown all the same."""
    await send(store, "job", call=b"\xc1rubbish")

    job = await info(store)

    assert (job.task, job.headers, job.state) == ("", {}, JobState.QUEUED)


# Progress


async def test_progress_is_shown(store: Store) -> None:
    worker = await joined(store, "w")
    job = await running(store, worker)
    assert (await info(store)).progress is None

    assert await store.progress(QUEUE, worker, [(job.id, job.claim, HALF)]) == [True]

    assert (await info(store)).progress == Progress(5, 10, "half")


async def test_the_last_report_counts_and_outlives_the_run(store: Store) -> None:
    worker = await joined(store, "w")
    job = await running(store, worker)
    done = msgspec.msgpack.encode(Progress(10, 10))

    await store.progress(QUEUE, worker, [(job.id, job.claim, HALF), (job.id, job.claim, done)])
    await settle(store, worker, job, Verb.SUCCEEDED, encode_result("shop.add", 1))

    assert (await info(store)).progress == Progress(10, 10)


async def test_reports_of_others_are_refused(store: Store) -> None:
    worker = await joined(store, "w")
    first = await running(store, worker)
    await settle(store, worker, first, Verb.RELEASE)
    assert await store.progress(QUEUE, worker, [(first.id, first.claim, HALF)]) == [False]  # nobody's
    second = await take_one(store, worker)

    reports = [(first.id, first.claim, HALF), ("unknown", 1, HALF), ("", second.claim, HALF)]
    assert await store.progress(QUEUE, worker, reports) == [False] * 3
    assert await store.progress(QUEUE, "other", [(second.id, second.claim, HALF)]) == [False]
    assert (await info(store)).progress is None
    assert await store.info(QUEUE, ["unknown"]) == [None]

    await settle(store, worker, second, Verb.SUCCEEDED, THREE)
    assert await store.progress(QUEUE, worker, [(second.id, second.claim, HALF)]) == [False]
    assert (await info(store)).progress is None, "it has ended"


async def test_no_reports(store: Store) -> None:
    assert await store.progress(QUEUE, "w", []) == []
