"""Jobs whose only extra is a unique key: their records are read and written as text, as if they were packed.

`docs/design.md`, "The most common records are read and written as text".
"""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import product
from typing import Any

import msgspec
import pytest
import redis

from aioq.errors import ServerError
from aioq.jobs.job import JobState
from aioq.store.contract import Claimed, Limits, NewJob, Settlement, Store, Verb
from aioq.store.extra import Duplicate, Extra, Lock
from aioq.store.redis import RedisStore, replies
from aioq.store.redis.scripts import source
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
    info,
    joined,
    settle,
    state,
    take,
    take_one,
)
from tests.contract.refusing import refusing
from tests.databases import Database

pytestmark = pytest.mark.anyio

KEY = "shop.sync:1"
UNTILS, CONFLICTS = ("ended", "started"), ("return", "raise", "replace", "latest")
KEYS = [KEY, "k", "x" * 31, "x" * 32, "x" * 255, "x" * 256, "y" * 1_100, "ünï-✓-🦊", "\xc2\x81", "a\nb\tc\0d"]
GENERAL_CLAIM, TEXT_CLAIM = list, int
"""How the reply of a claim describes a first claim that was made in the general way, and as text."""


@pytest.fixture
def limits() -> Limits:
    return Limits(lease_ms=30 * LONG, max_crashes=1)


@pytest.fixture
def client(redis_backend: Backend) -> Any:
    assert redis_backend.database is not None
    with redis.Redis.from_url(redis_backend.database.url) as client:
        yield client


@pytest.fixture
def kinds(monkeypatch: pytest.MonkeyPatch) -> list[type]:
    """In which way each claimed job was claimed, in their order."""
    seen: list[type] = []
    parse = replies.parse_claim

    def noted(reply: Sequence[Any]) -> Any:
        seen.extend(map(type, reply[6::4]))
        return parse(reply)

    monkeypatch.setattr(replies, "parse_claim", noted)
    return seen


def job(job_id: str, key: str = KEY, until: str = "ended", conflict: str = "return", waiter: str = "") -> NewJob:
    return NewJob(job_id, CALL, waiter=waiter, extra=Extra(unique=Lock(key, until, conflict)))


def record(client: redis.Redis, backend: Backend, job_id: str) -> list[Any]:
    """The fields of a record, the call and the outcome encoded; without tags it is what packing these gives.

    With two keys of EXTRA that has them in any order.
    """
    key = backend.key(f"job:{job_id}")
    text: Any = client.get(key)
    packed = client.eval("return cmsgpack.pack(cmsgpack.unpack(redis.call('GET', KEYS[1])))", 1, key)
    assert text == packed or b"\xa4tags" in text
    fields = msgspec.msgpack.decode(text, type=list[msgspec.Raw])
    return [bytes(each) if at in {0, 8} else msgspec.msgpack.decode(each) for at, each in enumerate(fields)]


async def owner(store: Store, key: str = KEY) -> str | None:
    return await store.operating.unique_owner(QUEUE, key)


def ends(jobs: Sequence[Claimed]) -> list[Settlement]:
    return [Settlement(each.id, each.claim, Verb.SUCCEEDED, THREE, 0, LONG) for each in jobs]


@pytest.mark.parametrize("waiter", ["", "me"])
@pytest.mark.parametrize(("until", "conflict"), [*product(UNTILS, CONFLICTS)])
async def test_each_record_is_what_packing_gives(
    redis_store: RedisStore,
    redis_backend: Backend,
    client: redis.Redis,
    kinds: list[type],
    until: str,
    conflict: str,
    waiter: str,
) -> None:
    """A job that has tags too goes the general way: but for them, their records are alike in each state."""
    await joined(redis_store, "w")
    lock = Lock(f"{KEY}2", until, conflict)
    twin = NewJob("twin", CALL, waiter=waiter, extra=Extra(("a",), unique=lock))
    assert await redis_store.enqueue(QUEUE, [job("job1", KEY, until, conflict, waiter)]) == [True]
    assert await redis_store.enqueue(QUEUE, [twin]) == [True]
    states = [[record(client, redis_backend, each) for each in ("job1", "twin")]]
    jobs = await take(redis_store, "w", 2)
    assert kinds == [TEXT_CLAIM, GENERAL_CLAIM]
    assert all(each.is_unique for each in jobs)
    assert [each.sent_ms for each in jobs] == [fields[1] for fields in states[0]]
    states.append([record(client, redis_backend, each) for each in ("job1", "twin")])
    assert await redis_store.settle(QUEUE, "w", ends(jobs)) == [True, True]
    states.append([record(client, redis_backend, each) for each in ("job1", "twin")])
    for text, general in states:
        assert general[20].pop("tags") == ["a"]
        for position in (1, 7, 9):  # the times
            assert type(text[position]) is type(general[position])
            text[position] = general[position]
        text[20]["unique"][0] += "2"
        assert text == general
    assert [fields[4] for fields, _ in states] == [False, "running", "succeeded"]
    assert (await info(redis_store, "job1")).unique_key == KEY


