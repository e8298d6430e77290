"""Batches: jobs of one key are claimed together, when there are enough of them or the first has waited."""

from contextlib import suppress

import pytest

from aioq.errors import ServerError
from aioq.jobs.job import JobState, Priority
from aioq.store.contract import Added, Limits, NewJob, Settlement, Store, Verb
from aioq.store.extra import Expiry, Extra, Gather, Lock
from aioq.store.memory import MemoryStore
from aioq.store.operating import ListQuery
from aioq.store.redis.store import RedisStore
from aioq.wire.messages import encode_envelope
from tests.contract.inside import ServerInside
from tests.contract.kit import (
    CALL,
    CRASHED,
    LONG,
    QUEUE,
    REASON,
    THREE,
    Backend,
    eventually,
    ids,
    joined,
    keep,
    send,
    settle,
    state,
)
from tests.contract.refusing import refusing
from tests.databases import Database

pytestmark = pytest.mark.anyio

KEY = "shop.add"
SOON = 30  # ms


@pytest.fixture
def limits() -> Limits:
    return Limits(lease_ms=LONG, max_crashes=1)


def job(
    job_id: str,
    size: int = 3,
    wait_ms: int = LONG,
    *,
    key: str = KEY,
    max_bytes: int = 1_000_000,
    call: bytes = CALL,
    priority: Priority = Priority.NORMAL,
    delay_ms: int | None = None,
    expires_ms: int = 0,
    unique: str = "",
) -> NewJob:
    extra = Extra(
        batch=Gather(key, size, wait_ms, max_bytes),
        expires=Expiry(span_ms=expires_ms) if expires_ms else None,
        unique=Lock(unique, "started") if unique else None,
    )
    return NewJob(job_id, call, priority, delay_ms, extra=extra)


def replacing(job_id: str, key: str) -> NewJob:
    """A job that takes the place of the one that waits with the same unique key."""
    return NewJob(
        job_id, CALL, extra=Extra(batch=Gather(key, 3, LONG, 1_000_000), unique=Lock("k", "ended", "replace"))
    )


async def put(store: Store, *jobs: NewJob) -> list[Added]:
    return await store.enqueue(QUEUE, jobs)


async def claim(store: Store, count: int = 10) -> tuple[list[str], list[list[str]]]:
    """The single jobs and the batches of a claim."""
    found = await store.claim(QUEUE, await joined(store, "w"), count)
    return ids(found.jobs), [ids(batch) for batch in found.batches]


def make_due(backend: Backend, name: str = f"normal {KEY}") -> None:
    """Let what waits be due now: so no test depends on how fast it is."""
    if backend.database is None:
        memory = backend._make()
        assert isinstance(memory, MemoryStore)
        memory._queues[QUEUE]._timers.set("batch", name, 0)
        return
    with backend.database.client() as client:
        client.zadd(backend.key("timers"), {f"batch {name}": 1})
        client.zadd(backend.key("scheduled"), {"": 1})


def delete(backend: Backend, name: str) -> None:
    assert backend.database is not None
    with backend.database.client() as client:
        assert client.delete(backend.key(name)) == 1


async def recover(store: Store) -> None:
    while (await store.recover(QUEUE, CRASHED, 100, dead="w")).more:
        pass


# -- who is taken together


async def test_as_many_as_a_batch_has_are_taken_together_in_the_order_of_their_sends(store: Store) -> None:
    await put(store, *(job(f"job-{n}") for n in range(7)))
    assert await claim(store) == ([], [["job-0", "job-1", "job-2"], ["job-3", "job-4", "job-5"]])
    assert await state(store, "job-5") is JobState.RUNNING
    assert await state(store, "job-6") is JobState.WAITING


async def test_a_batch_counts_as_one_job(store: Store) -> None:
    await put(store, *(job(f"job-{n}") for n in range(9)))
    await send(store, "alone")
    assert await claim(store, 2) == ([], [["job-0", "job-1", "job-2"], ["job-3", "job-4", "job-5"]])
    assert await claim(store, 2) == (["alone"], [["job-6", "job-7", "job-8"]])


