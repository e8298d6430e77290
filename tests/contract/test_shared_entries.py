"""Entries of a lane that name several jobs: as one job each, but for what they cost."""

import pytest
import redis

from aioq.jobs.job import new_job_ids
from aioq.store.contract import NewJob, Settlement, Store, Verb
from aioq.store.redis import RedisStore
from aioq.wire.messages import encode_envelope
from tests.contract.kit import BLOCK, CALL, QUEUE, Backend, ids, joined, send, take

pytestmark = pytest.mark.anyio

MEGABYTE = encode_envelope("large", ["x" * 600_000], {}, None)


@pytest.fixture
def client(redis_backend: Backend) -> redis.Redis:
    assert redis_backend.database is not None
    return redis_backend.database.client()


@pytest.mark.parametrize("count", [1, 3, 10, 64, 65, 200, 500])
@pytest.mark.parametrize("kind", ["drawn", "own", "mixed"])
async def test_whatever_a_claim_takes_all_come_once_and_in_their_order(
    store: Store, count: int, kind: str
) -> None:
    sent: list[str] = []
    for number in range(3):
        drawn, own = new_job_ids("mail", 130), [f"{number}-{each}" for each in range(130)]
        batch = {"drawn": drawn, "own": own, "mixed": [x for pair in zip(drawn, own, strict=True) for x in pair]}
        sent += batch[kind]
        await store.enqueue(QUEUE, [NewJob(each, CALL) for each in batch[kind]])
        sent += [f"alone-{number}"]
        await send(store, sent[-1])
    worker, got = await joined(store, "w"), list[str]()
    while jobs := await take(store, worker, count):
        assert len(jobs) <= count
        got += ids(jobs)
    assert got == sent


async def test_letters_of_several_bytes_are_not_cut(store: Store) -> None:
    names = [f"{letter}äöü漢{number}" for letter in "é漢" for number in range(20)]
    await send(store, *names)
    got: list[str] = []
    worker = await joined(store, "w")
    while jobs := await take(store, worker, 7):
        got += ids(jobs)
    assert got == names


async def test_jobs_that_are_sent_together_share_an_entry(
    redis_store: RedisStore, client: redis.Redis, redis_backend: Backend
) -> None:
    await redis_store.enqueue(QUEUE, [NewJob(each, CALL) for each in new_job_ids("mail", 128)])
    entries = client.xrange(redis_backend.key("normal"))
    assert len(entries) == 2  # pyright: ignore[reportArgumentType]
    assert [len(fields["ids"]) for _, fields in entries or ()] == [64 * 4, 64 * 4]  # pyright: ignore[reportOptionalSubscript] - none has nothing


async def test_an_entry_wakes_one_worker_and_what_that_leaves_wakes_the_next(
    store: Store, backend: Backend
) -> None:
    await joined(store, "one")
    await joined(store, "two")
    await send(store, "aa", "bb", "cc")
    tokens = await store.block(QUEUE, "one", BLOCK)
    claim = await store.claim(QUEUE, "one", 1, tokens)
    assert ids(claim.jobs) == ["aa"]
    got = ids((await store.claim(QUEUE, "two", 5, await store.block(QUEUE, "two", BLOCK))).jobs)
    assert sorted(got) == ["bb", "cc"]


async def test_what_was_given_back_comes_before_what_is_left_of_an_entry(store: Store) -> None:
    await send(store, "aa", "bb", "cc", "dd")
    worker = await joined(store, "w")
    (first,) = await take(store, worker, 1)
    await store.settle(QUEUE, worker, [Settlement(first.id, first.claim, Verb.RELEASE)])
    await send(store, "ee")
    assert ids(await take(store, worker, 9)) == ["aa", "bb", "cc", "dd", "ee"]


@pytest.mark.parametrize("given_back", [False, True], ids=["sent", "given-back"])
async def test_what_a_full_reply_leaves_is_not_lost_and_comes_before_what_was_sent_later(
    store: Store, given_back: bool
) -> None:
    """A reply is closed at a megabyte; the lane was read to its end by then."""
    names = ["a", "b", "c", "d"]
    await store.enqueue(QUEUE, [NewJob(each, MEGABYTE) for each in names])
    worker = await joined(store, "w")
    if given_back:
        jobs = [*await take(store, worker, 9), *await take(store, worker, 9)]
        assert ids(jobs) == names
        await store.settle(QUEUE, worker, [Settlement(job.id, job.claim, Verb.RELEASE) for job in jobs])
    await send(store, "later")
    got: list[str] = []
    while jobs := await take(store, worker, 9):
        got += ids(jobs)
    assert [*sorted(got[:-1]), got[-1]] == [*names, "later"]


@pytest.mark.parametrize(
    "fields",
    [
        {"prefix": "a", "width": "0", "ids": "b"},
        {"prefix": "a", "width": "2", "ids": "b"},
        {"prefix": "a", "width": "x", "ids": "b"},
        {"prefix": "a", "width": "-1", "ids": "b"},
        {"prefix": "a", "ids": "b"},
        {"width": "1", "ids": "b"},
        {"prefix": b"\xff", "width": "1", "ids": "b"},
        {"prefix": "a", "width": "1", "ids": b"\xff"},
    ],
    ids=str,
)
@pytest.mark.parametrize("blocking", [False, True], ids=["claim", "block"])
async def test_what_only_looks_like_such_an_entry_is_passed_over(
    redis_store: RedisStore,
    client: redis.Redis,
    redis_backend: Backend,
    fields: dict[str, str | bytes],
    blocking: bool,
) -> None:
    worker = await joined(redis_store, "w")
    client.xadd(redis_backend.key("normal"), fields)  # pyright: ignore[reportArgumentType]
    tokens = await redis_store.block(QUEUE, worker, BLOCK) if blocking else ()
    assert (await redis_store.claim(QUEUE, worker, 5, tokens)).jobs == []
    await send(redis_store, "job")
    assert ids(await take(redis_store, worker)) == ["job"]


async def test_thousands_of_wake_ups_hide_no_job(
    redis_store: RedisStore, client: redis.Redis, redis_backend: Backend
) -> None:
    """As there are where each scheduled job was due before all others, and nobody was there to be woken."""
    worker = await joined(redis_store, "w")
    pipeline = client.pipeline(transaction=False)
    for _ in range(12_000):
        pipeline.xadd(redis_backend.key("normal"), {"job": ""})
    pipeline.execute()
    names = [f"job-{number}" for number in range(300)]
    await send(redis_store, *names)
    got: list[str] = []
    more = True
    while more:
        claim = await redis_store.claim(QUEUE, worker, 100)
        got += ids(claim.jobs)
        more = claim.more or bool(claim.jobs)
    assert got == names


async def test_a_claim_with_known_jobs_finds_all_that_was_delivered(
    redis_store: RedisStore, client: redis.Redis, redis_backend: Backend
) -> None:
    worker = await joined(redis_store, "w")
    names = [f"job-{number}" for number in range(2_500)]
    for name in names:
        await send(redis_store, name)
    client.xreadgroup("aioq", worker, {redis_backend.key("normal"): ">"}, count=5_000)
    got = ids((await redis_store.claim(QUEUE, worker, 500, known=[])).jobs)
    while jobs := await take(redis_store, worker, 500):
        got += ids(jobs)
    assert sorted(got) == sorted(names)