@pytest.mark.parametrize("key", KEYS, ids=lambda key: f"{key[:10]!a}-{len(key)}")
async def test_a_key_may_be_any_text(
    redis_store: RedisStore, redis_backend: Backend, client: redis.Redis, kinds: list[type], key: str
) -> None:
    await joined(redis_store, "w")
    assert await redis_store.enqueue(QUEUE, [job("a", key), job("b", f"{key}2")]) == [True, True]
    assert await redis_store.enqueue(QUEUE, [job("c", key)]) == [Duplicate("a")]
    jobs = await take(redis_store, "w", 2)
    assert kinds == [TEXT_CLAIM] * 2
    assert record(client, redis_backend, "a")[20] == {"unique": [key, "ended", "return", 0, 0, 0, 0]}
    assert await redis_store.settle(QUEUE, "w", ends(jobs)) == [True, True]
    assert record(client, redis_backend, "a")[20] == {"unique": [key, "ended", "return", 0, 0, 0, 0]}
    assert client.keys(redis_backend.key("unique:*")) == []


async def test_a_process_that_waits_later_is_in_the_record(
    redis_store: RedisStore, redis_backend: Backend, client: redis.Redis
) -> None:
    """Those who wait when the job ends are notified, and the record names them no more."""
    await joined(redis_store, "w")
    await redis_store.enqueue(QUEUE, [job("a", waiter="me"), job("b", "other")])
    await redis_store.wait(QUEUE, "another", ["a", "b"])
    jobs = await take(redis_store, "w", 2)
    await redis_store.wait(QUEUE, "third", ["a"])
    waiters = record(client, redis_backend, "a")[10]
    assert [each in waiters for each in ("me", "another", "third")] == [True] * 3
    assert await redis_store.settle(QUEUE, "w", ends(jobs)) == [True, True]
    assert [record(client, redis_backend, each)[10] for each in ("a", "b")] == [False, False]


@pytest.mark.parametrize("waiter", ["", "me"])
async def test_the_record_of_a_job_that_was_dispatched_is_that_of_a_claimed_one(
    redis_store: RedisStore, redis_backend: Backend, client: redis.Redis, waiter: str
) -> None:
    await joined(redis_store, "w")
    dispatched: list[Claimed] = []
    leave = await redis_store.dispatched(QUEUE, "w", dispatched.append, lambda: None, lambda _: None)
    assert await redis_store.enqueue(QUEUE, [job("a", waiter=waiter)]) == [True]
    (claimed,) = (await redis_store.claim(QUEUE, "w", 5, idle=True)).jobs
    await redis_store.claim(QUEUE, "w", 5, idle=True)
    assert await redis_store.enqueue(QUEUE, [job("b", "b", waiter=waiter)]) == [True]

    async def has_come() -> bool:
        return bool(dispatched)

    await eventually(has_come)
    one, other = (record(client, redis_backend, each) for each in ("a", "b"))
    assert one[7] == claimed.claim
    assert other[7] == dispatched[0].claim
    one[1], one[7], one[20]["unique"][0] = other[1], other[7], "b"
    assert one == other
    await leave()


def test_a_unique_key_has_no_hook_that_these_ways_pass_over() -> None:
    """They do what `start` and `ended` do; a hook for `enter` or `finish` would have to be called there too."""
    hook = source("lib/hooks").partition("key = 'unique',")[2].partition("\n    },\n")[0]
    assert set(re.findall(r"^      (\w+) = function", hook, re.MULTILINE)) == {
        *("start", "ended"),
        *("back", "left", "reopen"),
    }


