"""Coalescing: many small requests of one process become few large ones.

What is added while the event loop is busy goes out together as soon as it is idle, or has grown large enough to
leave before; while as many batches are in flight as there may be, the next one gathers. So a lone request waits
for nothing (with `prompt` not even for the loop's turn), and under load the batches grow by themselves: there is
no timer to tune.
"""

import asyncio
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, Generic, Self, TypeVar

ItemT = TypeVar("ItemT")


class Batch(ABC):
    """What leaves together. A subclass has what is to be flushed, in columns: lists, not an object an item.

    What is added at once is an entry: one item as a rule, and it may be several.

    Attributes:
        futures: the future of the reply to each entry; None where only `on_answer` needs it.
        several: how many items an entry is that gets a list of replies, or the first error, by its position.
    """

    def __init__(self) -> None:
        self.futures: list[asyncio.Future[Any] | None] = []
        self.several: dict[int, int] = {}

    @property
    def size(self) -> int:
        """How many items there are."""
        entries = len(self.futures)
        return entries - len(self.several) + sum(self.several.values()) if self.several else entries

    @abstractmethod
    def weights(self, count: int) -> Sequence[int]:
        """What each of the first items adds to `max_weight`."""

    @abstractmethod
    def keep(self, entries: Sequence[int], items: Sequence[int]) -> None:
        """Drop all from the columns but what is at these positions."""

    @abstractmethod
    def cut(self, entries: int, items: int) -> Self:
        """Move the first ones to the columns of a new batch."""

    def withdraw(self) -> int:
        """Drop the entries whose futures were cancelled; how many items they were."""
        if True not in [future is not None and future.cancelled() for future in self.futures]:
            return 0
        before = self.size
        futures, several, ends = self.futures, self.several, self._ends()
        self.futures, self.several = [], {}
        entries: list[int] = []
        items: list[int] = []
        for entry, (future, first, after) in enumerate(zip(futures, (0, *ends), ends, strict=False)):
            if future is None or not future.cancelled():
                if entry in several:
                    self.several[len(entries)] = several[entry]
                self.futures.append(future)
                entries.append(entry)
                items += range(first, after)
        self.keep(entries, items)
        return before - len(items)

    def split(self, max_items: int, max_weight: int) -> Self:
        """Take off the first entries, as many as do not exceed this, but one at the least."""
        weights = self.weights(max_items)
        entries = first = weight = 0
        while entries < len(self.futures):
            after = first + self.several.get(entries, 1)
            weight += sum(weights[first:after])
            if entries and (after > max_items or weight > max_weight):
                break
            entries, first = entries + 1, after
        batch = self.cut(entries, first)
        batch.futures, self.futures = self.futures[:entries], self.futures[entries:]
        batch.several = {entry: size for entry, size in self.several.items() if entry < entries}
        self.several = {entry - entries: size for entry, size in self.several.items() if entry >= entries}
        return batch

    def by_entry(self, replies: Sequence[Any]) -> Sequence[Any]:
        """The reply to each entry; to one that is several items all of theirs, or else the first error."""
        if not self.several:
            return replies
        by_entry: list[Any] = []
        first = 0
        for entry, after in enumerate(self._ends()):
            some = replies[first:after]
            error = next((reply for reply in some if isinstance(reply, Exception)), None)
            by_entry.append(error or some if entry in self.several else some[0])
            first = after
        return by_entry

    def _ends(self) -> list[int]:
        """How many items there are up to the end of each entry."""
        return list(accumulate(self.several.get(entry, 1) for entry in range(len(self.futures))))


class Items(Batch, Generic[ItemT]):
    """A batch of things that are flushed as they are: one column, and no weights."""

    def __init__(self) -> None:
        super().__init__()
        self.items: list[ItemT] = []

    def weights(self, count: int) -> Sequence[int]:
        """They have none."""
        return [0] * count

    def keep(self, entries: Sequence[int], items: Sequence[int]) -> None:
        """Drop all items but those at these positions."""
        self.items = [self.items[position] for position in items]

    def cut(self, entries: int, items: int) -> Self:
        """Move the first items to a new batch."""
        batch = type(self)()
        batch.items, self.items = self.items[:items], self.items[items:]
        return batch


NEVER = sys.maxsize
"""More than can gather."""


