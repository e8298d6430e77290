"""Queues with a bound: sends are refused once as many jobs are there, counted exactly whatever has happened."""

import random
from collections.abc import Sequence

import msgspec
import pytest

from aioq.errors import QueueFullError
from aioq.jobs.job import JobState, Priority
from aioq.store.contract import Limits, NewJob, Settlement, Store, Verb
from aioq.store.extra import Added, Extra, LimitUse, Lock
from tests.contract.kit import BROKEN, CALL, LONG, QUEUE, THREE, Backend, joined, send, state, take, take_one
from tests.contract.test_timetable import make, put, read, tick

pytestmark = pytest.mark.anyio

MOST = 5


@pytest.fixture
def limits() -> Limits:
    app = Limits(lease_ms=LONG, max_crashes=1)
    bounds = {QUEUE: MOST, "large": 300}
    own = {queue: msgspec.structs.replace(app, max_size=most) for queue, most in bounds.items()}
    return msgspec.structs.replace(app, by_queue=own)


def refused(replies: Sequence[Added]) -> list[QueueFullError]:
    return [each for each in replies if isinstance(each, QueueFullError)]


async def test_a_queue_takes_as_many_as_it_may_and_refuses_the_rest(store: Store) -> None:
    assert await send(store, *"abc") == [True] * 3

    replies = await send(store, *"defgh")

    assert replies[:2] == [True, True]
    (first, *others) = refused(replies)
    assert len(others) == 2
    assert (first.queue, first.size, first.max_size, first.job_ids) == (QUEUE, MOST, MOST, ("f",))
    assert str(first) == "queue 'mail' is full: 5 jobs of 5 (max_size) are there; f was not sent"
    assert [await state(store, each) for each in "efgh"] == [JobState.QUEUED, None, None, None]
    (full,) = refused(await send(store, "i"))
    assert full.size == MOST


async def test_a_shard_has_the_bound_of_its_queue_and_others_have_none(store: Store) -> None:
    jobs = [NewJob(str(number), CALL) for number in range(MOST + 1)]
    (full,) = refused(await store.enqueue("mail#1", jobs))
    assert full.queue == "mail"
    assert refused(await store.enqueue("other", jobs)) == []


async def test_scheduled_jobs_count_and_running_ones_do_not(store: Store) -> None:
    await send(store, "later", delay_ms=LONG)
    await send(store, *"abcd")
    assert len(refused(await send(store, "e"))) == 1

    worker = await joined(store, "w")
    await take(store, worker, 2)

    assert await send(store, "e", "f") == [True, True]
    assert len(refused(await send(store, "g"))) == 1


async def test_ways_back_are_never_refused(store: Store) -> None:
    worker = await joined(store, "w")
    await send(store, *"abcd")
    jobs = await take(store, worker, 4)
    await send(store, *"efghi")
    verbs = [Verb.RETRY, Verb.RELEASE, Verb.INTERRUPT, Verb.SNOOZE]

    done = [Settlement(job.id, job.claim, verb, BROKEN) for job, verb in zip(jobs, verbs, strict=True)]

    assert await store.settle(QUEUE, worker, done) == [True] * 4
    assert [await state(store, each) for each in "abcd"] == [JobState.QUEUED] * 4
    (full,) = refused(await send(store, "j"))
    assert full.size == MOST + 4


async def test_what_leaves_the_queue_makes_room(store: Store) -> None:
    await send(store, *"abc")
    await send(store, "d", "e", delay_ms=LONG)
    assert await store.cancel(QUEUE, ["a", "d"], BROKEN, LONG) == [JobState.QUEUED, JobState.SCHEDULED]
    assert await store.operating.delete(QUEUE, ["b"], BROKEN) == [JobState.QUEUED]

    assert refused(await send(store, *"fgh")) == []
    assert len(refused(await send(store, "i"))) == 1


async def test_a_job_that_is_there_is_no_job_more(store: Store) -> None:
    await send(store, *"abcde")
    assert await send(store, "a") == [False]
    job = NewJob("b", CALL)
    assert await store.enqueue(QUEUE, [job], again=True) == [True], "the earlier call has added it"


