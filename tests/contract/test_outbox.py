"""Jobs that are moved to another queue, and the outbox by which they go there and their ends come back."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from aioq.errors import ServerError, ServerUnavailableError
from aioq.jobs.job import JobState, Priority
from aioq.store.contract import Claimed, Limits, NewJob, Settlement, Store, Verb
from aioq.store.extra import LOST_OUTCOME, Expiry, Extra, MovedJob
from aioq.store.outbox import DeliveryResult, OutboxEntry, Reading
from aioq.store.outcomes import MISSING
from aioq.store.redis import RedisStore
from aioq.store.relay import relay
from aioq.store.upkeep import Promotion
from aioq.wire.messages import encode_result
from aioq.worker.duties.relays import Relays
from tests.contract.kit import (
    BROKEN,
    CALL,
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
    send,
    state,
)

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=20)]

OTHER, THIRD = "post", "night"
LARGE_CALL = b"\x80" * 70_000
LARGE = encode_result("shop.add", "x" * 70_000)


async def moved(store: Store, *job_ids: str, source: str = QUEUE, target: str = OTHER) -> None:
    """Move jobs that wait, all the way."""
    found = await store.outbox.move(source, job_ids, target)
    assert set(found) <= {JobState.QUEUED, JobState.SCHEDULED}
    await relay(store.outbox, source, target)


async def claimed(store: Store, queue: str, count: int = 10, worker: str = "w") -> Sequence[Claimed]:
    """What a worker of a queue gets."""
    await joined(store, worker, queue)
    return (await store.claim(queue, worker, count)).jobs


async def ended(
    store: Store,
    queue: str,
    verb: Verb = Verb.SUCCEEDED,
    outcome: bytes = THREE,
    *,
    ttl_ms: int = LONG,
    delay_ms: int = 0,
) -> Claimed:
    """Run the one job of a queue."""
    (job,) = await claimed(store, queue)
    assert await store.settle(queue, "w", [Settlement(job.id, job.claim, verb, outcome, delay_ms, ttl_ms)]) == [
        True
    ]
    return job


async def shown(store: Store, queue: str, job_id: str = "job") -> tuple[str, JobState] | None:
    """The queue and the state that a queue tells."""
    (found,) = await store.info(queue, [job_id])
    return found and (found.queue, found.state)


async def due_relays(store: Store, queue: str) -> list[str]:
    """The queues that a worker is asked to relay to."""
    return list((await store.promote(queue, 100)).relays)


async def test_a_job_that_is_moved_runs_in_the_other_queue_only(store: Store) -> None:
    await send(store, "job")

    assert await store.outbox.move(QUEUE, ["job"], OTHER) == [JobState.QUEUED]
    assert await claimed(store, QUEUE) == []
    assert await shown(store, QUEUE) == (OTHER, JobState.QUEUED)
    assert await shown(store, OTHER) is None

    assert await relay(store.outbox, QUEUE, OTHER) == []
    assert await shown(store, QUEUE) == (OTHER, JobState.QUEUED)
    assert await shown(store, OTHER) == (OTHER, JobState.QUEUED)
    (job,) = await claimed(store, OTHER)
    assert (job.id, job.envelope) == ("job", CALL)
    assert await claimed(store, QUEUE) == []


@pytest.mark.parametrize("size", [10, 70_000])
async def test_everything_about_it_goes_with_it(store: Store, size: int) -> None:
    call = b"\x80" * size
    extra = Extra(("red",), Expiry(span_ms=LONG))
    await store.enqueue(QUEUE, [NewJob("job", call, Priority.HIGH, nonce="n", extra=extra)])
    await ended(store, QUEUE, Verb.RETRY, BROKEN, delay_ms=LONG)
    (before,) = await store.info(QUEUE, ["job"])

    await moved(store, "job")

    (after,) = await store.info(OTHER, ["job"])
    assert before is not None
    assert after is not None
    assert after.due_at == before.due_at
    assert (after.sent_at, after.priority, after.tags, after.expires_at) == (
        *(before.sent_at, Priority.HIGH, ("red",), before.expires_at),
    )
    assert (after.attempts, after.state, after.error) == (1, JobState.SCHEDULED, before.error)
    assert await store.reschedule(OTHER, ["job"]) == [JobState.SCHEDULED]
    (job,) = await claimed(store, OTHER)
    assert (job.envelope, job.attempts, job.claims) == (call, 1, 2)


async def test_who_waits_at_the_old_queue_is_notified_of_the_end(store: Store) -> None:
    listener = await Listener.on(store, "me")
    await send(store, "job")
    assert await store.wait(QUEUE, "me", ["job"]) == [None]
    await moved(store, "job")
    late = await Listener.on(store, "late")
    assert await store.wait(QUEUE, "late", ["job"]) == [None]

    await ended(store, OTHER)
    assert await due_relays(store, OTHER) == [QUEUE]
    await relay(store.outbox, OTHER, QUEUE)

    assert await listener.result_message() == [("job", THREE)]
    assert await late.result_message() == [("job", THREE)]
    assert await store.wait(QUEUE, "me", ["job"]) == [THREE]
    assert await store.wait(OTHER, "me", ["job"]) == [THREE]
    assert await shown(store, QUEUE) == (OTHER, JobState.SUCCEEDED)


@pytest.mark.parametrize("outcome", [THREE, LARGE], ids=["small", "large"])
async def test_a_result_that_is_not_kept_reaches_them(store: Store, outcome: bytes) -> None:
    listener = await Listener.on(store, "me")
    await send(store, "job")
    await store.wait(QUEUE, "me", ["job"])
    await moved(store, "job")

    await ended(store, OTHER, outcome=outcome, ttl_ms=0)
    await relay(store.outbox, OTHER, QUEUE)

    assert await listener.result_message() == [("job", outcome)]
    assert await store.wait(QUEUE, "me", ["job"]) == [MISSING]
    assert await store.wait(OTHER, "me", ["job"]) == [MISSING]


async def test_a_large_result_is_found_in_both_queues(store: Store) -> None:
    listener = await Listener.on(store, "me")
    await send(store, "job")
    await store.wait(QUEUE, "me", ["job"])
    await moved(store, "job")

    await ended(store, OTHER, outcome=LARGE)
    await relay(store.outbox, OTHER, QUEUE)

    assert await listener.result_message() == [("job", None)]
    assert await store.wait(QUEUE, "me", ["job"]) == [LARGE]
    assert await store.wait(OTHER, "me", ["job"]) == [LARGE]


@pytest.mark.parametrize("verb", [Verb.FAILED, Verb.CANCELLED])
async def test_the_record_stays_until_the_other_queue_was_notified(store: Store, verb: Verb) -> None:
    await send(store, "job")
    await moved(store, "job")
    await ended(store, OTHER, verb, BROKEN, ttl_ms=0)
    end = JobState(verb.value)
    assert await shown(store, OTHER) == (OTHER, end)

    await relay(store.outbox, OTHER, QUEUE)

    assert await shown(store, QUEUE) is None
    assert await shown(store, OTHER) == ((OTHER, end) if verb is Verb.FAILED else None)  # a dead job is kept


async def test_only_a_job_that_waits_is_moved(store: Store) -> None:
    await send(store, "job", "later", delay_ms=LONG)
    await send(store, "running")
    await ended(store, QUEUE)
    await send(store, "runs")
    assert ids(await claimed(store, QUEUE)) == ["runs"]

    found = await store.outbox.move(QUEUE, ["none", "runs", "running", "later"], OTHER)

    assert found == [None, JobState.RUNNING, JobState.SUCCEEDED, JobState.SCHEDULED]
    assert await state(store, "runs") is JobState.RUNNING


async def test_the_same_move_again_after_a_lost_reply(store: Store) -> None:
    await send(store, "job")

    for _ in range(2):
        assert await store.outbox.move(QUEUE, ["job"], OTHER) == [JobState.QUEUED]
    await relay(store.outbox, QUEUE, OTHER)
    assert await store.outbox.move(QUEUE, ["job"], OTHER) == [JobState.QUEUED]
    assert await store.outbox.move(QUEUE, ["job"], THIRD) == [None]

    assert ids(await claimed(store, OTHER)) == ["job"]


async def test_what_is_delivered_again_is_ignored(store: Store) -> None:
    await send(store, "job")
    await store.outbox.move(QUEUE, ["job"], OTHER)
    reading = await store.outbox.read(QUEUE, OTHER)
    late = await store.outbox.read(QUEUE, OTHER)
    assert ids_of(reading) == ids_of(late) == ["job"]
    first = await store.outbox.deliver(OTHER, QUEUE, reading)
    await ended(store, OTHER, ttl_ms=0)
    await relay(store.outbox, OTHER, QUEUE)
    assert await shown(store, OTHER) is None

    again = await store.outbox.deliver(OTHER, QUEUE, late)
    await store.outbox.remove(QUEUE, OTHER, reading, first)
    await store.outbox.remove(QUEUE, OTHER, late, again)

    assert await claimed(store, OTHER) == []
    assert (await store.outbox.read(QUEUE, OTHER)).entries == []
    assert await due_relays(store, QUEUE) == []


def ids_of(reading: Reading) -> list[str]:
    return [entry.job_id for entry in reading.entries]


async def test_two_relays_of_the_same_entries(store: Store, backend: Backend) -> None:
    other = await backend.open()
    await send(store, "job")
    await store.outbox.move(QUEUE, ["job"], OTHER)
    mine = await store.outbox.read(QUEUE, OTHER)
    theirs = await other.outbox.read(QUEUE, OTHER)

    done = await other.outbox.deliver(OTHER, QUEUE, theirs)
    assert await relay(store.outbox, QUEUE, OTHER) == []
    mine_done = await store.outbox.deliver(OTHER, QUEUE, mine)
    await store.outbox.remove(QUEUE, OTHER, mine, mine_done)
    await other.outbox.remove(QUEUE, OTHER, theirs, done)

    assert ids(await claimed(store, OTHER)) == ["job"]
    assert await due_relays(store, QUEUE) == []


async def test_entries_are_delivered_in_their_order(store: Store) -> None:
    jobs = [f"job-{number}" for number in range(250)]
    await send(store, *jobs)
    assert set(await store.outbox.move(QUEUE, jobs, OTHER)) == {JobState.QUEUED}

    first = await store.outbox.read(QUEUE, OTHER)
    assert 0 < len(first.entries) < len(jobs)
    assert first.more
    await relay(store.outbox, QUEUE, OTHER)

    assert ids(await claimed(store, OTHER, 300)) == jobs


async def test_a_worker_is_asked_to_relay_and_others_leave_it_to_it(store: Store) -> None:
    await send(store, "job")
    await store.outbox.move(QUEUE, ["job"], OTHER)
    (claim,) = [await store.claim(QUEUE, await joined(store, "w"), 10)]
    assert claim.next_due_ms == 0

    assert await due_relays(store, QUEUE) == [OTHER]
    assert await due_relays(store, QUEUE) == []
    await store.outbox.read(QUEUE, OTHER, 1)

    async def asked_again() -> bool:
        return await due_relays(store, QUEUE) == [OTHER]

    assert await eventually(asked_again) or backend_clock_stands(store)


def backend_clock_stands(store: Store) -> bool:
    return hasattr(store, "clock")


async def test_a_cancellation_on_the_way_reaches_the_job(store: Store) -> None:
    listener = await Listener.on(store, "me")
    await send(store, "job")
    await store.wait(QUEUE, "me", ["job"])
    await store.outbox.move(QUEUE, ["job"], OTHER)

    assert await store.cancel(QUEUE, ["job"], REASON, LONG) == [JobState.QUEUED]
    await relay(store.outbox, QUEUE, OTHER)

    assert await listener.result_message() == [("job", REASON)]
    assert await shown(store, OTHER) == (OTHER, JobState.CANCELLED)
    assert await shown(store, QUEUE) == (OTHER, JobState.CANCELLED)
    assert await claimed(store, OTHER) == []


async def test_a_cancellation_after_the_delivery_follows_the_job(store: Store) -> None:
    await send(store, "job")
    await store.outbox.move(QUEUE, ["job"], OTHER)
    reading = await store.outbox.read(QUEUE, OTHER)
    delivery = await store.outbox.deliver(OTHER, QUEUE, reading)

    assert await store.cancel(QUEUE, ["job"], REASON, LONG) == [JobState.QUEUED]
    assert (await store.outbox.remove(QUEUE, OTHER, reading, delivery)).more
    await relay(store.outbox, QUEUE, OTHER)

    assert await shown(store, OTHER) == (OTHER, JobState.CANCELLED)
    assert await store.cancel(QUEUE, ["job"], REASON, LONG) == [JobState.CANCELLED]


async def test_verbs_for_a_job_that_is_elsewhere_find_nothing(store: Store) -> None:
    await send(store, "job")
    await moved(store, "job")

    assert await store.cancel(QUEUE, ["job"], REASON, LONG) == [None]
    assert await store.reschedule(QUEUE, ["job"], delay_ms=LONG) == [None]
    assert await store.operating.reopen(QUEUE, ["job"]) == [None]
    assert await send(store, "job") == [False], "the id is not free"


async def test_a_chain_of_moves(store: Store) -> None:
    listener = await Listener.on(store, "me")
    await send(store, "job")
    await store.wait(QUEUE, "me", ["job"])
    await moved(store, "job")
    await moved(store, "job", source=OTHER, target=THIRD)
    assert await shown(store, QUEUE) == (OTHER, JobState.QUEUED)
    assert await shown(store, OTHER) == (THIRD, JobState.QUEUED)

    await ended(store, THIRD, ttl_ms=0)
    await relay(store.outbox, THIRD, OTHER)  # and from there on

    assert await listener.result_message() == [("job", THREE)]
    assert [await shown(store, queue) for queue in (QUEUE, OTHER, THIRD)] == [None] * 3


async def test_there_and_back_again(store: Store) -> None:
    listener = await Listener.on(store, "me")
    await send(store, "job")
    await store.wait(QUEUE, "me", ["job"])

    for _ in range(2):
        await moved(store, "job")
        assert await shown(store, QUEUE) == (OTHER, JobState.QUEUED)
        await moved(store, "job", source=OTHER, target=QUEUE)
        assert await shown(store, QUEUE) == (QUEUE, JobState.QUEUED)
    await ended(store, QUEUE)

    assert await listener.result_message() == [("job", THREE)]
    await relay(store.outbox, QUEUE, OTHER)
    assert await shown(store, OTHER) == (QUEUE, JobState.SUCCEEDED)
    assert (await due_relays(store, QUEUE), await due_relays(store, OTHER)) == ([], [])


async def test_back_before_the_first_entry_was_removed(store: Store) -> None:
    await send(store, "job")
    await store.outbox.move(QUEUE, ["job"], OTHER)
    reading = await store.outbox.read(QUEUE, OTHER)
    delivery = await store.outbox.deliver(OTHER, QUEUE, reading)
    await moved(store, "job", source=OTHER, target=QUEUE)

    await store.outbox.remove(QUEUE, OTHER, reading, delivery)
    await relay(store.outbox, QUEUE, OTHER)

    assert await shown(store, QUEUE) == (QUEUE, JobState.QUEUED)
    assert ids(await claimed(store, QUEUE)) == ["job"]
    assert await claimed(store, OTHER) == []


@pytest.mark.parametrize("target", [QUEUE, THIRD])
async def test_a_cancellation_of_a_job_that_has_gone_on_already(store: Store, target: str) -> None:
    """Its old queue does not know yet that it has arrived in the other one, and it is not there any more."""
    await send(store, "job")
    await store.outbox.move(QUEUE, ["job"], OTHER)
    reading = await store.outbox.read(QUEUE, OTHER)
    delivery = await store.outbox.deliver(OTHER, QUEUE, reading)
    assert await store.cancel(QUEUE, ["job"], REASON, LONG) == [JobState.QUEUED]

    await moved(store, "job", source=OTHER, target=target)
    await store.outbox.remove(QUEUE, OTHER, reading, delivery)
    await relay(store.outbox, QUEUE, OTHER)
    await relay(store.outbox, OTHER, target)

    assert await shown(store, target) == (target, JobState.CANCELLED)
    assert await claimed(store, target) == []


async def test_moves_at_once_share_their_relays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [f"job-{number}" for number in range(300)]
    await send(store, *jobs)
    deliver, calls = store.outbox.deliver, 0

    async def counted(target: str, source: str, reading: Reading) -> DeliveryResult:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)  # as on a network
        return await deliver(target, source, reading)

    monkeypatch.setattr(store.outbox, "deliver", counted)
    await asyncio.gather(*(moved(store, job_id) for job_id in jobs))

    assert sorted(ids(await claimed(store, OTHER, 300))) == sorted(jobs)
    # Where each write is confirmed by replicas (sentinels), the moves come in many small groups.
    assert calls <= (20 if store.settles_in_flight == 1 else len(jobs) / 2)


async def test_all_who_share_a_relay_get_its_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    await send(store, "job")
    calls = 0

    async def away(*_: object) -> DeliveryResult:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        raise ServerUnavailableError("away")

    with monkeypatch.context() as patch:
        patch.setattr(store.outbox, "deliver", away)
        await store.outbox.move(QUEUE, ["job"], OTHER)
        relays = [asyncio.create_task(relay(store.outbox, QUEUE, OTHER)) for _ in range(10)]
        found = await asyncio.gather(*relays, return_exceptions=True)
    assert [type(each) for each in found] == [ServerUnavailableError] * 10
    assert calls <= 2
    await relay(store.outbox, QUEUE, OTHER)
    assert ids(await claimed(store, OTHER)) == ["job"]


async def test_a_relay_that_is_cancelled_leaves_the_others_to_go_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await send(store, "job")
    await store.outbox.move(QUEUE, ["job"], OTHER)
    read, begun = store.outbox.read, asyncio.Event()

    async def slow(*args: Any) -> Reading:
        if not begun.is_set():
            begun.set()
            await asyncio.sleep(3600)
        return await read(*args)

    monkeypatch.setattr(store.outbox, "read", slow)
    first = asyncio.create_task(relay(store.outbox, QUEUE, OTHER))
    await begun.wait()
    second = asyncio.create_task(relay(store.outbox, QUEUE, OTHER))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert ids(await claimed(store, OTHER)) == ["job"]


@pytest.mark.parametrize("delay_ms", [None, LONG])
async def test_a_job_whose_id_the_other_queue_has_comes_back(store: Store, delay_ms: int | None) -> None:
    await store.enqueue(OTHER, [NewJob("job", CALL, nonce="theirs")])
    await store.enqueue(QUEUE, [NewJob("job", CALL, nonce="ours", delay_ms=delay_ms)])
    before = await info(store)

    await store.outbox.move(QUEUE, ["job"], OTHER)
    assert await relay(store.outbox, QUEUE, OTHER) == ["job"]

    assert await info(store) == before
    assert len(await claimed(store, OTHER)) == 1
    assert await store.reschedule(QUEUE, ["job"]) == [JobState(before.state)]
    assert ids(await claimed(store, QUEUE)) == ["job"]


async def test_one_that_was_cancelled_on_its_way_ends_when_it_comes_back(store: Store) -> None:
    await store.enqueue(OTHER, [NewJob("job", CALL, nonce="theirs")])
    await store.enqueue(QUEUE, [NewJob("job", CALL, nonce="ours")])
    await store.outbox.move(QUEUE, ["job"], OTHER)
    await store.cancel(QUEUE, ["job"], REASON, LONG)

    assert await relay(store.outbox, QUEUE, OTHER) == []

    assert await state(store) is JobState.CANCELLED
    assert await shown(store, OTHER) == (OTHER, JobState.QUEUED)


async def test_a_job_that_has_vanished_fails(store: Store, backend: Backend) -> None:
    listener = await Listener.on(store, "me")
    await send(store, "job", "there")
    await store.wait(QUEUE, "me", ["job", "there"])
    await moved(store, "job", "there")

    assert await store.outbox.lost(QUEUE, THIRD, ["job"]) == []
    assert await store.outbox.lost(QUEUE, OTHER, ["job"]) == ["job"]
    assert await store.outbox.lost(QUEUE, OTHER, ["job"]) == []

    assert await listener.result_message() == [("job", LOST_OUTCOME)]
    assert await state(store, "there") is JobState.QUEUED


class TestVanished:
    """What was evicted or deleted by hand; the timers that look after it are made due."""

    async def look(self, store: Store, backend: Backend) -> tuple[list[str], list[MovedJob]]:
        assert backend.database is not None
        with backend.database.client() as client:
            client.zadd(backend.key("timers"), {"look job": 1})
            client.zadd(backend.key("scheduled"), {"": 1})
        promotion = await store.promote(QUEUE, 10)
        return list(promotion.relays), list(promotion.moved)

    async def test_a_job_whose_record_has_vanished_fails(
        self, redis_store: RedisStore, redis_backend: Backend
    ) -> None:
        store = redis_store
        listener = await Listener.on(store, "me")
        await send(store, "job")
        await store.wait(QUEUE, "me", ["job"])
        await moved(store, "job")
        relays, (found,) = await self.look(store, redis_backend)
        assert (relays, found.job_id, found.queue) == ([], "job", OTHER)
        assert await store.info(OTHER, ["job"]) != [None], "it is there"
        with redis_backend.database.client() as client:  # pyright: ignore[reportOptionalMemberAccess]
            client.delete(redis_backend.key("job:job").replace(QUEUE, OTHER))

        relays = Relays(store, QUEUE)
        relays.request(await self.promotion(store, redis_backend))
        await relays.drain()

        assert await listener.result_message() == [("job", LOST_OUTCOME)]
        assert await self.look(store, redis_backend) == ([], [])

    async def looked(self, store: RedisStore, backend: Backend) -> None:
        """What a worker of the old queue does once these timers are due."""
        relays = Relays(store, QUEUE)
        relays.request(await self.promotion(store, backend))
        await relays.drain()

    @pytest.mark.parametrize("outcome", [THREE, LARGE], ids=["small", "large"])
    async def test_the_entry_that_tells_of_an_end_has_vanished(
        self, redis_store: RedisStore, redis_backend: Backend, outcome: bytes
    ) -> None:
        store = redis_store
        await send(store, "job")
        await moved(store, "job")
        await ended(store, OTHER, outcome=outcome)
        at_other = redis_backend.key("outbox").replace(QUEUE, OTHER)
        with redis_backend.database.client() as client:  # pyright: ignore[reportOptionalMemberAccess]
            assert client.delete(f"{at_other}:{QUEUE}") == 1

        await self.looked(store, redis_backend)

        assert await store.wait(QUEUE, "me", ["job"]) == await store.wait(OTHER, "me", ["job"]) == [outcome]

    @pytest.mark.parametrize("outcome", [THREE, LARGE], ids=["small", "large"])
    async def test_the_notification_of_an_end_has_vanished(
        self, redis_store: RedisStore, redis_backend: Backend, outcome: bytes
    ) -> None:
        """The old queue's server was replaced by one that had not received its last writes."""
        store = redis_store
        await send(store, "job")
        await moved(store, "job")
        with redis_backend.database.client() as client:  # pyright: ignore[reportOptionalMemberAccess]
            client.copy(redis_backend.key("job:job"), redis_backend.key("before"))
            await ended(store, OTHER, outcome=outcome)
            await relay(store.outbox, OTHER, QUEUE)
            client.rename(redis_backend.key("before"), redis_backend.key("job:job"))

            await self.looked(store, redis_backend)

            assert await store.wait(QUEUE, "me", ["job"]) == await store.wait(OTHER, "me", ["job"]) == [outcome]
            for key in (redis_backend.key("job:job"), redis_backend.key("job:job").replace(QUEUE, OTHER)):
                assert 0 < client.pttl(key) <= LONG

    async def test_another_job_with_its_id_is_no_trace_of_it(
        self, redis_store: RedisStore, redis_backend: Backend
    ) -> None:
        store = redis_store
        await send(store, "job")
        await moved(store, "job")
        with redis_backend.database.client() as client:  # pyright: ignore[reportOptionalMemberAccess]
            client.delete(redis_backend.key("job:job").replace(QUEUE, OTHER))
        await store.enqueue(OTHER, [NewJob("job", CALL, nonce="new")])
        await ended(store, OTHER)

        await self.looked(store, redis_backend)

        assert await store.wait(QUEUE, "me", ["job"]) == [LOST_OUTCOME]

    async def test_a_record_of_a_newer_version_is_no_loss(
        self, redis_store: RedisStore, redis_backend: Backend
    ) -> None:
        store = redis_store
        await send(store, "job")
        await moved(store, "job")
        key = redis_backend.key("job:job").replace(QUEUE, OTHER)
        with redis_backend.database.client() as client:  # pyright: ignore[reportOptionalMemberAccess]
            client.eval(
                "redis.call('SET', KEYS[1], cmsgpack.pack({'x', 1, false, false, 'paused'}))",
                *(1, key),
            )

        await self.looked(store, redis_backend)

        assert await shown(store, QUEUE) == (OTHER, JobState.QUEUED)

    @pytest.mark.parametrize("is_list", [False, True], ids=["text", "list"])
    async def test_what_replaced_a_record_by_hand_holds_up_no_other_job(
        self, redis_store: RedisStore, redis_backend: Backend, is_list: bool
    ) -> None:
        await send(redis_store, "bad", "job")
        await redis_store.outbox.move(QUEUE, ["bad", "job"], OTHER)
        key = redis_backend.key("job:bad")
        with redis_backend.database.client() as client:  # pyright: ignore[reportOptionalMemberAccess]
            client.delete(key)
            client.rpush(key, "by hand") if is_list else client.set(key, "by hand")

        await relay(redis_store.outbox, QUEUE, OTHER)

        assert ids(await claimed(redis_store, OTHER)) == ["job"]

    async def test_a_newer_version_s_job_is_left_to_it(
        self, redis_store: RedisStore, redis_backend: Backend
    ) -> None:
        await send(redis_store, "job", "next")
        await redis_store.outbox.move(QUEUE, ["job", "next"], OTHER)
        key = redis_backend.key("job:job")
        with redis_backend.database.client() as client:  # pyright: ignore[reportOptionalMemberAccess]
            client.copy(key, redis_backend.key("before"))
            client.eval(
                "local job = cmsgpack.unpack(redis.call('GET', KEYS[1])) job[21].new = {1}"
                " redis.call('SET', KEYS[1], cmsgpack.pack(job))",
                *(1, key),
            )
            await relay(redis_store.outbox, QUEUE, OTHER)
            assert await claimed(redis_store, OTHER) == [], "entries keep their order"
            client.rename(redis_backend.key("before"), key)
        await relay(redis_store.outbox, QUEUE, OTHER)
        assert ids(await claimed(redis_store, OTHER)) == ["job", "next"]

    async def test_an_id_of_an_entry_is_used_once(self, redis_store: RedisStore, redis_backend: Backend) -> None:
        """The next entry after the outbox was empty; what this clock shows may have been reached already."""
        store = redis_store
        with redis_backend.database.client() as client:  # pyright: ignore[reportOptionalMemberAccess]
            outbox = redis_backend.key(f"outbox:{OTHER}")
            client.xdel(outbox, client.xadd(outbox, {"kind": "none"}, id="99999999999999-5"))
            await send(store, "job", "next")
            await moved(store, "job")
            assert client.pttl(outbox) > client.pttl(redis_backend.key("inbox").replace(QUEUE, OTHER)) > 0
            await store.outbox.move(QUEUE, ["next"], OTHER)
            assert client.pttl(outbox) == -1
        await store.outbox.read(QUEUE, OTHER)  # by a worker that dies
        reading = await store.outbox.read(QUEUE, OTHER)
        await store.outbox.remove(QUEUE, OTHER, reading, await store.outbox.deliver(OTHER, QUEUE, reading))

        assert ids(await claimed(store, OTHER)) == ["job", "next"]

    async def promotion(self, store: Store, backend: Backend) -> Promotion:
        relays, found = await self.look(store, backend)
        return Promotion(0, None, 0, relays, found)

    async def test_an_entry_that_has_vanished_is_written_again(
        self, redis_store: RedisStore, redis_backend: Backend
    ) -> None:
        await send(redis_store, "job")
        await redis_store.outbox.move(QUEUE, ["job"], OTHER)
        redis_backend.delete(f"outbox:{OTHER}", "timers")
        await relay(redis_store.outbox, QUEUE, OTHER)
        assert await shown(redis_store, OTHER) is None

        await self.look(redis_store, redis_backend)
        assert await due_relays(redis_store, QUEUE) in ([OTHER], [])
        await relay(redis_store.outbox, QUEUE, OTHER)

        assert ids(await claimed(redis_store, OTHER)) == ["job"]

    async def test_the_note_of_what_was_applied_has_vanished(
        self, redis_store: RedisStore, redis_backend: Backend
    ) -> None:
        await send(redis_store, "job")
        await redis_store.outbox.move(QUEUE, ["job"], OTHER)
        late = await redis_store.outbox.read(QUEUE, OTHER)
        await relay(redis_store.outbox, QUEUE, OTHER)
        with redis_backend.database.client() as client:  # pyright: ignore[reportOptionalMemberAccess]
            assert client.delete(redis_backend.key("inbox").replace(QUEUE, OTHER)) == 1
        await redis_store.outbox.deliver(OTHER, QUEUE, late)
        assert ids(await claimed(redis_store, OTHER)) == ["job"], "its record shows that it is there"
        assert await claimed(redis_store, OTHER) == []

    async def test_entries_whose_ids_are_too_low_get_higher_ones(
        self, redis_store: RedisStore, redis_backend: Backend
    ) -> None:
        """The clock was set back while there was no entry."""
        with redis_backend.database.client() as client:  # pyright: ignore[reportOptionalMemberAccess]
            client.hset(redis_backend.key("inbox").replace(QUEUE, OTHER), QUEUE, "99999999999999-5")
        await send(redis_store, "job", "next")
        await redis_store.outbox.move(QUEUE, ["job", "next"], OTHER)
        await redis_store.cancel(QUEUE, ["next"], REASON, LONG)

        assert await relay(redis_store.outbox, QUEUE, OTHER) == []

        assert ids(await claimed(redis_store, OTHER)) == ["job"]
        assert await shown(redis_store, QUEUE, "next") == (OTHER, JobState.CANCELLED)
        assert await due_relays(redis_store, QUEUE) == []

    async def test_a_key_of_another_type_is_an_error_and_the_job_stays(
        self, redis_store: RedisStore, redis_backend: Backend
    ) -> None:
        await send(redis_store, "job")
        with redis_backend.database.client() as client:  # pyright: ignore[reportOptionalMemberAccess]
            inbox = redis_backend.key("inbox").replace(QUEUE, OTHER)
            client.set(inbox, "by hand")
            await redis_store.outbox.move(QUEUE, ["job"], OTHER)
            with pytest.raises(ServerError, match="WRONGTYPE"):
                await relay(redis_store.outbox, QUEUE, OTHER)
            client.delete(inbox)
        await relay(redis_store.outbox, QUEUE, OTHER)
        assert ids(await claimed(redis_store, OTHER)) == ["job"]


