"""Jobs whose only extra are limits: their records are read and written as text, as if they were packed.

`docs/design.md`, "The most common records are read and written as text".
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import pytest
import redis

from aioq.jobs.job import JobState, Priority
from aioq.store.contract import Claimed, NewJob, Settlement, Verb
from aioq.store.extra import Extra, LimitUse
from aioq.store.limits import Numbers
from aioq.store.redis import RedisStore, replies
from tests.contract.kit import BROKEN, CALL, LONG, QUEUE, THREE, Backend, ids, joined, settle, state, take
from tests.contract.limiting import fair, job, look, put, rate, use, verbs

pytestmark = pytest.mark.anyio

GENERAL_CLAIM, TEXT_CLAIM = list, int
"""How the reply of a claim describes a first claim that was made in the general way, and as text."""

KEYS = ["", "7", "x" * 31, "x" * 32, "x" * 255, "x" * 256, "y" * 1_100, "ünï-✓-🦊", "a:b", "a\nb\tc d", "waits"]


@pytest.fixture
def client(redis_backend: Backend) -> Iterator[redis.Redis]:
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


def record(client: redis.Redis, backend: Backend, job_id: str) -> list[Any]:
    """The fields of a record, the call and the outcome encoded."""
    text: Any = client.get(backend.key(f"job:{job_id}"))
    fields = msgspec.msgpack.decode(text, type=list[msgspec.Raw])
    return [bytes(each) if at in {0, 8} else msgspec.msgpack.decode(each) for at, each in enumerate(fields)]


def damage(client: redis.Redis, key: str, change: Callable[[list[Any]], object]) -> None:
    """Change the only limit of a job's record."""
    text: Any = client.get(key)
    fields = msgspec.msgpack.decode(text, type=list[msgspec.Raw])
    extra = msgspec.msgpack.decode(fields[20])
    extra["limits"] = [change(extra["limits"][0])]
    fields[20] = msgspec.Raw(msgspec.msgpack.encode(extra))
    client.set(key, msgspec.msgpack.encode(fields))


def ends(jobs: Sequence[Claimed], verb: Verb = Verb.SUCCEEDED, outcome: bytes = THREE) -> list[Settlement]:
    return [Settlement(each.id, each.claim, verb, outcome, 0, LONG) for each in jobs]


@pytest.mark.parametrize("waiter", ["", "me", "a" * 40])
@pytest.mark.parametrize("key", KEYS, ids=lambda key: f"{key[:10]!a}-{len(key)}")
async def test_each_record_is_what_packing_gives(
    redis_store: RedisStore,
    redis_backend: Backend,
    client: redis.Redis,
    kinds: list[type],
    key: str,
    waiter: str,
) -> None:
    """A job that has tags too goes the general way: but for them, their records are alike in each state."""
    await joined(redis_store, "w")
    one, other = use(key=key, most=300), use("twins", key, 300)
    await put(redis_store, NewJob("job1", CALL, waiter=waiter, extra=Extra(limits=(one,))))
    await put(redis_store, NewJob("twin", CALL, waiter=waiter, extra=Extra(("a",), limits=(other,))))
    states = [[record(client, redis_backend, each) for each in ("job1", "twin")]]
    jobs = await take(redis_store, "w", 2)
    assert kinds == [TEXT_CLAIM, GENERAL_CLAIM]
    assert all(each.is_limited and not each.is_unique for each in jobs)
    assert [each.sent_ms for each in jobs] == [fields[1] for fields in states[0]]
    states.append([record(client, redis_backend, each) for each in ("job1", "twin")])
    assert [await look(redis_store, name, key) for name in ("customer", "twins")] == [(1, 0)] * 2
    assert await redis_store.settle(QUEUE, "w", ends(jobs)) == [True, True]
    states.append([record(client, redis_backend, each) for each in ("job1", "twin")])
    for text, general in states:
        assert general[20].pop("tags") == ["a"]
        for position in (1, 7, 9):  # the times
            assert type(text[position]) is type(general[position])
            text[position] = general[position]
        text[20]["limits"][0][0] = "twins"
        if "waits" in text[20]:
            assert text[20]["waits"] == [f"customer:{key}"]
            text[20]["waits"] = [f"twins:{key}"]
        assert text == general
    assert [fields[4] for fields, _ in states] == ["waiting", "running", "succeeded"]
    assert [await look(redis_store, name, key) for name in ("customer", "twins")] == [(0, 0)] * 2


