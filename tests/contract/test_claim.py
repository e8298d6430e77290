"""Claiming: lanes in order, never more than asked for, and a blocked worker is woken."""

import asyncio

import anyio
import pytest

from aioq.jobs.job import JobState, Priority
from aioq.store.contract import Claim, Settlement, Store, Token, Verb
from aioq.wire.messages import encode_envelope
from tests.contract.kit import (
    BLOCK,
    BROKEN,
    CALL,
    LONG,
    QUEUE,
    REASON,
    THREE,
    WITHIN,
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


async def test_an_empty_queue_has_nothing(store: Store) -> None:
    assert await store.claim(QUEUE, await joined(store, "w"), 10) == Claim([], None)


async def test_a_claimed_job_says_what_there_is_to_say(store: Store) -> None:
    await send(store, "job")

    job = await take_one(store, await joined(store, "w"))

    assert (job.id, job.envelope, job.claims) == ("job", CALL, 1)
    assert (job.attempts, job.crashes, job.interruptions) == (0, 0, 0)
    assert 0 < job.sent_ms <= job.started_ms
    assert await state(store) is JobState.RUNNING


async def test_jobs_come_in_the_order_they_were_sent(store: Store) -> None:
    await send(store, *"abc")
    await send(store, *"de")

    assert ids(await take(store, await joined(store, "w"))) == list("abcde")


async def test_higher_lanes_come_first(store: Store) -> None:
    await send(store, "low", priority=Priority.LOW)
    await send(store, "normal")
    await send(store, "high", priority=Priority.HIGH)

    worker = await joined(store, "w")

    assert ids(await take(store, worker, 2)) == ["high", "normal"]
    assert ids(await take(store, worker, 2)) == ["low"]


@pytest.mark.parametrize(
    ("shares", "taken"),
    [
        ((3, 0, 0), "abcde"),
        ((0, 0, 1), "zabcd"),
        ((1, 2, 1), "apqzb"),
        ((0, 3, 2), "pqrzy"),
        ((0, 9, 0), "pqrst"),
        ((9, 9, 9), "abcde"),
    ],
)
async def test_each_lane_has_its_share_and_the_rest_goes_by_priority(
    store: Store, shares: tuple[int, int, int], taken: str
) -> None:
    """Also where an entry names more jobs than are taken, and what is left keeps its order."""
    await send(store, *"abcdef", priority=Priority.HIGH)
    await send(store, *"pqrstu")
    await send(store, *"zyx", priority=Priority.LOW)
    worker = await joined(store, "w")

    claim = await store.claim(QUEUE, worker, 5, shares=shares)

    assert "".join(ids(claim.jobs)) == taken
    left = "".join(each for each in "abcdefpqrstuzyx" if each not in taken)
    assert "".join(ids(await take(store, worker, 50))) == left


async def test_a_lane_without_jobs_leaves_its_share_to_the_others(store: Store) -> None:
    await send(store, *"pqr")
    await send(store, "z", priority=Priority.LOW)
    worker = await joined(store, "w")

    claim = await store.claim(QUEUE, worker, 9, shares=(6, 2, 1), idle=True)

    assert "".join(ids(claim.jobs)) == "pqzr"
    assert (await store.claim(QUEUE, worker, 9, shares=(6, 2, 1), idle=True)).jobs == []


async def test_while_all_is_paused_no_lane_has_a_share(store: Store) -> None:
    await send(store, "z", priority=Priority.LOW)
    worker = await joined(store, "w")
    await store.operating.pauses.pause(QUEUE, (), None)

    assert (await store.claim(QUEUE, worker, 9, shares=(6, 2, 1))).jobs == []


@pytest.mark.parametrize("count", [0, 1, 2, 3])
async def test_no_more_than_asked_for(store: Store, count: int) -> None:
    await send(store, *"abcde")

    assert ids(await take(store, await joined(store, "w"), count)) == list("abcde")[:count]


async def test_two_workers_never_get_the_same_job(store: Store) -> None:
    names = [f"job-{number}" for number in range(60)]
    await send(store, *names)
    workers = [await joined(store, "one"), await joined(store, "two")]

    claims = await asyncio.gather(*(take(store, worker, 5) for worker in workers * 6))

    assert sorted(job_id for jobs in claims for job_id in ids(jobs)) == sorted(names)


async def test_what_was_given_back_comes_first_in_its_lane_only(store: Store) -> None:
    worker = await joined(store, "w")
    job = await running(store, worker, "back")
    await send(store, "waiting")
    await send(store, "high", priority=Priority.HIGH)
    await settle(store, worker, job, Verb.RELEASE)

    assert ids(await take(store, worker)) == ["high", "back", "waiting"]


async def test_a_claim_tells_when_the_next_job_is_due(store: Store) -> None:
    await send(store, "job", delay_ms=LONG)

    claim = await store.claim(QUEUE, await joined(store, "w"), 1)

    assert claim.next_due_ms is not None
    assert LONG - 60_000 < claim.next_due_ms <= LONG


async def test_a_worker_without_a_lease_gets_nothing(store: Store) -> None:
    await send(store, "job")

    assert await store.claim(QUEUE, "nobody", 1) == Claim(lost=True)

    assert await state(store) is JobState.QUEUED


async def test_a_cancelled_job_is_passed_over(store: Store) -> None:
    await send(store, *"abc")
    await store.cancel(QUEUE, ["b"], REASON, LONG)

    assert ids(await take(store, await joined(store, "w"), 2)) == ["a", "c"]


async def test_an_id_sent_again_after_a_cancellation_runs_once(store: Store) -> None:
    """The entry of the first one is still in the lane."""
    await send(store, "job")
    await store.cancel(QUEUE, ["job"], REASON, 0)
    await send(store, "job")

    assert ids(await take(store, await joined(store, "w"))) == ["job"]


async def test_every_claim_of_a_job_has_a_number_of_its_own(store: Store) -> None:
    worker = await joined(store, "w")
    job = await running(store, worker)
    await settle(store, worker, job, Verb.RELEASE)

    again = await take_one(store, worker)
    assert again.claim > job.claim
    assert again.claims == job.claims + 1


# Blocking


async def finish(task: "asyncio.Task[list[Token]]") -> list[Token]:
    with anyio.fail_after(WITHIN):
        return await task


async def test_blocking_ends_with_nothing_when_the_time_is_over(store: Store) -> None:
    assert await finish(asyncio.create_task(store.block(QUEUE, await joined(store, "w"), 20))) == []


async def test_blocking_for_no_time_at_all_returns_at_once(store: Store) -> None:
    """A scheduled job that is due now makes a timeout of 0; that must not mean for ever."""
    worker = await joined(store, "w")
    with anyio.fail_after(2):
        assert await store.block(QUEUE, worker, 0) == []


async def test_blocking_returns_at_once_when_there_is_a_job(store: Store) -> None:
    worker = await joined(store, "w")
    await send(store, "job")

    (token,) = await finish(asyncio.create_task(store.block(QUEUE, worker, BLOCK)))

    assert (token.lane, token.job_ids) == ("normal", ("job",))
    assert await state(store) is JobState.QUEUED, "delivered, but not claimed yet"
    claim = await store.claim(QUEUE, worker, 1, [token])
    assert ids(claim.jobs) == ["job"]


async def test_a_blocked_worker_is_woken_by_a_job(store: Store, backend: Backend) -> None:
    worker = await joined(store, "w")
    task = await backend.blocked(store, worker)

    await send(await backend.open(), "job")

    tokens = await finish(task)
    assert [token.job_ids for token in tokens] == [("job",)]
    assert ids((await store.claim(QUEUE, worker, 1, tokens)).jobs) == ["job"]


async def test_one_job_wakes_one_worker(store: Store, backend: Backend) -> None:
    stores = {"one": store, "two": await backend.open()}
    tasks = [await backend.blocked(each, await joined(each, worker)) for worker, each in stores.items()]

    await send(store, "job")

    done, waiting = await asyncio.wait(tasks, timeout=WITHIN, return_when=asyncio.FIRST_COMPLETED)
    assert len(done) == len(waiting) == 1
    for worker, each in stores.items():
        await each.unblock(QUEUE, worker)
    assert await finish(waiting.pop()) == []


async def test_two_jobs_wake_two_workers(store: Store, backend: Backend) -> None:
    stores = {"one": store, "two": await backend.open()}
    tasks = [await backend.blocked(each, await joined(each, worker)) for worker, each in stores.items()]

    await send(store, "a")
    await send(store, "b")

    woken = [token.job_ids for task in tasks for token in await finish(task)]
    assert sorted(woken) == [("a",), ("b",)]


async def test_a_promoted_job_wakes(store: Store, backend: Backend) -> None:
    worker = await joined(store, "w")
    await send(store, "job", delay_ms=5)
    assert await take(store, worker) == []  # takes the wake-up entry away
    task = await backend.blocked(store, worker)

    async def promoted() -> bool:
        return (await store.promote(QUEUE, 1)).count == 1

    await eventually(promoted)

    assert [token.job_ids for token in await finish(task)] == [("job",)]


async def test_a_job_that_is_given_back_wakes(store: Store, backend: Backend) -> None:
    other = await backend.open()
    job = await running(other, await joined(other, "other"))
    task = await backend.blocked(store, await joined(store, "w"))

    await settle(other, "other", job, Verb.INTERRUPT)

    (token,) = await finish(task)
    assert (token.lane, token.job_ids) == ("normal:front", ("job",))


async def test_a_job_that_is_scheduled_before_all_others_wakes(store: Store, backend: Backend) -> None:
    """So that the worker learns when it has to promote next."""
    worker = await joined(store, "w")
    await send(store, "late", delay_ms=2 * LONG)
    assert await take(store, worker) == []
    task = await backend.blocked(store, worker)

    await send(store, "early", delay_ms=LONG)

    tokens = await finish(task)
    assert [token.job_ids for token in tokens] == [()]
    claim = await store.claim(QUEUE, worker, 1, tokens)
    assert claim.jobs == []
    assert claim.next_due_ms is not None
    assert claim.next_due_ms <= LONG


async def test_a_job_that_is_scheduled_after_others_does_not_wake(store: Store) -> None:
    worker = await joined(store, "w")
    await send(store, "early", delay_ms=LONG)
    assert await take(store, worker) == []

    await send(store, "late", delay_ms=2 * LONG)

    assert await store.block(QUEUE, worker, 20) == []


async def test_a_retry_that_is_due_before_all_others_wakes(store: Store, backend: Backend) -> None:
    worker = await joined(store, "w")
    job = await running(store, worker)
    task = await backend.blocked(store, worker)

    await settle(store, worker, job, Verb.RETRY, BROKEN, delay_ms=LONG)

    assert [token.job_ids for token in await finish(task)] == [()]


async def test_unblock_ends_the_wait(store: Store, backend: Backend) -> None:
    worker = await joined(store, "w")
    task = await backend.blocked(store, worker)

    await store.unblock(QUEUE, worker)

    assert await finish(task) == []
    await send(store, "job")
    assert ids(await take(store, worker)) == ["job"], "nothing was delivered to the unblocked worker"


async def test_unblocking_a_worker_that_does_not_wait_changes_nothing(store: Store) -> None:
    worker = await joined(store, "w")
    await store.unblock(QUEUE, worker)
    await send(store, "job")

    tokens = await store.block(QUEUE, worker, BLOCK)

    assert [token.job_ids for token in tokens] == [("job",)]
    await store.unblock(QUEUE, worker)


async def test_unblock_leaves_other_workers_alone(store: Store, backend: Backend) -> None:
    other = await backend.open()
    task = await backend.blocked(other, await joined(other, "other"))

    await store.unblock(QUEUE, "w")
    await send(store, "job")

    assert [token.job_ids for token in await finish(task)] == [("job",)]


async def test_what_a_lost_wait_delivered_is_found_by_recheck(store: Store) -> None:
    worker = await joined(store, "w")
    await send(store, "job")
    await store.block(QUEUE, worker, BLOCK)  # its reply gets lost

    assert ids((await store.claim(QUEUE, worker, 1)).jobs) == []
    assert ids((await store.claim(QUEUE, worker, 1, known=())).jobs) == ["job"]
    assert ids((await store.claim(QUEUE, worker, 1, known={"job"})).jobs) == []


async def test_a_claim_whose_reply_got_lost_is_made_good(store: Store) -> None:
    worker = await joined(store, "w")
    await send(store, "known", "missed", "next")
    lost = (await store.claim(QUEUE, worker, 2)).jobs  # of the second one the worker never heard

    assert ids((await store.claim(QUEUE, worker, 0, known={"known"})).jobs) == []  # no free slot for it
    again = (await store.claim(QUEUE, worker, 5, known={"known"})).jobs
    assert sorted(ids(again)) == ["missed", "next"]
    missed = next(job for job in again if job.id == "missed")
    assert (missed.claims, missed.attempts) == (lost[1].claims + 1, 0)
    # What was claimed under the lost reply is void; what was known stays as it was.
    old = Settlement("missed", lost[1].claim, Verb.SUCCEEDED, THREE, ttl_ms=LONG)
    new = Settlement("missed", missed.claim, Verb.SUCCEEDED, THREE, ttl_ms=LONG)
    kept = Settlement("known", lost[0].claim, Verb.SUCCEEDED, THREE, ttl_ms=LONG)
    assert await store.settle(QUEUE, worker, [old, new, kept]) == [False, True, True]


async def test_a_job_that_is_queued_again_is_claimed_although_it_is_known(store: Store) -> None:
    worker = await joined(store, "w")
    await send(store, "job")
    (first,) = (await store.claim(QUEUE, worker, 1)).jobs
    # The settle is carried out, but its reply gets lost: the worker believes that it still holds the job.
    await store.settle(QUEUE, worker, [Settlement("job", first.claim, Verb.RETRY, BROKEN)])

    (again,) = (await store.claim(QUEUE, worker, 5, known={"job"})).jobs

    assert (again.id, again.claims, again.attempts) == ("job", 2, 1)


async def test_what_was_missed_comes_before_what_is_new(store: Store) -> None:
    worker = await joined(store, "w")
    await send(store, "missed")
    await store.claim(QUEUE, worker, 1)
    await send(store, *(f"new-{number}" for number in range(5)))

    assert ids((await store.claim(QUEUE, worker, 1, known=())).jobs) == ["missed"]


async def test_a_claim_is_closed_at_a_megabyte(redis_store: Store) -> None:
    worker = await joined(redis_store, "w")
    large = encode_envelope("shop.add", ["x" * 400_000], {}, None)
    await send(redis_store, *"abcdef", call=large)

    taken = [ids((await redis_store.claim(QUEUE, worker, 10)).jobs) for _ in range(3)]

    assert [len(jobs) for jobs in taken] == [3, 3, 0]
    assert sorted(job for jobs in taken for job in jobs) == list("abcdef")


@pytest.mark.parametrize("stands", [False, True], ids=["blocks", "stands"])
async def test_who_waits_once_there_is_no_more_has_all_large_jobs(store: Store, stands: bool) -> None:
    worker = await joined(store, "w")
    await send(store, *"abc", call=encode_envelope("shop.add", ["x" * 600_000], {}, None))

    taken, more = list[str](), True
    while more:
        claim = await store.claim(QUEUE, worker, 10, idle=True, stands=stands)
        taken, more = taken + ids(claim.jobs), claim.more

    assert taken == list("abc")


async def test_no_other_worker_gets_what_a_worker_missed(store: Store) -> None:
    worker, other = await joined(store, "w"), await joined(store, "other")
    await send(store, "job")
    await store.claim(QUEUE, worker, 1)

    assert ids((await store.claim(QUEUE, other, 1, known=())).jobs) == []


async def test_a_recheck_finds_nothing_of_another_worker(store: Store) -> None:
    await send(store, "job")
    await store.block(QUEUE, await joined(store, "other"), BLOCK)

    assert (await store.claim(QUEUE, await joined(store, "w"), 1, known=())).jobs == []


async def test_a_recheck_takes_new_jobs_too(store: Store) -> None:
    worker = await joined(store, "w")
    await send(store, "delivered")
    await store.block(QUEUE, worker, BLOCK)
    await send(store, "new")

    assert ids((await store.claim(QUEUE, worker, 5, known=())).jobs) == ["delivered", "new"]


async def test_a_cancelled_wait_loses_nothing(store: Store, backend: Backend) -> None:
    worker = await joined(store, "w")
    task = await backend.blocked(store, worker)
    task.cancel()
    await asyncio.wait([task])
    await send(store, "job")

    async def found() -> list[str]:
        # A server may deliver to the connection before it learns that it was closed.
        return ids((await store.claim(QUEUE, worker, 1, known=())).jobs)

    assert await eventually(found) == ["job"]


async def test_a_token_is_good_once(store: Store) -> None:
    worker = await joined(store, "w")
    await send(store, "job")
    tokens = await store.block(QUEUE, worker, BLOCK)
    (job,) = (await store.claim(QUEUE, worker, 1, tokens)).jobs
    await settle(store, worker, job, Verb.RELEASE)

    assert ids((await store.claim(QUEUE, worker, 0, tokens)).jobs) == []


async def test_a_token_of_a_cancelled_job_brings_nothing(store: Store) -> None:
    worker = await joined(store, "w")
    await send(store, "job")
    tokens = await store.block(QUEUE, worker, BLOCK)
    await store.cancel(QUEUE, ["job"], REASON, LONG)

    assert (await store.claim(QUEUE, worker, 1, tokens)).jobs == []


async def test_tokens_come_before_higher_lanes_that_filled_meanwhile(store: Store) -> None:
    worker = await joined(store, "w")
    await send(store, "first")
    tokens = await store.block(QUEUE, worker, BLOCK)
    await send(store, "high", priority=Priority.HIGH)

    assert ids((await store.claim(QUEUE, worker, 1, tokens)).jobs) == ["first"]


async def test_tokens_beyond_the_count_go_back_to_the_front(store: Store) -> None:
    """A wait brings one entry of each lane that has any: more, perhaps, than there are free slots."""
    worker = await joined(store, "w")
    await send(store, "low", "lower", priority=Priority.LOW)
    await send(store, "high", priority=Priority.HIGH)
    tokens = await store.block(QUEUE, worker, BLOCK)
    assert [token.job_ids for token in tokens] == [("high",), ("low",)]

    assert ids((await store.claim(QUEUE, worker, 1, tokens)).jobs) == ["high"]

    assert ids(await take(store, await joined(store, "other"))) == ["low", "lower"]


async def test_a_recheck_takes_no_more_than_asked_for(store: Store) -> None:
    worker = await joined(store, "w")
    await send(store, "low", priority=Priority.LOW)
    await send(store, "high", priority=Priority.HIGH)
    await store.block(QUEUE, worker, BLOCK)

    assert ids((await store.claim(QUEUE, worker, 1, known=())).jobs) == ["high"]

    assert ids(await take(store, await joined(store, "other"))) == ["low"]


async def test_an_ended_job_leaves_no_trace_in_the_lanes(store: Store) -> None:
    worker = await joined(store, "w")
    job = await running(store, worker)
    await settle(store, worker, job, Verb.SUCCEEDED, THREE)

    assert await take(store, worker) == []
    assert (await info(store)).state is JobState.SUCCEEDED
