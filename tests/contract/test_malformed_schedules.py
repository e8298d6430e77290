"""What somebody else has put in the place of a schedule: it is passed over and said, and the others tick on."""

import asyncio
import logging
import math
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from aioq.errors import ServerError
from aioq.jobs.job import Priority
from aioq.schedules.declare import Declared
from aioq.schedules.timing import Definition
from aioq.store.redis import RedisStore
from aioq.store.schedules import Entry, Overlap, Owners, Tick
from aioq.worker.duties.ticker import Ticker
from tests.contract.kit import CALL, LONG, QUEUE, Backend, eventually, ids, joined, keep, send, take

pytestmark = pytest.mark.anyio

MALFORMED = "a value of another type"


@pytest.fixture
def client(redis_backend: Backend) -> Iterator[Any]:
    assert redis_backend.database is not None
    with redis_backend.database.client() as client:
        yield client


async def put(store: RedisStore, *names: str, **fields: Any) -> None:
    entries = [Entry(id=name, definition=b"any", envelope=CALL, next_ms=1, **fields) for name in names]
    assert await store.timetable.write(QUEUE, entries) == [True] * len(names)


def tick(entry: Entry) -> Tick:
    job = (f"{entry.id}@1", 1, 1)
    return Tick(id=entry.id, rev=entry.rev, jobs=[job], next_ms=None, overlap=Overlap.ALLOW, max_runs=0)


async def test_a_malformed_schedule_is_logged_and_the_others_are_read_and_ticked(
    redis_store: RedisStore, redis_backend: Backend, client: Any
) -> None:
    await joined(redis_store, "w")
    await put(redis_store, "a", "b", "c", "d", "e")
    client.set(redis_backend.key("schedule:a"), MALFORMED)
    client.delete(redis_backend.key("schedule:b"))
    client.hdel(redis_backend.key("schedule:c"), "marks")
    client.hset(redis_backend.key("schedule:d"), "next", "soon")

    for agenda in (await redis_store.timetable.due(QUEUE, 9), await redis_store.timetable.read(QUEUE)):
        assert (list(agenda.unreadable), [entry.id for entry in agenda.entries]) == (["a", "b", "c", "d"], ["e"])
    assert (await redis_store.timetable.read(QUEUE, ["a", "e", "none"])).unreadable == ("a",)
    ticks = [tick(Entry(id="a", rev=1)), tick(agenda.entries[0])]
    assert (await redis_store.timetable.tick(QUEUE, ticks)).made == [None, 1]
    assert ids(await take(redis_store, "w")) == ["e@1"]


async def test_it_cannot_be_overwritten_which_is_logged_once(
    redis_store: RedisStore, redis_backend: Backend, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "aioq")
    client.set(redis_backend.key("schedule:a"), MALFORMED)
    entries = [Entry(id=name, definition=b"any", envelope=CALL, next_ms=1) for name in ("a", "b")]

    assert await redis_store.timetable.write(QUEUE, entries) == [False, True]
    assert await redis_store.timetable.write(QUEUE, [Entry(id="a")]) == [False]

    (record,) = caplog.records
    assert (
        f"queue {QUEUE}: schedule a cannot be stored: its key in the server holds a value" in record.getMessage()
    )
    assert client.get(redis_backend.key("schedule:a")) == MALFORMED, "it is somebody's"
    client.delete(redis_backend.key("schedule:a"))
    assert await redis_store.timetable.write(QUEUE, entries[:1]) == [True]


async def test_a_malformed_lane_stops_the_ticks_into_that_lane_alone(
    redis_store: RedisStore, redis_backend: Backend, client: Any
) -> None:
    await put(redis_store, "b")
    await put(redis_store, "a", priority=Priority.HIGH)
    client.set(redis_backend.key("high"), MALFORMED)

    agenda = await redis_store.timetable.due(QUEUE, 9)
    ticked = await redis_store.timetable.tick(QUEUE, [tick(entry) for entry in agenda.entries])

    assert (ticked.made, ticked.blocked) == ([None, 1], ("a",))
    client.delete(redis_backend.key("high"))
    agenda = await redis_store.timetable.due(QUEUE, 9)
    ticked = await redis_store.timetable.tick(QUEUE, [tick(entry) for entry in agenda.entries])
    assert (ticked.made, ticked.blocked) == ([1], ())


