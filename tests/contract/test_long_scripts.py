"""No script holds the server up, whatever there is: what can be many goes in steps."""

from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any

import pytest
import redis

from aioq.jobs.job import JobState
from aioq.store.bounds import SKIPPED_LIMIT
from aioq.store.contract import Limits, NewJob, Settlement, Store, Verb
from aioq.store.extra import Expiry, Extra
from aioq.store.redis import RedisStore, holding
from tests.contract.inside import ServerInside
from tests.contract.kit import (
    BROKEN,
    CALL,
    CRASHED,
    LONG,
    QUEUE,
    REASON,
    THREE,
    Backend,
    ids,
    joined,
    keep,
    running,
    send,
    settle,
    take,
)

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=15)]

MANY = 2 * SKIPPED_LIMIT + 500
REFUSED = (3, 20)
"""The positions of settlements under a claim that is not the worker's."""

ENDS = {Verb.SUCCEEDED: THREE, Verb.FAILED: BROKEN, Verb.CANCELLED: REASON}


@pytest.fixture
def client(redis_backend: Backend) -> Iterator[redis.Redis]:
    assert redis_backend.database is not None
    with redis_backend.database.client() as client:
        yield client


async def claims_until_found(store: Store, wanted: str) -> int:
    """How many claims say that there is more until one brings the job."""
    passed = 0
    while True:
        claim = await store.claim(QUEUE, "w", 1, idle=True)
        if claim.jobs:
            assert ids(claim.jobs) == [wanted]
            return passed
        assert claim.more, "there is more, and the call says so"
        passed += 1


async def cancelled(store: Store, many: int, *, ttl_ms: int) -> None:
    names = [f"job-{number:06}" for number in range(many)]
    for start in range(0, many, 500):
        await send(store, *names[start : start + 500])
        await store.cancel(QUEUE, names[start : start + 500], REASON, ttl_ms)


@pytest.mark.parametrize("ttl_ms", [LONG, 0], ids=["cancelled", "gone"])
async def test_a_claim_skips_a_limited_number_of_jobs(store: Store, ttl_ms: int) -> None:
    await joined(store, "w")
    await cancelled(store, MANY, ttl_ms=ttl_ms)
    await send(store, "behind")

    assert await claims_until_found(store, "behind") == MANY // SKIPPED_LIMIT
    claim = await store.claim(QUEUE, "w", 1)
    assert (list(claim.jobs), claim.more) == ([], False)


@pytest.mark.parametrize("count", [1, 3, 70])
async def test_after_all_that_it_skips_a_claim_takes_what_was_asked_for_and_no_more(
    store: Store, count: int
) -> None:
    await joined(store, "w")
    await cancelled(store, 500, ttl_ms=LONG)
    names = [f"next-{number:03}" for number in range(100)]
    await send(store, *names)

    got = ids(await take(store, "w", count))
    assert got == names[:count]
    assert ids(await take(store, "w", 100)) == names[count:]


@pytest.mark.parametrize("fields", [{"job": ""}, {"by": "hand"}], ids=["wake-ups", "malformed"])
async def test_a_claim_skips_a_limited_number_of_entries_without_jobs(
    redis_store: RedisStore, redis_backend: Backend, client: redis.Redis, fields: dict[str, str]
) -> None:
    await joined(redis_store, "w")
    with client.pipeline(transaction=False) as pipe:
        for _ in range(MANY):
            pipe.xadd(redis_backend.key("normal"), fields)  # pyright: ignore[reportArgumentType]
        pipe.execute()
    await send(redis_store, "behind")

    assert await claims_until_found(redis_store, "behind") == MANY // SKIPPED_LIMIT
    assert client.xlen(redis_backend.key("normal")) <= 200, "they are trimmed as ever"


async def test_large_records_count_for_more(redis_store: RedisStore) -> None:
    await joined(redis_store, "w")
    large = "x" * 100_000
    await send(redis_store, *(f"job-{number}" for number in range(50)))
    for job in await take(redis_store, "w", 50):
        await settle(redis_store, "w", job, Verb.RETRY, large.encode(), ttl_ms=LONG)
        await redis_store.reschedule(QUEUE, [job.id], delay_ms=LONG)  # its entry stays behind
    await send(redis_store, "behind")

    assert await claims_until_found(redis_store, "behind") == 2


