import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

import pytest

from aioq.util.batcher import Batcher, Items
from tests.unit.kit import others, turns, until, within

pytestmark = pytest.mark.anyio


class Words(Items[str]):
    """A batch whose items weigh as much as they are long."""

    def weights(self, count: int) -> Sequence[int]:
        return [len(text) for text in self.items[:count]]


def put(subject: "Batcher[Words, str]", text: str) -> "asyncio.Future[str]":
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    subject.gathering.items.append(text)
    subject.add(future)
    return future


class Server:
    """What batches are flushed to: it delays each one until `go`, on request."""

    def __init__(self, *, held_up: bool = False) -> None:
        self.batches: list[list[str]] = []
        self.errors: list[BaseException] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.go = asyncio.Event()
        if not held_up:
            self.go.set()

    async def flush(self, words: Words) -> Sequence[str | Exception]:
        batch = words.items
        self.batches.append(batch)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await self.go.wait()
        finally:
            self.in_flight -= 1
        if self.errors:
            raise self.errors.pop(0)
        return [ValueError(item) if item.startswith("bad") else item.upper() for item in batch]


def batcher(
    server: Server, *, max_items: int = 100, capacity: int = 1000, weight: int | None = None, in_flight: int = 1
):
    return Batcher[Words, str](
        Words,
        server.flush,
        max_items=max_items,
        capacity=capacity,
        max_weight=weight,
        in_flight=in_flight,
    )


# -- gathering --------------------------------------------------------------------------------------------------


async def test_what_is_added_at_once_leaves_together():
    server = Server()
    subject = batcher(server)
    futures = [put(subject, item) for item in "abc"]
    assert await within(asyncio.gather(*futures)) == ["A", "B", "C"]
    assert server.batches == [["a", "b", "c"]]


async def test_a_prompt_batcher_lets_one_lone_item_after_the_other_leave_at_once():
    server = Server()
    subject = Batcher[Words, str](Words, server.flush, max_items=100, capacity=1000, prompt=True)
    assert await within(put(subject, "a")) == "A"
    lone = put(subject, "b")
    assert len(subject._in_flight) == 1
    assert await within(asyncio.gather(lone, put(subject, "c"), put(subject, "d"))) == ["B", "C", "D"]
    burst = [put(subject, item) for item in "ef"]
    assert not subject._in_flight, "the batch before had two items"
    assert await within(asyncio.gather(*burst)) == ["E", "F"]
    assert server.batches == [["a"], ["b"], ["c", "d"], ["e", "f"]]


async def test_a_lone_item_does_not_wait():
    server = Server()
    assert await within(_reply(batcher(server), "a")) == "A"


async def test_while_a_batch_is_in_flight_the_next_one_gathers():
    server = Server(held_up=True)
    subject = batcher(server)
    first = put(subject, "a")
    await until(lambda: server.batches)
    rest = [put(subject, item) for item in "bcd"]
    await turns()
    assert server.batches == [["a"]]
    server.go.set()
    await within(asyncio.gather(first, *rest))
    assert server.batches == [["a"], ["b", "c", "d"]]
    assert server.most_in_flight == 1


@pytest.mark.parametrize(
    ("items", "options", "batches"),
    [
        ("abcde", {"max_items": 2}, ["ab", "cd", "e"]),
        ("abcde", {"max_items": 1}, ["a", "b", "c", "d", "e"]),
        (["aaa", "bbb", "ccc"], {"weight": 6}, [["aaa", "bbb"], ["ccc"]]),
        (["aaa", "bbb", "ccc"], {"weight": 5}, [["aaa"], ["bbb"], ["ccc"]]),
        (["a" * 99, "b"], {"weight": 5}, [["a" * 99], ["b"]]),
        (["a", "b" * 99, "c"], {"weight": 5}, [["a"], ["b" * 99], ["c"]]),
    ],
)
async def test_a_batch_is_closed_by_number_and_by_weight(
    items: Sequence[str], options: dict[str, int], batches: list[Sequence[str]]
):
    server = Server()
    subject = batcher(server, **options)
    replies = await within(asyncio.gather(*[put(subject, item) for item in items]))
    assert replies == [item.upper() for item in items]
    assert server.batches == [list(batch) for batch in batches]


# -- errors -----------------------------------------------------------------------------------------------------


async def test_a_reply_that_is_an_error_reaches_its_item_alone():
    subject = batcher(Server())
    futures = [put(subject, item) for item in ("a", "bad", "c")]
    replies = await within(asyncio.gather(*futures, return_exceptions=True))
    assert [replies[0], replies[2]] == ["A", "C"]
    assert isinstance(replies[1], ValueError)


