"""Coalescing: many small requests of one process become few large ones.

What is added while the event loop is busy goes out together as soon as it is idle; while one flush is in flight
the next one gathers. So a lone request waits for nobody, and under load the batches grow by themselves: there
is no timer and no batch size to tune.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

ItemT = TypeVar("ItemT")
ReplyT = TypeVar("ReplyT")


class _Entry(NamedTuple, Generic[ItemT, ReplyT]):
    item: ItemT
    future: "asyncio.Future[ReplyT]"
    size: int
    weight: int


class Batcher(Generic[ItemT, ReplyT]):
    """Gathers items and hands them to `flush` in batches, one batch in flight at a time as a rule.

    Args:
        flush: sends a batch and returns one reply an item, in order; a reply that is an exception is raised
            to whoever added that item. What `flush` itself raises reaches every item of the batch.
        max_items: the most items in one batch; one item may stand for several, see `put`.
        max_weight: a batch is closed once its items weigh this much, in bytes as a rule; None for no limit.
        capacity: `wait_for_space` waits while this many items are held (gathering or in flight), which is what
            keeps memory bounded when the server is slower than its producers.
        in_flight: the most batches in flight at once; more than one where a flush waits long for a reply. They are
            started in the order of their items.
    """

    def __init__(
        self,
        flush: Callable[[list[ItemT]], Awaitable[Sequence[ReplyT | Exception]]],
        *,
        max_items: int,
        capacity: int,
        max_weight: int | None = None,
        in_flight: int = 1,
    ) -> None:
        self._flush = flush
        self._max_items = max_items
        self._max_weight = max_weight
        self._capacity = capacity
        self._gathered: deque[_Entry[ItemT, ReplyT]] = deque()
        self._held = 0
        self._in_flight = in_flight
        self._flushers: set[asyncio.Task[None]] = set()
        self._blocked: deque[asyncio.Future[None]] = deque()

    @property
    def held(self) -> int:
        """Items that have no reply yet."""
        return self._held

    def put(self, item: ItemT, *, count: int = 1, weight: int = 0) -> "asyncio.Future[ReplyT]":
        """Send `item` with the next batch, and return the future of its reply.

        Args:
            item: what to send.
            count: how many items it counts as.
            weight: its weight.

        An item whose future is cancelled before a flush has taken it is withdrawn; one in flight is not.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[ReplyT] = loop.create_future()
        self._gathered.append(_Entry(item, future, count, weight))
        self._held += count
        if len(self._flushers) < self._in_flight:
            # It begins once all that is ready to run now has had its turn, and so has put its items too.
            flusher = loop.create_task(self._run(), name="aioq-flush")
            self._flushers.add(flusher)
            flusher.add_done_callback(self._flushers.discard)  # one that is cancelled before it starts
        return future

    async def drain(self) -> None:
        """Wait until nothing is gathered or in flight."""
        while self._flushers:
            await asyncio.wait(self._flushers)

    def close(self) -> None:
        """Drop what is gathered or in flight; whoever waits for it is cancelled."""
        for flusher in self._flushers:
            flusher.cancel()
        while self._gathered:
            self._gathered.popleft().future.cancel()

    async def wait_for_space(self) -> None:
        """Return once there is space for another item."""
        loop = asyncio.get_running_loop()
        while self._held >= self._capacity:
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

    async def _run(self) -> None:
        try:
            while batch := self._take():
                await self._send(batch)
        finally:
            # Here and not only when the task is done, a turn of the loop later: whoever puts an item in between
            # must see that nobody would take it.
            self._flushers -= {asyncio.current_task()}

    def _take(self) -> "list[_Entry[ItemT, ReplyT]]":
        batch: list[_Entry[ItemT, ReplyT]] = []
        count = weight = 0
        gathered = self._gathered
        while gathered:
            entry = gathered[0]
            if entry.future.cancelled():
                gathered.popleft()
                self._release(entry.size)
                continue
            count += entry.size
            weight += entry.weight
            if batch and (count > self._max_items or (self._max_weight and weight > self._max_weight)):
                break
            batch.append(gathered.popleft())
        return batch

    def _release(self, count: int) -> None:
        self._held -= count
        if self._blocked:
            self._wake_blocked(count)

    async def _send(self, batch: "list[_Entry[ItemT, ReplyT]]") -> None:
        try:
            replies = await self._flush([entry.item for entry in batch])
        except Exception as error:
            replies = [error] * len(batch)
        except BaseException:
            for entry in batch:
                entry.future.cancel()
            raise
        finally:
            self._release(sum([entry.size for entry in batch]))
        for entry, reply in zip(batch, replies, strict=True):
            if not entry.future.done():
                _resolve(entry.future, reply)


def _resolve(future: "asyncio.Future[ReplyT]", reply: ReplyT | Exception) -> None:
    if isinstance(reply, Exception):
        future.set_exception(reply)
    else:
        future.set_result(reply)