@pytest.mark.parametrize("delay_ms", [None, LONG])
async def test_a_job_whose_lane_holds_another_type_comes_back_and_holds_up_no_other(
    redis_store: RedisStore, redis_backend: Backend, delay_ms: int | None
) -> None:
    jobs = [NewJob("job", CALL, Priority.HIGH, delay_ms), NewJob("next", LARGE_CALL)]
    await redis_store.enqueue(QUEUE, jobs)
    with redis_backend.database.client() as client:  # pyright: ignore[reportOptionalMemberAccess]
        client.set(redis_backend.key("high").replace(QUEUE, OTHER), "by hand")

    await redis_store.outbox.move(QUEUE, ["job", "next"], OTHER)
    assert await relay(redis_store.outbox, QUEUE, OTHER) == ["job"]

    assert await shown(redis_store, QUEUE) == (QUEUE, JobState.SCHEDULED if delay_ms else JobState.QUEUED)
    assert await shown(redis_store, OTHER, "next") == (OTHER, JobState.QUEUED)


async def test_a_cancellation_that_comes_before_its_job(store: Store, backend: Backend) -> None:
    entry = OutboxEntry(b"1-1" if backend.database else 1, "cancel", "job", _cancellation(backend))
    await store.outbox.deliver(OTHER, THIRD, Reading([entry]))
    await send(store, "job", "other")
    await moved(store, "job", "other")
    assert await shown(store, OTHER) == (OTHER, JobState.CANCELLED)
    assert ids(await claimed(store, OTHER)) == ["other"]