@pytest.mark.parametrize(
    ("kind", "made"),
    [
        (TEXT_CLAIM, job("job")),
        (TEXT_CLAIM, job("job", use(most=0))),
        (GENERAL_CLAIM, job("job", use(), use("second"))),
        (GENERAL_CLAIM, job("job", rate())),
        (GENERAL_CLAIM, job("job", use(rate=1.5, per_us=1_000, burst=2))),
        (GENERAL_CLAIM, job("job", fair("a"))),
        (GENERAL_CLAIM, job("job", priority=Priority.HIGH)),
        (GENERAL_CLAIM, job("job", nonce="nonce")),
        (GENERAL_CLAIM, job("job", expires_ms=LONG)),
        (GENERAL_CLAIM, job("job", call=CALL + b" " * 1_024)),
    ],
    ids=lambda value: "" if isinstance(value, type) else str(value.extra.limits[0].name),
)
@pytest.mark.parametrize("alone", [False, True], ids=["with others", "alone"])
async def test_whatever_a_job_has_its_permits_come_back(
    redis_store: RedisStore, kinds: list[type], kind: type, made: NewJob, *, alone: bool
) -> None:
    await joined(redis_store, "w")
    await put(redis_store, made, *(() if alone else [NewJob("plain", CALL)]))
    jobs = await take(redis_store, "w")
    assert len(jobs) == (1 if alone else 2)
    assert kind in kinds
    assert await redis_store.settle(QUEUE, "w", ends(jobs)) == [True] * len(jobs)
    uses = made.extra.limits if made.extra is not None else ()
    assert [await look(redis_store, each.name, each.key) for each in uses or ()] == [(0, 0)] * len(uses or ())
    assert await state(redis_store, "job") is JobState.SUCCEEDED


async def test_a_job_that_failed_before_is_claimed_and_settled_in_the_general_way(
    redis_store: RedisStore, kinds: list[type]
) -> None:
    await joined(redis_store, "w")
    await put(redis_store, job("a"), job("b"))
    (first,) = await take(redis_store, "w")
    assert await settle(redis_store, "w", first, Verb.RETRY, BROKEN)
    (second,) = await take(redis_store, "w")
    assert second.id == "b"
    assert await settle(redis_store, "w", second, Verb.SUCCEEDED, THREE)
    (again,) = await take(redis_store, "w")
    assert (again.id, again.attempts, again.is_limited) == ("a", 1, True)
    assert kinds == [TEXT_CLAIM, TEXT_CLAIM, GENERAL_CLAIM]
    assert await settle(redis_store, "w", again, Verb.SUCCEEDED, THREE)
    assert await look(redis_store) == (0, 0)


async def test_the_newest_numbers_are_in_force_within_one_claim(redis_store: RedisStore) -> None:
    await joined(redis_store, "w")
    old, new = use(most=1), LimitUse("customer", "1", 3, declared_ms=2)
    await put(redis_store, *(job(name, old) for name in "abcd"))
    assert ids(await take(redis_store, "w")) == ["a"]
    await put(redis_store, job("e", new))
    while (await redis_store.promote(QUEUE, 100)).count:
        pass
    assert ids(await take(redis_store, "w")) == ["b", "c"]
    await verbs(redis_store).put(QUEUE, "customer", Numbers(1))
    assert await look(redis_store) == (3, 2)


@pytest.mark.parametrize(
    "change",
    [
        lambda use: [*use[:11]],
        lambda use: [1, *use[1:]],
        lambda use: [*use[:2], "1", *use[3:]],
        lambda use: "text",
        lambda use: {"name": "customer"},
        lambda use: [],
    ],
)
async def test_what_only_looks_like_limits_holds_up_no_other_job(
    redis_store: RedisStore,
    redis_backend: Backend,
    client: redis.Redis,
    change: Callable[[list[Any]], object],
) -> None:
    """Nobody writes such a record; it was put there by hand."""
    await joined(redis_store, "w")
    await put(redis_store, job("a", use(key="a")), job("b", use(key="b")), job("c", use(key="c")))
    damage(client, redis_backend.key("job:b"), change)
    jobs = await take(redis_store, "w")
    assert ids(jobs) == ["a", "c"]
    damage(client, redis_backend.key("job:a"), change)
    assert await redis_store.settle(QUEUE, "w", ends(jobs)) == [False, True]
    assert await look(redis_store, key="c") == (0, 0)
