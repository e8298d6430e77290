"""Bulk operations: their records, whose turn it is, and steps that are made once."""

import asyncio
from collections.abc import Sequence

import msgspec
import pytest

from aioq.jobs.job import JobState, Priority
from aioq.operate import carrying
from aioq.operate.carrying import Carried, carry
from aioq.operate.operations import Operations
from aioq.operate.plan import OperationPlan, StoredFilters, encode_plan
from aioq.store import operations as bounds
from aioq.store.contract import NewJob, Store, Verb
from aioq.store.memory import operations as in_memory
from aioq.store.operations import Act, Done, OperationProgress, OperationState, OperationStep, Verdict
from aioq.store.redis import operations as on_server
from aioq.wire.messages import encode_cancellation
from aioq.wire.signature import Signature
from tests.contract.kit import (
    BROKEN,
    CALL,
    LONG,
    QUEUE,
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
)

pytestmark = pytest.mark.anyio

STOPPED = encode_cancellation("shop.add", "stopped")
OTHER = "post"


async def fail(store: Store, *job_ids: str) -> None:
    await joined(store, "w")
    for job_id in job_ids:
        await settle(store, "w", await running(store, "w", job_id), Verb.FAILED, BROKEN)


async def begun(store: Store) -> int:
    """The time at which an operation begins; the server's clock has passed it."""
    at = await store.operating.now_ms(QUEUE)

    async def is_past() -> bool:
        return await store.operating.now_ms(QUEUE) > at

    await eventually(is_past)
    return at


def make_step(
    act: Act, of: JobState, at: int, jobs: Sequence[tuple[str, bytes]], *, steps: int = 0, place: bytes = b"here"
) -> OperationStep:
    return OperationStep(steps, act, of, at, place, len(jobs), jobs, LONG)


async def act_on(store: Store, act: Act, of: JobState, *job_ids: str, given: bytes = b"") -> tuple[int, int]:
    """How many of these jobs an operation of its own acts on, and how many it leaves alone."""
    at, operation = await begun(store), f"{act.value}-{of.value}"
    verdict, note = await store.operating.operations.step(
        QUEUE, operation, make_step(act, of, at, [(job_id, given) for job_id in job_ids])
    )
    assert verdict is Verdict.DONE
    return note.done.done, note.done.skipped


