"""Pauses of queues and tasks: what a claim brings, where the jobs are, and in which order they come back."""

from contextlib import suppress

import pytest
import redis

from aioq.errors import ServerError
from aioq.jobs.job import JobState, Priority
from aioq.operate import shard_changes
from aioq.operate.carrying import attend, carry
from aioq.operate.purge import PURGED
from aioq.store.contract import Limits, NewJob, Store, Verb
from aioq.store.operating import MOST_LISTED, ListQuery
from aioq.store.operations import Act, OperationState
from aioq.store.pauses import CHANGED, NO_PAUSES, copy_pauses
from aioq.store.redis import RedisStore
from aioq.wire.messages import encode_envelope
from tests.contract.kit import (
    BROKEN,
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
    running,
    send,
    settle,
    state,
    take,
)
from tests.contract.refusing import Refusing, refusing
from tests.contract.test_operations import Source, write
from tests.databases import Database

pytestmark = pytest.mark.anyio

OTHER = encode_envelope("shop.other", [], {}, None)
ADD = "shop.add"


async def mixed(store: Store, *names: str, priority: Priority = Priority.NORMAL) -> None:
    """Send jobs together, so that they share entries: those that begin with `o` are of another task."""
    jobs = [NewJob(name, OTHER if name[0] == "o" else CALL, priority) for name in names]
    assert all(await store.enqueue(QUEUE, jobs))


async def one_by_one(store: Store, worker: str = "w") -> list[str]:
    """All that a worker of one slot gets: it ends each job before it asks for the next one."""
    got: list[str] = []
    while True:
        claim = await store.claim(QUEUE, worker, 1)
        for job in claim.jobs:
            got.append(job.id)
            assert await settle(store, worker, job, Verb.SUCCEEDED, THREE)
        if not claim.jobs and not claim.more:
            return got


async def queued(store: Store, *, oldest: bool = True) -> list[str]:
    listing = await store.operating.list_jobs(QUEUE, ListQuery(JobState.QUEUED, oldest), (), MOST_LISTED)
    assert listing.after is None
    return [item.info.id for item in listing.items if item.info is not None]


async def test_a_paused_queue_hands_out_nothing_until_it_is_resumed(store: Store) -> None:
    pauses = store.operating.pauses
    await joined(store, "w")
    job = await running(store, "w", "runs")

    await pauses.pause(QUEUE, [])
    pause = (await store.claim(QUEUE, "w", 5, idle=True)).pause
    assert pause is not None
    assert (pause.whole, pause.tasks, pause.ends_ms) == (True, 0, 0)
    await send(store, "a", "b")
    await send(store, "high", priority=Priority.HIGH)
    await send(store, "moved", delay_ms=LONG)
    await store.reschedule(QUEUE, ["moved"])
    assert await settle(store, "w", job, Verb.RETRY, BROKEN)
    await send(store, "later", delay_ms=1)  # last: it may be due at once

    async def is_due() -> bool:
        await store.promote(QUEUE, 10)
        return await state(store, "later") is JobState.QUEUED

    await eventually(is_due)
    assert await take(store, "w") == []
    assert (await store.claim(QUEUE, "w", 5, known=["a"])).jobs == []
    assert (await keep(store, "w")).pause == pause
    assert (await keep(store, "new", "join")).pause == pause
    assert await take(store, "new") == []
    assert sorted(await queued(store)) == ["a", "b", "high", "later", "moved", "runs"]

    await pauses.resume(QUEUE, [])
    assert (await keep(store, "new")).pause is None
    assert ids(await take(store, "w")) == ["high", "a", "b", "moved", "runs", "later"]
    assert (await store.claim(QUEUE, "w", 1)).pause is None
    assert await pauses.read(QUEUE) == NO_PAUSES