# -- sends


async def test_jobs_with_keys_and_without_are_sent_together(redis_store: RedisStore, kinds: list[type]) -> None:
    await joined(redis_store, "w")
    jobs = [job("a"), NewJob("b", CALL), job("c", "c", "started", "latest"), job("d", "d"), NewJob("e", CALL)]
    assert await redis_store.enqueue(QUEUE, jobs) == [True] * 5
    assert [await owner(redis_store, key) for key in (KEY, "c", "d")] == ["a", "c", "d"]
    claimed = await take(redis_store, "w", 5)
    assert [(each.id, each.is_unique) for each in claimed] == [
        ("a", True),
        ("b", False),
        ("c", True),
        ("d", True),
        ("e", False),
    ]
    assert kinds == [TEXT_CLAIM] * 5
    assert [await owner(redis_store, key) for key in (KEY, "c", "d")] == ["a", None, "d"]


async def test_many_jobs_with_keys_are_sent_together(redis_store: RedisStore) -> None:
    await joined(redis_store, "w")
    jobs = [job(f"job-{number:03}", f"key-{number}") for number in range(500)]
    assert await redis_store.enqueue(QUEUE, jobs) == [True] * 500
    again = [job(f"new-{number:03}", f"key-{number}") for number in range(500, 0, -1)]
    added = await redis_store.enqueue(QUEUE, again)
    assert added == [True] + [Duplicate(f"job-{number:03}") for number in range(499, 0, -1)]
    claimed = await take(redis_store, "w", 500)
    assert ids(claimed) == [each.id for each in jobs]
    assert all(await redis_store.settle(QUEUE, "w", ends(claimed)))
    assert await owner(redis_store, "key-7") is None


async def test_a_key_that_is_held_leaves_the_others_of_its_send_free(
    redis_store: RedisStore, redis_backend: Backend, client: redis.Redis
) -> None:
    await redis_store.enqueue(QUEUE, [job("a")])
    jobs = [job("b", "b"), job("c"), NewJob("d", CALL)]
    assert await redis_store.enqueue(QUEUE, jobs) == [True, Duplicate("a"), True]
    assert client.xlen(redis_backend.key("normal")) == 2, "an entry for each send"
    assert [await owner(redis_store, key) for key in (KEY, "b")] == ["a", "b"]
    assert await state(redis_store, "c") is None


@pytest.mark.parametrize("left", ["without a record", "ended", "with another key", "of another type"])
async def test_a_key_of_nobody_is_taken(
    redis_store: RedisStore, redis_backend: Backend, client: redis.Redis, left: str
) -> None:
    await joined(redis_store, "w")
    if left == "of another type":
        client.hset(redis_backend.key(f"unique:{KEY}"), "a", "b")
    else:
        await redis_store.enqueue(QUEUE, [job("a")])
        if left == "ended":
            await redis_store.settle(QUEUE, "w", ends(await take(redis_store, "w")))
            client.set(redis_backend.key(f"unique:{KEY}"), "a")
        else:
            redis_backend.delete("job:a")
            if left == "with another key":
                await redis_store.enqueue(QUEUE, [job("a", "other")])
    assert await redis_store.enqueue(QUEUE, [job("b"), job("c", "c")]) == [True, True]
    assert [await owner(redis_store, key) for key in (KEY, "c")] == ["b", "c"]


async def test_an_id_that_is_there_takes_no_key(
    redis_store: RedisStore, redis_backend: Backend, client: redis.Redis
) -> None:
    await redis_store.enqueue(QUEUE, [NewJob("a", CALL)])
    assert await redis_store.enqueue(QUEUE, [job("a"), job("b", "b")]) == [False, True]
    assert client.keys(redis_backend.key("unique:*")) == [redis_backend.key("unique:b").encode()]


