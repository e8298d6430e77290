"""The server's clock steps, back or forward: no job is stuck for as long as the step, none comes twice.

A server's clock cannot be moved here. So everything that it has stored is moved the other way, which is the same
seen from inside; the memory store has a clock of its own.
"""

from collections.abc import AsyncIterator, Callable

import pytest

from aioq.schedules.ticks import tick_due
from aioq.schedules.timing import Definition, Misfire, encode
from aioq.store.contract import Limits, Store, Verb
from aioq.store.memory import MemoryStore
from aioq.store.redis import RedisStore
from aioq.store.schedules import Entry
from tests.clocks import SystemClock
from tests.contract.conftest import Place, maker
from tests.contract.kit import (
    CALL,
    CRASHED,
    QUEUE,
    THREE,
    Backend,
    eventually,
    ids,
    joined,
    keep,
    running,
    send,
    settle,
    take,
    take_one,
)

pytestmark = pytest.mark.anyio

HOUR = 3_600_000
MINUTE = 60_000
LEASE = 200  # ms

# Everything that has a time of the server's, but for what it lets expire: that it reckons from its own clock.
MOVE = """
local base, ms = KEYS[1], tonumber(ARGV[1])
for _, name in ipairs({'scheduled', 'dead', 'workers', 'fetched', 'schedules', 'idle'}) do
  local members = redis.call('ZRANGE', base .. ':' .. name, 0, -1, 'WITHSCORES')
  for i = 1, #members, 2 do
    local score = tonumber(members[i + 1])
    if score > 0 and score < math.huge then redis.call('ZINCRBY', base .. ':' .. name, ms, members[i]) end
  end
end
for _, key in ipairs(redis.call('KEYS', base .. ':schedule:*')) do
  local following = redis.call('HGET', key, 'next')
  if following ~= '' then redis.call('HSET', key, 'next', string.format('%.0f', following + ms)) end
end
local declared = redis.call('GET', base .. ':declared')
if declared then
  local micros, code = string.match(declared, '^(%d+) (.*)$')
  redis.call('SET', base .. ':declared', string.format('%.0f %s', micros + 1000 * ms, code))
end
for _, key in ipairs(redis.call('KEYS', base .. ':job:*')) do
  local record = cmsgpack.unpack(redis.call('GET', key))
  for _, field in ipairs({2, 10, 18}) do record[field] = record[field] and record[field] + ms end
  redis.call('SET', key, cmsgpack.pack(record), 'KEEPTTL')
end
"""


class SteppingClock(SystemClock):
    """The host's clock, which somebody sets."""

    off_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.off_ms


@pytest.fixture
def limits() -> Limits:
    return Limits(lease_ms=LEASE)


@pytest.fixture
def clock() -> SteppingClock:
    return SteppingClock()


@pytest.fixture
async def backend(
    _where: Place | None, app_name: str, limits: Limits, clock: SteppingClock, anyio_backend: object
) -> AsyncIterator[Backend]:
    del anyio_backend
    if _where is None:
        memory = MemoryStore(app_name, clock=clock, limits=limits)
        backend = Backend(lambda: memory, app_name, None)
    else:
        backend = Backend(maker(_where, app_name, limits), app_name, _where)
    yield backend
    await backend.close()


@pytest.fixture
def step(backend: Backend, clock: SteppingClock) -> Callable[[int], None]:
    """Set the clock by so many ms."""

    def move(ms: int) -> None:
        if backend.database is None:
            clock.off_ms += ms
        else:
            with backend.database.client() as client:
                client.eval(MOVE, 1, backend.key("").removesuffix(":"), -ms)  # pyright: ignore[reportArgumentType]

    return move


Step = Callable[[int], None]


class TestLeases:
    async def test_back_what_a_dead_worker_ran_does_not_wait_for_as_long_as_the_step(
        self, store: Store, step: Step
    ) -> None:
        await running(store, await joined(store, "dead"))
        await joined(store, "w")
        step(-HOUR)
        found: list[tuple[str, int]] = []

        async def comes_back() -> bool:
            await keep(store, "w")
            await store.recover(QUEUE, CRASHED, 100)
            found.extend((job.id, job.crashes) for job in (await store.claim(QUEUE, "w", 5)).jobs)
            return bool(found)

        await eventually(comes_back)
        assert found == [("job", 1)]

    async def test_a_recovery_alone_sees_it_too(self, redis_store: RedisStore, redis_backend: Backend) -> None:
        await running(redis_store, await joined(redis_store, "dead"))
        assert redis_backend.database is not None
        with redis_backend.database.client() as client:
            client.zincrby(redis_backend.key("workers"), HOUR, "dead")

        async def recovered() -> bool:
            return (await redis_store.recover(QUEUE, CRASHED, 100)).worker == "dead"

        await eventually(recovered)

    async def test_back_a_live_worker_has_the_time_to_renew(self, store: Store, step: Step) -> None:
        """Whoever renews first after the step sees the others' leases as they were."""
        job = await running(store, await joined(store, "alive"))
        await joined(store, "w")
        step(-HOUR)

        await keep(store, "w")
        assert not (await keep(store, "alive")).lost
        assert (await store.recover(QUEUE, CRASHED, 100)).worker is None
        await keep(store, "w")

        assert await settle(store, "alive", job, Verb.SUCCEEDED, THREE)
        leases = {worker.worker: worker.lease_ms for worker in await store.workers(QUEUE)}
        assert all(lease <= LEASE for lease in leases.values())
        assert all(worker.fetched_ms >= 0 for worker in await store.workers(QUEUE))

    async def test_a_longer_lease_than_ones_own_is_no_step(
        self, redis_store: RedisStore, redis_backend: Backend, app_name: str
    ) -> None:
        assert redis_backend.database is not None
        url = redis_backend.database.url
        patient = RedisStore(app_name, url, shown_url=url, limits=Limits(lease_ms=HOUR))
        await joined(patient, "patient")
        await joined(redis_store, "w")
        for mode in ("renew", "sweep"):
            await keep(redis_store, "w", mode)
        await redis_store.recover(QUEUE, CRASHED, 100)

        (lease,) = [each.lease_ms for each in await redis_store.workers(QUEUE) if each.worker == "patient"]
        assert lease > HOUR - MINUTE
        await patient.close()

    @pytest.mark.parametrize("ms", [HOUR, -HOUR])
    async def test_who_runs_a_job_keeps_it(self, store: Store, step: Step, ms: int) -> None:
        job = await running(store, await joined(store, "w"))
        step(ms)

        assert not (await keep(store, "w")).lost
        await send(store, "next")
        assert ids(await take(store, "w")) == ["next"]
        assert await settle(store, "w", job, Verb.SUCCEEDED, THREE)