async def test_an_error_of_the_flush_reaches_every_item_and_the_next_batch_goes_on():
    server = Server()
    server.errors = [OSError("gone")]
    subject = batcher(server, max_items=2)
    futures = [put(subject, item) for item in "abc"]
    first, second, third = await within(asyncio.gather(*futures, return_exceptions=True))
    assert isinstance(first, OSError)
    assert first is second
    assert third == "C"
    assert subject.held == 0


async def test_what_a_flush_raises_at_once_may_be_tried_again_like_any_other_failure():
    def refuse(_batch: Words) -> Awaitable[Sequence[str | Exception]]:
        raise ValueError("no command can be made of it")

    async def again(batch: Words) -> Sequence[str | Exception]:
        return [word.upper() for word in batch.items]

    subject = Batcher(Words, refuse, retry=lambda batch, _: again(batch), max_items=10, capacity=10)
    assert await within(put(subject, "a")) == "A"
    assert subject.held == 0


def _no_answer(_batch: Words, _replies: Sequence[str | Exception]) -> None:
    raise LookupError("on_answer")


def _no_retry(_batch: Words, _error: BaseException) -> None:
    raise LookupError("retry")


@pytest.mark.parametrize(
    ("hooks", "words"),
    [({"on_answer": _no_answer}, "on_answer"), ({"retry": _no_retry}, "retry"), ({}, "shorter")],
    ids=["on_answer", "retry", "too few replies"],
)
async def test_what_fails_with_a_reply_fails_its_items_and_not_those_after(hooks: dict[str, Any], words: str):
    """A log handler of the user's that raises, say: the loop's handler gets it, and the next batch has its
    place."""
    reported: list[BaseException] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context["exception"]))
    count = 0

    async def flush(batch: Words) -> list[str]:
        nonlocal count
        count += 1
        if "retry" in hooks:
            raise ConnectionError
        return batch.items if hooks else batch.items[1:]

    subject = Batcher[Words, str](Words, flush, max_items=100, capacity=1000, **hooks)
    for number in (1, 2, 3):
        with pytest.raises((LookupError, ValueError), match=words):
            await within(put(subject, "word"))
        assert count == len(reported) == number
    await within(subject.drain())
    assert subject.held == 0


async def test_when_a_flush_is_cancelled_its_items_are_cancelled_and_the_next_item_starts_a_new_one():
    server = Server(held_up=True)
    subject = batcher(server)
    future = put(subject, "a")
    await until(lambda: server.batches)
    (flusher,) = subject._in_flight
    flusher.cancel()
    await within(asyncio.wait([future]))
    assert future.cancelled()
    assert subject.held == 0
    server.go.set()
    assert await within(_reply(subject, "b")) == "B"


# -- several in flight -------------------------------------------------------------------------------------------


async def test_where_a_reply_takes_long_several_batches_are_under_way_in_the_order_of_their_items():
    server = Server(held_up=True)
    subject = batcher(server, in_flight=3)
    futures = []
    for expected, item in enumerate("abc", 1):
        futures.append(put(subject, item))
        await until(lambda: len(server.batches) == expected)  # noqa: B023 - run at once
    futures += [put(subject, item) for item in "de"]
    await turns()
    assert server.batches == [["a"], ["b"], ["c"]], "no more than three"
    server.go.set()
    assert await within(asyncio.gather(*futures)) == list("ABCDE")
    assert server.batches[3:] == [["d", "e"]]
    await within(subject.drain())
    assert subject.held == 0


async def test_an_item_that_comes_just_when_the_last_flush_ends_is_not_left_lying():
    server = Server()
    subject = batcher(server)
    replies = []

    def again(future: "asyncio.Future[str]") -> None:
        replies.append(future.result())
        if len(replies) < 5:
            put(subject, "x").add_done_callback(again)

    put(subject, "x").add_done_callback(again)
    await until(lambda: len(replies) == 5)
    await within(subject.drain())
    assert (server.batches, subject.held) == ([["x"]] * 5, 0)


async def test_with_so_many_a_batch_leaves_before_the_loop_has_had_its_turn_also_when_another_is_in_flight():
    server = Server(held_up=True)
    subject = Batcher[Words, str](Words, server.flush, max_items=500, capacity=1000, in_flight=2, eager=3)
    futures = [put(subject, word) for word in "abcdefgh"]
    assert (len(subject._in_flight), subject.gathering.items) == (2, ["g", "h"])
    server.go.set()
    await within(asyncio.gather(*futures))
    assert [*map("".join, server.batches)] == ["abc", "def", "gh"]


