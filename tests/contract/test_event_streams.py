"""What a stream of events shows of workers and pauses, on every store: each change once, in order."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import msgspec
import pytest

from aioq.jobs.events import Event
from aioq.jobs.shards import shard_names
from aioq.operate import events
from aioq.operate.events import EventFilters, EventSource, EventStream
from aioq.store.contract import Limits, Store
from aioq.worker.about import About
from tests.contract.kit import CRASHED, LONG, QUEUE, WITHIN, eventually, joined, send, tell

pytestmark = pytest.mark.anyio

OF_WORKERS = ["worker_joined", "worker_left"]
OF_QUEUES = ["queue_paused", "queue_resumed"]


@pytest.fixture
def limits() -> Limits:
    return Limits(lease_ms=LONG, history=1_000)


class Source:
    """An App, as far as a stream asks it."""

    def __init__(self, store: Store, shards: int = 1) -> None:
        self._store = store
        self._shards = shards

    async def store(self) -> Store:
        return self._store

    async def shards_of(self, queue: str) -> Sequence[str]:
        return shard_names(queue, self._shards)

    def known_queues(self) -> Sequence[str]:
        return [QUEUE]

    def keeps_history(self) -> bool:
        return True

    def records_always(self) -> bool:
        return False

    def history_kept(self) -> int:
        return 1_000


Opened = Callable[..., EventStream]


@pytest.fixture
def opened(store: Store) -> Opened:
    """Makes a stream of the test's queue."""

    def make(*, shards: int = 1, **filters: Any) -> EventStream:
        return EventStream(
            cast("EventSource", Source(store, shards)), cast("EventFilters", {"queue": QUEUE, **filters})
        )

    return make


def shown(event: Event) -> str:
    who = event.job_id or event.worker or event.task
    return " ".join(filter(None, [event.kind, who, event.error and f"({event.error})"]))


async def coming(stream: EventStream, until: str) -> list[str]:
    """The next events, up to this one."""
    found: list[str] = []
    async with asyncio.timeout(WITHIN):
        async for event in stream:
            found.append(shown(event))
            if found[-1] == until:
                break
    return found


async def test_a_worker_that_comes_and_goes_at_once_is_seen(opened: Opened, store: Store) -> None:
    await joined(store, "before")
    stream = opened()
    await stream.start()
    await joined(store, "w")
    await store.depart(QUEUE, "w")
    await store.depart(QUEUE, "before")
    assert await coming(stream, "worker_left before") == [
        "worker_joined w",
        "worker_left w",
        "worker_left before",
    ]


async def test_a_pause_that_ends_at_once_is_seen(opened: Opened, store: Store) -> None:
    pauses = store.operating.pauses
    await pauses.pause(QUEUE, ["shop.buy"])
    stream = opened()
    await stream.start()
    for tasks in ([], ["shop.add"]):
        await pauses.pause(QUEUE, tasks)
        await pauses.resume(QUEUE, tasks)
    await pauses.resume(QUEUE, ["shop.buy"])
    assert await coming(stream, "queue_resumed shop.buy") == [
        *("queue_paused", "queue_resumed"),
        *("queue_paused shop.add", "queue_resumed shop.add"),
        "queue_resumed shop.buy",
    ]


def about(*, paused: bool = False, draining: bool = False) -> bytes:
    """What a worker says of itself."""
    said = About(host="h", pid=1, version="1", python="3", queues=(QUEUE,), slots=1, lease_ms=1)
    return msgspec.msgpack.encode(msgspec.structs.replace(said, paused=paused, draining=draining))


async def test_a_pause_of_a_worker_and_its_end_are_seen_once(opened: Opened, store: Store) -> None:
    """It says so with a renewal; it may say it again, and whatever else it says is no news."""
    await tell(store, "w", "join", about=about())
    stream, others = opened(), opened(kinds=OF_QUEUES)
    await stream.start()
    await others.start()
    for said in (about(), about(paused=True), about(paused=True, draining=True), b"no map", about(), about()):
        await tell(store, "w", about=said)
    await tell(store, "late", "join", about=about(paused=True))
    await store.depart(QUEUE, "w")
    await store.operating.pauses.pause(QUEUE, [])
    assert await coming(stream, "queue_paused") == [
        *("worker_paused w", "worker_resumed w", "worker_joined late", "worker_paused late", "worker_left w"),
        "queue_paused",
    ]
    following = opened(cursor=stream.cursor)
    await tell(store, "late", about=about())
    assert await coming(following, "worker_resumed late") == ["worker_resumed late"]
    assert await coming(others, "queue_paused") == ["queue_paused"]


