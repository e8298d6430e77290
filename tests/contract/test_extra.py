"""What a job has beside its call, as it lies on a server: in its record, in `:timers` and in `:scheduled`."""

from typing import Any

import msgspec
import pytest
import redis

from aioq.jobs.job import JobState, Priority
from aioq.store.contract import Limits, NewJob, Settlement, Verb
from aioq.store.extra import Expiry, Extra
from aioq.store.redis import RedisStore
from tests.contract.inside import ServerInside
from tests.contract.kit import (
    BROKEN,
    CALL,
    LONG,
    QUEUE,
    THREE,
    Backend,
    ids,
    info,
    joined,
    send,
    settle,
    state,
    take,
    take_one,
)

pytestmark = pytest.mark.anyio

TAGGED = Extra(("a",))
EXPIRING = Extra(("a", "b"), Expiry(span_ms=1_000))
TEXT_SHAPES = {0x90 + 2, 0x90 + 8, 0x90 + 10, 0x90 + 11}
"""What a record begins with that scripts read or make as text: an array of so many."""
ARRAY_16 = 0xDC
FIELD = 20  # the position of the extra in a record


@pytest.fixture
def limits() -> Limits:
    return Limits(lease_ms=30 * LONG)


@pytest.fixture
def client(redis_backend: Backend) -> Any:
    assert redis_backend.database is not None
    with redis.Redis.from_url(redis_backend.database.url) as client:
        yield client


def record(client: redis.Redis, backend: Backend) -> bytes:
    text: Any = client.get(backend.key("job:job"))
    return text


@pytest.mark.parametrize("extra", [TAGGED, EXPIRING], ids=["tags", "expires"])
@pytest.mark.parametrize("waiter", ["", "me"])
@pytest.mark.parametrize("priority", Priority)
async def test_no_text_shape_fits_a_record_that_has_it(
    redis_store: RedisStore,
    redis_backend: Backend,
    client: redis.Redis,
    extra: Extra,
    waiter: str,
    priority: Priority,
) -> None:
    """In no state: a script that took one for a plain record would drop what it has, and call no hook."""
    await joined(redis_store, "w")
    await redis_store.enqueue(QUEUE, [NewJob("job", CALL, priority, waiter=waiter, extra=extra)])
    seen = [record(client, redis_backend)]
    job = await take_one(redis_store, "w")
    seen.append(record(client, redis_backend))
    assert await settle(redis_store, "w", job, Verb.RETRY, BROKEN)
    seen.append(record(client, redis_backend))
    job = await take_one(redis_store, "w")
    assert await settle(redis_store, "w", job, Verb.SUCCEEDED, THREE)
    seen.append(record(client, redis_backend))
    for text in seen:
        assert text[0] == ARRAY_16
        assert text[0] not in TEXT_SHAPES
        fields = msgspec.msgpack.decode(text, type=list[msgspec.Raw])
        assert len(fields) == FIELD + 1
        assert msgspec.msgpack.decode(fields[FIELD], type=Extra).tags == extra.tags


async def test_a_plain_job_has_none(redis_store: RedisStore, redis_backend: Backend, client: redis.Redis) -> None:
    await redis_store.enqueue(QUEUE, [NewJob("job", CALL), NewJob("other", CALL, extra=TAGGED)])
    assert record(client, redis_backend)[0] in TEXT_SHAPES
    assert redis_backend.timers() == []


WRONG = [
    "{}",
    "{1, 2}",
    "{tags = 'a'}",
    "{tags = {}}",
    "{tags = {1}}",
    "{expires = {'x'}}",
    "{expires = {1, 2}}",
    "'a'",
]


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_malformed_value_makes_no_record_and_stops_no_other_job(
    redis_store: RedisStore, redis_backend: Backend, client: redis.Redis, wrong: str
) -> None:
    await joined(redis_store, "w")
    await redis_store.enqueue(QUEUE, [NewJob("job", CALL, extra=EXPIRING)])
    await send(redis_store, "other")
    put = f"""
local record = cmsgpack.unpack(redis.call('GET', KEYS[1]))
record[21] = {wrong}
redis.call('SET', KEYS[1], cmsgpack.pack(record))
"""
    client.eval(put, 1, redis_backend.key("job:job"))

    expected = ["job", "other"] if wrong == "{}" else ["other"]
    assert ids(await take(redis_store, "w")) == expected
    await redis_store.promote(QUEUE, 10)