async def test_those_that_wait_come_before_those_that_come_later(store: Store) -> None:
    for n in range(3):
        await put(store, job(f"job-{n}"))
        assert await claim(store) == ([], [["job-0", "job-1", "job-2"]] if n == 2 else [])


async def test_jobs_of_other_keys_and_lanes_are_in_other_batches(store: Store) -> None:
    await put(store, job("a"), job("x", key="other"), job("high", priority=Priority.HIGH), job("b"))
    await put(store, job("y", key="other"), job("higher", priority=Priority.HIGH))
    assert await claim(store) == ([], [])
    await put(store, job("c"), job("highest", priority=Priority.HIGH), job("z", key="other"))
    found = await claim(store)
    assert found == ([], [["high", "higher", "highest"], ["a", "b", "c"], ["x", "y", "z"]])


async def test_a_batch_is_closed_by_its_bytes(store: Store) -> None:
    large = encode_envelope("shop.add", ["x" * 400], {}, None)
    await put(store, *(job(f"job-{n}", 100, max_bytes=1000, call=large) for n in range(5)))
    assert (await claim(store))[1] == [["job-0", "job-1"], ["job-2", "job-3"]]
    assert await state(store, "job-4") is JobState.WAITING


async def test_calls_in_keys_of_their_own_are_in_batches_too(store: Store) -> None:
    call = encode_envelope("shop.add", ["x" * 2_000], {}, None)
    await put(store, *(job(f"job-{n}", call=call) for n in range(3)))
    (batch,) = (await store.claim(QUEUE, await joined(store, "w"), 1)).batches
    assert [each.envelope for each in batch] == [call] * 3


async def test_what_is_known_of_each_job(store: Store) -> None:
    await put(store, *(job(f"job-{n}") for n in range(3)))
    (batch,) = (await store.claim(QUEUE, await joined(store, "w"), 1)).batches
    assert [(each.attempts, each.claims, each.is_unique) for each in batch] == [(0, 1, False)] * 3
    for each in batch:
        await settle(store, "w", each, Verb.RETRY, CRASHED)
    (batch,) = (await store.claim(QUEUE, "w", 1)).batches
    assert [(each.attempts, each.claims) for each in batch] == [(1, 2)] * 3


# -- when they are taken


async def test_what_has_waited_is_taken_although_there_are_too_few(store: Store, backend: Backend) -> None:
    await put(store, job("a"), job("b"))
    assert await claim(store) == ([], [])
    make_due(backend)
    assert (await store.promote(QUEUE, 100)).count == 1
    assert await claim(store) == ([], [["a", "b"]])


async def test_the_time_to_wait_passes_by_itself(store: Store) -> None:
    await put(store, job("a", wait_ms=SOON))

    async def taken() -> list[list[str]]:
        await store.promote(QUEUE, 100)
        return (await claim(store))[1]

    assert await eventually(taken) == [["a"]]


async def test_what_has_waited_in_its_lane_is_taken_at_once(store: Store) -> None:
    await put(store, job("a", wait_ms=0), job("b", wait_ms=0))
    assert await claim(store) == ([], [["a", "b"]])


async def test_the_claim_says_when_they_are_due(store: Store) -> None:
    await put(store, job("a"))
    found = await store.claim(QUEUE, await joined(store, "w"), 1)
    assert found.next_due_ms is not None
    assert LONG - 60_000 < found.next_due_ms <= LONG


async def test_who_is_blocked_is_woken_when_they_are_due(store: Store, backend: Backend) -> None:
    await put(store, job("a"))
    assert await claim(store) == ([], [])
    blocked = await backend.blocked(store, "w")
    make_due(backend)
    await store.promote(QUEUE, 100)
    tokens = await blocked
    found = await store.claim(QUEUE, "w", 1, tokens)
    assert [ids(batch) for batch in found.batches] == [["a"]]


