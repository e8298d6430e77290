"""What queued jobs leave in their lanes when they are cancelled or moved: it does not count, and goes."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aioq.jobs.job import JobState, Priority
from aioq.store.contract import NewJob, Store, Verb
from aioq.store.extra import Expiry, Extra
from aioq.store.operating import ListQuery
from aioq.store.operations import Act, OperationStep
from aioq.store.relay import relay
from aioq.wire.messages import encode_cancellation, encode_envelope
from tests.contract.kit import (
    BLOCK,
    CALL,
    LONG,
    QUEUE,
    REASON,
    Backend,
    eventually,
    ids,
    info,
    joined,
    keep,
    running,
    send,
    settle,
    take,
)

pytestmark = pytest.mark.anyio

ADD, OTHER = "shop.add", "shop.other"
MANY = [f"j{n:03}" for n in range(90)]  # two entries of a lane, of which many are left in part

Door = Callable[[Store, list[str]], Awaitable[Any]]


async def queued(store: Store) -> int:
    return (await store.operating.count_jobs(QUEUE, ListQuery(JobState.QUEUED))).count


async def stepped(store: Store, act: Act, jobs: list[tuple[str, bytes]]) -> None:
    """One step of a bulk operation."""
    begun = await store.operating.now_ms(QUEUE)

    async def is_past() -> bool:
        return await store.operating.now_ms(QUEUE) > begun  # else the step comes too early

    await eventually(is_past)
    step = OperationStep(0, act, JobState.QUEUED, begun, b"", len(jobs), jobs, LONG)
    assert (await store.operating.operations.step(QUEUE, "op", step))[1].done.done == len(jobs)


DOORS: dict[str, Door] = {
    "cancelled": lambda store, some: store.cancel(QUEUE, some, REASON, LONG),
    "cancelled without a trace": lambda store, some: store.cancel(QUEUE, some, REASON, 0),
    "deleted": lambda store, some: store.operating.delete(QUEUE, some, encode_cancellation("", "deleted")),
    "moved": lambda store, some: store.outbox.move(QUEUE, some, QUEUE + "-2"),
    "put off": lambda store, some: store.reschedule(QUEUE, some, delay_ms=LONG),
    "cancelled in bulk": lambda store, some: stepped(store, Act.CANCEL, [(each, REASON) for each in some]),
    "moved in bulk": lambda store, some: stepped(store, Act.MOVE, [(each, b"mail-2") for each in some]),
}


class Left:
    """What the server has noted of what is left, by lane; nothing in memory, where the jobs are counted."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def __call__(self) -> dict[str, int]:
        if self._backend.database is None:
            return {}
        with self._backend.database.client() as client:
            found: Any = client.hgetall(self._backend.key("leftovers"))
        return {lane: int(count) for lane, count in found.items()}


@pytest.fixture
def left(backend: Backend) -> Left:
    return Left(backend)


@pytest.mark.parametrize("door", DOORS)
async def test_a_job_that_has_left_its_lane_is_not_counted(store: Store, left: Left, door: str) -> None:
    await send(store, *MANY)
    await DOORS[door](store, MANY[5:85])
    assert await queued(store) == 10
    await send(store, "after")
    assert await queued(store) == 11
    await joined(store, "w")
    assert len(await take(store, "w", 7)) == 7  # in the second of the two entries
    assert await queued(store) == 4
    assert len(await take(store, "w", 50)) == 4
    assert await queued(store) == 0
    assert left() == {}
    await send(store, *(f"k{n}" for n in range(4)))
    assert await queued(store) == 4


async def test_a_job_of_another_lane_is_counted_once(store: Store, left: Left) -> None:
    await send(store, *MANY)
    await store.operating.prioritize(QUEUE, MANY[:50], Priority.LOW)
    await store.operating.prioritize(QUEUE, MANY[:20], Priority.NORMAL)  # it stands there twice
    assert await queued(store) == 90
    await joined(store, "w")
    assert len(await take(store, "w", 65)) == 65
    assert await queued(store) == 25
    assert len(await take(store, "w", 90)) == 25
    assert (await queued(store), left()) == (0, {})


async def test_a_job_that_comes_back_is_counted_once(store: Store, left: Left) -> None:
    await send(store, "a", "b")
    await store.reschedule(QUEUE, ["a"], delay_ms=LONG)
    await store.reschedule(QUEUE, ["a"])
    assert await queued(store) == 2
    await store.cancel(QUEUE, ["b"], REASON, 0)
    await send(store, "b")  # with an id that is free again
    assert await queued(store) == 2
    await joined(store, "w")
    assert sorted(ids(await take(store, "w"))) == ["a", "b"]
    assert (await queued(store), left()) == (0, {})


async def test_a_job_that_was_given_back_is_not_counted_once_it_is_cancelled(store: Store, left: Left) -> None:
    await joined(store, "w")
    job = await running(store, "w", "a")
    await send(store, "b")
    await settle(store, "w", job, Verb.RELEASE)
    await store.cancel(QUEUE, ["a"], REASON, LONG)
    assert await queued(store) == 1
    assert ids(await take(store, "w")) == ["b"]
    assert (await queued(store), left()) == (0, {})


