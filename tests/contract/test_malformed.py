"""What somebody else has put into a lane: it is passed over, said once, and harms no job."""

import asyncio
import logging
from typing import Any

import pytest
import redis

from aioq.errors import ServerError
from aioq.jobs.job import JobState, Priority
from aioq.store.redis import RedisStore, blocking
from tests.contract.kit import BLOCK, CALL, QUEUE, Backend, ids, joined, send, state, take
from tests.records import put_record

pytestmark = pytest.mark.anyio

NO_TEXT = [
    b"\xff\xfe",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\xe0\x80\x80",
    b"\xf5\x80\x80\x80",
    b"a\x80b",
    b"\xf4\x90\x80\x80",
]
MALFORMED = [
    *({"job": value} for value in NO_TEXT),
    {"task": "a"},
    {"task": "a", "other": "b"},
    {b"\xff": b"\xff"},
]
TEXT = ["a", "ä", "日本", "\U0001f600", "\U0010ffff", "\ud7ff\ue000", "x" * 300]


def put(backend: Backend, *entries: dict[str, bytes]) -> None:
    database = backend.database
    assert database is not None
    with database.client() as client:
        for fields in entries:
            client.xadd(backend.key("normal"), fields)  # pyright: ignore[reportArgumentType]


def pending(backend: Backend) -> int:
    assert backend.database is not None
    with backend.database.client() as client:
        return client.xpending(backend.key("normal"), "aioq")["pending"]  # pyright: ignore[reportIndexIssue]


async def test_a_claim_passes_over_it(
    redis_store: RedisStore, redis_backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "aioq")
    await joined(redis_store, "w")
    put(redis_backend, *MALFORMED)  # pyright: ignore[reportArgumentType]
    await send(redis_store, "a", "b")

    assert ids(await take(redis_store, "w")) == ["a", "b"]

    assert pending(redis_backend) == 0
    (record,) = caplog.records
    assert f"queue {QUEUE}: entry " in record.getMessage()


@pytest.mark.parametrize("fields", MALFORMED, ids=str)
async def test_a_blocking_read_passes_over_it(
    redis_store: RedisStore, redis_backend: Backend, fields: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "aioq")
    await joined(redis_store, "w")
    put(redis_backend, fields)

    tokens = await redis_store.block(QUEUE, "w", BLOCK)
    assert [token.job_ids for token in tokens] == [()]
    assert (await redis_store.claim(QUEUE, "w", 1, tokens)).jobs == []

    assert pending(redis_backend) == 0
    assert len(caplog.records) == 1


async def test_a_recovery_passes_over_it(redis_store: RedisStore, redis_backend: Backend) -> None:
    await joined(redis_store, "w")
    for fields in MALFORMED:
        put(redis_backend, fields)  # pyright: ignore[reportArgumentType]
        await redis_store.block(QUEUE, "w", BLOCK)
    await send(redis_store, "a")

    assert (await redis_store.recover(QUEUE, b"", 100, dead="w")).returned == 0

    await joined(redis_store, "other")
    assert ids(await take(redis_store, "other")) == ["a"]
    assert pending(redis_backend) == 0


async def test_what_is_in_the_place_of_a_held_set_does_not_hold_up_the_recovery_of_others(
    redis_store: RedisStore, redis_backend: Backend
) -> None:
    await send(redis_store, "a", "b")
    await joined(redis_store, "other")
    await take(redis_store, "other", 1)
    assert redis_backend.database is not None
    with redis_backend.database.client() as client:
        client.set(redis_backend.key("held:nobody"), "somebody else's")
        client.zadd(redis_backend.key("workers"), {"nobody": 1, "other": 2})

    first = await redis_store.recover(QUEUE, b"", 100)
    second = await redis_store.recover(QUEUE, b"", 100)

    assert (first.worker, first.returned, first.more) == ("nobody", 0, True)
    assert (second.worker, second.returned, second.more) == ("other", 1, False)


