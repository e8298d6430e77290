"""Sends that wait for room in a full queue: first come, first served, and nobody is forgotten."""

import asyncio
from collections.abc import Sequence

import msgspec
import pytest

from aioq.errors import QueueFullError
from aioq.store.columns import NewJobs
from aioq.store.contract import Limits, NewJob, Store
from aioq.store.extra import Added, Expiry, Extra
from aioq.store.memory import MemoryStore
from aioq.store.pubsub import room_channel
from aioq.store.redis.store import RedisStore
from aioq.store.rooms import Place, Room
from tests.contract.kit import BROKEN, CALL, LONG, QUEUE, WITHIN, Backend, eventually, joined, send, state, take
from tests.contract.test_timetable import put, tick

pytestmark = pytest.mark.anyio

MOST = 3


@pytest.fixture
def limits() -> Limits:
    app = Limits(lease_ms=LONG, max_crashes=1)
    own = msgspec.structs.replace(app, max_size=MOST, waits=True)
    return msgspec.structs.replace(app, by_queue={QUEUE: own})


async def send_at(store: Store, place: Place, *ids: str) -> list[bool]:
    """Send jobs from a place; returns for each whether the queue has it."""
    jobs = NewJobs(NewJob(each, CALL) for each in ids)
    jobs.place = place
    return [not isinstance(each, QueueFullError) for each in await store.enqueue(QUEUE, jobs)]


def is_full(replies: Sequence[Added]) -> bool:
    return all(isinstance(each, QueueFullError) for each in replies)


class Listening:
    """A process that listens to what it hears of its places."""

    def __init__(self) -> None:
        self._heard: asyncio.Queue[Room] = asyncio.Queue()

    @staticmethod
    async def begun(store: Store, backend: Backend, process: str) -> "Listening":
        listening = Listening()
        channel = room_channel(backend.app, QUEUE, process)
        put_message = lambda message: listening._heard.put_nowait(Room.of_message(message))  # noqa: E731
        await store.inbox.listen(channel, put_message, lambda: None)
        return listening

    async def hears(self) -> Room:
        """The next that it hears."""
        return await asyncio.wait_for(self._heard.get(), WITHIN)

    def forget(self) -> None:
        """Forget what it has heard."""
        while not self._heard.empty():
            self._heard.get_nowait()

    @property
    def heard_nothing(self) -> bool:
        return self._heard.empty()


def places(backend: Backend) -> list[str]:
    """The places that are kept."""
    if backend.database is None:
        memory = backend._make()
        assert isinstance(memory, MemoryStore)
        return [f"{process}.{number}" for process, number in memory._queues[QUEUE].rooms._wanted]
    with backend.database.client() as client:
        assert client.hlen(backend.key("places")) == client.zcard(backend.key("senders"))
        return client.zrange(backend.key("senders"), 0, -1)  # pyright: ignore[reportReturnType] - untyped


async def fill(store: Store) -> None:
    assert await send(store, *"abc") == [True] * MOST


async def test_who_came_first_is_heard_and_served_first(store: Store, backend: Backend) -> None:
    await fill(store)
    one, two = [await Listening.begun(store, backend, each) for each in ("one", "two")]
    assert await send_at(store, Place("one", 1), "d") == [False]
    assert await send_at(store, Place("two", 1), "e", "f") == [False, False]
    assert await send_at(store, Place("one", 2), "g") == [False]
    worker = await joined(store, "w")

    await take(store, worker, 2)
    assert (await one.hears(), await two.hears()) == (Room(1, 1), Room(1, 1))
    assert await send_at(store, Place("one", 2), "g") == [False], "there is none for this one"
    assert is_full(await send(store, "late")), "nor for one that does not wait"
    assert await send_at(store, Place("two", 1, behind=1), "e") == [True]
    assert await send_at(store, Place("one", 1), "d") == [True]
    assert await send_at(store, Place("two", 1), "f") == [False]

    await take(store, worker, 3)
    assert await send_at(store, Place("two", 1), "f") == [True]
    assert await send_at(store, Place("one", 2), "g") == [True]
    assert await send(store, "late") == [True], "nobody waits any more"