@pytest.mark.parametrize("delay_ms", [None, LONG], ids=["queued", "scheduled"])
async def test_a_job_that_is_cancelled_on_its_way_and_comes_back_is_not_counted(
    store: Store, left: Left, delay_ms: int | None
) -> None:
    other = QUEUE + "-2"
    await store.enqueue(other, [NewJob("a", CALL, nonce="theirs")])  # so ours is refused there
    await store.enqueue(QUEUE, [NewJob("a", CALL, delay_ms=delay_ms), NewJob("b", CALL)])
    await store.outbox.move(QUEUE, ["a"], other)
    await store.cancel(QUEUE, ["a"], REASON, LONG)
    await relay(store.outbox, QUEUE, other)
    assert (await info(store, "a")).state is JobState.CANCELLED
    assert await queued(store) == 1
    await joined(store, "w")
    assert ids(await take(store, "w")) == ["b"]
    assert (await queued(store), left()) == (0, {})


async def test_a_job_that_has_expired_is_counted_until_its_end(store: Store, left: Left) -> None:
    gone = Extra(expires=Expiry(at_ms=1))
    await store.enqueue(QUEUE, [NewJob("before", CALL, extra=gone), NewJob("stays", CALL)])
    await store.promote(QUEUE, 100)
    assert (await info(store, "before")).state is JobState.CANCELLED
    assert await queued(store) == 1
    await joined(store, "w")
    assert ids(await take(store, "w")) == ["stays"]
    assert (await queued(store), left()) == (0, {})
    # The other way round: a claim has passed it before it ends.
    await store.enqueue(QUEUE, [NewJob("passed", CALL, extra=gone)])
    assert await take(store, "w") == []
    await store.promote(QUEUE, 100)
    assert (await queued(store), left()) == (0, {})


async def test_what_was_set_aside_is_not_counted_once_it_is_cancelled(store: Store, left: Left) -> None:
    pauses = store.operating.pauses
    other = encode_envelope(OTHER, [], {}, None)
    await joined(store, "w")
    await store.enqueue(
        QUEUE, [NewJob(each, CALL if each[0] == "a" else other) for each in ("a1", "o1", "a2", "o2")]
    )
    await pauses.pause(QUEUE, [ADD, OTHER])
    assert await take(store, "w") == []
    await store.cancel(QUEUE, ["a1", "o1"], REASON, LONG)
    assert await queued(store) == 2
    await pauses.resume(QUEUE, [OTHER])
    assert ids(await take(store, "w")) == ["o2"]
    assert await queued(store) == 1
    await send(store, "a3")
    assert await queued(store) == 2
    await pauses.resume(QUEUE, [ADD])
    assert ids(await take(store, "w")) == ["a2", "a3"]
    assert (await queued(store), left()) == (0, {})


async def test_a_wrong_number_goes_once_its_lane_is_empty(redis_store: Store, redis_backend: Backend) -> None:
    store, left, database = redis_store, Left(redis_backend), redis_backend.database
    assert database is not None
    await send(store, *"abc")
    await store.cancel(QUEUE, ["a", "b"], REASON, LONG)
    with database.client() as client:
        client.delete(redis_backend.key("normal"))  # the lane, by hand
        client.hset(redis_backend.key("leftovers"), "low", "-3")  # claims have passed what was not counted
    await send(store, *"de")
    await joined(store, "w")  # which makes the group again
    assert await queued(store) == 0  # not below
    assert left() == {"normal": 2}  # a worker that joins sweeps too
    tokens = await store.block(QUEUE, "w", BLOCK)
    await keep(store, "w", "sweep")
    assert left() == {"normal": 2}
    assert ids((await store.claim(QUEUE, "w", 5, tokens)).jobs) == ["d", "e"]
    await keep(store, "w", "sweep")
    assert left() == {}
    await send(store, "f")
    assert await queued(store) == 1


async def test_a_right_number_stays_in_a_sweep(redis_store: Store, redis_backend: Backend) -> None:
    store, pauses, left = redis_store, redis_store.operating.pauses, Left(redis_backend)
    await joined(store, "w")
    await send(store, *"abc")
    await store.cancel(QUEUE, ["a"], REASON, LONG)
    await keep(store, "w", "sweep")
    assert (await queued(store), left()) == (2, {"normal": 1})
    await pauses.pause(QUEUE, [ADD])
    assert await take(store, "w") == []
    await store.cancel(QUEUE, ["b"], REASON, LONG)
    await keep(store, "w", "sweep")
    assert (await queued(store), left()) == (1, {"normal": 1})  # of what was set aside
    await pauses.resume(QUEUE, [ADD])
    assert ids(await take(store, "w")) == ["c"]
    await store.enqueue(QUEUE, [NewJob("passed", CALL, extra=Extra(expires=Expiry(at_ms=1)))])
    assert await take(store, "w") == []
    await keep(store, "w", "sweep")
    await store.promote(QUEUE, 100)  # its end, after a claim has passed its entry
    assert (await queued(store), left()) == (0, {})


async def test_how_many_are_ahead_is_without_those_that_have_left(store: Store) -> None:
    many = [f"m{n:04}" for n in range(1_100)]
    await send(store, *many, priority=Priority.HIGH)
    await send(store, "last")
    await store.cancel(QUEUE, many[:1_080], REASON, 0)
    ahead = await store.operating.story.ahead(QUEUE, await info(store, "last"))
    assert 20 <= ahead.count <= 21  # an estimate, of an entry between the others
