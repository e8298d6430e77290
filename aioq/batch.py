"""Coalescing: many small requests of one process become few large ones.

What is added while the event loop is busy goes out together as soon as it is idle, or has grown large enough to
leave before; while as many flushes are in flight as there may be the next one gathers. So a lone request waits
for nobody (with `prompt` not even for the loop's turn), and under load the batches grow by themselves: there is no
timer to tune.
"""

import asyncio
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import msgspec


class Item(msgspec.Struct, gc=False, kw_only=True):
    """What a batcher gathers; a subclass says what is to be flushed.

    Attributes:
        future: gets its reply; None where nobody waits for that but `on_answer`.
        weight: what it adds to `max_weight`.
        size: how many it stands for.
        several: whether it has a reply for each of these; its future gets a list, or the first error.
    """

    future: "asyncio.Future[Any] | None" = None
    weight: int = 0
    size: int = 1
    several: bool = False


ItemT = TypeVar("ItemT", bound=Item)
ReplyT = TypeVar("ReplyT")


class Batcher(Generic[ItemT, ReplyT]):
    """Gathers items and hands them to `flush` in batches, one batch in flight at a time as a rule.

    Args:
        flush: sends a batch and returns one reply an item, in order; a reply that is an exception is raised
            to whoever waits for that item. What `flush` itself raises reaches every item of the batch. A coroutine
            runs in a task of its own; a future is waited for as it is.
        retry: given a batch whose flush has failed, and how; what it returns is waited for in place of the flush,
            and None lets the failure stand.
        max_items: the most items in one batch; one item may stand for several.
        max_weight: a batch is closed once its items weigh this much, in bytes as a rule; None for no limit.
        capacity: `wait_for_space` waits while this many items are held (gathering or in flight), which is what
            keeps memory bounded when the server is slower than its producers.
        in_flight: the most batches in flight at once. They are started in the order of their items.
        eager: a batch of this many items leaves at once, before the event loop has had its turn.
        prompt: an item that finds nothing gathered or in flight leaves at once, a turn of the loop earlier, if the
            batch before had one item too. Where it had several, more are likely to follow in this turn.
        on_answer: told of each batch that was answered, and of the replies. What this or `retry` raises reaches
            every item of the batch that has no reply yet, and the loop's exception handler.

    Attributes:
        held: items that have no reply yet.
    """

    def __init__(
        self,
        flush: Callable[[list[ItemT]], Awaitable[Sequence[ReplyT | Exception]]],
        *,
        retry: Callable[[list[ItemT], BaseException], Awaitable[Sequence[ReplyT | Exception]] | None]
        | None = None,
        max_items: int,
        capacity: int,
        max_weight: int | None = None,
        in_flight: int = 1,
        eager: int | None = None,
        prompt: bool = False,
        on_answer: Callable[[list[ItemT], Sequence[ReplyT | Exception]], None] | None = None,
    ) -> None:
        self._flush = flush
        self._retry = retry
        self._max_items = max_items
        self._max_weight = max_weight or sys.maxsize
        self._capacity = capacity
        self._eager = eager or max_items
        self._prompt = prompt
        self._alone = False
        self._on_answer = on_answer
        self._gathered: deque[ItemT] = deque()
        self.held = 0
        self._flying = 0
        self._free = in_flight
        self._flights: set[asyncio.Future[Sequence[ReplyT | Exception]]] = set()
        self._starting: asyncio.Handle | None = None
        self._blocked: deque[asyncio.Future[None]] = deque()
        self._drained: asyncio.Future[None] | None = None

    def add(self, item: ItemT) -> None:
        """Send `item` with the next batch.

        An item whose future is cancelled before a flush has taken it is withdrawn; one in flight is not.
        """
        self._gathered.append(item)
        self.held += item.size
        if self._free > 0:
            if self.held - self._flying >= self._eager or (self._alone and self.held == item.size):
                self._start()
            elif self._starting is None:
                # It begins once all that is ready to run now has had its turn, and so has put its items too.
                self._starting = asyncio.get_running_loop().call_soon(self._start)

    def hurry(self) -> None:
        """Let what is gathered leave at once, if no flush is in flight: nothing else is to come."""
        if self._gathered and not self._flights:
            self._start()

    async def drain(self) -> None:
        """Wait until nothing is gathered or in flight."""
        while self.held:
            if self._drained is None:
                self._drained = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._drained)

    def close(self) -> None:
        """Drop what is gathered or in flight; whoever waits for it is cancelled."""
        for flight in self._flights:
            flight.cancel()
        while self._gathered:
            item = self._gathered.popleft()
            if item.future is not None:
                item.future.cancel()
            self._release(item.size)

    async def wait_for_space(self) -> None:
        """Return once there is space for another item."""
        loop = asyncio.get_running_loop()
        while self.held >= self._capacity:
            waiter: asyncio.Future[None] = loop.create_future()
            self._blocked.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._wake_blocked(1)  # space was given to us just then: hand it on
                raise

    def _wake_blocked(self, count: int) -> None:
        while count > 0 and self._blocked:
            waiter = self._blocked.popleft()
            if not waiter.done():
                waiter.set_result(None)
                count -= 1

    def _start(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
            self._starting = None
        while self._free > 0 and (batch := self._take()):
            self._alone = self._prompt and len(batch) == 1 and not batch[0].several
            try:
                flight = self._flush(batch)
            except Exception as error:  # what `flush` raises at once is an answer too
                self._fail(batch, error)
                continue
            self._free -= 1
            self._follow(batch, flight)

    def _follow(self, batch: list[ItemT], flight: Awaitable[Sequence[ReplyT | Exception]]) -> None:
        future = asyncio.ensure_future(flight)
        self._flights.add(future)
        future.add_done_callback(partial(self._landed, batch))

    def _take(self) -> list[ItemT]:
        gathered = self._gathered
        few = self.held - self._flying <= self._max_items
        if few and sum([item.weight for item in gathered]) <= self._max_weight:
            # As a rule; and without a look at each, but whether it was withdrawn.
            every = [item for item in gathered if item.future is None or not item.future.cancelled()]
            if len(every) == len(gathered):
                gathered.clear()
                self._flying = self.held
                return every
        batch: list[ItemT] = []
        size = weight = 0
        while gathered:
            item = gathered[0]
            if item.future is not None and item.future.cancelled():
                self._release(item.size)
            elif batch and (size + item.size > self._max_items or weight + item.weight > self._max_weight):
                break
            else:
                size += item.size
                weight += item.weight
                batch.append(item)
            gathered.popleft()
        self._flying += size
        return batch

    def _release(self, count: int) -> None:
        self.held -= count
        if self._blocked:
            self._wake_blocked(count)
        if not self.held and self._drained is not None:
            self._drained.set_result(None)
            self._drained = None

    def _landed(self, batch: list[ItemT], flight: "asyncio.Future[Sequence[ReplyT | Exception]]") -> None:
        self._flights.discard(flight)
        again = None
        try:
            again = self._conclude(batch, flight)
        except Exception as error:  # a hook's, or there are too few replies: the loop is told, and goes on
            self._fail(batch, error)
            raise
        finally:
            if again is not None:
                self._follow(batch, again)
            else:
                self._free += 1
            if self._gathered:
                self._start()

    def _conclude(
        self, batch: list[ItemT], flight: "asyncio.Future[Sequence[ReplyT | Exception]]"
    ) -> Awaitable[Sequence[ReplyT | Exception]] | None:
        """Answer the items of a flight that has ended, or return what is waited for in its place."""
        error = asyncio.CancelledError() if flight.cancelled() else flight.exception()
        if error is None:
            self._answer(batch, flight.result())
            return None
        again = None if self._retry is None else self._retry(batch, error)
        if again is None:
            self._fail(batch, error)
        return again

    def _answer(self, batch: list[ItemT], replies: Sequence[ReplyT | Exception]) -> None:
        if self._on_answer is not None:
            self._on_answer(batch, replies)
        told = _by_item(batch, replies) if True in [item.several for item in batch] else replies
        for item, reply in zip(batch, told, strict=True):
            future = item.future
            if future is None or future.done():
                continue
            if isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)
        self._down(len(replies))

    def _fail(self, batch: list[ItemT], error: BaseException) -> None:
        for item in batch:
            if item.future is None or item.future.done():
                continue
            if isinstance(error, asyncio.CancelledError):
                item.future.cancel()
            else:
                item.future.set_exception(error)
        self._down(sum(item.size for item in batch))

    def _down(self, count: int) -> None:
        self._flying -= count
        self._release(count)


def _by_item(batch: Sequence[Item], replies: Sequence[Any]) -> list[Any]:
    """What each item is told: its reply; or, of one that has several, all or else the first error."""
    told: list[Any] = []
    start = 0
    for item in batch:
        some = replies[start : start + item.size]
        start += item.size
        error = next((reply for reply in some if isinstance(reply, Exception)), None)
        told.append(error or some if item.several else some[0])
    return told