async def test_an_entry_that_was_delivered_and_not_claimed_is_not_lost(store: Store, backend: Backend) -> None:
    await put(store, job("a"))
    assert await claim(store) == ([], [])
    blocked = await backend.blocked(store, "w")
    make_due(backend)
    await store.promote(QUEUE, 100)
    assert len(await blocked) == 1
    await recover(store)
    assert await claim(store) == ([], [["a"]])


async def test_scheduled_jobs_are_in_batches_once_they_are_due(store: Store) -> None:
    await put(store, *(job(f"job-{n}", delay_ms=1) for n in range(3)))

    async def taken() -> list[list[str]]:
        await store.promote(QUEUE, 100)
        return (await claim(store))[1]

    assert sorted((await eventually(taken))[0]) == ["job-0", "job-1", "job-2"]


# -- the doors


async def test_a_job_that_is_cancelled_while_it_waits_leaves_the_others(store: Store, backend: Backend) -> None:
    await put(store, job("a"), job("b"))
    assert await claim(store) == ([], [])
    assert await store.cancel(QUEUE, ["a"], REASON, LONG) == [JobState.WAITING]
    await put(store, job("c"), job("d"))
    assert await claim(store) == ([], [["b", "c", "d"]])
    assert backend.timers() == []


async def test_the_last_one_that_is_cancelled_leaves_nothing(store: Store, backend: Backend) -> None:
    await put(store, job("a"))
    assert await claim(store) == ([], [])
    assert len(backend.timers()) == 1
    await store.operating.delete(QUEUE, ["a"], REASON)
    assert backend.timers() == []
    assert await state(store, "a") is None


async def test_a_job_that_expires_while_it_waits(store: Store) -> None:
    await put(store, job("a", expires_ms=SOON), job("b"))

    async def expired() -> bool:
        assert await claim(store) == ([], [])
        await store.promote(QUEUE, 100)
        return await state(store, "a") is JobState.CANCELLED

    await eventually(expired)
    await put(store, job("c"), job("d"))
    assert await claim(store) == ([], [["b", "c", "d"]])


async def test_a_key_that_is_held_until_the_start_is_held_while_a_job_waits(store: Store) -> None:
    await put(store, job("a", unique="k"), job("b"))
    assert await claim(store) == ([], [])
    assert await store.operating.unique_owner(QUEUE, "k") == "a"
    await put(store, job("c"))
    assert await claim(store) == ([], [["a", "b", "c"]])
    assert await store.operating.unique_owner(QUEUE, "k") is None


@pytest.mark.parametrize("verb", [Verb.INTERRUPT, Verb.RELEASE, Verb.SNOOZE, Verb.RETRY])
async def test_a_job_that_comes_back_is_in_a_batch_again(store: Store, verb: Verb) -> None:
    await put(store, *(job(f"job-{n}") for n in range(3)))
    (batch,) = (await store.claim(QUEUE, await joined(store, "w"), 1)).batches
    outcome = CRASHED if verb is Verb.RETRY else b""
    assert (
        await store.settle(
            QUEUE,
            "w",
            [
                Settlement(batch[0].id, batch[0].claim, verb, outcome),
                *(Settlement(each.id, each.claim, Verb.SUCCEEDED, THREE, ttl_ms=LONG) for each in batch[1:]),
            ],
        )
        == [True] * 3
    )
    await put(store, job("new"), job("newer"))
    (again,) = (await claim(store))[1]
    assert sorted(again) == ["job-0", "new", "newer"]


async def test_the_jobs_of_a_dead_worker_come_back_each_with_its_crash(store: Store) -> None:
    await put(store, *(job(f"job-{n}") for n in range(3)))
    assert await claim(store) == ([], [["job-0", "job-1", "job-2"]])
    await recover(store)
    (batch,) = (await store.claim(QUEUE, await joined(store, "w"), 1)).batches
    assert sorted(ids(batch)) == ["job-0", "job-1", "job-2"]
    assert [each.crashes for each in batch] == [1] * 3


