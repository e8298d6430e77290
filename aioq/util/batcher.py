"""Batching: many small requests of one process become few large ones.

Items that are added while the event loop is busy leave together once it is idle, or earlier if they are many.
While the most allowed batches are in flight, the next one gathers. So a lone request waits for nothing (with
`prompt` not even for the loop's turn), and under load batches grow by themselves. There is no timer to tune.
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
    """The items that leave together. A subclass keeps them in columns: lists, not one object for each item.

    An entry is what one call adds: usually one item, sometimes several.

    Attributes:
        futures: for each entry the future that gets its reply; None where only `on_answer` needs the reply.
        several: for each entry of several items, by its position, how many it has. Such an entry gets a list of
            replies, or the first error.
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
        """The weights of the first `count` items; their sum is limited by `max_weight`."""

    @abstractmethod
    def keep(self, entries: Sequence[int], items: Sequence[int]) -> None:
        """Drop everything from the columns except the entries and items at these positions."""

    @abstractmethod
    def cut(self, entries: int, items: int) -> Self:
        """Move the first entries and items to the columns of a new batch."""

    def withdraw(self) -> int:
        """Drop the entries whose futures were cancelled, and return how many items they had."""
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
        """Take the first entries, as many as do not exceed these limits, but at least one, into a new batch."""
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
        """The reply to each entry; for an entry of several items the list of replies, or the first error."""
        if not self.several:
            return replies
        by_entry: list[Any] = []
        first = 0
        for entry, after in enumerate(self._ends()):
            some = replies[first:after]
            errors = [reply for reply in some if isinstance(reply, Exception)] if entry in self.several else ()
            by_entry.append(self.one_of(errors) if errors else some if entry in self.several else some[0])
            first = after
        return by_entry

    def one_of(self, errors: Sequence[Exception]) -> Exception:
        """The error of an entry of several items, of which some have these errors."""
        return errors[0]

    def _ends(self) -> list[int]:
        """For each entry, how many items there are up to its end."""
        return list(accumulate(self.several.get(entry, 1) for entry in range(len(self.futures))))


class Items(Batch, Generic[ItemT]):
    """A batch with a single column of items, which have no weight."""

    def __init__(self) -> None:
        super().__init__()
        self.items: list[ItemT] = []

    def weights(self, count: int) -> Sequence[int]:
        """Zero for each item."""
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
"""A threshold that is never reached."""


class BatchPlan:
    """Decides when a batch leaves. It needs no event loop.

    Each decision is a threshold: how many items must have gathered. So adding an item only compares two numbers
    and calls nothing. The thresholds change when a batch leaves or is answered.

    Args:
        in_flight: the most batches in flight at once.
        eager: with this many items gathered, a batch leaves at once.
        prompt: whether a lone item may leave at once, if the batch before had one item too. If that one had
            several, more are likely to follow in this turn of the event loop.

    Attributes:
        at_once: with this many items gathered, a batch leaves without waiting for the event loop's turn.
        soon: with this many items gathered, a batch leaves once everything that is ready to run now has run.
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
        """Note that a batch of so many items has left."""
        self._in_flight += 1
        self._was_lone = items == 1
        self.at_once = self._eager
        if self._in_flight >= self._most:
            self.at_once = self.soon = NEVER

    def completed(self) -> None:
        """Note that a batch has its answer, or that nothing waits for it any more."""
        self._in_flight -= 1
        self.soon = 1
        self.at_once = 1 if self._prompt and self._was_lone and not self._in_flight else self._eager


BatchT = TypeVar("BatchT", bound=Batch)
ReplyT = TypeVar("ReplyT")


class Batcher(Generic[BatchT, ReplyT]):
    """Gathers entries and passes them to `flush` in batches, by default with one batch in flight at a time.

    A caller puts an item into the columns of the batch that is `gathering`, and then calls `add`.

    Args:
        make: makes an empty batch.
        flush: sends a batch and returns one reply for each item, in order. A reply that is an exception is set
            as the error of that item's future. What `flush` itself raises becomes the error of every item of the
            batch. A coroutine runs in a task of its own; a future is awaited as it is.
        retry: gets a batch whose flush has failed, and the error. What it returns is awaited in place of the
            flush; None means that the failure is final.
        max_items: the most items in one batch; an entry may have several.
        max_weight: the most that a batch of several entries may weigh, usually in bytes; None for no limit.
        capacity: `wait_for_space` waits while this many items are held (gathering or in flight). That bounds the
            memory when the server is slower than the producers.
        in_flight: the most batches in flight at once. They are started in the order of their items.
        eager: a batch with this many items leaves without waiting for the event loop's turn. None: `max_items`.
        prompt: where nothing is gathered or in flight, an item leaves at once, a turn of the loop earlier, if the
            batch before had one item too. If that one had several, more are likely to follow in this turn.
        on_answer: called with each batch that was answered, and the replies. What this or `retry` raises becomes
            the error of all items of the batch that have no reply yet, and goes to the loop's exception handler.

    Attributes:
        gathering: the batch that leaves next, usually as a whole.
        held: how many items have no reply yet.
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
        """Let the gathered items leave at once if no batch is in flight; to be called when no more will come."""
        if self.gathering.futures and not self._in_flight:
            self._start()

    async def drain(self) -> None:
        """Wait until nothing is gathered or in flight."""
        while self.held:
            if self._drained is None:
                self._drained = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._drained)

    def close(self) -> None:
        """Drop all items that are gathered or in flight, and cancel their futures."""
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
                    self._wake_blocked(1)  # this one was given space at the same moment: another gets it
                raise

    def _wake_blocked(self, count: int) -> None:
        while count > 0 and self._blocked:
            waiter = self._blocked.popleft()
            if not waiter.done():
                waiter.set_result(None)
                count -= 1

    def _start_soon(self) -> None:
        # Everything that is ready to run now runs before it, and may add more items.
        self._starting = asyncio.get_running_loop().call_soon(self._start)

    def _start(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
            self._starting = None
        while self._plan.soon == 1 and (batch := self._take()) is not None:
            self._plan.left(batch.size)
            try:
                sent = self._flush(batch)
            except Exception as error:  # treated like an error of the future that it would have returned
                sent = asyncio.get_running_loop().create_future()
                sent.set_exception(error)
            self._follow(batch, sent)

    def _follow(self, batch: BatchT, sent: Awaitable[Sequence[ReplyT | Exception]]) -> None:
        future = asyncio.ensure_future(sent)
        self._in_flight.add(future)
        future.add_done_callback(partial(self._completed, batch))

    def _take(self) -> BatchT | None:
        """The next batch that leaves; None where nothing is gathered."""
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
        except Exception as error:  # of a hook, or because there are too few replies; the loop logs it and goes on
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
        """Answer the items of a batch whose flush has ended, or return the awaitable of a retry."""
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
            if type(reply) is bool or not isinstance(reply, Exception):  # most are bool, which saves a call
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