async def test_what_was_delivered_of_it_is_passed_over_by_the_next_claim(
    redis_store: RedisStore, redis_backend: Backend
) -> None:
    await joined(redis_store, "w")
    for fields in MALFORMED:
        put(redis_backend, fields)  # pyright: ignore[reportArgumentType]
        await redis_store.block(QUEUE, "w", BLOCK)

    assert (await redis_store.claim(QUEUE, "w", 1, known=[])).jobs == []

    assert pending(redis_backend) == 0


async def test_a_record_under_such_an_id_is_not_run(redis_store: RedisStore, redis_backend: Backend) -> None:
    await joined(redis_store, "w")
    assert redis_backend.database is not None
    with redis_backend.database.client() as client:
        for value in NO_TEXT:
            key = redis_backend.key("job:").encode() + value
            put_record(client, key, CALL)
    put(redis_backend, *({"job": value} for value in NO_TEXT))

    assert await take(redis_store, "w") == []

    with redis.Redis.from_url(redis_backend.database.url) as client:
        client.delete(*client.keys(redis_backend.key("job:*")))  # pyright: ignore[reportGeneralTypeIssues]


@pytest.mark.parametrize("job_id", TEXT)
async def test_every_text_is_an_id(redis_store: RedisStore, job_id: str) -> None:
    await joined(redis_store, "w")
    await send(redis_store, job_id)

    assert ids(await take(redis_store, "w")) == [job_id]


async def test_a_job_is_found_among_other_fields(redis_store: RedisStore, redis_backend: Backend) -> None:
    await joined(redis_store, "w")
    await send(redis_store, "a")
    assert ids(await take(redis_store, "w")) == ["a"]
    await redis_store.depart(QUEUE, "w")
    await joined(redis_store, "w")
    assert redis_backend.database is not None
    with redis_backend.database.client() as client:
        client.delete(redis_backend.key("normal:front"))
    put(redis_backend, {"by": b"hand", "job": b"a"})

    assert ids(await take(redis_store, "w")) == ["a"]


# -- a lane that is none ----------------------------------------------------------------------------------------


def set_lane(backend: Backend, lane: str, value: str | None) -> None:
    """Put a string in a lane's place, or take it away."""
    assert backend.database is not None
    with backend.database.client() as client:
        client.delete(backend.key(lane))
        if value is not None:
            client.set(backend.key(lane), value)


@pytest.mark.parametrize("lane", ["low", "low:front", "high"])
async def test_a_lane_of_another_type_does_not_hold_the_others_up(
    redis_store: RedisStore, redis_backend: Backend, lane: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "aioq")
    await joined(redis_store, "w")
    set_lane(redis_backend, lane, "mine")

    for number in range(3):
        assert await take(redis_store, "w") == []
        if number == 0:
            assert await redis_store.block(QUEUE, "w", BLOCK) == [], (
                "the lane is found, and the caller comes again"
            )
        waiting = asyncio.create_task(redis_store.block(QUEUE, "w", BLOCK))
        await send(redis_store, f"job-{number}")
        async with asyncio.timeout(1):  # as soon as without it, and not when the read ends
            tokens = await waiting
        assert [token.job_ids for token in tokens] == [(f"job-{number}",)]
        assert ids((await redis_store.claim(QUEUE, "w", 1, tokens)).jobs) == [f"job-{number}"]

    (record,) = caplog.records
    assert f"key {redis_backend.key(lane)} holds a string and no stream" in record.getMessage()


async def test_a_lane_of_another_type_keeps_no_worker_from_joining(
    redis_store: RedisStore, redis_backend: Backend
) -> None:
    set_lane(redis_backend, "low", "mine")

    await joined(redis_store, "w")

    await send(redis_store, "job")
    assert await redis_store.block(QUEUE, "w", BLOCK) == []
    assert ids(await take(redis_store, "w")) == ["job"]