async def test_a_large_call_goes_the_general_way(redis_store: RedisStore) -> None:
    await joined(redis_store, "w")
    large = NewJob("a", b"x" * 2_000, extra=Extra(unique=Lock(KEY)))
    assert await redis_store.enqueue(QUEUE, [large, job("b", "b")]) == [True, True]
    first, second = await take(redis_store, "w", 2)
    assert (first.id, first.envelope, first.is_unique) == ("a", large.envelope, True)
    assert await redis_store.settle(QUEUE, "w", ends([first, second])) == [True, True]
    assert await owner(redis_store) is None


# -- claims


MALFORMED = [
    "{'k', 'ended', 'return', 0, 0, 0, 'x'}",
    "{'k', 'ended', 'return', 0}",
    "{1, 'ended', 'return', 0, 0, 0, 0}",
    "{'k', 'ended', 2, 0, 0, 0, 0}",
    "{'k', 'ended', 'return', 0, 0, 0, false}",
]
OF_ANOTHER_SHAPE = [
    "{'k', 'ended', 'return', 0, 0, 1, 0}",
    "{'k', 'ended', 'other', 0, 0, 0, 0}",
    "{'k', 'within', 'return', 1000, 0, 0, 0}",
    "{'k', 'ended', 'return', 0, 0}",
    "{'k', 'ended', 'return', 0, 0, 0, 0, 0}",
]


@pytest.mark.parametrize("lock", [*MALFORMED, *OF_ANOTHER_SHAPE])
async def test_what_has_another_shape_is_not_read_as_text(
    redis_store: RedisStore, redis_backend: Backend, client: redis.Redis, kinds: list[type], lock: str
) -> None:
    await joined(redis_store, "w")
    await redis_store.enqueue(QUEUE, [job("a"), NewJob("b", CALL)])
    put = f"""
local record = cmsgpack.unpack(redis.call('GET', KEYS[1]))
record[21].unique = {lock}
redis.call('SET', KEYS[1], cmsgpack.pack(record))
"""
    client.eval(put, 1, redis_backend.key("job:a"))
    jobs = await take(redis_store, "w", 2)
    assert ids(jobs) == (["b"] if lock in MALFORMED else ["a", "b"])
    assert kinds == ([TEXT_CLAIM] if lock in MALFORMED else [GENERAL_CLAIM, TEXT_CLAIM])
    assert all(await redis_store.settle(QUEUE, "w", ends(jobs)))


@pytest.mark.parametrize("field", range(3, 24))
async def test_no_record_with_a_further_field_is_read_as_text(
    redis_store: RedisStore, redis_backend: Backend, client: redis.Redis, kinds: list[type], field: int
) -> None:
    """Fields are counted as in lib/record.lua; WAITERS, 11, and EXTRA, 21, are those that it has."""
    await joined(redis_store, "w")
    await redis_store.enqueue(QUEUE, [job("a")])
    put = """
local record = cmsgpack.unpack(redis.call('GET', KEYS[1]))
local field = tonumber(ARGV[1])
for i = #record + 1, field do record[i] = false end
if field == 21 then record[21].tags = {'a'} else record[field] = 7 end
redis.call('SET', KEYS[1], cmsgpack.pack(record))
"""
    client.eval(put, 1, redis_backend.key("job:a"), field)
    await take(redis_store, "w")
    assert TEXT_CLAIM not in kinds


@pytest.mark.parametrize("damage", [lambda text: text[:-1], lambda text: text[:40]], ids=["by a byte", "by half"])
async def test_no_record_that_is_cut_is_read_as_text(
    redis_store: RedisStore,
    redis_backend: Backend,
    client: redis.Redis,
    kinds: list[type],
    damage: Callable[[bytes], bytes],
) -> None:
    await joined(redis_store, "w")
    await redis_store.enqueue(QUEUE, [job("a"), NewJob("b", CALL)])
    text: Any = client.get(redis_backend.key("job:a"))
    client.set(redis_backend.key("job:a"), damage(text))
    assert ids(await take(redis_store, "w", 2)) == ["b"]
    assert kinds == [TEXT_CLAIM]