async def test_what_waits_is_not_lost_with_the_worker_that_met_it(store: Store) -> None:
    await put(store, job("a"), job("b"))
    assert await claim(store) == ([], [])
    await recover(store)
    await put(store, job("c"))
    assert await claim(store) == ([], [["a", "b", "c"]])


async def test_a_claim_whose_reply_was_lost_gives_the_jobs_again(store: Store) -> None:
    await put(store, *(job(f"job-{n}") for n in range(3)))
    assert await claim(store) == ([], [["job-0", "job-1", "job-2"]])
    found = await store.claim(QUEUE, "w", 10, known=[])
    assert sorted(ids([*found.jobs, *(each for batch in found.batches for each in batch)])) == [
        "job-0",
        "job-1",
        "job-2",
    ]


async def test_a_dead_job_that_is_queued_again_is_in_a_batch(store: Store) -> None:
    await put(store, job("a", 1))
    (batch,) = (await store.claim(QUEUE, await joined(store, "w"), 1)).batches
    await settle(store, "w", batch[0], Verb.FAILED, CRASHED)
    await store.operating.reopen(QUEUE, ["a"])
    assert await claim(store) == ([], [["a"]])


# -- pauses, lists and counts


async def test_a_paused_task_keeps_what_waits_until_it_is_resumed(store: Store, backend: Backend) -> None:
    await put(store, job("a"), job("b"))
    assert await claim(store) == ([], [])
    await store.operating.pauses.pause(QUEUE, ["shop.add"], None)
    make_due(backend)
    await store.promote(QUEUE, 100)
    assert await claim(store) == ([], [])
    assert await state(store, "a") is JobState.QUEUED
    await store.operating.pauses.resume(QUEUE, ["shop.add"])
    await put(store, job("c"))
    assert await claim(store) == ([], [["a", "b", "c"]])


async def test_jobs_that_wait_for_a_batch_are_listed(store: Store) -> None:
    await put(store, job("a"), job("b"), job("x", key="other"))
    assert await claim(store) == ([], [])
    listing = await store.operating.list_jobs(QUEUE, ListQuery(JobState.WAITING), (), 10)
    assert sorted(each.info.id for each in listing.items if each.info is not None) == ["a", "b", "x"]


async def test_nothing_is_counted_as_queued_that_waits_or_runs(store: Store, backend: Backend) -> None:
    await put(store, *(job(f"job-{n}") for n in range(5)))
    assert (await claim(store))[1] == [["job-0", "job-1", "job-2"]]
    assert (await store.operating.count_jobs(QUEUE, ListQuery(JobState.QUEUED))).count == 0
    make_due(backend)
    await store.promote(QUEUE, 100)
    assert await claim(store) == ([], [["job-3", "job-4"]])
    assert (await store.operating.count_jobs(QUEUE, ListQuery(JobState.QUEUED))).count == 0


# -- scripts that fail half-way


@pytest.mark.parametrize("dies", [False, True], ids=["lives", "dies"])
async def test_a_claim_that_fails_half_way_loses_nothing(server: Database, app_name: str, dies: bool) -> None:
    async with refusing(server, app_name, Limits(lease_ms=LONG)) as at:
        for queue in at.each("claim"):
            await joined(at.full, "w", queue)
            await at.full.enqueue(queue, [job("early", wait_ms=LONG)])
            assert not (await at.full.claim(queue, "w", 9)).batches
            sent = [f"job-{n}" for n in range(4)]
            await at.full.enqueue(queue, [job(each, wait_ms=LONG) for each in sent])
            with suppress(ServerError):
                await at.limited.claim(queue, "w", 9)
            if dies:
                while (await at.full.recover(queue, CRASHED, 100, dead="w")).more:
                    pass
                await joined(at.full, "w", queue)
            found = await at.full.claim(queue, "w", 9, known=[])
            taken = sorted([*ids(found.jobs), *(each.id for batch in found.batches for each in batch)])
            infos = [each for each in await at.full.info(queue, ["early", *sent]) if each is not None]
            waiting = sorted(each.id for each in infos if each.state is JobState.WAITING)
            assert sorted([*taken, *waiting]) == ["early", *sent], queue
            assert len(taken) >= 3, queue


