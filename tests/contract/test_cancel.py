"""Cancelling: a waiting job ends here, the worker of a running one is notified, an ended one stays."""

from collections.abc import Sequence
from typing import Any

import pytest

from aioq.errors import ServerUnavailableError
from aioq.jobs.job import JobState
from aioq.store.contract import Store, Verb
from aioq.store.pubsub import SEPARATOR, worker_channel
from aioq.store.redis import RedisStore
from tests.contract.kit import (
    BROKEN,
    LONG,
    QUEUE,
    REASON,
    THREE,
    Backend,
    Listener,
    info,
    joined,
    keep,
    running,
    send,
    settle,
    state,
    take,
    take_one,
)

pytestmark = pytest.mark.anyio


async def cancel(store: Store, *ids: str, ttl_ms: int = LONG) -> list[JobState | None]:
    return await store.cancel(QUEUE, ids or ["job"], REASON, ttl_ms)


async def test_nothing_to_cancel(store: Store) -> None:
    assert await store.cancel(QUEUE, [], REASON, LONG) == []
    assert await cancel(store, "unknown") == [None]


async def test_a_queued_job_is_cancelled(store: Store) -> None:
    await send(store, "job")

    assert await cancel(store) == [JobState.QUEUED]

    assert await state(store) is JobState.CANCELLED
    assert await store.wait(QUEUE, "me", ["job"]) == [REASON]
    assert await take(store, await joined(store, "w")) == []


async def test_a_scheduled_job_is_cancelled(store: Store) -> None:
    await send(store, "job", delay_ms=LONG)

    assert await cancel(store) == [JobState.SCHEDULED]

    found = await info(store)
    assert (found.state, found.due_at) == (JobState.CANCELLED, None)
    assert (await store.promote(QUEUE, 1)).next_due_ms is None


async def test_a_retry_that_waits_is_cancelled(store: Store) -> None:
    worker = await joined(store, "w")
    await settle(store, worker, await running(store, worker), Verb.RETRY, BROKEN, delay_ms=LONG)

    assert await cancel(store) == [JobState.SCHEDULED]

    found = await info(store)
    assert (found.state, found.attempts, found.error) == (JobState.CANCELLED, 1, None)


async def test_a_cancellation_without_ttl_is_forgotten(store: Store) -> None:
    await send(store, "job")

    assert await cancel(store, ttl_ms=0) == [JobState.QUEUED]

    assert await state(store) is None


@pytest.mark.parametrize(
    ("verb", "outcome", "ended"),
    [
        (Verb.SUCCEEDED, THREE, JobState.SUCCEEDED),
        (Verb.FAILED, BROKEN, JobState.FAILED),
        (Verb.CANCELLED, REASON, JobState.CANCELLED),
    ],
)
async def test_what_has_ended_stays(store: Store, verb: Verb, outcome: bytes, ended: JobState) -> None:
    worker = await joined(store, "w")
    await settle(store, worker, await running(store, worker), verb, outcome)
    before = await info(store)

    assert await cancel(store) == [ended]

    assert await info(store) == before


async def test_a_batch_gives_the_state_of_each(store: Store) -> None:
    await running(store, await joined(store, "w"), "running")
    await send(store, "queued")
    await send(store, "scheduled", delay_ms=LONG)

    assert await cancel(store, "scheduled", "unknown", "running", "queued", "queued") == [
        JobState.SCHEDULED,
        None,
        JobState.RUNNING,
        JobState.QUEUED,
        JobState.CANCELLED,
    ]


# While it runs


async def test_the_worker_is_notified(store: Store, backend: Backend) -> None:
    other = await backend.open()
    listener = await Listener.on(store, worker_channel(backend.app, QUEUE, "w"))
    await running(store, await joined(store, "w"), "jöb 1")

    assert await cancel(other, "jöb 1") == [JobState.RUNNING]

    assert await listener.next() == "jöb 1".encode() + SEPARATOR + REASON
    assert await state(store, "jöb 1") is JobState.RUNNING


async def test_a_renewal_names_what_is_to_be_cancelled(store: Store) -> None:
    """The way for a worker whose subscription was down."""
    worker = await joined(store, "w")
    await joined(store, "other")
    await running(store, worker)
    assert (await keep(store, worker)).cancelled == ()

    await cancel(store)

    assert (await keep(store, worker)).cancelled == ("job",)
    assert (await keep(store, "other")).cancelled == ()


@pytest.mark.parametrize("verb", [Verb.RETRY, Verb.INTERRUPT, Verb.RELEASE, Verb.PARK, Verb.CANCELLED])
async def test_a_job_that_was_cancelled_does_not_run_again(store: Store, verb: Verb) -> None:
    worker = await joined(store, "w")
    job = await running(store, worker)
    await cancel(store)

    assert await settle(store, worker, job, verb, BROKEN, delay_ms=LONG)

    found = await info(store)
    assert (found.state, found.attempts, found.due_at) == (JobState.CANCELLED, 0, None)
    assert await store.wait(QUEUE, "me", ["job"]) == [REASON]
    assert (await keep(store, worker)).cancelled == ()
    assert await take(store, worker) == []