class BatchPlan:
    """When what gathers leaves: decisions alone, without a loop.

    Each decision is a threshold: how much has to be gathered for it. So adding an item compares two numbers,
    which costs no call; they change when a batch leaves or is answered.

    Args:
        in_flight: the most batches in flight at once.
        eager: with so much gathered a batch leaves at once.
        prompt: whether a lone item may leave at once, if the batch before was a lone one too. Where that one had
            several, more are likely to follow in this turn of the event loop.

    Attributes:
        at_once: with so much gathered a batch leaves before the event loop has had its turn.
        soon: with so much it leaves when everything that is ready to run now has had its turn.
    """

    def __init__(self, *, in_flight: int, eager: int, prompt: bool = False) -> None:
        self._most = in_flight
        self._in_flight = 0
        self._eager = eager
        self._prompt = prompt
        self._was_lone = False
        self.at_once = eager
        self.soon = 1

    def left(self, items: int) -> None:
        """A batch of `size` items has left."""
        self._in_flight += 1
        self._was_lone = items == 1
        self.at_once = self._eager
        if self._in_flight >= self._most:
            self.at_once = self.soon = NEVER

    def completed(self) -> None:
        """A batch has its answer, or none is waited for any more."""
        self._in_flight -= 1
        self.soon = 1
        self.at_once = 1 if self._prompt and self._was_lone and not self._in_flight else self._eager


BatchT = TypeVar("BatchT", bound=Batch)
ReplyT = TypeVar("ReplyT")