async def test_a_job_that_was_run_before_is_claimed_in_the_general_way(
    redis_store: RedisStore, kinds: list[type]
) -> None:
    await joined(redis_store, "w")
    await redis_store.enqueue(QUEUE, [job("a")])
    assert await settle(redis_store, "w", await take_one(redis_store, "w"), Verb.RETRY, BROKEN)
    again = await take_one(redis_store, "w")
    assert (again.is_unique, again.attempts, again.claims) == (True, 1, 2)
    assert kinds == [TEXT_CLAIM, GENERAL_CLAIM]
    assert await settle(redis_store, "w", again, Verb.SUCCEEDED, THREE)
    assert await owner(redis_store) is None


# -- ends: on every store


async def test_jobs_that_end_together_give_back_their_own_keys_only(store: Store) -> None:
    """`a` gave its key back when it was claimed, so `b` could take it, and now `c` has it."""
    await joined(store, "w")
    jobs: list[Claimed] = []
    for job_id in ("a", "b"):
        assert await store.enqueue(QUEUE, [job(job_id, until="started")]) == [True]
        jobs += await take(store, "w")
    assert await store.enqueue(QUEUE, [job("c", until="started"), job("d", "d")]) == [True, True]
    assert await store.settle(QUEUE, "w", ends(jobs)) == [True, True]
    assert [await owner(store, key) for key in (KEY, "d")] == ["c", "d"]


async def test_of_jobs_that_end_together_those_that_follow_are_queued(store: Store) -> None:
    await joined(store, "w")
    keys = ["one", "two", "three"]
    sent = [job(f"{key}-1", key, conflict="latest") for key in keys]
    assert await store.enqueue(QUEUE, sent) == [True] * 3
    jobs = await take(store, "w", 3)
    assert await store.enqueue(QUEUE, [job(f"{key}-2", key, conflict="latest") for key in keys[:2]]) == [True] * 2
    assert await store.settle(QUEUE, "w", ends(jobs)) == [True] * 3
    assert [await owner(store, key) for key in keys] == ["one-2", "two-2", None]
    assert sorted(ids(await take(store, "w", 3))) == ["one-2", "two-2"]


async def test_an_end_that_another_worker_has_overtaken_gives_no_key_back(store: Store) -> None:
    await joined(store, "w")
    await store.enqueue(QUEUE, [job("a"), job("b", "b")])
    jobs = await take(store, "w", 2)
    assert await store.settle(QUEUE, "w", [Settlement("a", jobs[0].claim, Verb.RELEASE)]) == [True]
    await joined(store, "v")
    await take(store, "v", 1)
    assert await store.settle(QUEUE, "w", ends(jobs)) == [False, True]
    assert [await owner(store, key) for key in (KEY, "b")] == ["a", None]


async def test_an_end_that_is_written_again_takes_no_key_from_its_next_job(store: Store) -> None:
    await joined(store, "w")
    await store.enqueue(QUEUE, [job("a"), job("b", "b")])
    jobs = await take(store, "w", 2)
    assert await store.settle(QUEUE, "w", ends(jobs)) == [True, True]
    assert await store.enqueue(QUEUE, [job("c"), job("d", "b")]) == [True, True]
    assert await store.settle(QUEUE, "w", ends([*jobs, *jobs])) == [True] * 4
    assert [await owner(store, key) for key in (KEY, "b")] == ["c", "d"]


async def test_a_job_whose_end_was_asked_for_gives_its_key_back(store: Store) -> None:
    await joined(store, "w")
    await store.enqueue(QUEUE, [job("a")])
    claimed = await take_one(store, "w")
    await store.cancel(QUEUE, ["a"], REASON, LONG)
    assert await settle(store, "w", claimed, Verb.SUCCEEDED, THREE)
    assert await state(store, "a") is JobState.SUCCEEDED
    assert await owner(store) is None


# -- scripts that fail half-way


async def test_a_send_that_fails_half_way_is_added_once_it_is_repeated(server: Database, app_name: str) -> None:
    async with refusing(server, app_name, Limits(lease_ms=LONG)) as at:
        for queue in at.each("enqueue"):
            await joined(at.full, "w", queue)
            new = [job("a"), NewJob("b", CALL), job("c", "c", "started", "latest")]
            with suppress(ServerError):
                await at.limited.enqueue(queue, new)
            found = [each and each.state for each in await at.full.info(queue, ["a", "b", "c"])]
            assert found in ([None] * 3, [JobState.QUEUED] * 3), queue
            assert await at.full.enqueue(queue, new, again=True) == [True] * 3, queue
            jobs = (await at.full.claim(queue, "w", 9)).jobs
            assert sorted(ids(jobs)) == ["a", "b", "c"], queue
            assert await at.full.settle(queue, "w", ends(jobs)) == [True] * 3
            assert await at.full.operating.unique_owner(queue, KEY) is None, queue