async def test_a_tag_that_is_no_text_stops_no_other_job(
    redis_store: RedisStore, redis_backend: Backend, client: redis.Redis
) -> None:
    await joined(redis_store, "w")
    await redis_store.enqueue(QUEUE, [NewJob("job", CALL, extra=Extra(("a",)))])
    await send(redis_store, "other")
    text = record(client, redis_backend)
    assert text.count(b"\xa1a") == 1
    client.set(redis_backend.key("job:job"), text.replace(b"\xa1a", b"\xa1\xff"))

    jobs = await take(redis_store, "w")

    assert ids(jobs) == ["job", "other"]
    assert jobs[0].tags == (await info(redis_store)).tags == ("\\xff",)


async def test_timers_that_vanished_are_set_again_by_the_next_claim_of_the_job(
    redis_store: RedisStore, redis_backend: Backend
) -> None:
    await joined(redis_store, "w")
    await redis_store.enqueue(QUEUE, [NewJob("job", CALL, extra=EXPIRING)])
    redis_backend.delete("timers", "scheduled")
    jump(redis_backend, 2_000)

    claim = await redis_store.claim(QUEUE, "w", 10)

    assert (claim.jobs, claim.next_due_ms) == ([], 0)
    assert (await redis_store.promote(QUEUE, 10)).expired == 1
    assert await state(redis_store) is JobState.CANCELLED
    assert redis_backend.timers() == []


def jump(backend: Backend, ms: int) -> None:
    assert backend.database is not None
    with backend.database.client() as client:
        ServerInside(client, backend.key("").removesuffix(":")).jump(ms)


async def test_a_timer_that_is_not_needed_any_more_is_dropped(
    redis_store: RedisStore, redis_backend: Backend, client: redis.Redis
) -> None:
    await joined(redis_store, "w")
    await send(redis_store, "job", "running", "done")
    client.zadd(
        redis_backend.key("timers"), {f"expire {each}": 1 for each in ("nobody", "job", "running", "done")}
    )
    client.zadd(redis_backend.key("scheduled"), {"": 1})
    jobs = {job.id: job for job in await take(redis_store, "w", 3)}
    done = [
        Settlement("done", jobs["done"].claim, Verb.SUCCEEDED, THREE, 0, LONG),
        Settlement("job", jobs["job"].claim, Verb.RELEASE),
    ]
    assert all(await redis_store.settle(QUEUE, "w", done))

    promotion = await redis_store.promote(QUEUE, 10)

    assert (promotion.count, promotion.expired, promotion.next_due_ms) == (4, 0, None)
    assert redis_backend.timers() == []
    assert [(await info(redis_store, each)).state for each in ("job", "running", "done")] == [
        "queued",
        "running",
        "succeeded",
    ]


async def test_a_timer_of_a_newer_version_is_put_off(
    redis_store: RedisStore, redis_backend: Backend, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    client.zadd(redis_backend.key("timers"), {"newer mail": 1, "unreadable": 2})
    client.zadd(redis_backend.key("scheduled"), {"": 1})
    due = (await redis_store.promote(QUEUE, 10)).next_due_ms
    assert due is not None
    assert due > 1_000
    assert redis_backend.timers() == ["newer mail", "unreadable"]
    assert [each.levelname for each in caplog.records if each.name.startswith("aioq")] == ["WARNING"]


async def test_a_key_of_another_type_in_the_place_of_the_timers_stops_nothing(
    redis_store: RedisStore, redis_backend: Backend, client: redis.Redis
) -> None:
    await joined(redis_store, "w")
    client.set(redis_backend.key("timers"), "by hand")
    await redis_store.enqueue(QUEUE, [NewJob("job", CALL, extra=EXPIRING), NewJob("other", CALL)])
    client.zadd(redis_backend.key("scheduled"), {"": 1})
    assert (await redis_store.promote(QUEUE, 10)).next_due_ms is None
    job, _ = await take(redis_store, "w")
    assert job.id == "job"
    assert await settle(redis_store, "w", job, Verb.SUCCEEDED, THREE)
    assert await state(redis_store) is JobState.SUCCEEDED


async def test_the_first_timer_does_not_hide_a_job_that_is_due(
    redis_store: RedisStore, redis_backend: Backend
) -> None:
    await joined(redis_store, "w")
    await redis_store.enqueue(QUEUE, [NewJob("job", CALL, extra=EXPIRING)])
    await send(redis_store, "due", delay_ms=1_500)
    jump(redis_backend, 2_000)
    for _ in range(2):
        await redis_store.promote(QUEUE, 1)
    assert ids(await take(redis_store, "w")) == ["due"]
    assert await state(redis_store) is JobState.CANCELLED
