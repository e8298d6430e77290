"""Sending: every id once, whatever it looks like; the due time decides where a job starts."""

from datetime import UTC, datetime, timedelta

import pytest

from aioq.clock import SystemClock
from aioq.job import JobState, Priority
from aioq.store import NewJob, Store
from tests.contract.kit import CALL, LONG, QUEUE, eventually, ids, info, joined, running, send, state, take

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
    await send(store, *"abc", delay_ms=1)

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
