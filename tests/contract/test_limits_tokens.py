"""Groups that may run jobs at the same time share entries of a lane: what a worker does not take, others do."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import redis

from aioq.store.contract import NewJob, Settlement, Store, Verb
from aioq.store.redis import RedisStore
from tests.contract.kit import BLOCK, CALL, LONG, QUEUE, THREE, Backend, ids, joined, send, take
from tests.contract.limiting import job, look, put, use

pytestmark = pytest.mark.anyio

KEYS = "abcde"


@pytest.fixture
def client(redis_backend: Backend) -> Iterator[redis.Redis]:
    assert redis_backend.database is not None
    with redis_backend.database.client() as client:
        yield client


async def free_all(store: Store) -> None:
    """Let a job of each key run and one wait; then those that run end together."""
    await joined(store, "w")
    await put(store, *(job(f"{key}{n}", use(key=key)) for n in range(2) for key in KEYS))
    running = await take(store, "w")
    assert ids(running) == [f"{key}0" for key in KEYS]
    assert await take(store, "w") == []
    ends = [Settlement(each.id, each.claim, Verb.SUCCEEDED, THREE, ttl_ms=LONG) for each in running]
    assert await store.settle(QUEUE, "w", ends) == [True] * len(KEYS)


def noted(client: redis.Redis, backend: Backend) -> dict[str, str]:
    """By the place of each token, the stream in which it is; all are in one entry."""
    notes: Any = client.hgetall(backend.key("tokens"))
    entries = {place: note.split()[1:] for place, note in notes.items()}
    assert len({tuple(entry) for entry in entries.values()}) == 1
    return {place: stream for place, (stream, _) in entries.items()}


async def test_those_that_become_free_together_share_an_entry(
    redis_store: RedisStore, redis_backend: Backend, client: redis.Redis
) -> None:
    await free_all(redis_store)
    assert noted(client, redis_backend) == {f"normal customer:{key}": "normal" for key in KEYS}
    assert ids(await take(redis_store, "w", 2)) == ["a1", "b1"]
    assert noted(client, redis_backend) == {f"normal customer:{key}": "normal:rest" for key in KEYS[2:]}
    await put(redis_store, *(job(f"{key}2", use(key=key)) for key in KEYS))
    assert ids(await take(redis_store, "w")) == ["c1", "d1", "e1"]
    assert not client.exists(redis_backend.key("tokens"))


async def test_a_worker_that_was_woken_takes_some_and_others_the_rest(store: Store) -> None:
    await joined(store, "one")
    await joined(store, "two")
    await free_all(store)
    tokens = await store.block(QUEUE, "one", BLOCK)
    assert ids((await store.claim(QUEUE, "one", 1, tokens)).jobs) == ["a1"]
    found: list[str] = []
    while len(found) < len(KEYS) - 1:
        tokens = await store.block(QUEUE, "two", BLOCK)
        found += ids((await store.claim(QUEUE, "two", 2, tokens)).jobs)
    assert sorted(found) == [f"{key}1" for key in KEYS[1:]]
    assert [await look(store, key=key) for key in KEYS] == [(1, 0)] * len(KEYS)


async def test_a_job_between_them_has_its_turn(store: Store) -> None:
    await joined(store, "w")
    await put(store, job("a", use(key="a")), job("b", use(key="b")))
    await send(store, "plain")
    await put(store, job("c", use(key="c")))
    assert [ids(await take(store, "w", 1)) for _ in range(4)] == [["a"], ["b"], ["plain"], ["c"]]


async def test_an_end_that_is_written_twice_wakes_the_next_once(store: Store) -> None:
    await joined(store, "w")
    await put(store, *(job(name, use()) for name in "abc"))
    (first,) = await take(store, "w")
    end = Settlement(first.id, first.claim, Verb.SUCCEEDED, THREE, ttl_ms=LONG)
    assert [await store.settle(QUEUE, "w", [end]) for _ in range(2)] == [[True]] * 2
    assert ids(await take(store, "w")) == ["b"]
    assert await store.settle(QUEUE, "w", [end]) == [True]
    assert await take(store, "w") == []
    assert await look(store) == (1, 1)


@pytest.mark.parametrize(
    "fields",
    [
        {"tokens": b"\xff"},
        {"tokens": b""},
        {"tokens": "\t1 normal customer:1"},
        {"tokens": msgspec.msgpack.encode([])},
        {"tokens": msgspec.msgpack.encode({})},
        {"tokens": msgspec.msgpack.encode([1])},
        {"tokens": msgspec.msgpack.encode(["job"])},
        {"tokens": msgspec.msgpack.encode(["\t1 normal customer:2", "job"])},
        {"tokens": msgspec.msgpack.encode(["\t"])},
        {"tokens": msgspec.msgpack.encode(["\t1"])},
        {"tokens": msgspec.msgpack.encode(["\tcustomer:1"])},
        {"tokens": msgspec.msgpack.encode(["\t1 nowhere customer:2"])},
        {"tokens": b"\x91\xa2\t\xff"},
        {"tokens": msgspec.msgpack.encode(["\t1 normal customer:2"] * 513)},
    ],
    ids=lambda fields: str(fields["tokens"][:30]),
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
    client.xadd(redis_backend.key("normal"), fields)  # pyright: ignore[reportArgumentType] - redis-py is partly typed
    tokens = await redis_store.block(QUEUE, worker, BLOCK) if blocking else ()
    assert (await redis_store.claim(QUEUE, worker, 5, tokens)).jobs == []
    await redis_store.enqueue(QUEUE, [NewJob("plain", CALL), job("limited")])
    assert sorted(ids(await take(redis_store, worker))) == ["limited", "plain"]
    assert client.xlen(redis_backend.key("normal")) == 0