async def test_whatever_makes_room_notifies_those_that_wait(store: Store, backend: Backend) -> None:
    soon = NewJob("expires", CALL, extra=Extra(expires=Expiry(span_ms=1)))
    assert await store.enqueue(QUEUE, [NewJob("a", CALL), NewJob("b", CALL, delay_ms=LONG), soon]) == [True] * 3
    one = await Listening.begun(store, backend, "one")
    await one_waits(store, one, 1)
    await eventually(lambda: expired(store))
    assert await one.hears() == Room(1, 1), "an expiry"
    assert await send_at(store, Place("one", 1), "new-1") == [True]

    await one_waits(store, one, 2)
    await store.cancel(QUEUE, ["b"], BROKEN, LONG)
    assert await one.hears() == Room(2, 1), "a cancellation"
    assert await send_at(store, Place("one", 2), "new-2") == [True]

    await one_waits(store, one, 3)
    await store.operating.delete(QUEUE, ["a"], BROKEN)
    assert await one.hears() == Room(3, 1), "a deletion"
    assert await send_at(store, Place("one", 3), "new-3") == [True]

    await one_waits(store, one, 4)
    await store.outbox.move(QUEUE, ["new-1"], "elsewhere")
    assert await one.hears() == Room(4, 1), "a move"
    assert await send_at(store, Place("one", 4), "new-4") == [True]


async def one_waits(store: Store, one: Listening, number: int) -> None:
    assert await send_at(store, Place("one", number), f"new-{number}") == [False]
    one.forget()


async def expired(store: Store) -> bool:
    return bool((await store.promote(QUEUE, 10)).expired)


async def test_a_place_that_is_given_up_holds_up_nobody(store: Store, backend: Backend) -> None:
    await fill(store)
    two = await Listening.begun(store, backend, "two")
    assert await send_at(store, Place("one", 1), "d", "e") == [False, False]
    assert await send_at(store, Place("two", 1), "f") == [False]
    await take(store, await joined(store, "w"), 1)
    assert two.heard_nothing
    assert await store.rooms.ask(QUEUE, "one", [], [1]) == []
    assert await two.hears() == Room(1, 1)
    assert await send_at(store, Place("two", 1), "f") == [True]
    assert await send_at(store, Place("two", 2), "g") == [False]
    assert await store.rooms.ask(QUEUE, "two", [], [2]) == []
    assert places(backend) == []


async def test_who_asks_hears_for_which_of_its_places_there_is_room(store: Store) -> None:
    await fill(store)
    assert await send_at(store, Place("one", 1), "d") == [False]
    assert await send_at(store, Place("two", 1), "e") == [False]
    assert await send_at(store, Place("one", 2), "f", "g") == [False, False]
    assert await store.rooms.ask(QUEUE, "one", [1, 2], []) == []
    assert await store.rooms.ask(QUEUE, "one", [1, 7, 2], []) == [Room(7, None)], "one that is not known"
    await take(store, await joined(store, "w"), 3)
    assert await store.rooms.ask(QUEUE, "one", [1, 2], []) == [Room(1, 1), Room(2, 1)]
    assert await store.rooms.ask(QUEUE, "two", [1], []) == [Room(1, 1)]


async def test_a_tick_takes_no_room_of_those_that_wait(store: Store) -> None:
    worker = await joined(store, "w")
    await fill(store)
    assert await send_at(store, Place("one", 1), "d") == [False]
    await take(store, worker, 1)
    entry = await put(store, "s")
    assert (await store.timetable.tick(QUEUE, [tick(entry, "s@1", next_in=-1)])).made == [0]
    assert await send_at(store, Place("one", 1), "d") == [True]


