"""Settling: what each verb does to a job, and the fence that keeps everybody else's hands off it."""

from functools import partial

import pytest

from aioq.jobs.job import JobInfo, JobState
from aioq.store.contract import MAX_CUTS, Claimed, Limits, NewJob, Settlement, Store, Verb
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

MAX_CRASHES = Limits().max_crashes
RUNS_AGAIN = [Verb.RETRY, Verb.INTERRUPT, Verb.CUT, Verb.CRASH, Verb.RELEASE, Verb.PARK]
ENDS = {
    Verb.SUCCEEDED: (JobState.SUCCEEDED, THREE),
    Verb.FAILED: (JobState.FAILED, BROKEN),
    Verb.CANCELLED: (JobState.CANCELLED, REASON),
}


async def gone(store: Store, job_id: str = "job") -> bool:
    return await state(store, job_id) is None


@pytest.mark.parametrize("verb", ENDS)
async def test_an_outcome_ends_the_job_and_is_kept(store: Store, verb: Verb) -> None:
    worker = await joined(store, "w")
    job = await running(store, worker)
    ended, outcome = ENDS[verb]

    assert await settle(store, worker, job, verb, outcome)

    found = await info(store)
    assert (found.state, found.worker) == (ended, "w")
    assert found.ended_at is not None
    assert await store.wait(QUEUE, "me", ["job"]) == [outcome]


@pytest.mark.parametrize("verb", [Verb.SUCCEEDED, Verb.CANCELLED])
async def test_an_outcome_without_ttl_is_forgotten(store: Store, verb: Verb) -> None:
    worker = await joined(store, "w")
    job = await running(store, worker)

    assert await settle(store, worker, job, verb, THREE, ttl_ms=0)

    assert await gone(store)
    assert await send(store, "job") == [True]


@pytest.mark.parametrize("verb", [Verb.SUCCEEDED, Verb.CANCELLED])
async def test_an_outcome_goes_when_its_ttl_is_over(store: Store, verb: Verb) -> None:
    worker = await joined(store, "w")
    job = await running(store, worker)
    await settle(store, worker, job, verb, THREE, ttl_ms=15)

    await eventually(lambda: gone(store))


async def test_a_job_without_outcome_does_not_expire(redis_store: Store, redis_backend: Backend) -> None:
    await running(redis_store, await joined(redis_store, "w"), "running")
    await send(redis_store, "queued")
    await send(redis_store, "scheduled", delay_ms=LONG)

    assert redis_backend.database is not None
    with redis_backend.database.client() as client:
        for job_id in ("running", "queued", "scheduled"):
            assert client.pttl(redis_backend.key(f"job:{job_id}")) == -1


async def test_the_ttl_is_the_one_given(redis_store: Store, redis_backend: Backend) -> None:
    worker = await joined(redis_store, "w")
    await settle(redis_store, worker, await running(redis_store, worker), Verb.SUCCEEDED, THREE, ttl_ms=LONG)

    assert redis_backend.database is not None
    with redis_backend.database.client() as client:
        ttl = client.pttl(redis_backend.key("job:job"))
    assert LONG - 60_000 < ttl <= LONG  # pyright: ignore[reportOperatorIssue]


async def test_a_failure_counts_as_an_attempt(store: Store) -> None:
    worker = await joined(store, "w")
    await settle(store, worker, await running(store, worker), Verb.FAILED, BROKEN)

    found = await info(store)
    assert (found.attempts, str(found.error)) == (1, "ValueError: no")


# Running again


@pytest.mark.parametrize("delay_ms", [0, LONG])
async def test_a_retry_counts_the_attempt(store: Store, delay_ms: int) -> None:
    worker = await joined(store, "w")
    job = await running(store, worker)

    assert await settle(store, worker, job, Verb.RETRY, BROKEN, delay_ms=delay_ms)

    found = await info(store)
    assert found.state is (JobState.SCHEDULED if delay_ms else JobState.QUEUED)
    assert (found.attempts, found.interruptions, found.crashes) == (1, 0, 0)
    assert (str(found.error), found.worker) == ("ValueError: no", None)
    assert (found.due_at is not None) == bool(delay_ms)


async def test_a_retry_at_once_goes_to_the_end_of_its_lane(store: Store) -> None:
    worker = await joined(store, "w")
    job = await running(store, worker, "again")
    await send(store, "next")
    await settle(store, worker, job, Verb.RETRY, BROKEN)

    jobs = await take(store, worker)

    assert ids(jobs) == ["next", "again"]
    assert [each.attempts for each in jobs] == [0, 1]


