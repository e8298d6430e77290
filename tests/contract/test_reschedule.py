"""Moving jobs to another time, and snoozing: what waits is moved, what runs or has ended stays."""

import pytest

from aioq.jobs.job import JobState
from aioq.store.contract import NewJob, Store, Verb
from tests.contract.kit import (
    CALL,
    LONG,
    QUEUE,
    REASON,
    THREE,
    Backend,
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


async def move(
    store: Store, *job_ids: str, delay_ms: int | None = None, eta_ms: int | None = None
) -> list[JobState | None]:
    return await store.reschedule(QUEUE, job_ids or ("job",), delay_ms=delay_ms, eta_ms=eta_ms)


async def test_a_scheduled_job_is_put_off_and_brought_forward(store: Store):
    await joined(store, "w")
    await send(store, "job", delay_ms=LONG)
    before = (await info(store)).due_at
    assert await move(store, delay_ms=2 * LONG) == [JobState.SCHEDULED]
    later = (await info(store)).due_at
    assert before is not None
    assert later is not None
    assert later > before
    assert await take(store, "w") == []
    assert await move(store) == [JobState.SCHEDULED]
    assert ((await info(store)).state, (await info(store)).due_at) == (JobState.QUEUED, None)
    assert ids(await take(store, "w")) == ["job"]
    assert (await store.promote(QUEUE, 10)).next_due_ms is None


async def test_a_time_that_has_passed_is_at_once(store: Store):
    await joined(store, "w")
    await send(store, "job", delay_ms=LONG)
    assert await move(store, eta_ms=1) == [JobState.SCHEDULED]
    assert ids(await take(store, "w")) == ["job"]


async def test_a_queued_job_is_put_off_and_runs_once(store: Store):
    await joined(store, "w")
    await send(store, "job", "other")
    assert await move(store, delay_ms=LONG) == [JobState.QUEUED]
    assert ids(await take(store, "w")) == ["other"]
    assert await move(store) == [JobState.SCHEDULED]
    assert await move(store) == [JobState.QUEUED]
    assert ids(await take(store, "w")) == ["job"]
    assert await take(store, "w") == []


async def test_one_that_runs_or_has_ended_stays(store: Store):
    await joined(store, "w")
    job = await running(store, "w")
    assert await move(store, delay_ms=LONG) == [JobState.RUNNING]
    assert await settle(store, "w", job, Verb.SUCCEEDED, THREE)
    assert await move(store) == [JobState.SUCCEEDED]
    await send(store, "gone", delay_ms=LONG)
    await store.cancel(QUEUE, ["gone"], REASON, LONG)
    assert await move(store, "gone", "never") == [JobState.CANCELLED, None]
    assert await take(store, "w") == []


async def test_a_retry_need_not_be_waited_for(store: Store):
    await joined(store, "w")
    assert await settle(store, "w", await running(store, "w"), Verb.RETRY, THREE, delay_ms=LONG)
    assert await move(store) == [JobState.SCHEDULED]
    assert (await take_one(store, "w")).attempts == 1


async def test_a_job_that_comes_before_all_others_wakes_a_worker(store: Store, backend: Backend):
    await joined(store, "w")
    await store.enqueue(QUEUE, [NewJob("a", CALL, delay_ms=LONG), NewJob("b", CALL, delay_ms=2 * LONG)])
    assert await take(store, "w") == []
    waiting = await backend.blocked(store, "w")
    await move(store, "b", delay_ms=1000)
    (token,) = await waiting
    claim = await store.claim(QUEUE, "w", 1, [token])
    assert claim.next_due_ms is not None
    assert claim.next_due_ms <= 1000


async def test_a_snoozed_job_runs_again_with_its_attempts_unchanged(store: Store):
    await joined(store, "w")
    job = await running(store, "w")
    assert await settle(store, "w", job, Verb.SNOOZE, delay_ms=LONG)
    assert ((await info(store)).state, (await info(store)).attempts) == (JobState.SCHEDULED, 0)
    await move(store)
    again = await take_one(store, "w")
    assert (again.attempts, again.crashes, again.interruptions, again.claims) == (0, 0, 0, 2)
    assert await settle(store, "w", again, Verb.SNOOZE)
    assert (await take_one(store, "w")).claims == 3


async def test_a_job_that_was_cancelled_while_it_snoozed_off_ends(store: Store):
    await joined(store, "w")
    job = await running(store, "w")
    await store.cancel(QUEUE, ["job"], REASON, LONG)
    assert await settle(store, "w", job, Verb.SNOOZE, delay_ms=LONG)
    assert await state(store) is JobState.CANCELLED