async def test_a_worker_that_was_seen_to_die_has_left_with_the_reason(opened: Opened, store: Store) -> None:
    stream = opened(kinds=OF_WORKERS)
    await stream.start()
    await joined(store, "w")
    while (await store.recover(QUEUE, CRASHED, 10, dead="w")).more:
        pass
    assert await coming(stream, "worker_left w (its process has died)") == [
        "worker_joined w",
        "worker_left w (its process has died)",
    ]


@pytest.mark.parametrize("limits", [Limits(lease_ms=200, history=1_000)])
async def test_a_killed_worker_leaves_when_its_lease_has_ended(
    opened: Opened, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody recovers it, so no event says so. That comes later, and is not shown again: nor to who goes on."""
    monkeypatch.setattr(events, "COMPARED_EVERY", 0.0)
    stream = opened()
    await stream.start()
    await joined(store, "w")
    left = "worker_left w (its lease has ended)"
    assert await coming(stream, left) == ["worker_joined w", left]

    following = opened(cursor=stream.cursor)

    async def is_recovered() -> bool:
        return (await store.recover(QUEUE, CRASHED, 10)).worker == "w"

    await eventually(is_recovered)
    await joined(store, "next")
    for each in (stream, following):
        assert await coming(each, "worker_joined next") == ["worker_joined next"]


async def test_a_pause_that_is_over_is_seen_though_no_worker_notices(
    opened: Opened, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "COMPARED_EVERY", 0.0)
    stream = opened()
    await stream.start()
    await store.operating.pauses.pause(QUEUE, [], await store.operating.now_ms(QUEUE) + 100)
    assert await coming(stream, "queue_resumed") == ["queue_paused", "queue_resumed"]
    following = opened(cursor=stream.cursor)
    await store.operating.pauses.resume(QUEUE, [])
    await store.operating.pauses.pause(QUEUE, ["shop.add"])
    for each in (stream, following):
        assert await coming(each, "queue_paused shop.add") == ["queue_paused shop.add"]


async def test_of_several_shards_each_change_is_seen_once(opened: Opened, store: Store) -> None:
    shards = shard_names(QUEUE, 3)
    stream = opened(shards=3)
    await stream.start()
    for shard in shards:
        await joined(store, "w", shard)
        await store.operating.pauses.pause(shard, [])
    for shard in shards:
        await store.operating.pauses.resume(shard, [])
        await store.depart(shard, "w")
    await send(store, "job")
    assert await coming(stream, "sent job") == [
        "worker_joined w",
        "queue_paused",
        "queue_resumed",
        "worker_left w",
        "sent job",
    ]


async def test_who_goes_on_misses_nothing_and_sees_nothing_twice(opened: Opened, store: Store) -> None:
    """Wherever it has stopped."""
    pauses = store.operating.pauses
    stream = opened(kinds=[*OF_WORKERS, *OF_QUEUES])
    await stream.start()
    await joined(store, "a")
    await pauses.pause(QUEUE, ["shop.add"])
    await joined(store, "b")
    await store.depart(QUEUE, "a")
    await pauses.resume(QUEUE, ["shop.add"])
    await pauses.pause(QUEUE, [])
    await store.depart(QUEUE, "b")
    expected = [
        "worker_joined a",
        "queue_paused shop.add",
        "worker_joined b",
        "worker_left a",
        "queue_resumed shop.add",
        "queue_paused",
        "worker_left b",
    ]
    found, cursors = list[str](), list[str]()
    async for event in stream:
        found.append(shown(event))
        cursors.append(stream.cursor)
        if len(found) == len(expected):
            break
    assert found == expected
    await joined(store, "last")
    for number, cursor in enumerate(cursors, 1):
        assert await coming(opened(cursor=cursor, kinds=[*OF_WORKERS, *OF_QUEUES]), "worker_joined last") == [
            *expected[number:],
            "worker_joined last",
        ]


async def test_who_wants_only_some_of_it_is_not_shown_the_rest(opened: Opened, store: Store) -> None:
    left, paused = opened(kinds="worker_left"), opened(task="shop.a*", kinds="queue_paused")
    for stream in (left, paused):
        await stream.start()
    await joined(store, "w")
    for tasks in ([], ["shop.buy"], ["shop.add"]):
        await store.operating.pauses.pause(QUEUE, tasks)
    await store.depart(QUEUE, "w")
    assert await coming(left, "worker_left w") == ["worker_left w"]
    assert await coming(paused, "queue_paused shop.add") == ["queue_paused shop.add"]


async def test_a_cursor_of_an_earlier_version_still_leads_on(opened: Opened, store: Store) -> None:
    stream = opened(kinds=OF_WORKERS)
    await stream.start()
    position = stream._positions[QUEUE]
    await joined(store, "w")
    cursor = events._encode({QUEUE: position}, {})
    assert events._decode(cursor)[QUEUE].position == position
    assert await coming(opened(kinds=OF_WORKERS, cursor=cursor), "worker_joined w") == ["worker_joined w"]