async def test_a_duplicate_needs_no_room_and_takes_no_key_where_there_is_none(store: Store) -> None:
    lock = Extra(unique=Lock("key"))
    assert await store.enqueue(QUEUE, [NewJob("a", CALL, extra=lock)]) == [True]
    await send(store, *"bcde")

    (reply,) = await store.enqueue(QUEUE, [NewJob("f", CALL, extra=lock)])
    assert (bool(reply), getattr(reply, "owner", "")) == (False, "a")
    other = Extra(unique=Lock("other"))
    assert len(refused(await store.enqueue(QUEUE, [NewJob("g", CALL, extra=other)]))) == 1

    assert await store.cancel(QUEUE, ["b"], BROKEN, LONG) == [JobState.QUEUED]
    assert await store.enqueue(QUEUE, [NewJob("g", CALL, extra=other)]) == [True], "the key was not taken before"


async def test_a_job_that_is_to_follow_another_one_needs_room(store: Store) -> None:
    worker = await joined(store, "w")
    lock = Extra(unique=Lock("key", conflict="latest"))
    await store.enqueue(QUEUE, [NewJob("a", CALL, extra=lock)])
    await take_one(store, worker)
    await send(store, *"bcde", "f")

    assert len(refused(await store.enqueue(QUEUE, [NewJob("g", CALL, extra=lock)]))) == 1

    assert await store.cancel(QUEUE, ["b"], BROKEN, LONG) == [JobState.QUEUED]
    assert await store.enqueue(QUEUE, [NewJob("g", CALL, extra=lock)]) == [True]
    (reply,) = await store.enqueue(QUEUE, [NewJob("h", CALL, extra=lock)])
    assert (bool(reply), getattr(reply, "owner", "")) == (False, "g"), "it takes the place of one that waits"


async def test_a_tick_that_is_to_follow_another_job_needs_room(store: Store) -> None:
    worker = await joined(store, "w")
    lock = Extra(unique=Lock("key", conflict="latest"))
    await store.enqueue(QUEUE, [NewJob("a", CALL, extra=lock)])
    await take_one(store, worker)
    await send(store, *"bcde", "f")
    entry = await put(store, "s", extra=lock)

    ticks = [tick(entry, "s@1", next_in=-1)]
    assert (await store.timetable.tick(QUEUE, ticks)).made == [0]

    assert await store.cancel(QUEUE, ["b"], BROKEN, LONG) == [JobState.QUEUED]
    assert await make(store, "s@2") == 1


async def test_jobs_that_wait_for_a_limit_count_once(store: Store) -> None:
    limited = Extra(limits=(LimitUse("customer", "7", concurrency=1, declared_ms=1),))
    jobs = [NewJob(each, CALL, extra=limited) for each in "abcdef"]
    assert len(refused(await store.enqueue(QUEUE, jobs))) == 1

    worker = await joined(store, "w")
    assert [job.id for job in await take(store, worker)] == ["a"]

    assert len(refused(await send(store, "g", "h"))) == 1


async def test_a_tick_is_skipped_where_there_is_no_room(store: Store) -> None:
    worker = await joined(store, "w")
    await send(store, *"abcd")
    entry = await put(store, "s")

    ticks = [tick(entry, "s@1", "s@2", "s@3", next_in=-1)]
    assert (await store.timetable.tick(QUEUE, ticks)).made == [1]

    entry = await read(store)
    assert (entry.runs, entry.skipped, entry.last_job) == (1, 2, "s@1")
    assert [await state(store, job) for job in ("s@1", "s@2")] == [JobState.QUEUED, None]
    await take(store, worker, 2)
    assert await make(store, "s@4") == 1
    assert (await read(store)).skipped == 2


async def test_a_tick_that_is_made_again_is_not_skipped(store: Store) -> None:
    """As after a script that failed half-way: its job is there."""
    await joined(store, "w")
    await send(store, "s@1", *"abcd")
    await put(store, "s")
    assert await make(store, "s@1") == 1
    assert (await read(store)).skipped == 0


