"""Workers that stand: they wait without a blocking read, and whatever is queued wakes one of them by a message."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import redis

from aioq.jobs.job import JobState
from aioq.store.contract import Claim, Claimed, NewJob, Settlement, Store, Verb
from aioq.store.redis import RedisStore
from tests.contract.kit import (
    BLOCK,
    BROKEN,
    CALL,
    CRASHED,
    LONG,
    QUEUE,
    THREE,
    Backend,
    eventually,
    ids,
    joined,
    running,
    send,
    settle,
)
from tests.contract.test_timetable import make, put

pytestmark = pytest.mark.anyio


class Stander:
    """A worker that stands, as its fetcher does; what comes to it is kept."""

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name
        self.jobs: list[Claimed] = []
        self.wakes: list[int] = []
        self.leave: Callable[[], Awaitable[None]] | None = None

    async def join(self) -> "Stander":
        """Take a lease, and listen."""
        await joined(self.store, self.name)
        self.leave = await self.store.dispatched(
            QUEUE, self.name, self.jobs.append, lambda: None, self.wakes.append
        )
        return self

    async def claim(self, count: int = 5) -> Claim:
        return await self.store.claim(QUEUE, self.name, count, idle=count > 0, stands=True)

    async def stand(self) -> None:
        """Find nothing, and stand."""
        assert (await self.claim()).jobs == []

    async def woken(self) -> int:
        """Wait until it is woken; returns for how many jobs."""

        async def come() -> bool:
            return bool(self.wakes)

        await eventually(come)
        return self.wakes.pop(0)


Standers = Callable[[str], Awaitable[Stander]]


@pytest.fixture
async def standers(store: Store) -> AsyncIterator[Standers]:
    """Makes workers that stand."""
    made: list[Stander] = []

    async def make_one(name: str) -> Stander:
        made.append(await Stander(store, name).join())
        await made[-1].stand()
        return made[-1]

    yield make_one
    for each in made:
        if each.leave is not None:
            await each.leave()


@pytest.fixture
async def w(standers: Standers) -> Stander:
    return await standers("w")


async def busy(store: Store, w: Stander) -> None:
    """Let the worker run a job, so that nothing is dispatched to it directly, and stand as before."""
    await send(store, "first")

    async def come() -> bool:
        return bool(w.jobs or w.wakes)

    await eventually(come)
    if w.wakes:  # this store dispatches nothing
        w.wakes.clear()
        assert ids((await w.claim()).jobs) == ["first"]


# -- each way into a lane ---------------------------------------------------------------------------------------


async def a_lone_job(store: Store, w: Stander) -> None:
    await busy(store, w)
    await send(store, "job")


async def several_jobs(store: Store, w: Stander) -> None:
    await send(store, "job", "b", "c")


async def a_large_job(store: Store, w: Stander) -> None:
    await send(store, "job", call=CALL + b"x" * 2000)


async def promoted(store: Store, w: Stander) -> None:
    await send(store, "job", delay_ms=50)
    assert await w.woken() == 0, "it learns when the job is due"
    await w.stand()

    async def is_due() -> bool:
        return (await store.promote(QUEUE, 5)).count == 1

    await eventually(is_due)


async def moved(store: Store, w: Stander) -> None:
    await send(store, "job", delay_ms=LONG)
    assert await w.woken() == 0
    await w.stand()
    assert await store.reschedule(QUEUE, ["job"]) == [JobState.SCHEDULED]


WAYS = [a_lone_job, several_jobs, a_large_job, promoted, moved]


@pytest.mark.parametrize("way", WAYS)
async def test_what_is_queued_wakes_a_worker(
    store: Store, w: Stander, way: Callable[[Store, Stander], Awaitable[None]]
) -> None:
    await way(store, w)
    assert await w.woken() > 0
    assert "job" in ids((await w.claim()).jobs)


async def retried(store: Store, job: Claimed) -> None:
    assert await settle(store, "other", job, Verb.RETRY, BROKEN)


async def given_back(store: Store, job: Claimed) -> None:
    assert await settle(store, "other", job, Verb.INTERRUPT)


async def recovered(store: Store, job: Claimed) -> None:
    assert (await store.recover(QUEUE, CRASHED, 10, dead="other")).returned == 1


async def departed(store: Store, job: Claimed) -> None:
    await store.depart(QUEUE, "other")


async def reopened(store: Store, job: Claimed) -> None:
    assert await settle(store, "other", job, Verb.FAILED, BROKEN)
    assert await store.operating.reopen(QUEUE, ["job"]) == [JobState.FAILED]


@pytest.mark.parametrize("way", [retried, given_back, recovered, departed, reopened])
async def test_what_comes_back_wakes_a_worker(
    store: Store, standers: Standers, way: Callable[[Store, Claimed], Awaitable[None]]
) -> None:
    job = await running(store, await joined(store, "other"))
    w = await standers("w")
    await way(store, job)
    assert await w.woken() == 1
    assert ids((await w.claim()).jobs) == ["job"]


async def test_what_a_claim_puts_back_wakes_a_worker(store: Store, standers: Standers) -> None:
    await joined(store, "other")
    await send(store, "a")
    tokens = await store.block(QUEUE, "other", BLOCK)
    w = await standers("w")
    await store.claim(QUEUE, "other", 0, tokens)
    assert await w.woken() >= 1
    assert "a" in ids((await w.claim()).jobs)


async def test_a_schedule_wakes_a_worker_that_then_makes_its_ticks(store: Store, w: Stander) -> None:
    await put(store)
    assert await w.woken() == 0
    assert (await w.claim()).next_tick_ms == 0
    assert await make(store, "job") is not None
    assert await w.woken() == 1
    assert ids((await w.claim()).jobs) == ["job"]


# -- whom an entry wakes ----------------------------------------------------------------------------------------


async def test_each_send_wakes_one_worker_those_that_have_stood_longest_first(
    store: Store, standers: Standers
) -> None:
    a, b, c = [await standers(name) for name in "abc"]
    for count, each in enumerate((a, b, c), start=1):
        await send(store, f"job-{count}", f"other-{count}")
        assert await each.woken() >= 1
    await send(store, "last-1", "last-2")  # nobody stands
    assert ids((await a.claim(3)).jobs) == ["job-1", "other-1", "job-2"]
    assert not a.wakes
    await a.claim(100)
    await a.stand()
    await send(store, "next-1", "next-2")
    await a.woken()
    assert (a.wakes, b.wakes, c.wakes) == ([], [], [])


async def test_the_message_says_for_how_many_jobs(store: Store, standers: Standers) -> None:
    a, b = await standers("a"), await standers("b")
    await store.enqueue(QUEUE, [NewJob(f"{number:03}", CALL) for number in range(100)])
    woken = [await a.woken(), await b.woken()]
    assert woken in ([50, 50], [1, 1]), "the memory store has an entry for each job"


async def test_a_worker_without_a_free_slot_passes_its_wake_up_on(store: Store, standers: Standers) -> None:
    full, free = await standers("1-full"), await standers("2-free")  # of one millisecond: by name
    await send(store, "a", "b")
    await full.woken()
    await full.claim(0)
    assert await free.woken() >= 1
    assert ids((await free.claim()).jobs) == ["a", "b"]
    await free.claim(0)  # nobody else stands
    await full.stand()
    await send(store, "c", "d")
    await full.woken()


@pytest.mark.parametrize("way", ["departs", "dies", "claims nothing"])
async def test_a_worker_that_was_woken_and_is_gone_swallows_no_wake_up(
    store: Store, standers: Standers, way: str
) -> None:
    gone, there = await standers("gone"), await standers("there")
    await send(store, "a", "b")
    await gone.woken()
    if way == "departs":
        await store.depart(QUEUE, gone.name)
    elif way == "dies":
        assert (await store.recover(QUEUE, CRASHED, 10, dead=gone.name)).worker == gone.name
    else:
        await gone.claim(0)
    assert await there.woken() >= 1
    assert ids((await there.claim()).jobs) == ["a", "b"]


@pytest.mark.parametrize("way", ["departs", "dies", "does not listen", "claims for nothing"])
async def test_a_worker_that_stands_no_more_is_not_woken(store: Store, standers: Standers, way: str) -> None:
    gone, there = await standers("gone"), await standers("there")
    if way == "departs":
        await store.depart(QUEUE, gone.name)
    elif way == "dies":
        await store.recover(QUEUE, CRASHED, 10, dead=gone.name)
    elif way == "claims for nothing":
        await gone.claim(0)
    else:
        assert gone.leave is not None
        await gone.leave()
    there.wakes.clear()
    await there.claim()
    await send(store, "a", "b")
    assert await there.woken() >= 1
    assert gone.wakes == []


async def test_a_claim_that_finds_jobs_and_fewer_than_it_asks_for_stands(store: Store, w: Stander) -> None:
    await send(store, "a", "b")
    await w.woken()
    assert ids((await w.claim(5)).jobs) == ["a", "b"]
    await send(store, "c", "d")
    assert await w.woken() >= 1
    assert ids((await w.claim(2)).jobs) == ["c", "d"], "as many as it asks for: it does not stand"
    await send(store, "e", "f")
    assert ids((await w.claim(5)).jobs) == ["e", "f"]
    assert w.wakes == []


async def test_a_job_that_is_left_wakes_the_next_worker(store: Store, standers: Standers) -> None:
    a, b = await standers("a"), await standers("b")
    await send(store, "one", "two", "six")
    await a.woken()
    assert ids((await a.claim(1)).jobs) == ["one"]
    assert await b.woken() >= 1
    assert ids((await b.claim(5)).jobs) == ["two", "six"]


async def test_workers_that_block_and_that_stand_serve_one_queue(
    store: Store, backend: Backend, standers: Standers
) -> None:
    await joined(store, "blocks")
    await store.claim(QUEUE, "blocks", 5, idle=True)
    blocked = await backend.blocked(store, "blocks")
    w = await standers("w")
    await send(store, "a", "b")
    tokens = await blocked
    jobs = ids((await store.claim(QUEUE, "blocks", 1, tokens)).jobs)
    await w.woken()
    assert sorted(jobs + ids((await w.claim(5)).jobs)) == ["a", "b"]


async def test_a_worker_that_stands_gets_lone_jobs_by_direct_dispatch(
    redis_store: RedisStore, redis_backend: Backend
) -> None:
    w = await Stander(redis_store, "w").join()
    await w.stand()
    for number in range(3):
        await send(redis_store, f"job-{number}")

        async def come() -> bool:
            return bool(w.jobs)

        await eventually(come)
        done = Settlement(f"job-{number}", w.jobs.pop().claim, Verb.SUCCEEDED, THREE, 0, LONG)
        assert await redis_store.settle(QUEUE, "w", [done], idle=True) == [True]
    assert w.wakes == []
    assert w.leave is not None
    await w.leave()


# -- what a server keeps ----------------------------------------------------------------------------------------


KEYS = ("standing", "wakeable", "idle")


async def test_nothing_is_left_of_it_when_the_last_worker_departs(
    redis_store: RedisStore, redis_backend: Backend
) -> None:
    for name in "ab":
        await (await Stander(redis_store, name).join()).stand()
    assert redis_backend.database is not None
    with redis_backend.database.client() as client:
        assert client.exists(*map(redis_backend.key, KEYS)) == 3
        for name in "ab":
            await redis_store.depart(QUEUE, name)
        assert client.exists(*map(redis_backend.key, KEYS)) == 0


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("kind", ["gone", "string", "list"])
async def test_keys_that_are_gone_or_of_another_type_cost_no_job(
    redis_store: RedisStore, redis_backend: Backend, key: str, kind: str
) -> None:
    w = await Stander(redis_store, "w").join()
    await w.stand()
    assert redis_backend.database is not None
    client: redis.Redis = redis_backend.database.client()
    name = redis_backend.key(key)
    for number in range(2):
        client.delete(name)
        if kind == "string":
            client.set(name, "mine")
        elif kind == "list":
            client.rpush(name, "mine")
        await send(redis_store, f"a-{number}", f"b-{number}")
        assert ids((await w.claim()).jobs) == [f"a-{number}", f"b-{number}"], "it claims now and then anyway"
    await redis_store.depart(QUEUE, "w")


async def test_many_dead_workers_hold_up_nothing(redis_store: RedisStore, redis_backend: Backend) -> None:
    w = await Stander(redis_store, "w").join()
    await w.stand()
    assert redis_backend.database is not None
    client: redis.Redis = redis_backend.database.client()
    client.zadd(redis_backend.key("standing"), {f"dead-{number}": number for number in range(999)})
    await send(redis_store, "a", "b")
    assert await w.woken() == 2
    assert client.exists(redis_backend.key("standing")) == 0


async def test_a_send_where_workers_only_block_costs_no_command_more(
    redis_store: RedisStore, redis_backend: Backend
) -> None:
    await joined(redis_store, "blocks")
    assert redis_backend.database is not None
    with redis_backend.database.client() as client:
        assert not (await redis_store.claim(QUEUE, "blocks", 5, idle=True)).jobs
        client.config_resetstat()
        await send(redis_store, "a", "b")
        stats: Any = client.info("commandstats")
    calls = {name.removeprefix("cmdstat_"): each["calls"] for name, each in stats.items()}
    within = {
        name: count for name, count in calls.items() if not name.startswith(("eval", "fcall", "config", "info"))
    }
    assert within == {"time": 1, "xadd": 1, "unlink": 1, "msetnx": 1}