async def test_a_worker_for_which_there_is_more_is_not_put_into_idle(
    redis_store: RedisStore, redis_backend: Backend, client: redis.Redis
) -> None:
    await joined(redis_store, "w")
    await cancelled(redis_store, SKIPPED_LIMIT, ttl_ms=LONG)

    assert (await redis_store.claim(QUEUE, "w", 1, idle=True)).more
    assert client.zcard(redis_backend.key("idle")) == 0
    assert not (await redis_store.claim(QUEUE, "w", 1, idle=True)).more
    assert client.zcard(redis_backend.key("idle")) == 1


async def test_what_a_recheck_finds_in_the_lanes_is_bounded_too(
    redis_store: RedisStore, redis_backend: Backend, client: redis.Redis
) -> None:
    await joined(redis_store, "w")
    await cancelled(redis_store, MANY, ttl_ms=LONG)
    client.xreadgroup("aioq", "w", {redis_backend.key("normal"): ">"}, count=MANY)
    await send(redis_store, "behind")
    found, calls = [], 0
    while not found:
        found = ids((await redis_store.claim(QUEUE, "w", 1, known=[])).jobs)
        calls += 1
    assert found == ["behind"]
    assert calls == MANY // SKIPPED_LIMIT + 1


async def test_a_recheck_takes_so_many_jobs_of_entries_that_were_delivered(
    redis_store: RedisStore, redis_backend: Backend, client: redis.Redis
) -> None:
    await joined(redis_store, "w")
    names = [f"job-{number:04}" for number in range(4500)]
    for start in range(0, 4500, 500):
        await send(redis_store, *names[start : start + 500])
    client.xreadgroup("aioq", "w", {redis_backend.key("normal"): ">"}, count=4500)
    found: list[str] = []
    steps = 0
    more = True
    while more:
        claim = await redis_store.claim(QUEUE, "w", 1, known=found)
        found += ids(claim.jobs)
        steps += 1
        more = claim.more

    assert steps == 2, "3,000 jobs and what is left of an entry"
    places = ServerInside(client, redis_backend.key("").removesuffix(":")).places()
    assert set(found) | places.waiting.keys() == set(names)
    assert places.delivered == {}