async def test_a_place_is_not_lost_with_a_duplicate(store: Store) -> None:
    await fill(store)
    assert await send_at(store, Place("one", 1), "d", "e") == [False, False]
    assert await send_at(store, Place("one", 1), "a", "e") == [True, False], "the first is there already"
    await take(store, await joined(store, "w"), 1)
    assert await send_at(store, Place("one", 1), "e") == [True]
    assert await state(store, "d") is None


async def test_the_dead_are_passed_over(redis_store: Store, redis_backend: Backend) -> None:
    """A place whose process does not hear, once it is not new any more; and one that nobody asks about."""
    store, backend = redis_store, redis_backend
    await fill(store)
    two = await Listening.begun(store, backend, "two")
    assert await send_at(store, Place("one", 1), "d") == [False]
    assert await send_at(store, Place("two", 1), "e") == [False]
    assert backend.database is not None
    with backend.database.client() as client:
        (since,) = client.zmscore(backend.key("senders"), ["one.1"])  # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType] - untyped
        client.zadd(backend.key("senders"), {"one.1": float(since or 0) - 2_000_000})  # pyright: ignore[reportUnknownArgumentType] - untyped
        worker = await joined(store, "w")
        await take(store, worker, 1)
        assert await two.hears() == Room(1, 1)
        assert await send_at(store, Place("two", 1), "e") == [True]

        assert await send_at(store, Place("two", 2), "f") == [False]
        assert await store.rooms.ask(QUEUE, "one", [1], []) == [], "it lives, and has its place"
        await take(store, worker, 1)
        assert await send_at(store, Place("one", 1), "d") == [True]

        assert await send_at(store, Place("two", 3), "g") == [False]
        client.hset(backend.key("places"), "two.2", f"1 {MOST} 1")
        await take(store, worker, 1)
        assert await send_at(store, Place("two", 3), "g") == [True]
        assert client.zrange(backend.key("senders"), 0, -1) == [], "the other one is gone for long"
        assert client.hgetall(backend.key("places")) == {}


async def test_a_large_row_is_walked_in_steps(redis_store: Store) -> None:
    await fill(redis_store)
    replies = await asyncio.gather(*(send_at(redis_store, Place("one", each), f"n{each}") for each in range(120)))
    assert replies == [[False]] * 120
    await take(redis_store, await joined(redis_store, "w"), 3)
    assert await redis_store.rooms.ask(QUEUE, "one", [*range(120)], []) == [Room(each, 1) for each in range(3)]
    assert await send_at(redis_store, Place("one", 119), "n119") == [False]
    assert [await send_at(redis_store, Place("one", each), f"n{each}") for each in (2, 0, 1)] == [[True]] * 3


async def test_a_process_with_a_larger_bound_is_not_held_up_by_one_with_a_smaller(
    redis_store: Store, redis_backend: Backend
) -> None:
    """As while a deployment raises `max_size`."""
    await fill(redis_store)
    raised = await redis_backend.open()
    assert isinstance(raised, RedisStore)
    own = msgspec.structs.replace(raised._limits, max_size=MOST + 2, waits=True, by_queue=None)
    raised._limits = msgspec.structs.replace(raised._limits, by_queue={QUEUE: own})
    one = await Listening.begun(redis_store, redis_backend, "one")
    two = await Listening.begun(raised, redis_backend, "two")
    assert await send_at(redis_store, Place("one", 1), "d") == [False]
    assert await send_at(raised, Place("two", 1), "x", "y", "z") == [True, False, False]
    worker = await joined(redis_store, "w")

    await take(redis_store, worker, 1)
    assert await two.hears() == Room(1, 1)
    assert await send_at(raised, Place("two", 1, behind=1), "y") == [True]
    assert one.heard_nothing

    await take(redis_store, worker, 2)
    assert await one.hears() == Room(1, 1)