async def test_a_retry_runs_when_its_delay_is_over(store: Store) -> None:
    worker = await joined(store, "w")
    await settle(store, worker, await running(store, worker), Verb.RETRY, BROKEN, delay_ms=5)

    async def again() -> list[Claimed]:
        await store.promote(QUEUE, 10)
        return await take(store, worker)

    (job,) = await eventually(again)
    assert (job.attempts, job.claims, job.envelope) == (1, 2, CALL)


@pytest.mark.parametrize(("verb", "interruptions"), [(Verb.INTERRUPT, 1), (Verb.RELEASE, 0)])
async def test_giving_back_costs_no_attempt(store: Store, verb: Verb, interruptions: int) -> None:
    worker = await joined(store, "w")
    job = await running(store, worker, "back")
    await send(store, "next")

    assert await settle(store, worker, job, verb)

    found = await info(store, "back")
    assert (found.state, found.worker) == (JobState.QUEUED, None)
    assert (found.attempts, found.interruptions, found.crashes) == (0, interruptions, 0)
    again = await take(store, worker)
    assert ids(again) == ["back", "next"]
    assert (again[0].attempts, again[0].interruptions) == (0, interruptions)


# Ends of workers that come too often


async def cut(store: Store, worker: str, verb: Verb = Verb.CUT) -> JobInfo:
    """Have the job claimed and broken off once more."""
    assert await settle(store, worker, await take_one(store, worker), verb, BROKEN)
    return await info(store)


async def test_a_worker_that_ends_by_itself_costs_its_jobs_a_crash(store: Store, backend: Backend) -> None:
    worker = await joined(store, "w")
    await send(store, "job")
    await send(store, "next")
    for crashes in range(1, MAX_CRASHES + 1):
        found = await cut(store, worker, Verb.CRASH)
        assert (found.state, found.attempts, found.crashes, found.interruptions) == ("queued", 0, crashes, 0)
        assert found.error is None

    found = await cut(store, worker, Verb.CRASH)

    assert (found.state, found.attempts, found.crashes) == ("failed", 0, MAX_CRASHES + 1)
    assert str(found.error) == "ValueError: no"
    assert backend.dead() == 1
    assert ids(await take(store, worker)) == ["next"]


async def test_interruptions_in_a_row_soon_after_the_start_cost_a_crash_from_some_number_on(store: Store) -> None:
    worker = await joined(store, "w")
    await send(store, "job")
    for number in range(1, MAX_CUTS + 1):
        found = await cut(store, worker)
        assert (found.state, found.crashes, found.interruptions) == ("queued", 0, number)
    for crashes in range(1, MAX_CRASHES + 1):
        found = await cut(store, worker)
        assert (found.state, found.crashes, found.interruptions) == ("queued", crashes, MAX_CUTS + crashes)

    found = await cut(store, worker)

    assert (found.state, found.crashes) == ("failed", MAX_CRASHES + 1)


@pytest.mark.parametrize(("verb", "anew"), [(Verb.INTERRUPT, True), (Verb.RETRY, True), (Verb.RELEASE, False)])
async def test_a_run_that_was_long_or_came_to_its_end_ends_the_row(store: Store, verb: Verb, anew: bool) -> None:
    worker = await joined(store, "w")
    await send(store, "job")
    for _ in range(MAX_CUTS):
        await cut(store, worker)
    await settle(store, worker, await take_one(store, worker), verb, BROKEN)

    found = await cut(store, worker)

    assert found.crashes == (0 if anew else 1)


async def test_counters_add_up(store: Store) -> None:
    worker = await joined(store, "w")
    await send(store, "job")
    for verb in (Verb.RETRY, Verb.INTERRUPT, Verb.RETRY, Verb.RELEASE, Verb.INTERRUPT):
        await settle(store, worker, await take_one(store, worker), verb, BROKEN)

    job = await take_one(store, worker)

    assert (job.claims, job.attempts, job.interruptions, job.crashes) == (6, 2, 2, 0)
    assert (await info(store)).attempts == 3, "the one under way included"


async def test_a_success_clears_the_error_of_earlier_attempts(store: Store) -> None:
    worker = await joined(store, "w")
    await settle(store, worker, await running(store, worker), Verb.RETRY, BROKEN)
    await settle(store, worker, await take_one(store, worker), Verb.SUCCEEDED, THREE)

    found = await info(store)
    assert (found.attempts, found.error) == (2, None)