class Source:
    """An App, as far as carrying on needs it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def store(self) -> Store:
        return self._store

    def signature(self, task: str) -> Signature | None:
        return None

    async def shards_of_job(
        self, job_id: str, queue: str | None, *, patient: bool, key: str | None = None
    ) -> Sequence[str]:
        return [queue or QUEUE]


async def write(store: Store, act: Act, *states: JobState, operation: str = "op", **more: object) -> OperationPlan:
    plan = OperationPlan(act, StoredFilters([*states]), [(QUEUE, await begun(store))], "ann")
    plan = msgspec.structs.replace(plan, **more)
    assert await store.operating.operations.write(operation, encode_plan(plan), plan.rate)
    return plan


async def test_a_step_is_made_once_and_acts_on_nothing_that_came_later(store: Store) -> None:
    operations = store.operating.operations
    await fail(store, "a", "b")
    at = await begun(store)
    await fail(store, "later")
    jobs = [(job_id, b"") for job_id in ("a", "b", "none", "later")]
    step = make_step(Act.RETRY, JobState.FAILED, at, jobs)

    assert await operations.progress(QUEUE, "op") == OperationProgress()
    verdict, note = await operations.step(QUEUE, "op", step)
    again = await operations.step(QUEUE, "op", step)

    assert (verdict, note.steps, note.position) == (Verdict.DONE, 1, b"here")
    assert note.done == Done(len(jobs), 2, len(jobs) - 2)
    assert again == (Verdict.STALE, note)
    assert note == await operations.progress(QUEUE, "op")
    assert [await state(store, job_id) for job_id in ("a", "later")] == [JobState.QUEUED, JobState.FAILED]

    # One that fails again is not retried again, though the operation goes on.
    for job in await take(store, "w", 2):
        await settle(store, "w", job, Verb.FAILED, BROKEN)
    step = msgspec.structs.replace(step, steps=1, jobs=[("a", b"")], position=b"there")
    verdict, note = await operations.step(QUEUE, "op", step)
    assert (verdict, note.steps, note.position, note.done.done) == (Verdict.DONE, 2, b"there", 2)
    assert (await info(store, "a")).attempts == 1


async def test_nothing_is_done_within_the_millisecond_of_the_begin(redis_store: Store) -> None:
    await fail(redis_store, "a")
    step = make_step(Act.RETRY, JobState.FAILED, await redis_store.operating.now_ms(QUEUE) + LONG, [("a", b"")])
    assert await redis_store.operating.operations.step(QUEUE, "op", step) == (Verdict.EARLY, OperationProgress())


async def test_each_act_applies_to_jobs_in_the_state_in_which_they_were_listed(store: Store) -> None:
    await fail(store, "dead", "dead too")
    assert await running(store, "w", "runs")
    await send(store, "queued", "queued too", "last")
    await send(store, "later", "later too", delay_ms=LONG)

    assert await act_on(store, Act.RETRY, JobState.FAILED, "dead", "queued") == (1, 1)
    assert await act_on(store, Act.CANCEL, JobState.RUNNING, "runs", "queued", given=STOPPED) == (1, 1)
    assert await act_on(store, Act.CANCEL, JobState.QUEUED, "queued", "runs", given=STOPPED) == (1, 1)
    assert await act_on(store, Act.DELETE, JobState.FAILED, "dead too", "later", given=STOPPED) == (1, 1)
    assert await act_on(store, Act.DELETE, JobState.QUEUED, "queued too", given=STOPPED) == (1, 0)
    assert await act_on(store, Act.RUN_NOW, JobState.SCHEDULED, "later", "last") == (1, 1)
    assert await act_on(store, Act.SET_PRIORITY, JobState.QUEUED, "last", "none", given=b"high") == (1, 1)
    assert await act_on(store, Act.SET_PRIORITY, JobState.RUNNING, "runs", given=b"normal") == (0, 1)
    assert await act_on(store, Act.MOVE, JobState.SCHEDULED, "later too", "runs", given=OTHER.encode()) == (1, 1)

    assert (await info(store, "queued")).state is JobState.CANCELLED
    assert [await state(store, job_id) for job_id in ("dead too", "queued too")] == [None, None]
    assert (await info(store, "later too")).queue == OTHER
    assert (await info(store, "last")).priority is Priority.HIGH
    assert ids(await take(store, "w")) == ["last", "dead", "later"]


async def test_a_job_that_runs_and_waits_for_its_retry_is_not_run_at_once_again(store: Store) -> None:
    await joined(store, "w")
    await send(store, "a", delay_ms=LONG)
    at = await begun(store)
    step = make_step(Act.RUN_NOW, JobState.SCHEDULED, at, [("a", b"")])
    await store.operating.operations.step(QUEUE, "op", step)
    (job,) = await take(store, "w")
    await settle(store, "w", job, Verb.RETRY, BROKEN, delay_ms=LONG)

    _, note = await store.operating.operations.step(QUEUE, "op", msgspec.structs.replace(step, steps=1))

    assert note.done == Done(2, 1, 1)
    assert (await info(store, "a")).state is JobState.SCHEDULED


async def test_the_record_says_whose_turn_it_is(store: Store) -> None:
    operations = store.operating.operations
    plan = await write(store, Act.RETRY, JobState.FAILED)
    assert await operations.write("op", b"anything else", 0)  # the same call again

    (stored,) = await operations.read(["op", "none"])
    assert (stored.id, stored.definition, stored.state) == ("op", encode_plan(plan), OperationState.RUNNING)
    assert abs(stored.began_ms - plan.shards[0][1]) < LONG
    assert not stored.carried
    mine = await operations.permit("op", "a", 5)
    assert mine
    assert (mine.is_mine, mine.allowed, mine.wait_ms) == (True, 5, 0)
    other = await operations.permit("op", "b", 5)
    assert other
    assert (other.is_mine, other.allowed, other.carried) == (False, 0, True)
    assert (await operations.read(["op"]))[0].carried
    await operations.release("op", "b")
    assert (await operations.read(["op"]))[0].carried
    await operations.release("op", "a")
    assert (other := await operations.permit("op", "b", 5))
    assert other.is_mine
    for what, then in (
        ("resume", OperationState.RUNNING),
        ("pause", OperationState.PAUSED),
        ("resume", OperationState.RUNNING),
        ("pause", OperationState.PAUSED),
        ("abort", OperationState.ABORTED),
        ("resume", OperationState.ABORTED),
    ):
        assert (permit := await operations.change("op", what))
        assert permit.state is then, what
        assert (permit := await operations.permit("op", "b", 1))
        assert permit.is_mine == (then is OperationState.RUNNING), what
    assert (await operations.read(["op"]))[0].ended_ms
    assert await operations.change("none", "pause") is None
    assert await operations.permit("none", "a", 1) is None


async def test_places_are_gone_through_in_turn_and_the_last_one_ends_it(store: Store) -> None:
    operations = store.operating.operations
    await write(store, Act.RETRY, JobState.FAILED)
    await write(store, Act.RETRY, JobState.FAILED, operation="second")

    for at, then in ((0, 1), (0, 1), (1, 2), (1, 2)):
        assert (permit := await operations.finish_shard("op", at, 2, Done(10, 2, 1)))
        assert permit.at == then
    (stored,) = await operations.read(["op"])
    assert (stored.state, stored.done) == (OperationState.ENDED, Done(20, 4, 2))
    assert stored.ended_ms
    assert [each.id for each in await operations.newest(10)] == ["second", "op"]
    assert [each.id for each in await operations.newest(1)] == ["second"]


async def test_of_too_many_operations_the_oldest_that_is_over_is_deleted(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    operations = store.operating.operations
    for module in (in_memory, on_server):
        monkeypatch.setattr(module, "MOST_OPERATIONS", 2)
    await write(store, Act.RETRY, JobState.FAILED, operation="a")
    await write(store, Act.RETRY, JobState.FAILED, operation="b")
    assert not await operations.write("c", b"", 0)
    await operations.change("b", "abort")
    assert await operations.write("c", b"", 0)
    assert {each.id for each in await operations.newest(10)} == {"a", "c"}


async def test_no_more_is_permitted_than_the_rate_allows(store: Store) -> None:
    operations, rate = store.operating.operations, 200
    start = asyncio.get_running_loop().time()
    await write(store, Act.RETRY, JobState.FAILED, rate=float(rate))
    allowed = 0
    while allowed < rate // 5:
        permit = await operations.permit("op", "a", 1_000)
        assert permit
        allowed += permit.allowed
        assert permit.allowed or permit.wait_ms, "it says for how long to wait"
        assert allowed <= rate * (asyncio.get_running_loop().time() - start) + 1
        await asyncio.sleep(permit.wait_ms / 1000)
    waits = await operations.permit("op", "a", 1_000)
    assert waits
    assert waits.wait_ms
    other = await operations.permit("op", "b", 1_000)
    assert other
    assert other.is_mine, "while it waits nobody has it"


async def test_a_queue_reminds_its_workers_until_it_is_asked_to_stop(backend: Backend) -> None:
    store = await backend.open()
    operations = store.operating.operations
    await operations.remind(QUEUE, "op", LONG)
    assert not (await store.promote(QUEUE, 10)).operations
    await joined(store, "w")
    await take(store, "w")
    await operations.remind(QUEUE, "op", 0)
    claim = await store.claim(QUEUE, "w", 1)
    assert claim.next_due_ms == 0

    promotion = await store.promote(QUEUE, 10)

    assert list(promotion.operations) == ["op"]
    assert promotion.next_due_ms is not None
    assert 0 < promotion.next_due_ms <= bounds.LEASE_MS
    assert not (await store.promote(QUEUE, 10)).operations, "others leave it to that worker"
    assert backend.timers() == ["operate op"]
    await operations.remind(QUEUE, "op", None)
    assert backend.timers() == []


async def test_two_that_carry_it_on_at_once_do_each_job_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a lease, so that both do. Jobs that are retried fail again all the time."""
    for module in (in_memory, on_server):
        monkeypatch.setattr(module, "LEASE_MS", 0)
    monkeypatch.setattr(carrying, "LARGE_STEP", 4)
    names = [f"j{number:02}" for number in range(30)]
    await fail(store, *names)
    await write(store, Act.RETRY, JobState.FAILED, reminders=[QUEUE])
    over = asyncio.Event()

    async def work() -> None:
        while not over.is_set():
            for job in await take(store, "w"):
                await settle(store, "w", job, Verb.FAILED, BROKEN)
            await asyncio.sleep(0)

    worker = asyncio.create_task(work())
    both = await asyncio.gather(*(carry(Source(store), "op") for _ in range(2)))
    over.set()
    await worker
    for job in await take(store, "w", 100):
        await settle(store, "w", job, Verb.FAILED, BROKEN)

    assert Carried(OperationState.ENDED) in both
    (stored,) = await store.operating.operations.read(["op"])
    assert (stored.state, stored.done) == (OperationState.ENDED, Done(30, 30, 0))
    assert {(await info(store, name)).attempts for name in names} == {1}
    assert [len((await info(store, name)).failed_attempts) for name in names] == [0] * 30