class TestDelays:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(lease_ms=24 * HOUR)

    async def test_back_a_job_is_late_by_the_step_and_comes_once(self, store: Store, step: Step) -> None:
        await joined(store, "w")
        await send(store, "job", delay_ms=MINUTE)
        step(-HOUR)

        promotion = await store.promote(QUEUE, 10)
        assert (promotion.count, await take(store, "w")) == (0, [])
        assert promotion.next_due_ms is not None
        assert HOUR < promotion.next_due_ms <= HOUR + MINUTE
        step(HOUR + MINUTE)
        assert (await store.promote(QUEUE, 10)).count == 1
        assert ids(await take(store, "w")) == ["job"]
        for ms in (-HOUR, 2 * HOUR):
            step(ms)
            assert ((await store.promote(QUEUE, 10)).count, await take(store, "w")) == (0, [])

    async def test_back_what_is_sent_then_is_due_by_the_new_time(self, store: Store, step: Step) -> None:
        await joined(store, "w")
        await send(store, "before", delay_ms=MINUTE)
        step(-HOUR)
        await send(store, "after", delay_ms=MINUTE)
        step(MINUTE)

        assert (await store.promote(QUEUE, 10)).count == 1
        assert ids(await take(store, "w")) == ["after"]

    async def test_forward_a_job_is_due_as_soon_as_its_time_is_past(self, store: Store, step: Step) -> None:
        await joined(store, "w")
        await send(store, "job", delay_ms=HOUR)
        step(2 * HOUR)

        assert (await store.claim(QUEUE, "w", 1)).next_due_ms == 0
        assert (await store.promote(QUEUE, 10)).count == 1
        assert ids(await take(store, "w")) == ["job"]

    @pytest.mark.parametrize("ms", [HOUR, -HOUR])
    async def test_a_retry_comes_once(self, store: Store, step: Step, ms: int) -> None:
        job = await running(store, await joined(store, "w"))
        step(ms)
        await settle(store, "w", job, Verb.RETRY, THREE, delay_ms=MINUTE)
        step(MINUTE)

        assert (await store.promote(QUEUE, 10)).count == 1
        assert (await take_one(store, "w")).attempts == 1
        assert (await store.promote(QUEUE, 10)).count == 0


class TestTicks:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(lease_ms=24 * HOUR)

    async def put(self, store: Store, due_in: int, misfire: Misfire = Misfire.LAST) -> None:
        """A schedule of every minute."""
        definition = Definition(every_ms=MINUTE, misfire=misfire, misfire_cap=5)
        now = (await store.timetable.read(QUEUE, [])).now_ms
        entry = Entry(id="s", definition=encode(definition), envelope=CALL, next_ms=now + due_in)
        assert await store.timetable.write(QUEUE, [entry]) == [True]

    async def made(self, store: Store) -> int:
        await tick_due(store.timetable, QUEUE)
        return len(await take(store, "w", 100))

    async def test_back_no_tick_comes_twice_and_the_next_not_later_than_the_step(
        self, store: Store, step: Step
    ) -> None:
        await joined(store, "w")
        await self.put(store, due_in=0)
        assert await self.made(store) == 1
        step(-HOUR)

        assert await self.made(store) == 0
        next_tick_ms = (await store.timetable.read(QUEUE)).next_tick_ms
        assert next_tick_ms is not None
        assert next_tick_ms <= HOUR + MINUTE
        step(next_tick_ms)
        assert await self.made(store) == 1
        assert await self.made(store) == 0

    @pytest.mark.parametrize(("misfire", "jobs"), [(Misfire.SKIP, 0), (Misfire.LAST, 1), (Misfire.ALL, 5)])
    async def test_forward_what_was_missed_follows_misfire(
        self, store: Store, step: Step, misfire: Misfire, jobs: int
    ) -> None:
        await joined(store, "w")
        await self.put(store, MINUTE // 2, misfire)
        assert await self.made(store) == 0
        step(HOUR)

        assert await self.made(store) == jobs
        assert await self.made(store) == 0
        next_tick_ms = (await store.timetable.read(QUEUE)).next_tick_ms
        assert next_tick_ms is not None
        assert next_tick_ms <= MINUTE

    async def test_back_the_declaration_of_the_worker_that_starts_last_is_the_current_one(
        self, store: Store, step: Step
    ) -> None:
        old, new = "0a", "0b"
        before = await store.timetable.note_declaration(
            QUEUE, 0, old, worker=await joined(store, "old"), ids=["s"]
        )
        step(-HOUR)

        now = await store.timetable.note_declaration(QUEUE, 0, new, worker=await joined(store, "new"), ids=["s"])

        assert (now.code, now.before) == (new, old)
        again = await store.timetable.note_declaration(QUEUE, before.since, old, worker="old", ids=["s"])
        assert again.code == new