# Parking


async def test_a_parked_job_comes_again_at_no_cost(store: Store) -> None:
    worker = await joined(store, "w")
    job = await running(store, worker)

    assert await settle(store, worker, job, Verb.PARK, BROKEN, delay_ms=LONG, ttl_ms=LONG)

    found = await info(store)
    assert (found.state, found.worker) == (JobState.SCHEDULED, None)
    assert found.error is not None
    assert found.error.message == "no worker that has seen it knows the task 'shop.add'"
    assert (found.attempts, found.interruptions, found.crashes) == (0, 0, 0)


async def test_a_job_parked_without_delay_goes_to_the_end_of_its_lane(store: Store) -> None:
    worker = await joined(store, "w")
    job = await running(store, worker, "parked")
    await send(store, "next")

    await settle(store, worker, job, Verb.PARK, BROKEN)

    assert ids(await take(store, worker)) == ["next", "parked"]


async def test_a_job_parked_for_too_long_fails(store: Store, backend: Backend) -> None:
    worker = await joined(store, "w")
    await send(store, "job")

    async def failed() -> bool:
        await settle(store, worker, await take_one(store, worker), Verb.PARK, BROKEN, ttl_ms=20)
        return await state(store) is JobState.FAILED

    await eventually(failed)

    found = await info(store)
    assert (found.attempts, str(found.error)) == (0, "ValueError: no")
    assert backend.dead() == 1


async def test_parking_with_no_ttl_fails_at_once(store: Store) -> None:
    worker = await joined(store, "w")

    await settle(store, worker, await running(store, worker), Verb.PARK, BROKEN, ttl_ms=0)

    assert await state(store) is JobState.FAILED


async def test_the_time_parked_begins_anew_after_an_attempt(store: Store) -> None:
    """A worker that knew the task ran it; what parks it then is a new matter."""
    worker = await joined(store, "w")
    await settle(store, worker, await running(store, worker), Verb.PARK, BROKEN)
    parked = await take_one(store, worker)
    await settle(store, worker, parked, Verb.RETRY, BROKEN)
    retried = await take_one(store, worker)

    await settle(store, worker, retried, Verb.PARK, BROKEN, ttl_ms=60_000)

    assert await state(store) is JobState.QUEUED


# The fence


@pytest.mark.parametrize("verb", Verb)
async def test_another_worker_is_refused(store: Store, verb: Verb) -> None:
    job = await running(store, await joined(store, "w"))
    await joined(store, "other")

    assert not await settle(store, "other", job, verb, BROKEN)

    found = await info(store)
    assert (found.state, found.worker) == (JobState.RUNNING, "w")


@pytest.mark.parametrize("verb", Verb)
async def test_an_earlier_claim_is_refused(store: Store, verb: Verb) -> None:
    worker = await joined(store, "w")
    first = await running(store, worker)
    await settle(store, worker, first, Verb.RELEASE)
    second = await take_one(store, worker)

    assert not await settle(store, worker, first, verb, BROKEN)

    assert await settle(store, worker, second, Verb.SUCCEEDED, THREE)


@pytest.mark.parametrize("verb", Verb)
async def test_a_job_that_is_unknown_or_not_running_is_refused(store: Store, verb: Verb) -> None:
    worker = await joined(store, "w")
    job = await running(store, worker)
    await settle(store, worker, job, Verb.RELEASE)

    assert not await settle(store, worker, job, verb, BROKEN)
    assert await state(store) is JobState.QUEUED
    unknown = Settlement("unknown", 1, verb, BROKEN, 0, LONG)
    assert await store.settle(QUEUE, worker, [unknown]) == [False]
    assert await state(store, "unknown") is None


@pytest.mark.parametrize("verb", ENDS)
async def test_the_same_settle_twice_is_accepted_and_changes_nothing(store: Store, verb: Verb) -> None:
    """The reply to the first one got lost."""
    worker = await joined(store, "w")
    job = await running(store, worker)
    await settle(store, worker, job, verb, ENDS[verb][1])
    before = await info(store)

    assert await settle(store, worker, job, verb, ENDS[verb][1])

    assert await info(store) == before


