"""What only the memory store promises: it follows a clock, and outlives an event loop."""

import asyncio
import threading

import pytest

from aioq.jobs.job import JobState
from aioq.store.contract import Limits, NewJob, Token, Verb
from aioq.store.diagnosis import Diagnosis, ServerInfo, ServerReport
from aioq.store.memory import MemoryStore
from aioq.store.upkeep import Promotion
from aioq.util.clock import ManualClock
from tests.contract.kit import (
    BLOCK,
    BROKEN,
    CALL,
    LONG,
    QUEUE,
    THREE,
    Listener,
    ids,
    info,
    joined,
    keep,
    running,
    send,
    settle,
    state,
    take,
)

pytestmark = pytest.mark.anyio

HOUR = 3600.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_700_000_000_000)


@pytest.fixture
def memory(clock: ManualClock) -> MemoryStore:
    return MemoryStore("shop", clock=clock, limits=Limits(dead_limit=2, dead_ttl_ms=2 * LONG))


async def test_it_says_what_it_is(memory: MemoryStore) -> None:
    server = ServerInfo("memory://", "memory", "-")
    assert await memory.open() == server
    assert await memory.diagnose(["mail"]) == Diagnosis((ServerReport(server, ("mail",)),))


async def test_a_delay_takes_no_time(memory: MemoryStore, clock: ManualClock) -> None:
    await joined(memory, "w")
    await send(memory, "job", delay_ms=LONG)
    assert await memory.promote(QUEUE, 10) == Promotion(0, LONG)

    clock.advance(HOUR - 1)
    assert await memory.promote(QUEUE, 10) == Promotion(0, 1000)
    clock.advance(1)

    assert await memory.promote(QUEUE, 10) == Promotion(1, None)
    assert ids(await take(memory, "w")) == ["job"]


async def test_jobs_are_promoted_in_the_order_they_are_due(memory: MemoryStore, clock: ManualClock) -> None:
    for seconds in (3, 1, 2):
        await send(memory, str(seconds), delay_ms=seconds * 1000)
    clock.advance(10)

    assert await memory.promote(QUEUE, 2) == Promotion(2, 0)
    assert await memory.promote(QUEUE, 2) == Promotion(1, None)

    assert ids(await take(memory, await joined(memory, "w"))) == ["1", "2", "3"]


async def test_the_same_due_time_twice_is_no_matter(memory: MemoryStore, clock: ManualClock) -> None:
    await send(memory, "job", delay_ms=1000)
    await memory.cancel(QUEUE, ["job"], BROKEN, 0)
    await send(memory, "job", delay_ms=1000)
    clock.advance(1)

    assert await memory.promote(QUEUE, 10) == Promotion(1, None)


async def test_an_outcome_goes_exactly_when_its_ttl_is_over(memory: MemoryStore, clock: ManualClock) -> None:
    worker = await joined(memory, "w")
    await settle(memory, worker, await running(memory, worker), Verb.SUCCEEDED, THREE, ttl_ms=1000)

    clock.advance(0.999)
    assert await state(memory) is JobState.SUCCEEDED
    clock.advance(0.001)
    assert await state(memory) is None


async def test_a_new_job_of_an_expired_id_is_not_expired(memory: MemoryStore, clock: ManualClock) -> None:
    worker = await joined(memory, "w")
    await settle(memory, worker, await running(memory, worker), Verb.SUCCEEDED, THREE, ttl_ms=1000)
    clock.advance(1)

    assert await send(memory, "job") == [True]
    clock.advance(HOUR)

    assert await state(memory) is JobState.QUEUED


async def test_a_tombstone_is_kept_as_long_as_the_send_can_be_repeated(
    memory: MemoryStore, clock: ManualClock
) -> None:
    worker = await joined(memory, "w")
    await send(memory, "early", "late")
    early, late = await take(memory, worker)
    clock.advance(10)
    await settle(memory, worker, early, Verb.SUCCEEDED, THREE, ttl_ms=0)

    clock.advance(4.999)
    assert await memory.enqueue(QUEUE, [NewJob("early", CALL)], again=True) == [True]
    assert await state(memory, "early") is None
    clock.advance(0.001)
    assert await memory.enqueue(QUEUE, [NewJob("early", CALL)], again=True) == [True]
    assert await state(memory, "early") is JobState.QUEUED

    await settle(memory, worker, late, Verb.SUCCEEDED, THREE, ttl_ms=0)
    assert await memory.enqueue(QUEUE, [NewJob("late", CALL)], again=True) == [True]
    assert await state(memory, "late") is JobState.QUEUED


async def test_the_dead_are_kept_for_their_time(memory: MemoryStore, clock: ManualClock) -> None:
    worker = await joined(memory, "w")
    for name in "abc":
        await settle(memory, worker, await running(memory, worker, name), Verb.FAILED, BROKEN)
        clock.advance(1)
    assert list(memory._queues[QUEUE].endings.dead) == ["b", "c"]
    assert await state(memory, "a") is JobState.FAILED, "beyond the limit the record stays for its own time"

    clock.advance(2 * HOUR)

    assert await state(memory, "b") is None
    assert not memory._queues[QUEUE].endings.dead