async def test_what_gathered_leaves_as_soon_as_a_batch_is_answered():
    server = Server(held_up=True)
    subject = Batcher[Words, str](Words, server.flush, max_items=500, capacity=1000, eager=64)
    first = put(subject, "a")
    await until(lambda: server.batches)
    put(subject, "b")
    first.add_done_callback(lambda _: put(subject, "c"))
    server.go.set()
    await within(subject.drain())
    assert server.batches == [["a"], ["b"], ["c"]]


# -- cancellation -----------------------------------------------------------------------------------------------


async def test_an_item_that_no_flush_has_taken_is_withdrawn():
    server = Server(held_up=True)
    subject = batcher(server)
    first = put(subject, "a")
    await until(lambda: server.batches)
    second, third = put(subject, "b"), put(subject, "c")
    second.cancel()
    server.go.set()
    await within(asyncio.gather(first, third))
    assert server.batches == [["a"], ["c"]]
    assert subject.held == 0


async def test_an_item_in_flight_arrives_all_the_same():
    server = Server(held_up=True)
    subject = batcher(server)
    future = put(subject, "a")
    await until(lambda: server.batches)
    future.cancel()
    server.go.set()
    await within(subject.drain())
    assert (server.batches, subject.held) == ([["a"]], 0)


async def test_when_all_were_withdrawn_nothing_is_flushed():
    server = Server()
    subject = batcher(server)
    for item in "abc":
        put(subject, item).cancel()
    await within(subject.drain())
    assert (server.batches, subject.held) == ([], 0)


# -- draining ---------------------------------------------------------------------------------------------------


async def test_draining_waits_for_what_gathers_and_for_what_is_in_flight():
    server = Server(held_up=True)
    subject = batcher(server, max_items=1)
    futures = [put(subject, item) for item in "ab"]
    drained = asyncio.create_task(subject.drain())
    await until(lambda: server.batches)
    await turns()
    assert not drained.done()
    server.go.set()
    await within(asyncio.wait_for(drained, None))
    assert all(future.done() for future in futures)
    assert others() == set()


async def test_draining_of_nothing_returns_at_once():
    await within(batcher(Server()).drain())


# -- bounded ----------------------------------------------------------------------------------------------------


async def _send(subject: Batcher[Words, str], item: str) -> str:
    await subject.wait_for_space()
    return await put(subject, item)


async def _reply(subject: Batcher[Words, str], item: str) -> str:
    return await put(subject, item)


async def test_never_more_than_the_capacity_is_held():
    server = Server()
    subject = batcher(server, max_items=3, capacity=5)
    most = 0

    async def send(item: str) -> str:
        nonlocal most
        await subject.wait_for_space()
        future = put(subject, item)
        most = max(most, subject.held)
        return await future

    items = [f"x{number}" for number in range(200)]
    replies = await within(asyncio.gather(*map(send, items)))
    assert replies == [item.upper() for item in items]
    assert most == 5
    assert (subject.held, others()) == (0, set())


async def test_space_is_waited_for_in_order():
    server = Server(held_up=True)
    subject = batcher(server, max_items=1, capacity=1)
    sends = [asyncio.create_task(_send(subject, item)) for item in "abcd"]
    await until(lambda: server.batches)
    server.go.set()
    await within(asyncio.gather(*sends))
    assert server.batches == [["a"], ["b"], ["c"], ["d"]]


async def test_one_that_gives_up_waiting_for_space_does_not_hold_up_the_others():
    server = Server(held_up=True)
    subject = batcher(server, capacity=1)
    sends = [asyncio.create_task(_send(subject, item)) for item in "abc"]
    await until(lambda: server.batches and len(subject._blocked) == 2)
    sends[1].cancel()
    await turns()
    server.go.set()
    assert await within(_result(sends[2])) == "C"


async def test_one_that_is_cancelled_just_as_space_is_given_to_it_hands_the_space_on():
    server = Server(held_up=True)
    subject = batcher(server, capacity=1)
    sends = [asyncio.create_task(_send(subject, item)) for item in "abc"]
    await until(lambda: server.batches and len(subject._blocked) == 2)
    server.go.set()
    asyncio.get_running_loop().call_soon(sends[1].cancel)  # after the flush has ended, before it runs
    assert await within(_result(sends[2])) == "C"
    await asyncio.gather(*sends, return_exceptions=True)


async def _result(task: "asyncio.Task[str]") -> str:
    return await asyncio.shield(task)