async def test_once_it_is_paused_no_step_is_made_for_which_there_was_a_permit(store: Store) -> None:
    await fail(store, "a")
    plan = await write(store, Act.RETRY, JobState.FAILED, reminders=[QUEUE])
    operations = store.operating.operations
    note, permit = await operations.progress(QUEUE, "op"), await operations.permit("op", "slow", 1)
    assert permit
    assert permit.is_mine
    op = await Operations(Source(store)).get("op")  # pyright: ignore[reportArgumentType]

    assert (await op.pause()).state is OperationState.PAUSED

    step = make_step(Act.RETRY, JobState.FAILED, plan.shards[0][1], [("a", b"")], steps=note.steps)
    assert (await operations.step(QUEUE, "op", step))[0] is Verdict.STALE
    assert (await carry(Source(store), "op")).state is OperationState.PAUSED
    assert await state(store, "a") is JobState.FAILED
    await op.resume()
    await operations.release("op", "slow")
    assert (await carry(Source(store), "op")).state is OperationState.ENDED
    assert (await op.progress()).done == 1


async def test_it_is_carried_on_where_it_was_left(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (in_memory, on_server):
        monkeypatch.setattr(module, "LEASE_MS", 1)
    monkeypatch.setattr(carrying, "SMALL_STEP", 3)
    await joined(store, "w")
    await running(store, "w", "runs")
    jobs = [NewJob(f"q{number}", CALL, Priority.HIGH if number % 2 else Priority.LOW) for number in range(8)]
    await store.enqueue(QUEUE, jobs)
    await send(store, "s", delay_ms=LONG)
    states = [JobState.QUEUED, JobState.SCHEDULED, JobState.WAITING, JobState.RUNNING]
    await write(store, Act.CANCEL, *states, reason="stopped", ttl_ms=LONG)
    await send(store, "later", priority=Priority.HIGH)
    made = 0
    make = store.operating.operations.step

    async def dies(*args: object) -> tuple[Verdict, OperationProgress]:
        nonlocal made
        made += 1
        if made == 3:
            raise asyncio.CancelledError
        return await make(*args)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(store.operating.operations, "step", dies)
    with pytest.raises(asyncio.CancelledError):
        await carry(Source(store), "op")
    (stored,) = await store.operating.operations.read(["op"])
    await begun(store)
    assert not (await store.operating.operations.read(["op"]))[0].carried
    assert stored.state is OperationState.RUNNING
    assert (await carry(Source(store), "op")).state is OperationState.ENDED
    (stored,) = await store.operating.operations.read(["op"])
    assert (stored.done.done, stored.done.skipped) == (10, 0)
    assert (await info(store, "s")).state is JobState.CANCELLED
    assert ids(await take(store, "w")) == ["later"]
