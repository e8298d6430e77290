"""What becomes of sends that wait for room while the server does not answer, and of their cancellation."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from aioq.errors import QueueFullError, SendError, ServerRejectedError, ServerUnavailableError
from aioq.producer.buffer import SendBatch
from aioq.producer.delivery import Buffers
from aioq.producer.rooms import MAX_PLACES
from aioq.producer.waiting import WaitingBuffer
from aioq.store.columns import NewJobs
from aioq.store.contract import NewJob
from aioq.store.extra import Added, queue_full, refused
from aioq.store.rooms import Place, Room

pytestmark = pytest.mark.anyio


class FakeStore:
    """A server whose queue has room for `room` jobs, and which fails with `error` if there is one."""

    def __init__(self) -> None:
        self.room = 0
        self.error: Exception | None = None
        self.answers = asyncio.Event()
        self.answers.set()
        self.sent: list[tuple[Place | None, list[str], bool]] = []
        self.asked: list[tuple[list[int], list[int]]] = []
        self.hear: Callable[[bytes], None] = lambda _: None
        self.sends_in_flight = 1
        self.inbox = SimpleNamespace(listen=self._listen, leave=self._leave)
        self.rooms = SimpleNamespace(ask=self._ask)

    async def enqueue(self, _: str, jobs: NewJobs, *, again: bool = False) -> list[Added]:
        self.sent.append((jobs.place, list(jobs.ids), again))
        await self.answers.wait()
        if self.error is not None:
            raise self.error
        taken, self.room = min(self.room, len(jobs)), max(0, self.room - len(jobs))
        full = [refused(queue_full("mail", [each], 5, 5)) for each in jobs.ids[taken:]]
        return [*[True] * taken, *full]

    async def _listen(self, _: str, on_message: Callable[[bytes], None], on_gap: Callable[[], None]) -> None:
        del on_gap
        self.hear = on_message

    async def _leave(self, _: str) -> None: ...

    async def _ask(self, _: str, process: str, waiting: Sequence[int], gone: Sequence[int]) -> list[Room]:
        del process
        self.asked.append(([*waiting], [*gone]))
        return []


@pytest.fixture
async def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
async def buffer(store: FakeStore) -> WaitingBuffer:
    made = Buffers(store, send_timeout=0.05, capacity=500, channel=lambda _: lambda process: f"room:{process}")  # pyright: ignore[reportArgumentType] - a fake
    buffer = made["mail"]
    assert isinstance(buffer, WaitingBuffer)
    return buffer


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def task_of(sent: Awaitable[Added]) -> "asyncio.Future[Added]":
    return asyncio.ensure_future(sent)


async def test_a_send_that_hears_of_room_is_sent_from_its_place(store: FakeStore, buffer: WaitingBuffer) -> None:
    store.room = 1
    _, replies = await buffer.put_part(NewJobs.usual(list("abcd"), [b""] * 4), 0)
    await turns()
    assert buffer.held == 4
    store.room = 2
    store.hear(b"1 2")
    await turns()
    store.room = 5
    store.hear(b"1 1")
    assert await replies == [True] * 4
    await turns()
    places = [(place and place[1:], ids) for place, ids, _ in store.sent]
    assert places == [((1, 0), list("abcd")), ((1, 1), ["b", "c"]), ((1, 0), ["d"])]
    assert buffer.held == 0


async def test_room_that_is_heard_of_while_jobs_are_on_their_way_is_used(
    store: FakeStore, buffer: WaitingBuffer
) -> None:
    sent = task_of(buffer.put("a", b""))
    await turns()
    store.hear(b"1 1")  # another process has taken it
    store.hear(b"1 1")
    await turns()
    assert len(store.sent) == 3
    store.room = 1
    store.hear(b"1 1")
    assert await sent is True


async def test_a_server_that_does_not_answer_is_given_up_after_send_timeout(
    store: FakeStore, buffer: WaitingBuffer
) -> None:
    sent = task_of(buffer.put("a", b""))
    await turns()
    await asyncio.sleep(0.1)  # the wait for room alone has no end
    assert not sent.done()
    store.error = ServerUnavailableError("gone")
    store.hear(b"1 1")
    with pytest.raises(SendError, match=r"job a is unconfirmed after 0\.05 s: gone"):
        await sent
    assert {again for _, _, again in store.sent[2:]} == {True}
    await turns()
    assert store.asked[-1][1] == [1], "the place is given up"


async def test_a_server_that_is_back_in_time_has_the_job(store: FakeStore, buffer: WaitingBuffer) -> None:
    sent = task_of(buffer.put("a", b""))
    await turns()
    store.error = ServerUnavailableError("gone")
    store.hear(b"1 1")
    await turns()
    store.error, store.room = None, 1
    assert await sent is True


async def test_what_the_server_refuses_is_an_error(store: FakeStore, buffer: WaitingBuffer) -> None:
    sent = task_of(buffer.put("a", b""))
    await turns()
    store.error = ServerRejectedError("no")
    store.hear(b"1 1")
    with pytest.raises(ServerRejectedError, match="no"):
        await sent


async def test_of_a_batch_only_what_was_cancelled_is_withdrawn(store: FakeStore, buffer: WaitingBuffer) -> None:
    first = task_of(buffer.put("a", b""))
    await turns()
    alone = task_of(buffer.put("b", b""))
    others = [task_of(buffer.put(each, b"")) for each in "cde"]
    await turns()
    assert [ids for _, ids, _ in store.sent] == [["a"], ["b"], ["c", "d", "e"]]
    others[1].cancel()
    first.cancel()
    await turns()
    assert buffer.held == 3
    store.room = 5
    store.hear(b"2 1")
    store.hear(b"3 3")
    assert [await each for each in (alone, others[0], others[2])] == [True] * 3
    await turns()
    assert [gone for _, gone in store.asked if gone] == [[1]]
    assert store.sent[-1][1] == ["c", "e"]


async def test_sends_beyond_the_places_wait_and_may_be_cancelled(store: FakeStore, buffer: WaitingBuffer) -> None:
    sends: list[asyncio.Future[Any]] = []
    for number in range(MAX_PLACES + 3):
        sends.append(task_of(buffer.put(f"{number}", b"")))
        await turns(3)
    assert len(store.sent) == MAX_PLACES
    sends[MAX_PLACES].cancel()
    sends[0].cancel()
    await turns()
    assert [ids for _, ids, _ in store.sent[MAX_PLACES:]] == [[f"{MAX_PLACES + 1}", f"{MAX_PLACES + 2}"]]
    await buffer.row.close()
    ends = await asyncio.gather(*sends, return_exceptions=True)
    assert sum(isinstance(each, QueueFullError) for each in ends) == MAX_PLACES + 1
    await turns()
    assert buffer.held == 0


async def test_a_place_that_is_left_makes_space_only_below_the_bound(
    store: FakeStore, buffer: WaitingBuffer
) -> None:
    """Batches that were in flight may have got more places than there are meant to be."""
    sends: list[asyncio.Future[Any]] = []
    for number in range(MAX_PLACES):
        sends.append(task_of(buffer.put(f"{number}", b"")))
        await turns(3)
    late = SendBatch.entry([NewJob("late", b"")], 0.0, place=buffer.row.place())
    late.futures = [asyncio.get_running_loop().create_future()]
    buffer.row.keep(late, await store.enqueue("mail", late))
    waits = asyncio.ensure_future(buffer.row.space())
    sends[0].cancel()
    await turns()
    assert (buffer.row.is_long, waits.done()) == (True, False)
    sends[1].cancel()
    await turns()
    assert (buffer.row.is_long, waits.done()) == (False, True)
    await buffer.row.close()
    await asyncio.gather(*sends, *filter(None, late.futures), return_exceptions=True)


async def test_what_is_on_its_way_when_the_app_is_closed_has_its_reply(
    store: FakeStore, buffer: WaitingBuffer
) -> None:
    _, replies = await buffer.put_part(NewJobs.usual(list("abc"), [b""] * 3), 0)
    await turns()
    alone = task_of(buffer.put("d", b""))
    await turns()
    store.answers.clear()
    store.room = 1
    store.hear(b"2 1")
    store.hear(b"1 2")
    await turns()
    closing = asyncio.ensure_future(buffer.row.close())
    await turns()
    assert not closing.done()
    store.answers.set()
    await closing
    assert await alone is True
    with pytest.raises(QueueFullError, match="the App was closed meanwhile") as error:
        await replies
    assert error.value.job_ids == ("a", "b", "c")
    await turns()
    assert buffer.held == 0