async def test_a_pause_ends_by_itself(store: Store) -> None:
    pauses = store.operating.pauses
    await joined(store, "w")
    now = await store.operating.now_ms(QUEUE)
    await pauses.pause(QUEUE, [], now + LONG)
    since = (await pauses.read(QUEUE)).whole
    assert since is not None
    assert since.until_ms == now + LONG
    await pauses.pause(QUEUE, [ADD], now + LONG)
    await pauses.pause(QUEUE, [], now + LONG // 2)
    found = await pauses.read(QUEUE)
    assert found.whole is not None
    assert (found.whole.since_ms, found.whole.until_ms) == (since.since_ms, now + LONG // 2)
    pause = (await store.claim(QUEUE, "w", 5)).pause
    assert pause is not None
    assert pause.ends_ms == now + LONG // 2
    assert 0 < pause.left_ms <= LONG // 2
    await mixed(store, "a", "o", "b")
    await pauses.pause(QUEUE, [], await store.operating.now_ms(QUEUE) + 50)

    async def other() -> list[str]:
        return ids(await take(store, "w"))

    assert await eventually(other) == ["o"]
    assert (await pauses.read(QUEUE)).whole is None
    await pauses.pause(QUEUE, [ADD], await store.operating.now_ms(QUEUE) + 50)
    assert await eventually(other) == ["a", "b"]
    assert await pauses.read(QUEUE) == NO_PAUSES


async def test_jobs_of_a_paused_task_are_set_aside_and_come_back_in_order(store: Store) -> None:
    pauses = store.operating.pauses
    await joined(store, "w")
    first = await running(store, "w", "a0")
    await mixed(store, "a1", "o1", "a2", "o2", "a3")
    await mixed(store, "h1", "o3", priority=Priority.HIGH)
    await pauses.pause(QUEUE, [ADD])
    await settle(store, "w", first, Verb.INTERRUPT)

    assert await one_by_one(store) == ["o3", "o1", "o2"]
    pause = (await store.claim(QUEUE, "w", 5)).pause
    assert pause is not None
    assert (pause.whole, pause.tasks) == (False, 1)
    await mixed(store, "a4", "o4")
    await send(store, "a5", "a6")
    assert await one_by_one(store) == ["o4"]

    waiting = ["h1", "a0", "a1", "a2", "a3", "a4", "a5", "a6"]
    assert await queued(store) == waiting
    assert await queued(store, oldest=False) == waiting[::-1]
    assert (await store.operating.count_jobs(QUEUE, ListQuery(JobState.QUEUED))).count == len(waiting)
    assert (await store.shards.backlog(QUEUE)).queued == len(waiting)
    assert (await store.history.statistics(QUEUE)).oldest is not None
    # What is done to jobs that were set aside is done to the jobs.
    assert await store.cancel(QUEUE, ["a2"], REASON, LONG) == [JobState.QUEUED]
    assert await store.operating.prioritize(QUEUE, ["a5"], Priority.LOW) == [JobState.QUEUED]
    assert await store.reschedule(QUEUE, ["a6"], delay_ms=LONG) == [JobState.QUEUED]
    assert await one_by_one(store) == []

    await pauses.resume(QUEUE, [ADD])
    await mixed(store, "a7", "o5")
    assert await one_by_one(store) == ["h1", "a0", "a1", "a3", "a4", "a7", "o5", "a5"]
    assert await queued(store) == []
    assert (await store.claim(QUEUE, "w", 5)).pause is None


async def test_one_of_two_paused_tasks_is_resumed_while_the_queue_is_paused(store: Store) -> None:
    pauses = store.operating.pauses
    await joined(store, "w")
    await pauses.pause(QUEUE, [ADD, "shop.other"])
    await mixed(store, *(f"{kind}{number}" for number in range(40) for kind in "oa"))
    assert await one_by_one(store) == []
    await pauses.pause(QUEUE, [])
    await pauses.resume(QUEUE, [ADD])
    await pauses.resume(QUEUE, [ADD])  # once more, as after a lost reply
    assert await one_by_one(store) == []
    await pauses.resume(QUEUE, [])

    half = ids(await take(store, "w", 25))
    await pauses.pause(QUEUE, [ADD])
    assert await one_by_one(store) == []
    await pauses.resume(QUEUE, [ADD])
    assert [*half, *await one_by_one(store)] == [f"a{number}" for number in range(40)]
    await pauses.resume(QUEUE, ["shop.other"])
    assert await one_by_one(store) == [f"o{number}" for number in range(40)]
    assert await pauses.read(QUEUE) == NO_PAUSES


async def test_what_is_delivered_while_jobs_come_back_is_taken_after_them(
    redis_store: RedisStore, redis_backend: Backend
) -> None:
    """And a job that is set aside and met again in one call is not lost: it has two entries then."""
    store, pauses = redis_store, redis_store.operating.pauses
    await joined(store, "w")
    await pauses.pause(QUEUE, [ADD, "shop.other"])
    await mixed(store, "a1", "o1", "a2")
    assert await one_by_one(store) == []
    blocked = await redis_backend.blocked(store, "w")
    await mixed(store, "a3", "o2", "a4")
    tokens = await blocked
    await pauses.resume(QUEUE, [ADD])
    got = ids((await store.claim(QUEUE, "w", 3, tokens)).jobs)
    assert [*got, *await one_by_one(store)] == ["a1", "a2", "a3", "a4"]
    await pauses.resume(QUEUE, ["shop.other"])
    assert await one_by_one(store) == ["o1", "o2"]


async def test_a_claim_sets_aside_a_bounded_number_of_jobs(store: Store) -> None:
    await joined(store, "w")
    await store.operating.pauses.pause(QUEUE, [ADD])
    await send(store, *(f"{number:04}" for number in range(2_250)))
    await mixed(store, "other")
    claims = 1
    while not (claim := await store.claim(QUEUE, "w", 5)).jobs:
        assert claim.more
        claims += 1
    assert ids(claim.jobs) == ["other"]
    assert 3 <= claims <= 5
    await store.operating.pauses.resume(QUEUE, [ADD])
    got: list[str] = []
    while len(got) < 2_250:
        jobs = await take(store, "w", 500)
        assert jobs
        got += ids(jobs)
    assert got == [f"{number:04}" for number in range(2_250)]


async def test_workers_are_notified_and_get_nothing_by_direct_dispatch(store: Store) -> None:
    pauses = store.operating.pauses
    dispatched: list[str] = []
    wakes: list[int] = []
    for worker in ("w", "standing"):
        await joined(store, worker)
        await store.dispatched(QUEUE, worker, lambda job: dispatched.append(job.id), lambda: None, wakes.append)
    await store.claim(QUEUE, "w", 5, idle=True)
    await store.claim(QUEUE, "standing", 5, stands=True)

    async def all_notified() -> bool:
        return wakes.count(CHANGED) == 2

    for tasks in [ADD], []:
        for change in pauses.pause, pauses.resume:
            await change(QUEUE, tasks)
            await eventually(all_notified)
            wakes.clear()
            if change == pauses.pause:
                await store.claim(QUEUE, "w", 5, idle=True)
                await store.claim(QUEUE, "standing", 5, stands=True)
                await send(store, f"sent-{len(tasks)}")
                assert await take(store, "w") == []
        assert ids(await take(store, "w")) == [f"sent-{len(tasks)}"]
    assert dispatched == []
    assert 1 not in wakes


async def test_what_was_delivered_stays_where_it_is_and_is_not_lost(store: Store, backend: Backend) -> None:
    for ends in ("lives", "dies", "departs"):
        await joined(store, ends)
        blocked = await backend.blocked(store, ends)
        await send(store, f"to-{ends}")
        tokens = await blocked
        await store.operating.pauses.pause(QUEUE, [])
        assert (await store.claim(QUEUE, ends, 5, tokens)).jobs == []
        if ends == "dies":
            while (await store.recover(QUEUE, CRASHED, 100, dead=ends)).more:
                pass
        elif ends == "departs":
            await store.depart(QUEUE, ends)
        else:
            await store.operating.pauses.resume(QUEUE, [])
            assert ids((await store.claim(QUEUE, ends, 5, known=[])).jobs) == ["to-lives"]
            continue
        await joined(store, f"after-{ends}")
        assert await take(store, f"after-{ends}") == []
        await store.operating.pauses.resume(QUEUE, [])
        assert ids(await take(store, f"after-{ends}")) == [f"to-{ends}"]


async def test_a_pause_holds_for_shards_that_are_added(store: Store) -> None:
    pauses = store.operating.pauses
    now = await store.operating.now_ms(QUEUE)
    shard = f"{QUEUE}#1"
    await pauses.pause(shard, ["shop.gone"])
    await pauses.pause(QUEUE, [], now + LONG)
    await pauses.pause(QUEUE, [ADD])
    await copy_pauses(pauses, QUEUE, [shard])
    wanted, found = await pauses.read(QUEUE), await pauses.read(shard)
    assert found.tasks.keys() == {ADD}
    assert found.whole is not None
    assert wanted.whole is not None
    assert found.whole.until_ms == wanted.whole.until_ms == now + LONG
    for tasks in [], [ADD]:
        await pauses.resume(QUEUE, tasks)
    await copy_pauses(pauses, QUEUE, [shard])
    assert await pauses.read(shard) == NO_PAUSES


async def test_workers_are_reminded_of_a_change_of_pauses_that_was_interrupted(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_changes, "REMINDED_AFTER_MS", 0)
    pauses, shards = store.operating.pauses, [QUEUE, f"{QUEUE}#1", f"{QUEUE}#2"]
    await store.shards.change(QUEUE, len(shards), None)
    now = await store.operating.now_ms(QUEUE)

    async def later(shard: str) -> None:
        await pauses.pause(shard, [ADD, "shop.other"], now + LONG)

    await pauses.pause(shards[1], ["shop.gone"])
    for change in later, lambda shard: pauses.pause(shard, []), lambda shard: pauses.resume(shard, [ADD]):
        with suppress(ServerError):
            async with shard_changes.carried_on(store, QUEUE):
                await change(QUEUE)
                raise ServerError("it dies")
        (reminder,) = (await store.promote(QUEUE, 10)).operations
        assert await attend(Source(store), QUEUE, reminder) is None
        assert (await store.shards.backlog(QUEUE)).timers == 0
        first, *others = [(await pauses.read(shard)).ends for shard in shards]
        assert others == [first] * 2
    assert first == {None: None, "shop.other": now + LONG}

    await shard_changes.change_pauses(store, shards, lambda shard: pauses.resume(shard, ["shop.other"]))
    await shard_changes.change_pauses(store, shards, lambda shard: pauses.resume(shard, []))
    assert [await pauses.read(shard) for shard in shards] == [NO_PAUSES] * 3
    assert (await store.shards.backlog(QUEUE)).is_empty


async def test_a_purge_leaves_nothing_of_what_was_set_aside(
    redis_store: RedisStore, redis_backend: Backend
) -> None:
    await joined(redis_store, "w")
    await redis_store.operating.pauses.pause(QUEUE, [ADD])
    await mixed(redis_store, *(f"a{number}" for number in range(100)))
    assert await one_by_one(redis_store) == []
    await write(redis_store, Act.PURGE, *PURGED)
    assert (await carry(Source(redis_store), "op")).state is OperationState.ENDED
    assert not await queued(redis_store)
    await mixed(redis_store, "a", "o")
    assert await one_by_one(redis_store) == ["o"]
    assert redis_backend.database is not None
    with redis_backend.database.client() as client:
        assert client.xlen(redis_backend.key("aside-normal")) == 1
    await redis_store.operating.pauses.resume(QUEUE, [ADD])
    assert await one_by_one(redis_store) == ["a"]


async def test_a_worker_that_was_left_out_is_found_by_a_sweep(
    redis_store: RedisStore, redis_backend: Backend
) -> None:
    """As after a pause of which only the first call was made, with more workers than one call tells."""
    await joined(redis_store, "w")
    await send(redis_store, "a")
    assert redis_backend.database is not None
    with redis_backend.database.client() as client:
        client.hset(redis_backend.key("paused"), "queue", "1 0")
    await keep(redis_store, "w")
    await keep(redis_store, "w", "sweep")
    assert await take(redis_store, "w") == []
    # The register of workers is deleted by hand: the lease that is written again is marked too.
    redis_backend.forget_workers()
    assert await take(redis_store, "w") == []
    assert (await keep(redis_store, "w")).pause is not None
    assert await take(redis_store, "w") == []


async def test_what_somebody_has_put_there_by_hand_does_not_stop_the_queue(
    redis_store: RedisStore, redis_backend: Backend
) -> None:
    await joined(redis_store, "w")
    await redis_store.operating.pauses.pause(QUEUE, [ADD])
    assert redis_backend.database is not None
    with redis_backend.database.client() as client:
        client.hset(redis_backend.key("paused"), mapping={"task x": "no", "other": "1 0", "aside none": "0-0"})
        await mixed(redis_store, "a", "o")
        assert await one_by_one(redis_store) == ["o"]
        client.set(redis_backend.key("paused"), "no hash")
        assert ids((await redis_store.claim(QUEUE, "w", 5)).jobs) == []
        assert await redis_store.operating.pauses.read(QUEUE) == NO_PAUSES
        with suppress(ServerError, redis.RedisError):
            await redis_store.operating.pauses.pause(QUEUE, [])


# Half-way


async def paused_half_way(at: Refusing, queue: str) -> None:
    with suppress(ServerError):
        await at.limited.operating.pauses.pause(queue, [ADD])
    await at.full.operating.pauses.pause(queue, [ADD])


async def all_of(at: Refusing, queue: str, known: list[str], wanted: int) -> list[str]:
    """What `w` gets, once it has all."""
    got: list[str] = []

    async def complete() -> bool:
        await at.full.promote(queue, 10)
        claim = await at.full.claim(queue, "w", 1, known=[*known, *got])
        got.extend(ids(claim.jobs))
        return len(got) >= wanted

    await eventually(complete)
    return got


async def test_a_job_is_set_aside_and_comes_back_wherever_a_call_fails(server: Database, app_name: str) -> None:
    """Each command of a claim, a pause and a resume is refused once, at each of the three times."""
    names = [f"{kind}{number}" for number in range(3) for kind in "ao"]
    async with refusing(server, app_name, Limits(lease_ms=LONG)) as at:
        for queue in at.each("claim", "pause"):
            await joined(at.full, "w", queue)
            await at.full.enqueue(queue, [NewJob(each, OTHER if each[0] == "o" else CALL) for each in names])
            await paused_half_way(at, queue)
            got: list[str] = []
            for count in (2, 9):  # again, as a fetcher does after an error
                with suppress(ServerError):
                    claim = await at.limited.claim(queue, "w", count, known=got)
                    got += ids(claim.jobs)
            got += await all_of(at, queue, got, 3 - len(got)) if len(got) < 3 else []
            assert sorted(got) == ["o0", "o1", "o2"], queue

            with suppress(ServerError):
                await at.limited.operating.pauses.resume(queue, [ADD])
            await at.full.operating.pauses.resume(queue, [ADD])
            back: list[str] = []
            with suppress(ServerError):
                back += ids((await at.limited.claim(queue, "w", 1, known=got)).jobs)
            with suppress(ServerError):
                back += ids((await at.limited.claim(queue, "w", 1, known=[*got, *back])).jobs)
            back += await all_of(at, queue, [*got, *back], 3 - len(back)) if len(back) < 3 else []
            assert back == ["a0", "a1", "a2"], queue