async def test_a_promotion_that_fails_half_way_is_carried_on(server: Database, app_name: str) -> None:
    async with refusing(server, app_name, Limits(lease_ms=LONG)) as at:
        for queue in at.each("promote"):
            await joined(at.full, "w", queue)
            await at.full.enqueue(queue, [job("a", wait_ms=SOON)])

            async def taken(queue: str = queue) -> bool:
                with suppress(ServerError):
                    await at.limited.promote(queue, 100)
                await at.full.promote(queue, 100)
                return bool((await at.full.claim(queue, "w", 9)).batches)

            await eventually(taken)


# -- what is done to a job that waits for others


async def test_a_job_that_waits_may_be_moved_to_another_lane(store: Store, backend: Backend) -> None:
    await put(store, job("a"), job("b"))
    assert await claim(store) == ([], [])
    await store.operating.prioritize(QUEUE, ["a"], Priority.HIGH)
    await put(store, job("c"), job("d"), job("e", priority=Priority.HIGH), job("f", priority=Priority.HIGH))
    assert await claim(store) == ([], [["a", "e", "f"], ["b", "c", "d"]])
    assert backend.timers() == []


async def test_a_job_that_waits_may_be_deleted_in_another_lane(store: Store, backend: Backend) -> None:
    await put(store, job("a"))
    assert await claim(store) == ([], [])
    await store.operating.prioritize(QUEUE, ["a"], Priority.HIGH)
    assert await claim(store) == ([], [])
    await store.operating.delete(QUEUE, ["a"], REASON)
    assert await claim(store) == ([], [])
    assert backend.timers() == []


async def test_a_job_that_waits_may_be_put_off(store: Store) -> None:
    await put(store, job("a"), job("b"))
    assert await claim(store) == ([], [])
    assert await store.reschedule(QUEUE, ["a"], delay_ms=LONG) == [JobState.QUEUED]
    assert await state(store, "a") is JobState.SCHEDULED
    await put(store, job("c"), job("d"))
    assert await claim(store) == ([], [["b", "c", "d"]])


async def test_a_job_that_waits_may_be_run_now_with_the_others(store: Store, backend: Backend) -> None:
    await put(store, job("a"), job("b"), job("other", key="other"))
    assert await claim(store) == ([], [])
    assert await store.reschedule(QUEUE, ["a"]) == [JobState.QUEUED]
    (batch,) = (await claim(store))[1]
    assert sorted(batch) == ["a", "b"]
    assert await state(store, "other") is JobState.WAITING


async def test_a_job_that_was_run_now_waits_for_others_again_when_it_is_retried(store: Store) -> None:
    await put(store, job("a"))
    assert await claim(store) == ([], [])
    assert await store.reschedule(QUEUE, ["a"]) == [JobState.QUEUED]
    worker = await joined(store, "w")
    claimed = await store.claim(QUEUE, worker, 10)
    ((run,),) = claimed.batches
    assert await store.settle(QUEUE, worker, [Settlement(run.id, run.claim, Verb.RETRY, THREE)]) == [True]
    assert await claim(store) == ([], []), "it waits"
    assert await state(store, "a") is JobState.WAITING
    await put(store, job("b"), job("c"))
    assert await claim(store) == ([], [["a", "b", "c"]])