async def test_only_a_send_counts_jobs(redis_store: Store, redis_backend: Backend) -> None:
    await redis_store.enqueue("other", [NewJob(str(number), CALL) for number in range(200)])
    await send(redis_store, *"abc")
    assert redis_backend.database is not None
    with redis_backend.database.client() as client:
        assert list(client.scan_iter(f"aioq:{{{redis_backend.app}:*:named:*")) == []


@pytest.mark.parametrize("seed", range(4))
async def test_the_count_is_exact_whatever_has_happened(store: Store, backend: Backend, seed: int) -> None:
    """Jobs in entries of their own and in shared ones, in all lanes, partly taken, given back, cancelled, due."""
    chance, most = random.Random(seed), 300
    there: set[str] = set()
    worker = await joined(store, "w", "large")
    held: list[tuple[str, int]] = []
    for number in range(60):
        match chance.choice(["one", "several", "scheduled", "take", "take", "back", "cancel", "end"]):
            case "take":
                claim = await store.claim("large", worker, chance.choice([1, 3, 40]))
                there -= {job.id for job in claim.jobs}
                held += [(job.id, job.claim) for job in claim.jobs]
            case "back" | "end" as what if held:
                some, held = held[:7], held[7:]
                verb = Verb.RELEASE if what == "back" else Verb.SUCCEEDED
                done = [Settlement(job_id, claim, verb, THREE, ttl_ms=LONG) for job_id, claim in some]
                assert await store.settle("large", worker, done) == [True] * len(done)
                there |= {job_id for job_id, _ in some} if what == "back" else set()
            case "cancel" if there:
                some = chance.sample(sorted(there), min(len(there), 5))
                await store.cancel("large", some, BROKEN, LONG)
                there -= set(some)
            case what:
                count = chance.choice([30, 70, 130]) if what == "several" else 1
                delay = LONG if what == "scheduled" else None
                priority = chance.choice([*Priority])
                jobs = [NewJob(f"{number}.{each:04}", CALL, priority, delay) for each in range(count)]
                replies = await store.enqueue("large", jobs)
                added = [job.id for job, reply in zip(jobs, replies, strict=True) if reply is True]
                assert len(added) == min(count, max(0, most - len(there))), (what, len(there))
                assert all(full.size == most or full.size == len(there) for full in refused(replies))
                there |= set(added)
    left = await store.enqueue("large", [NewJob(f"last.{each:04}", CALL) for each in range(most + 1)])
    assert left.count(True) == max(0, most - len(there))


class TestManyJobs:
    @pytest.fixture
    def limits(self) -> Limits:
        app = Limits(lease_ms=LONG)
        return msgspec.structs.replace(app, by_queue={QUEUE: msgspec.structs.replace(app, max_size=9_000)})

    async def test_they_are_counted_by_marks(self, redis_store: Store, redis_backend: Backend) -> None:
        """Also those that are in entries of very different sizes, and while a worker takes some."""
        for first in range(0, 1_000, 500):  # large entries
            await redis_store.enqueue(QUEUE, [NewJob(f"s.{first + each:05}", CALL) for each in range(500)])
        for number in range(130):
            await send(redis_store, f"one-{number}")
        for first in range(0, 3_000, 500):
            await redis_store.enqueue(QUEUE, [NewJob(f"t.{first + each:05}", CALL) for each in range(500)])
        worker, taken = await joined(redis_store, "w"), 0
        for _ in range(12):
            taken += len(await take(redis_store, worker, 130))
        await take_one(redis_store, worker)
        replies: list[Added] = []
        for first in range(0, 8_000, 500):
            replies += await redis_store.enqueue(
                QUEUE, [NewJob(f"u.{first + each:05}", CALL) for each in range(500)]
            )

        assert replies.count(True) == 9_000 - (1_000 + 130 + 3_000 - taken - 1)
        assert redis_backend.database is not None
        with redis_backend.database.client() as client:
            assert 0 < client.zcard(redis_backend.key("named:normal")) < 40  # pyright: ignore[reportOperatorIssue]
