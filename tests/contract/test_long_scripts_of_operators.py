"""What operators ask for goes in steps where there is much: pauses, statistics, bulk operations."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from aioq.jobs.job import JobState
from aioq.store.bounds import ASIDE_COST, SKIPPED_LIMIT
from aioq.store.contract import Settlement, Verb
from aioq.store.operations import LARGE_STEP, SMALL_STEP, Act, OperationStep, Verdict
from aioq.store.redis import RedisStore, history
from tests.contract.kit import BROKEN, LONG, QUEUE, REASON, Backend, eventually, ids, joined, send, take
from tests.contract.slow_scripts import SlowScripts
from tests.contract.test_pauses import ADD

pytestmark = pytest.mark.anyio

SCRIPTS = ("fcall", "evalsha", "eval")


@pytest.fixture
def client(redis_backend: Backend) -> Iterator[redis.Redis]:
    assert redis_backend.database is not None
    with redis_backend.database.client() as client:
        yield client


def calls(client: redis.Redis, *names: str) -> int:
    """How often commands were called since `config_resetstat`."""
    stats: Any = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in names)


def set_aside(redis_backend: Backend, client: redis.Redis) -> int:
    """How many jobs of the lane are set aside; all have names of eight letters."""
    entries: Any = client.xrange(redis_backend.key("aside-normal"))
    return sum(len(fields["ids"]) // int(fields["width"]) if "ids" in fields else 1 for _, fields in entries)


async def test_a_claim_sets_aside_and_passes_a_limited_number_of_jobs(
    redis_store: RedisStore, redis_backend: Backend, client: redis.Redis
) -> None:
    await joined(redis_store, "w")
    await redis_store.operating.pauses.pause(QUEUE, [ADD])
    most = SKIPPED_LIMIT // ASIDE_COST
    assert most <= 500, "1,000 took a server more than 5 ms"
    names = [f"job-{number:04}" for number in range(2 * most + 250)]
    await send(redis_store, *names)
    for aside in (most, 2 * most, len(names)):
        claim = await redis_store.claim(QUEUE, "w", 5)
        assert (claim.jobs, claim.more) == ([], aside < len(names))
        assert set_aside(redis_backend, client) == aside
    # All of them stay. Each counts twice.
    await redis_store.operating.pauses.look_again(QUEUE)
    more = [(await redis_store.claim(QUEUE, "w", 5)).more for _ in range(2 * len(names) // SKIPPED_LIMIT + 1)]
    assert more == [*[True] * (len(more) - 1), False]
    await redis_store.operating.pauses.resume(QUEUE, [ADD])
    assert [name for _ in range(3) for name in ids(await take(redis_store, "w", 500))] == names


async def test_a_pause_notifies_some_workers_in_each_call(
    redis_store: RedisStore, redis_backend: Backend, client: redis.Redis
) -> None:
    now = await redis_store.operating.now_ms(QUEUE)
    client.zadd(redis_backend.key("workers"), {f"worker-{number:04}": now + LONG for number in range(2_200)})
    for change in (redis_store.operating.pauses.pause, redis_store.operating.pauses.resume):
        client.config_resetstat()
        await change(QUEUE, [])
        assert calls(client, "publish") >= 2_200
        assert calls(client, *SCRIPTS) >= 4, "some 500 in each"
    leases = client.zrange(redis_backend.key("workers"), 0, -1, withscores=True)
    assert all(lease % 1 for _, lease in leases), "each of them is marked"


async def test_statistics_are_read_for_some_tasks_in_each_call(
    redis_store: RedisStore, redis_backend: Backend, client: redis.Redis
) -> None:
    assert history.TASKS_AT_ONCE <= 20, "all strings of 40 tasks took a server more than 5 ms"
    tasks = {f"shop.task-{number:03}": number for number in range(2 * history.TASKS_AT_ONCE + 1)}
    client.zadd(redis_backend.key("tasks"), tasks)
    client.config_resetstat()
    read = await redis_store.history.statistics(QUEUE)
    assert read.minute.tasks.keys() == {"", *tasks}
    assert calls(client, *SCRIPTS) == 3


@pytest.mark.parametrize(
    ("act", "state", "most", "given"),
    [
        (Act.RETRY, JobState.FAILED, LARGE_STEP, b""),
        (Act.CANCEL, JobState.SCHEDULED, SMALL_STEP, REASON),
        (Act.DELETE, JobState.FAILED, SMALL_STEP, REASON),
        (Act.MOVE, JobState.QUEUED, SMALL_STEP, b"other"),
        (Act.RUN_NOW, JobState.SCHEDULED, LARGE_STEP, b""),
        (Act.SET_PRIORITY, JobState.QUEUED, LARGE_STEP, b"low"),
    ],
)
@pytest.mark.alone
async def test_a_step_of_an_operation_is_short(
    redis_store: RedisStore, client: redis.Redis, act: Act, state: JobState, most: int, given: bytes
) -> None:
    """The largest one of each kind."""
    await joined(redis_store, "w")
    names = [f"job-{number:04}" for number in range(most)]
    await send(redis_store, *names, delay_ms=LONG if state is JobState.SCHEDULED else None)
    if state is JobState.FAILED:
        failed = [
            Settlement(job.id, job.claim, Verb.FAILED, BROKEN, 0, LONG)
            for job in await take(redis_store, "w", most)
        ]
        assert all(await redis_store.settle(QUEUE, "w", failed))
    begun = await redis_store.operating.now_ms(QUEUE)

    async def later() -> bool:
        return await redis_store.operating.now_ms(QUEUE) > begun

    await eventually(later)
    slow = SlowScripts([client], quiet=False)
    step = OperationStep(
        steps=0,
        act=act,
        state=state,
        begun_ms=begun,
        position=b"",
        looked_at=most,
        jobs=[(name, given) for name in names],
        ttl_ms=LONG,
    )
    verdict, progress = await redis_store.operating.operations.step(QUEUE, "operation", step)
    assert (verdict, progress.done.done, progress.done.skipped) == (Verdict.DONE, most, 0)
    assert not slow.found()