async def test_a_job_that_is_run_now_twice_is_run_now(store: Store) -> None:
    await put(store, job("a"), job("b", key="other"))
    assert await claim(store) == ([], [])
    for each in "ab":
        assert await store.reschedule(QUEUE, [each]) == [JobState.QUEUED]
    ((first,),) = (await claim(store, 1))[1]
    (left,) = {"a", "b"} - {first}
    assert await state(store, left) is JobState.WAITING, "the claim has met it, and had no room"
    assert await store.reschedule(QUEUE, [left]) == [JobState.QUEUED]
    assert await claim(store) == ([], [[left]])


async def test_a_job_that_waits_may_be_moved_to_another_queue(store: Store) -> None:
    await put(store, job("a"), job("b"))
    assert await claim(store) == ([], [])
    assert await store.outbox.move(QUEUE, ["a"], "elsewhere") == [JobState.QUEUED]
    assert await store.outbox.move(QUEUE, ["a"], "elsewhere") == [JobState.QUEUED]
    await put(store, job("c"), job("d"))
    assert await claim(store) == ([], [["b", "c", "d"]])


async def test_a_call_that_takes_the_place_of_one_that_waits_is_in_its_own_batch(store: Store) -> None:
    await put(store, replacing("a", "one"), job("b", key="one"))
    assert await claim(store) == ([], [])
    await put(store, replacing("new", "two"), job("c", key="one"), job("d", key="two"), job("e", key="two"))
    await put(store, job("f", key="one"))
    found = await claim(store)
    assert [sorted(batch) for batch in found[1]] == [["a", "d", "e"], ["b", "c", "f"]]


# -- what vanishes


async def test_jobs_whose_set_has_vanished_are_found_by_a_sweep(
    redis_store: RedisStore, redis_backend: Backend
) -> None:
    await put(redis_store, job("a"), job("b"))
    assert await claim(redis_store) == ([], [])
    delete(redis_backend, f"batch:normal {KEY}")
    await keep(redis_store, "w", "sweep")
    await put(redis_store, job("c"))
    ((*batch,),) = (await claim(redis_store))[1]
    assert sorted(batch) == ["a", "b", "c"]


async def test_a_timer_that_has_vanished_is_set_by_a_sweep(
    redis_store: RedisStore, redis_backend: Backend
) -> None:
    await put(redis_store, job("a"), job("b"))
    assert await claim(redis_store) == ([], [])
    timers = redis_backend.timers()
    delete(redis_backend, "timers")
    await keep(redis_store, "w", "sweep")
    assert redis_backend.timers() == timers != []


async def test_a_queue_that_is_paused_for_long_gets_one_entry_for_a_batch(
    redis_store: RedisStore, redis_backend: Backend
) -> None:
    await put(redis_store, job("a", wait_ms=30_000), job("b", wait_ms=30_000))
    assert await claim(redis_store) == ([], [])
    await redis_store.operating.pauses.pause(QUEUE, [])
    entries: list[int] = []
    with redis_backend.database.client() as client:  # pyright: ignore[reportOptionalMemberAccess] - it is on a server
        inside = ServerInside(client, redis_backend.key("").removesuffix(":"))
        for _ in range(4):
            inside.jump(61_000)
            await redis_store.promote(QUEUE, 10)
            entries.append(inside.places().waiting[f"\x1fnormal {KEY}"])
    assert entries == [1, 1, 1, 1]
    await redis_store.operating.pauses.resume(QUEUE, [])
    assert await claim(redis_store) == ([], [["a", "b"]])


async def test_a_job_that_follows_another_one_is_not_taken_for_one_that_nothing_finds(store: Store) -> None:
    latest = Lock("k", "ended", "latest")
    await put(store, NewJob("a", CALL, extra=Extra(unique=latest)))
    assert await claim(store) == (["a"], [])
    await put(store, NewJob("b", CALL, extra=Extra(batch=Gather(KEY, 1, 0, 1_000_000), unique=latest)))
    await keep(store, "w", "sweep")
    assert await claim(store) == ([], [])
    assert await state(store, "b") is JobState.WAITING