async def test_a_send_that_fails_half_way_and_is_not_repeated_holds_no_key(
    server: Database, app_name: str
) -> None:
    async with refusing(server, app_name, Limits(lease_ms=LONG)) as at:
        for queue in at.each("enqueue"):
            with suppress(ServerError):
                await at.limited.enqueue(queue, [job("a"), job("b", "b")])
            is_there = await at.full.info(queue, ["a"]) != [None]
            added = await at.full.enqueue(queue, [job("c"), job("d", "b")])
            assert added == ([Duplicate("a"), Duplicate("b")] if is_there else [True, True]), queue


@pytest.mark.parametrize("until", UNTILS)
async def test_a_lone_send_that_fails_half_way_while_a_worker_waits(
    server: Database, app_name: str, until: str
) -> None:
    async with refusing(server, app_name, Limits(lease_ms=LONG)) as at:
        for queue in at.each("enqueue"):
            await joined(at.full, "w", queue)
            leave = await at.full.dispatched(queue, "w", lambda _: None, lambda: None, lambda _: None)
            await at.full.claim(queue, "w", 5, idle=True)
            with suppress(ServerError):
                await at.limited.enqueue(queue, [job("a", until=until)])
            assert await at.full.enqueue(queue, [job("a", until=until)], again=True) == [True], queue
            await leave()
            jobs = (await at.full.claim(queue, "w", 5, known=[])).jobs
            assert ids(jobs) == ["a"], "it is in the lane, or the worker has it without knowing"
            assert await at.full.settle(queue, "w", ends(jobs)) == [True], queue
            assert await at.full.enqueue(queue, [job("b", until=until)]) == [True], queue


@pytest.mark.parametrize("dies", [False, True], ids=["lives", "dies"])
async def test_a_claim_that_fails_half_way_runs_each_job_once(server: Database, app_name: str, dies: bool) -> None:
    async with refusing(server, app_name, Limits(lease_ms=LONG)) as at:
        for queue in at.each("claim"):
            await joined(at.full, "w", queue)
            await at.full.enqueue(queue, [job("a"), job("b", "b", "started")])
            with suppress(ServerError):
                await at.limited.claim(queue, "w", 9, known=[])
            if dies:
                while (await at.full.recover(queue, CRASHED, 100, dead="w")).more:
                    pass
                await joined(at.full, "w", queue)
            jobs = (await at.full.claim(queue, "w", 9, known=[])).jobs
            assert sorted(ids(jobs)) == ["a", "b"], queue
            assert await at.full.operating.unique_owner(queue, KEY) == "a", queue
            assert await at.full.operating.unique_owner(queue, "b") is None, queue
            assert await at.full.settle(queue, "w", ends(jobs)) == [True, True]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("dies", [False, True], ids=["lives", "dies"])
async def test_an_end_that_fails_half_way_frees_each_key(
    server: Database, app_name: str, dies: bool, count: int
) -> None:
    async with refusing(server, app_name, Limits(lease_ms=LONG)) as at:
        for queue in at.each("settle"):
            await joined(at.full, "w", queue)
            keys = [KEY, "b"][:count]
            await at.full.enqueue(queue, [job(f"{key}-1", key) for key in keys])
            jobs = (await at.full.claim(queue, "w", 9)).jobs
            with suppress(ServerError):
                await at.limited.settle(queue, "w", ends(jobs))
            if dies:
                while (await at.full.recover(queue, CRASHED, 100, dead="w")).more:
                    pass
                await joined(at.full, "w", queue)
                jobs = (await at.full.claim(queue, "w", 9)).jobs
            assert all(await at.full.settle(queue, "w", ends(jobs))), queue
            assert [await at.full.operating.unique_owner(queue, key) for key in keys] == [None] * count, queue
            assert await at.full.enqueue(queue, [job(f"{key}-2", key) for key in keys]) == [True] * count, queue