@pytest.mark.parametrize("verb", ENDS)
@pytest.mark.parametrize("nonces", [("", ""), ("one", "two")])
async def test_a_repeated_settle_does_not_end_a_later_job_of_the_same_id(
    store: Store, verb: Verb, nonces: tuple[str, str]
) -> None:
    """The reply to the first one got lost, its result was forgotten at once, and the id was used anew."""
    worker = await joined(store, "w")
    runs: list[Claimed] = []
    for nonce in nonces:
        assert await store.enqueue(QUEUE, [NewJob("job", CALL, nonce=nonce)]) == [True]
        runs.append(await take_one(store, worker))
        if len(runs) == 1:
            assert await settle(store, worker, runs[0], Verb.SUCCEEDED, THREE, ttl_ms=0)

    assert not await settle(store, worker, runs[0], verb, ENDS[verb][1])
    assert not await settle(store, worker, runs[0], Verb.SUCCEEDED, THREE, ttl_ms=0)

    assert await state(store) is JobState.RUNNING
    assert await settle(store, worker, runs[1], Verb.SUCCEEDED, THREE)
    assert not await settle(store, worker, runs[0], Verb.SUCCEEDED, THREE), "not even as the end that is there"


async def test_nor_does_a_batch_that_contains_it(store: Store) -> None:
    worker = await joined(store, "w")
    await send(store, *"abc")
    first = await take(store, worker)
    batch = [Settlement(job.id, job.claim, Verb.SUCCEEDED, THREE, ttl_ms=0) for job in first]
    assert await store.settle(QUEUE, worker, batch) == [True] * 3
    await send(store, "b", "d")
    again = {job.id: job for job in await take(store, worker)}

    late = [batch[1], Settlement("d", again["d"].claim, Verb.SUCCEEDED, THREE, ttl_ms=LONG)]
    assert await store.settle(QUEUE, worker, late) == [False, True]

    assert await state(store, "b") is JobState.RUNNING


async def test_nor_is_what_the_earlier_one_reports_taken_for_the_later_ones(store: Store) -> None:
    worker = await joined(store, "w")
    first = await running(store, worker)
    await settle(store, worker, first, Verb.SUCCEEDED, THREE, ttl_ms=0)
    second = await running(store, worker)

    reports = [("job", first.claim, b"\x91\x01"), ("job", second.claim, b"\x91\x02")]
    assert await store.progress(QUEUE, worker, reports) == [False, True]


async def test_nor_does_it_after_a_result_that_has_expired(store: Store) -> None:
    worker = await joined(store, "w")
    first = await running(store, worker)
    await settle(store, worker, first, Verb.SUCCEEDED, THREE, ttl_ms=1)

    await eventually(partial(gone, store))
    second = await running(store, worker)

    assert not await settle(store, worker, first, Verb.SUCCEEDED, THREE)
    assert await settle(store, worker, second, Verb.SUCCEEDED, THREE)


async def test_another_worker_is_refused_after_the_end_too(store: Store) -> None:
    worker = await joined(store, "w")
    job = await running(store, worker)
    await settle(store, worker, job, Verb.SUCCEEDED, THREE)

    assert not await settle(store, "other", job, Verb.FAILED, BROKEN)

    assert await state(store) is JobState.SUCCEEDED


async def test_a_batch_is_settled_one_by_one(store: Store) -> None:
    worker = await joined(store, "w")
    await send(store, *"abcd")
    jobs = await take(store, worker)
    batch = [Settlement(job.id, job.claim, Verb.SUCCEEDED, THREE, ttl_ms=LONG) for job in jobs]
    batch[1] = Settlement("b", 99, Verb.SUCCEEDED, THREE)
    batch[2] = Settlement("c", jobs[2].claim, Verb.RETRY, BROKEN)

    assert await store.settle(QUEUE, worker, batch) == [True, False, True, True]

    states = [found and found.state for found in await store.info(QUEUE, list("abcd"))]
    assert states == [JobState.SUCCEEDED, JobState.RUNNING, JobState.QUEUED, JobState.SUCCEEDED]


async def test_an_empty_batch_settles_nothing(store: Store) -> None:
    assert await store.settle(QUEUE, "w", []) == []


async def test_a_batch_of_a_thousand(store: Store) -> None:
    worker = await joined(store, "w")
    await send(store, *(f"job-{number}" for number in range(1000)))
    jobs = await take(store, worker, 500) + await take(store, worker, 500)
    batch = [Settlement(job.id, job.claim, Verb.SUCCEEDED, THREE, ttl_ms=LONG) for job in jobs]

    assert await store.settle(QUEUE, worker, batch) == [True] * 1000