class TestTheDead:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(lease_ms=LONG, dead_limit=10, dead_ttl_ms=LONG)

    @pytest.fixture(autouse=True)
    def many(self, redis_backend: Backend, client: redis.Redis) -> int:
        """Far more than the limit, which has been lowered since."""
        client.zadd(redis_backend.key("dead"), {f"dead-{number}": 1e15 + number for number in range(3000)})
        return 3000

    @pytest.mark.parametrize("together", [1, 50])
    async def test_what_is_over_a_lowered_limit_goes_in_steps(
        self, redis_store: RedisStore, redis_backend: Backend, together: int, many: int
    ) -> None:
        await joined(redis_store, "w")
        await send(redis_store, *(f"job-{number}" for number in range(together)))
        jobs = await take(redis_store, "w", together)
        batch = [Settlement(job.id, job.claim, Verb.FAILED, BROKEN, 0, LONG) for job in jobs]
        assert all(await redis_store.settle(QUEUE, "w", batch))

        assert redis_backend.dead() == many - 200

    async def test_a_worker_carries_it_on(
        self, redis_store: RedisStore, redis_backend: Backend, many: int
    ) -> None:
        assert (await keep(redis_store, "w", "join")).expired, "recovery has work"
        steps = 1
        while (step := await redis_store.recover(QUEUE, CRASHED, 100)).more:
            assert step.worker is None
            steps += 1
        assert redis_backend.dead() == 10
        assert steps == -(-(many - 10) // 200)
        assert not (await keep(redis_store, "w", "sweep")).expired

    async def test_those_whose_time_is_over_go_in_steps(
        self, redis_store: RedisStore, redis_backend: Backend, client: redis.Redis, many: int
    ) -> None:
        client.zadd(redis_backend.key("dead"), {f"dead-{number}": 1 for number in range(many)})
        job = await running(redis_store, await joined(redis_store, "w"))

        await settle(redis_store, "w", job, Verb.FAILED, BROKEN)

        assert redis_backend.dead() >= many - 2 * 201


async def test_a_recovery_takes_so_many_jobs_of_entries(
    redis_store: RedisStore, redis_backend: Backend, client: redis.Redis
) -> None:
    await joined(redis_store, "dead")
    names = [f"job-{number:04}" for number in range(4000)]
    for start in range(0, 4000, 500):
        await send(redis_store, *names[start : start + 500])
    client.xreadgroup("aioq", "dead", {redis_backend.key("normal"): ">"}, count=4000)
    returned: list[int] = []
    more = True
    while more:
        step = await redis_store.recover(QUEUE, CRASHED, 200, dead="dead")
        returned.append(step.returned)
        more = step.more
    assert sum(returned) == 4000
    assert max(returned) <= 2000 + 64
    places = ServerInside(client, redis_backend.key("").removesuffix(":")).places()
    assert (len(places.waiting), places.workers) == (4000, set())


async def test_a_departure_with_a_huge_held_set_goes_in_steps(
    redis_store: RedisStore, redis_backend: Backend, client: redis.Redis
) -> None:
    await joined(redis_store, "w")
    client.sadd(redis_backend.key("held:w"), *(f"job-{number}" for number in range(20_000)))

    await redis_store.depart(QUEUE, "w")

    assert not client.exists(redis_backend.key("held:w"))


async def test_a_recheck_looks_up_so_many_of_a_huge_held_set(
    redis_store: RedisStore, redis_backend: Backend, client: redis.Redis
) -> None:
    await joined(redis_store, "w")
    client.sadd(redis_backend.key("held:w"), *(f"job-{number}" for number in range(20_000)))

    assert (await redis_store.claim(QUEUE, "w", 5, known=[])).more


class TestAWorkerOfVeryManyJobs:
    """What it knows of is compared with what the server has noted, in steps."""

    @pytest.fixture(autouse=True)
    def made(self, redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
        """The calls, and the arguments of each."""
        monkeypatch.setattr(holding, "KNOWN_LIMIT", 100)
        monkeypatch.setattr(holding, "PAGE", 100)
        made: list[tuple[str, int]] = []
        call = redis_store._call

        async def note(name: str, queue: str, args: Sequence[Any], *more: Any) -> Any:
            made.append((name, len(args)))
            return await call(name, queue, args, *more)

        monkeypatch.setattr(redis_store, "_call", note)
        return made

    @pytest.fixture
    async def names(self, redis_store: RedisStore) -> list[str]:
        await joined(redis_store, "w")
        names = [f"job-{number:04}" for number in range(1000)]
        await send(redis_store, *names)
        return ids(await take(redis_store, "w", 500)) + ids(await take(redis_store, "w", 500))

    async def test_a_recheck_brings_what_it_does_not_know_of(
        self, redis_store: RedisStore, names: list[str], made: list[tuple[str, int]]
    ) -> None:
        made.clear()
        claim = await redis_store.claim(QUEUE, "w", 5, known=names[2:])

        assert sorted(ids(claim.jobs)) == sorted(names[:2])
        calls = [name for name, _ in made]
        assert calls.count("held") >= 1000 // 300
        assert (calls.count("hold"), calls.count("claim")) == (0, 1)

    async def test_its_note_is_made_anew_where_it_has_vanished(
        self,
        redis_store: RedisStore,
        redis_backend: Backend,
        client: redis.Redis,
        names: list[str],
        made: list[tuple[str, int]],
    ) -> None:
        client.srem(redis_backend.key("held:w"), *names[:700])
        await send(redis_store, "next")
        made.clear()

        assert ids((await redis_store.claim(QUEUE, "w", 5, known=[*names, "none"])).jobs) == ["next"]

        assert client.smembers(redis_backend.key("held:w")) == {*names, "next"}
        assert [size for name, size in made if name == "hold"] == [101] * 7 + [2]

    async def test_one_that_has_lost_its_lease_notes_nothing(
        self, redis_store: RedisStore, redis_backend: Backend, client: redis.Redis, names: list[str]
    ) -> None:
        redis_backend.delete("workers", "fetched", "held:w")

        assert (await redis_store.claim(QUEUE, "w", 5, known=names)).lost
        assert not client.exists(redis_backend.key("held:w"))

    async def test_what_is_noted_without_a_job_is_passed_over_in_steps(
        self, redis_store: RedisStore, redis_backend: Backend, client: redis.Redis, names: list[str]
    ) -> None:
        client.sadd(redis_backend.key("held:w"), *(f"none-{number}" for number in range(3000)))
        while not (claim := await redis_store.claim(QUEUE, "w", 5, known=names[1:])).jobs:
            assert claim.more
        assert ids(claim.jobs) == names[:1]


async def test_an_entry_that_names_more_jobs_than_aioq_writes_is_passed_over(
    redis_store: RedisStore, redis_backend: Backend, client: redis.Redis
) -> None:
    await joined(redis_store, "w")
    entry = {"prefix": "p", "width": 1, "ids": "x" * 100_000}
    client.xadd(redis_backend.key("normal"), entry)  # pyright: ignore[reportArgumentType]
    await send(redis_store, "job")

    assert ids(await take(redis_store, "w")) == ["job"]
    client.xadd(redis_backend.key("normal"), entry)  # pyright: ignore[reportArgumentType]
    (token,) = await redis_store.block(QUEUE, "w", 1000)
    assert token.job_ids == ()


class TestAwaitedByVeryMany:
    """64 processes wait for each of the jobs. What notifies very many of them goes in steps."""

    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(lease_ms=LONG, max_crashes=0)

    @staticmethod
    async def awaited(store: Store, names: Sequence[str]) -> None:
        """Register processes with names of 1,000 letters; the last one waits for one job only."""
        for number in range(63):
            await store.wait(QUEUE, f"{number:02}".ljust(1000, "x"), names)
        for name in names:
            await store.wait(QUEUE, name.ljust(1000, "x"), [name])

    @staticmethod
    def called(client: redis.Redis) -> tuple[int, int]:
        """How many scripts ran since `config_resetstat`, and how many messages they published."""
        stats: Any = client.info("commandstats")
        calls = {name.removeprefix("cmdstat_"): each["calls"] for name, each in stats.items()}
        return sum(calls.get(name, 0) for name in ("fcall", "evalsha", "eval")), calls.get("publish", 0)

    @pytest.mark.parametrize("in_a_task", [False, True], ids=["at once", "in a task"])
    async def test_a_settle(self, redis_store: RedisStore, client: redis.Redis, in_a_task: bool) -> None:
        await joined(redis_store, "w")
        names = [f"job-{number:02}" for number in range(26)]
        await send(redis_store, *names)
        await self.awaited(redis_store, names)
        jobs = await take(redis_store, "w", 26)
        if in_a_task:  # as where writes are confirmed
            redis_store._revive = lambda: None
        batch = [
            Settlement(job.id, job.claim + (number in REFUSED), verb, outcome, 0, LONG)
            for number, (job, (verb, outcome)) in enumerate(zip(jobs, cycle(ENDS.items()), strict=False))
        ]
        client.config_resetstat()

        accepted = [number not in REFUSED for number in range(26)]
        assert await redis_store.settle(QUEUE, "w", batch) == accepted
        assert self.called(client) == (7, 64 * 24), "250,000 letters are the names for four jobs"
        assert await redis_store.settle(QUEUE, "w", batch) == accepted
        assert self.called(client) == (8, 64 * 24), "each is notified once"
        states = [info.state for info in await redis_store.info(QUEUE, names) if info]
        ended = [JobState(settlement.verb.value) for settlement in batch]
        assert states == [
            state if taken else JobState.RUNNING for state, taken in zip(ended, accepted, strict=True)
        ]

    async def test_a_promotion_that_ends_what_has_expired(
        self, redis_store: RedisStore, client: redis.Redis
    ) -> None:
        names = [f"job-{number:02}" for number in range(26)]
        over = Extra(expires=Expiry(at_ms=1))
        await redis_store.enqueue(QUEUE, [NewJob(name, CALL, extra=over) for name in names])
        await self.awaited(redis_store, names)
        client.config_resetstat()

        ended = [(await redis_store.promote(QUEUE, 500)).expired for _ in range(7)]
        assert ended == [4, 4, 4, 4, 4, 4, 2]
        assert self.called(client) == (7, 64 * 26)

    async def test_a_recovery_of_jobs_that_crashed_too_often(
        self, redis_store: RedisStore, client: redis.Redis
    ) -> None:
        await joined(redis_store, "w")
        names = [f"job-{number:02}" for number in range(26)]
        await send(redis_store, *names)
        await self.awaited(redis_store, names)
        assert len(await take(redis_store, "w", 26)) == 26
        client.config_resetstat()

        steps = [await redis_store.recover(QUEUE, BROKEN, 200, dead="w") for _ in range(7)]
        assert [len(step.buried) for step in steps] == [4, 4, 4, 4, 4, 4, 2]
        assert [step.more for step in steps] == [True] * 6 + [False]
        assert self.called(client) == (7, 64 * 26)
        assert await redis_store.workers(QUEUE) == []