@pytest.mark.parametrize("verb", [Verb.SUCCEEDED, Verb.FAILED])
async def test_a_job_that_ends_first_keeps_its_own_outcome(store: Store, verb: Verb) -> None:
    worker = await joined(store, "w")
    job = await running(store, worker)
    await cancel(store)

    assert await settle(store, worker, job, verb, BROKEN)

    assert await store.wait(QUEUE, "me", ["job"]) == [BROKEN]
    assert await state(store) is JobState(verb.value)
    assert (await keep(store, worker)).cancelled == ()


async def test_the_ttl_of_the_cancellation_counts(store: Store) -> None:
    worker = await joined(store, "w")
    job = await running(store, worker)
    await cancel(store, ttl_ms=0)

    await settle(store, worker, job, Verb.RETRY, BROKEN, ttl_ms=LONG)

    assert await state(store) is None


async def test_a_departing_worker_leaves_cancelled_what_was_to_be_cancelled(store: Store) -> None:
    worker = await joined(store, "w")
    await running(store, worker)
    await cancel(store)

    await store.depart(QUEUE, worker)

    assert await state(store) is JobState.CANCELLED
    assert await store.wait(QUEUE, "me", ["job"]) == [REASON]


async def test_a_job_can_be_sent_again_after_its_cancellation_is_forgotten(store: Store) -> None:
    worker = await joined(store, "w")
    job = await running(store, worker)
    await cancel(store, ttl_ms=0)
    await settle(store, worker, job, Verb.RELEASE)

    assert await send(store, "job") == [True]

    again = await take_one(store, worker)
    assert again.claims == 1
    assert await settle(store, worker, again, Verb.RETRY, BROKEN)
    assert await state(store) is JobState.QUEUED, "the new job was not asked to be cancelled"


# A reply that got lost


@pytest.fixture
def lost_replies(redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of scripts whose next reply is to get lost, in the order they are called."""
    call, lost = redis_store._link.call, list[str]()

    async def losing(name: str, key: str, args: Sequence[Any], confirmation: Any) -> Any:
        reply = await call(name, key, args, confirmation)
        if lost and lost[0] == name:
            raise ServerUnavailableError(f"the reply to {lost.pop(0)} is lost")
        return reply

    monkeypatch.setattr(redis_store._link, "call", losing)
    return lost


@pytest.mark.parametrize("ttl_ms", [0, LONG])
async def test_a_cancellation_whose_reply_was_lost_finds_what_it_found_the_first_time(
    redis_store: RedisStore, lost_replies: list[str], ttl_ms: int
) -> None:
    worker = await joined(redis_store, "w")
    await running(redis_store, worker, "running")
    await settle(redis_store, worker, await running(redis_store, worker, "ended"), Verb.SUCCEEDED, THREE)
    await send(redis_store, "queued")
    await send(redis_store, "scheduled", delay_ms=LONG)
    names = ["queued", "unknown", "running", "ended", "scheduled"]
    lost_replies.append("cancel")

    states = await cancel(redis_store, *names, ttl_ms=ttl_ms)

    assert states == ["queued", None, "running", "succeeded", "scheduled"]
    assert lost_replies == []
    assert await cancel(redis_store, "queued") == [JobState.CANCELLED if ttl_ms else None], (
        "another call looks anew"
    )


async def test_a_worker_is_asked_once_though_the_reply_was_lost(
    redis_store: RedisStore, lost_replies: list[str]
) -> None:
    worker = await joined(redis_store, "w")
    await running(redis_store, worker)
    await running(redis_store, worker, "end")
    listener = await Listener.on(redis_store, worker_channel(redis_store._app, QUEUE, worker))
    lost_replies.append("cancel")

    assert await cancel(redis_store) == [JobState.RUNNING]
    await cancel(redis_store, "end")

    heard = [await listener.next(), await listener.next()]
    assert heard == [b"job" + SEPARATOR + REASON, b"end" + SEPARATOR + REASON]


async def test_what_is_kept_of_a_cancellation_expires(redis_store: RedisStore, redis_backend: Backend) -> None:
    await cancel(redis_store, "unknown")
    await send(redis_store, "job")
    await cancel(redis_store)
    await cancel(redis_store)

    assert redis_backend.database is not None
    with redis_backend.database.client() as client:
        (receipt,) = client.scan_iter(redis_backend.key("receipt:*"))
        assert 0 < client.pttl(receipt) <= 60_000  # pyright: ignore[reportOperatorIssue]