def _cancellation(backend: Backend) -> object:
    """What an entry says that cancels a job: how, and for how long that is kept."""
    if backend.database is None:
        return REASON, LONG
    return bytes([0x92, 0xD9, len(REASON)]) + REASON + msgspec.msgpack.encode(LONG)  # as scripts pack it


class TestExpiry:
    async def test_a_job_that_expires_does_so_in_the_other_queue(self, store: Store, backend: Backend) -> None:
        await store.enqueue(QUEUE, [NewJob("job", CALL, extra=Extra(expires=Expiry(span_ms=1)))])
        assert backend.timers() == ["expire job"]
        await moved(store, "job")
        assert [each for each in backend.timers() if each.startswith("expire")] == []
        if backend.database is not None:

            async def expired() -> bool:
                await store.promote(OTHER, 10)
                return await shown(store, OTHER) == (OTHER, JobState.CANCELLED)

            assert await eventually(expired)


async def test_a_repeated_send_of_a_job_that_was_moved(store: Store) -> None:
    job = NewJob("job", CALL, nonce="n")
    await store.enqueue(QUEUE, [job])
    await moved(store, "job")

    assert await store.enqueue(QUEUE, [job], again=True) == [True]
    await ended(store, OTHER, ttl_ms=0)
    await relay(store.outbox, OTHER, QUEUE)
    assert await store.enqueue(QUEUE, [job], again=True) == [True]

    assert await claimed(store, QUEUE) == []
    assert await claimed(store, OTHER) == []


async def test_a_job_that_is_opened_again_before_the_other_queue_was_notified(store: Store) -> None:
    listener = await Listener.on(store, "me")
    await send(store, "job")
    await store.wait(QUEUE, "me", ["job"])
    await moved(store, "job")
    await ended(store, OTHER, Verb.FAILED, BROKEN)

    assert await store.operating.reopen(OTHER, ["job"]) == [JobState.FAILED]
    await relay(store.outbox, OTHER, QUEUE)
    assert await shown(store, QUEUE) == (OTHER, JobState.QUEUED)
    await ended(store, OTHER)
    await relay(store.outbox, OTHER, QUEUE)

    assert await listener.result_message() == [("job", THREE)]


@pytest.fixture
def limits() -> Limits:
    return Limits(lease_ms=LONG)


async def test_an_empty_delivery_changes_nothing(store: Store) -> None:
    assert await store.outbox.deliver(OTHER, QUEUE, Reading()) == DeliveryResult([], *_of_nothing(store))


def _of_nothing(store: Store) -> tuple[object, list[str]]:
    return (0 if hasattr(store, "clock") else b"", [])