async def test_a_lane_that_is_one_again_is_read_again(
    redis_store: RedisStore,
    redis_backend: Backend,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "aioq")
    monkeypatch.setattr(blocking, "LANE_RETRY", 0.0)
    await joined(redis_store, "w")
    for _ in range(2):
        set_lane(redis_backend, "low", "mine")
        assert await redis_store.block(QUEUE, "w", BLOCK) == []
        assert await redis_store.block(QUEUE, "w", BLOCK) == [], "looked at again, and still the same"
        set_lane(redis_backend, "low", None)
        assert await take(redis_store, "w") == []  # makes the stream
        await send(redis_store, "job", priority=Priority.LOW)
        assert [token.lane for token in await redis_store.block(QUEUE, "w", BLOCK)] == ["low"]
        await redis_store.cancel(QUEUE, ["job"], b"", 0)

    expected = ["low holds a string and no stream", "all of its lanes are served again"] * 2
    for words, record in zip(expected, caplog.records, strict=True):
        assert words in record.getMessage()


async def test_where_no_lane_is_one_the_error_is_the_callers(
    redis_store: RedisStore, redis_backend: Backend
) -> None:
    await joined(redis_store, "w")
    for lane in blocking.LANES:
        set_lane(redis_backend, lane, "mine")
    with pytest.raises(ServerError, match="WRONGTYPE"):
        await redis_store.block(QUEUE, "w", BLOCK)


@pytest.mark.parametrize("others", [(), ("normal",)], ids=["front", "front and lane"])
async def test_a_front_of_another_type_does_not_hold_up_the_recovery_of_what_goes_there(
    redis_store: RedisStore, redis_backend: Backend, others: tuple[str, ...]
) -> None:
    await joined(redis_store, "dead")
    await send(redis_store, "a", "b")
    await send(redis_store, "c", priority=Priority.HIGH)
    assert len(await take(redis_store, "dead", 2)) == 2
    assert [token.job_ids for token in await redis_store.block(QUEUE, "dead", BLOCK)] == [("b",)]
    for lane in ("normal:front", *others):
        set_lane(redis_backend, lane, "mine")

    step = await redis_store.recover(QUEUE, b"", 100, dead="dead")

    assert not step.more
    await joined(redis_store, "w")
    assert set(ids(await take(redis_store, "w"))) == {"a", "b", "c"}


async def test_what_no_stream_of_its_lane_can_take_comes_once_one_can(
    redis_store: RedisStore, redis_backend: Backend
) -> None:
    await joined(redis_store, "dead")
    await send(redis_store, "a")
    await send(redis_store, "b", priority=Priority.LOW)
    await take(redis_store, "dead")
    for lane in NORMAL:
        set_lane(redis_backend, lane, "mine")

    assert not (await redis_store.recover(QUEUE, b"", 100, dead="dead")).more

    await joined(redis_store, "w")
    assert ids(await take(redis_store, "w")) == ["b"]
    make_due(redis_backend)
    assert (await redis_store.promote(QUEUE, 10)).count == 1
    assert ids(await take(redis_store, "w")) == [], "still in the way: it waits on"
    for lane in NORMAL:
        set_lane(redis_backend, lane, None)
    make_due(redis_backend)
    await redis_store.promote(QUEUE, 10)
    assert ids(await take(redis_store, "w")) == ["a"]


async def test_a_lane_of_another_type_does_not_hold_up_what_is_due_for_the_others(
    redis_store: RedisStore, redis_backend: Backend
) -> None:
    await joined(redis_store, "w")
    await send(redis_store, "a", priority=Priority.HIGH, delay_ms=1000)
    await send(redis_store, "b", delay_ms=2000)
    set_lane(redis_backend, "high", "mine")
    make_due(redis_backend)

    assert (await redis_store.promote(QUEUE, 10)).count == 2
    assert ids(await take(redis_store, "w")) == ["b"]
    assert await state(redis_store, "a") is JobState.SCHEDULED
    set_lane(redis_backend, "high", None)
    make_due(redis_backend)
    await redis_store.promote(QUEUE, 10)
    assert ids(await take(redis_store, "w")) == ["a"]


NORMAL = ["normal:front", "normal:rest", "normal"]


def make_due(backend: Backend) -> None:
    """Let all that waits for its time be due, in its order."""
    assert backend.database is not None
    with backend.database.client() as client:
        members: Any = client.zrange(backend.key("scheduled"), 0, -1)
        client.zadd(backend.key("scheduled"), {member: 1 + i for i, member in enumerate(members)})