async def test_a_malformed_index_is_logged_and_the_queue_works_on(
    redis_store: RedisStore, redis_backend: Backend, client: Any
) -> None:
    await joined(redis_store, "w")
    await put(redis_store, "a")
    client.set(redis_backend.key("schedules"), MALFORMED)

    words = f"{redis_backend.key('schedules')} holds no schedules but something else; move it away"
    entry = Entry(id="a", definition=b"any", envelope=CALL, next_ms=1)
    for call in (redis_store.timetable.due(QUEUE, 9), redis_store.timetable.write(QUEUE, [entry])):
        with pytest.raises(ServerError) as caught:
            await call
        assert words in str(caught.value)
    await send(redis_store, "job")
    assert ids(await take(redis_store, "w")) == ["job"]
    assert (await keep(redis_store, "w")).next_tick_ms is None


async def test_what_the_index_has_lost_may_be_written_anew(
    redis_store: RedisStore, redis_backend: Backend, client: Any
) -> None:
    await put(redis_store, "a")
    (before,) = (await redis_store.timetable.read(QUEUE)).entries
    client.delete(redis_backend.key("schedules"))

    assert (await redis_store.timetable.read(QUEUE, ["a"])).entries == []
    await put(redis_store, "a")
    (entry,) = (await redis_store.timetable.read(QUEUE)).entries
    assert entry.rev > before.rev
    assert msgspec.structs.replace(entry, rev=0) == msgspec.structs.replace(before, rev=0)


async def test_a_malformed_register_stops_no_worker(
    redis_store: RedisStore, redis_backend: Backend, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "aioq")
    client.set(redis_backend.key("schedule-queues").replace(QUEUE, ""), MALFORMED)

    await put(redis_store, "a")
    assert await redis_store.timetable.queues() == []

    (record,) = caplog.records
    assert "schedules in queues that the App does not know are not found" in record.getMessage()
    assert [entry.id for entry in (await redis_store.timetable.due(QUEUE, 9)).entries] == ["a"]


async def test_what_workers_declare_is_noted_anew_where_there_is_something_else_and_is_not_known_till_then(
    redis_store: RedisStore, redis_backend: Backend, client: Any
) -> None:
    await joined(redis_store, "w")
    client.set(redis_backend.key("owners"), MALFORMED)
    assert await redis_store.timetable.owners(QUEUE, ["a"]) == Owners([""], "w")
    await redis_store.timetable.note_declaration(QUEUE, 0, "aa", worker="w", ids=["a"])
    assert await redis_store.timetable.owners(QUEUE, ["a"]) == Owners(["w"], "")

    client.hset(redis_backend.key("owners"), "w", MALFORMED)
    assert await redis_store.timetable.owners(QUEUE, ["a"]) == Owners([""], "w")
    client.hset(redis_backend.key("owners"), "long-gone", MALFORMED)
    client.delete(redis_backend.key("workers"), redis_backend.key("fetched"))
    await joined(redis_store, "v")
    await redis_store.timetable.note_declaration(QUEUE, 0, "aa", worker="v", ids=["a"])
    assert client.hkeys(redis_backend.key("owners")) == ["v"]


async def test_one_that_is_left_in_the_index_alone_is_stored_again(
    redis_store: RedisStore, redis_backend: Backend, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """As after an eviction; no worker has to be started for it."""
    declared = Declared(
        id="a", queue=QUEUE, definition=Definition(every_ms=LONG), envelope=CALL, priority=Priority.NORMAL
    )
    ticker = Ticker(redis_store.timetable, QUEUE, [declared], whole=True, renewal=2.0)
    running = asyncio.ensure_future(ticker.run())

    async def stored() -> bool:
        return [entry.id for entry in (await redis_store.timetable.read(QUEUE)).entries] == ["a"]

    async def asleep() -> bool:
        return ticker._plan.check_at < math.inf

    await eventually(asleep)
    assert await stored()
    client.delete(redis_backend.key("schedule:a"))
    client.zadd(redis_backend.key("schedules"), {"a": 1})
    ticker.expect(0)
    await eventually(stored)
    await ticker.stop()
    await running
    assert "schedule a: this worker cannot make its ticks: the server's value under its key" in caplog.text