async def test_a_parked_job_fails_when_its_time_is_over(memory: MemoryStore, clock: ManualClock) -> None:
    worker = await joined(memory, "w")
    await send(memory, "job")
    states = list[JobState | None]()
    for _ in range(3):
        (job,) = await take(memory, worker)
        await settle(memory, worker, job, Verb.PARK, BROKEN, delay_ms=1000, ttl_ms=2000)
        states.append(await state(memory))
        clock.advance(1)
        await memory.promote(QUEUE, 1)

    assert states == [JobState.SCHEDULED, JobState.SCHEDULED, JobState.FAILED]


async def test_moving_the_clock_ends_no_lease(memory: MemoryStore, clock: ManualClock) -> None:
    """The worker of a user's test lives on while its jobs' time passes."""
    await running(memory, await joined(memory, "w"))

    clock.advance(24 * HOUR)

    assert not (await keep(memory, "w")).lost
    assert (await memory.recover(QUEUE, BROKEN, 1)).worker is None


async def test_envelopes_are_copied(memory: MemoryStore) -> None:
    envelope = bytearray(CALL)
    await memory.enqueue(QUEUE, [NewJob("job", envelope)])  # pyright: ignore[reportArgumentType]
    envelope[:] = b"x" * len(envelope)

    assert (await info(memory)).task == "shop.add"


async def test_closing_ends_the_waits_and_keeps_the_jobs(memory: MemoryStore) -> None:
    await joined(memory, "w")
    listener = await Listener.on(memory, "me")
    waiting = asyncio.create_task(memory.block(QUEUE, "w", BLOCK))
    await asyncio.sleep(0)
    await send(memory, "later", delay_ms=LONG)
    await asyncio.wait([waiting])
    waiting = asyncio.create_task(memory.block(QUEUE, "w", BLOCK))
    await asyncio.sleep(0)

    await memory.close()

    async with asyncio.timeout(1):
        assert await waiting == []
    assert await send(memory, "job") == [True]
    await memory.wait(QUEUE, "me", ["job"])
    await memory.cancel(QUEUE, ["job"], BROKEN, LONG)
    await asyncio.sleep(0)
    assert listener.messages == []


async def test_who_leaves_before_a_message_is_delivered_does_not_get_it(memory: MemoryStore) -> None:
    listener = await Listener.on(memory, "me")
    await send(memory, "job")
    await memory.wait(QUEUE, "me", ["job"])
    await memory.cancel(QUEUE, ["job"], BROKEN, LONG)

    await memory.inbox.leave("me")
    await asyncio.sleep(0)

    assert listener.messages == []


def test_two_loops_one_after_another(memory: MemoryStore) -> None:
    async def first() -> None:
        await memory.open()
        await joined(memory, "w")
        await Listener.on(memory, "me")
        await running(memory, "w")
        await send(memory, "next")
        await memory.wait(QUEUE, "me", ["job"])

    async def second() -> None:
        await memory.open()
        assert (await info(memory)).worker == "w"
        tokens = await memory.block(QUEUE, "w", BLOCK)
        claim = await memory.claim(QUEUE, "w", 1, tokens)
        assert ids(claim.jobs) == ["next"]
        await memory.cancel(QUEUE, ["job"], BROKEN, LONG)
        await memory.close()

    asyncio.run(first())
    asyncio.run(second())


def test_what_a_dead_loop_left_behind_swallows_nothing(memory: MemoryStore) -> None:
    """Closed without a chance to clean up: the reader and the listener are still there."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(joined(memory, "w"))
    loop.run_until_complete(Listener.on(memory, "me"))
    waiting = loop.create_task(memory.block(QUEUE, "w", BLOCK))
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()

    async def after() -> list[str]:
        await send(memory, "job", "cancelled")
        await memory.wait(QUEUE, "me", ["cancelled"])
        await memory.cancel(QUEUE, ["cancelled"], BROKEN, LONG)
        return ids(await take(memory, "w"))

    assert asyncio.run(after()) == ["job"]
    # Its task cannot be finished any more; asyncio would complain of that when it is collected.
    waiting._log_destroy_pending = False  # pyright: ignore[reportAttributeAccessIssue]
    waiting.get_coro().close()  # pyright: ignore[reportOptionalMemberAccess]


def test_other_threads_may_use_it_too(memory: MemoryStore) -> None:
    """A worker in a thread of its own, with a loop of its own, is woken by a job sent from here."""
    ready = threading.Event()
    got: list[Token] = []

    async def work() -> None:
        await joined(memory, "w")
        waiting = asyncio.create_task(memory.block(QUEUE, "w", BLOCK))
        await asyncio.sleep(0)
        ready.set()
        got.extend(await waiting)

    thread = threading.Thread(target=asyncio.run, args=(work(),))
    thread.start()
    assert ready.wait(10)

    asyncio.run(send_one(memory))

    thread.join(10)
    assert [token.job_ids for token in got] == [("job",)]


async def send_one(memory: MemoryStore) -> None:
    await send(memory, "job")