class Batcher(Generic[BatchT, ReplyT]):
    """Gathers entries and hands them to `flush` in batches, one batch in flight at a time as a rule.

    A caller puts an item into the columns of the batch that is `gathering`, and then calls `add`.

    Args:
        make: makes an empty batch.
        flush: sends a batch and returns one reply an item, in order; a reply that is an exception is raised
            to the future of that item. What `flush` itself raises reaches every item of the batch. A coroutine
            runs in a task of its own; a future is waited for as it is.
        retry: given a batch whose flush has failed, and how; what it returns is waited for in place of the flush,
            and None means that the failure is final.
        max_items: the most items in one batch; one entry may be several.
        max_weight: the most a batch of more than one entry weighs, in bytes as a rule; None for no limit.
        capacity: `wait_for_space` waits while this many items are held (gathering or in flight), which is what
            keeps memory bounded when the server is slower than its producers.
        in_flight: the most batches in flight at once. They are started in the order of their items.
        eager: a batch of this many leaves at once, before the event loop has had its turn. None: `max_items` do.
        prompt: an item that finds nothing gathered or in flight leaves at once, a turn of the loop earlier, if the
            batch before had one item too. Where it had several, more are likely to follow in this turn.
        on_answer: called with each batch that was answered, and the replies. What this or `retry` raises reaches
            every item of the batch that has no reply yet, and the loop's exception handler.

    Attributes:
        gathering: the batch that leaves next, as a rule as a whole.
        held: items that have no reply yet.
    """

    def __init__(
        self,
        make: Callable[[], BatchT],
        flush: Callable[[BatchT], Awaitable[Sequence[ReplyT | Exception]]],
        *,
        retry: Callable[[BatchT, BaseException], Awaitable[Sequence[ReplyT | Exception]] | None] | None = None,
        max_items: int,
        capacity: int,
        max_weight: int | None = None,
        in_flight: int = 1,
        eager: int | None = None,
        prompt: bool = False,
        on_answer: Callable[[BatchT, Sequence[ReplyT | Exception]], None] | None = None,
    ) -> None:
        self._make = make
        self._flush = flush
        self._retry = retry
        self._max_items = max_items
        self._max_weight = max_weight
        self._capacity = capacity
        self._plan = BatchPlan(in_flight=in_flight, eager=eager or max_items, prompt=prompt)
        self._on_answer = on_answer
        self.gathering = make()
        self.held: int = 0
        self._in_flight: set[asyncio.Future[Sequence[ReplyT | Exception]]] = set()
        self._starting: asyncio.Handle | None = None
        self._blocked: deque[asyncio.Future[None]] = deque()
        self._drained: asyncio.Future[None] | None = None

    def add(self, future: "asyncio.Future[Any] | None" = None) -> None:
        """Send the item that was just put into the batch; `future` gets its reply.

        An item whose future is cancelled while it gathers is withdrawn; one in flight is not.
        """
        futures = self.gathering.futures
        futures.append(future)
        self.held += 1
        gathered = len(futures)
        if gathered >= self._plan.at_once:
            self._start()
        elif self._starting is None and gathered >= self._plan.soon:
            self._start_soon()

    def add_several(self, future: "asyncio.Future[Any]", count: int) -> None:
        """Send `count` items, which were just put into the batch; `future` gets the list of replies."""
        batch = self.gathering
        batch.several[len(batch.futures)] = count
        batch.futures.append(future)
        self.held += count
        gathered = batch.size
        if gathered >= self._plan.at_once:
            self._start()
        elif self._starting is None and gathered >= self._plan.soon:
            self._start_soon()

    def hurry(self) -> None:
        """Let what is gathered leave at once, if no batch is in flight: nothing else is to come."""
        if self.gathering.futures and not self._in_flight:
            self._start()

    async def drain(self) -> None:
        """Wait until nothing is gathered or in flight."""
        while self.held:
            if self._drained is None:
                self._drained = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._drained)

    def close(self) -> None:
        """Drop what is gathered or in flight; its futures are cancelled."""
        for sent in self._in_flight:
            sent.cancel()
        dropped, self.gathering = self.gathering, self._make()
        for future in dropped.futures:
            if future is not None:
                future.cancel()
        self._release(dropped.size)

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
                    self._wake_blocked(1)  # space was given to this one just then: pass it on
                raise

    def _wake_blocked(self, count: int) -> None:
        while count > 0 and self._blocked:
            waiter = self._blocked.popleft()
            if not waiter.done():
                waiter.set_result(None)
                count -= 1

    def _start_soon(self) -> None:
        # It begins once all that is ready to run now has had its turn, and so has put its items too.
        self._starting = asyncio.get_running_loop().call_soon(self._start)

    def _start(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
            self._starting = None
        while self._plan.soon == 1 and (batch := self._take()) is not None:
            self._plan.left(batch.size)
            try:
                sent = self._flush(batch)
            except Exception as error:  # what `flush` raises at once is an answer too
                sent = asyncio.get_running_loop().create_future()
                sent.set_exception(error)
            self._follow(batch, sent)

    def _follow(self, batch: BatchT, sent: Awaitable[Sequence[ReplyT | Exception]]) -> None:
        future = asyncio.ensure_future(sent)
        self._in_flight.add(future)
        future.add_done_callback(partial(self._completed, batch))

    def _take(self) -> BatchT | None:
        """What is to leave now, None where nothing is."""
        while (batch := self.gathering).futures:
            size = batch.size
            heavy = self._max_weight and len(batch.futures) > 1 and sum(batch.weights(size)) > self._max_weight
            if heavy or size > self._max_items:
                batch = batch.split(self._max_items, self._max_weight or sys.maxsize)
            else:
                self.gathering = self._make()
            if withdrawn := batch.withdraw():
                self._release(withdrawn)
            if batch.futures:
                return batch
        return None

    def _release(self, count: int) -> None:
        self.held -= count
        if self._blocked:
            self._wake_blocked(count)
        if not self.held and self._drained is not None:
            self._drained.set_result(None)
            self._drained = None

    def _completed(self, batch: BatchT, sent: "asyncio.Future[Sequence[ReplyT | Exception]]") -> None:
        self._in_flight.discard(sent)
        again = None
        try:
            again = self._conclude(batch, sent)
        except Exception as error:  # a hook's, or there are too few replies: the loop logs it, and goes on
            self._fail(batch, error)
            raise
        finally:
            if again is not None:
                self._follow(batch, again)
            else:
                self._plan.completed()
            if self.gathering.futures:
                self._start()

    def _conclude(
        self, batch: BatchT, sent: "asyncio.Future[Sequence[ReplyT | Exception]]"
    ) -> Awaitable[Sequence[ReplyT | Exception]] | None:
        """Answer the items of a batch whose flush has ended, or return what is waited for in its place."""
        error = asyncio.CancelledError() if sent.cancelled() else sent.exception()
        if error is None:
            self._answer(batch, sent.result())
            return None
        again = None if self._retry is None else self._retry(batch, error)
        if again is None:
            self._fail(batch, error)
        return again

    def _answer(self, batch: BatchT, replies: Sequence[ReplyT | Exception]) -> None:
        if self._on_answer is not None:
            self._on_answer(batch, replies)
        for future, reply in zip(batch.futures, batch.by_entry(replies), strict=True):
            if future is None or future.done():
                continue
            if type(reply) is bool or not isinstance(reply, Exception):  # most are: no call for those
                future.set_result(reply)
            else:
                future.set_exception(reply)
        self._release(batch.size)

    def _fail(self, batch: BatchT, error: BaseException) -> None:
        for future in batch.futures:
            if future is None or future.done():
                continue
            if isinstance(error, asyncio.CancelledError):
                future.cancel()
            else:
                future.set_exception(error)
        self._release(batch.size)
