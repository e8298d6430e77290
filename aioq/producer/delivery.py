"""Repeats batches whose first attempt has failed, and holds the buffers of all queues.

A send returns when the server has its job. A failed batch is repeated until `send_timeout` with the same job ids,
which the server adds only once. Memory is bounded, because a send waits while too many others do.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from aioq.errors import SendError, ServerUnavailableError
from aioq.producer.buffer import FAIR_ATTEMPT, Buffer, Outage, SendBatch, end_of_attempt, gave_up
from aioq.producer.waiting import WaitingBuffer
from aioq.store.columns import NewJobs
from aioq.store.contract import Store
from aioq.store.extra import Added
from aioq.store.refusals import call_in_halves, is_refusal
from aioq.util.aio import Backoff

OUTAGE_COUNTS = FAIR_ATTEMPT
"""Seconds for which the failure of one attempt also counts for other jobs."""

BLOCKED_FROM = 0.1
"""Seconds that a timer may be late before the loop counts as blocked. A guess: far more than a busy loop takes for
one turn, and far less than the second that another attempt costs."""


_Faults = dict[int, Exception]
"""The errors of entries that are given up, by `id()` of the entry, because two entries may have the same job
id."""

_Replies = list[Added | Exception]
"""The replies to a batch, one for each job, in order."""


class Buffers(dict[str, Buffer]):
    """The buffers of one event loop by queue; each is made on first use.

    Args:
        store: where to send.
        channel: by a queue, or shard, of which sends wait where it is full, what makes the name of the channel on
            which a process hears of room; None for any other queue.
        send_timeout: seconds after which a job that the server has not confirmed is given up.
        capacity: the most jobs of a queue that may wait to be confirmed; further sends wait for space.
    """

    def __init__(
        self,
        store: Store,
        *,
        send_timeout: float,
        capacity: int,
        channel: Callable[[str], Callable[[str], str] | None] = lambda _: None,
    ) -> None:
        super().__init__()
        self._store = store
        self._channel = channel
        self._send_timeout = send_timeout
        self._capacity = capacity

    def __missing__(self, queue: str) -> Buffer:
        delivery = Delivery(
            *(self._store, queue, self._channel(queue)), send_timeout=self._send_timeout, capacity=self._capacity
        )
        self[queue] = delivery.buffer
        return delivery.buffer

    async def drain(self) -> None:
        """Wait until all jobs are confirmed or given up. Those that wait for room in a full queue are given up."""
        for buffer in tuple(self.values()):
            if isinstance(buffer, WaitingBuffer):
                await buffer.row.close()
            await buffer.drain()


class Delivery:
    """Repeats the batches of one queue whose first attempt has failed.

    Args:
        store: where to send.
        queue: the queue.
        channel: what makes the name of the channel on which a process hears of room, see `Buffers`.
        send_timeout: seconds after which a job that the server has not confirmed is given up.
        capacity: the most jobs that may wait to be confirmed.

    Attributes:
        buffer: gathers the jobs, and makes the first attempts.
    """

    def __init__(
        self,
        store: Store,
        queue: str,
        channel: Callable[[str], str] | None = None,
        *,
        send_timeout: float,
        capacity: int,
    ) -> None:
        self._store = store
        self._queue = queue
        self._send_timeout = send_timeout
        self._loop = asyncio.get_running_loop()
        self._lock = asyncio.Lock()
        if channel is None:
            self.buffer = Buffer(store, queue, self.repeat, send_timeout=send_timeout, capacity=capacity)
        else:
            self.buffer = WaitingBuffer(
                store, queue, self.repeat, channel, send_timeout=send_timeout, capacity=capacity
            )

    def repeat(self, batch: SendBatch, error: BaseException | None) -> "asyncio.Task[_Replies] | None":
        """Repeat a batch, unless the error is final; then return None."""
        batch.was_repeated = True
        if isinstance(error, asyncio.CancelledError):
            if not batch.expired:
                return None  # the loop is being closed
            batch.expired = False
            # If the timer was late, the loop was blocked: the reply may have come, but was not read yet.
            late = self._loop.time() - batch.attempt_ends
            return self._persist(batch.apart(), TimeoutError(), excused=late > BLOCKED_FROM)
        if error is None or isinstance(error, (ServerUnavailableError, TimeoutError)):
            return self._persist(batch.apart(), error)
        if len(batch) > 1 and isinstance(error, Exception) and is_refusal(error):
            return self._loop.create_task(self._try_apart(batch.apart(), error), name="aioq-send")
        return None

    def _persist(
        self, entries: list[SendBatch], error: Exception | None = None, *, excused: bool = False
    ) -> "asyncio.Task[_Replies]":
        """Send until the server has the jobs or their deadlines have passed, one batch of the queue at a time.

        `error` was that of the first attempt. It is `excused` if it may be this process's own fault, because its
        loop was blocked.
        """
        self.buffer.repeating += 1
        return self._loop.create_task(self._try_in_turn(entries, error, excused), name="aioq-send")

    async def _try_in_turn(self, entries: list[SendBatch], error: Exception | None, excused: bool) -> _Replies:
        try:
            async with self._lock:
                return await self._try(entries, error, excused)
        finally:
            self.buffer.repeating -= 1

    async def _try(self, entries: list[SendBatch], error: Exception | None, excused: bool) -> _Replies:
        try:
            return await self._try_together(entries, error, excused)
        except Exception as fault:
            if not is_refusal(fault):
                raise
            return await self._try_apart(entries, fault)

    async def _try_together(
        self, entries: Sequence[SendBatch], error: Exception | None, excused: bool
    ) -> _Replies:
        faults: _Faults = {}
        added: Sequence[Added] = ()
        backoff = Backoff()
        again = error is not None or any(entry.again for entry in entries)
        if error is not None and not excused:
            left = self._failed(entries, error, faults)
        else:
            left = self._after_outage(entries, faults)
        while left:
            if error is not None:
                await asyncio.sleep(backoff.next())
            ends = end_of_attempt(self._loop, [entry.deadlines[0] for entry in left])
            attempt = asyncio.timeout_at(ends)
            try:
                async with attempt:
                    added = await self._store.enqueue(self._queue, _joined(left), again=again)
            except (ServerUnavailableError, TimeoutError) as fault:
                # Of an attempt that the deadline has cut short, the error before says more.
                error, again = fault if str(fault) or error is None else error, True
                if not excused and attempt.expired() and self._loop.time() - ends > BLOCKED_FROM:
                    excused = True
                else:
                    left = self._failed(left, error, faults)
            else:
                self.buffer.outage = None
                break
        return _replies(entries, faults, added)

    async def _try_apart(self, entries: Sequence[SendBatch], error: Exception) -> _Replies:
        """Send a refused batch again in ever smaller parts, so that only the refused jobs fail."""
        alone = [SendBatch.entry([job], entry.deadlines[0], again=True) for entry in entries for job in entry]
        send = partial(self._try_together, error=None, excused=False)
        replies = await call_in_halves(alone, send, error)
        start = 0
        for entry in entries:
            after = start + len(entry)
            replies[start:after] = _refused_of(entry, replies[start:after])
            start = after
        return replies

    def _after_outage(self, entries: Sequence[SendBatch], faults: _Faults) -> Sequence[SendBatch]:
        """Return the entries to attempt.

        If another attempt has just failed, it also counts for entries that waited meanwhile and whose deadline has
        passed: they get its error, without an attempt of their own.
        """
        outage = self.buffer.outage
        if outage is None or self._loop.time() - outage.at > OUTAGE_COUNTS:
            return entries
        return self._give_up(entries, outage, faults)

    def _failed(self, entries: Sequence[SendBatch], error: Exception, faults: _Faults) -> Sequence[SendBatch]:
        """Note a failed attempt, give up the entries whose deadline has passed, and return the others."""
        if not str(error):
            error = TimeoutError("the server did not answer in time")
        outage = self.buffer.outage = Outage(error, self._loop.time())
        return self._give_up(entries, outage, faults)

    def _give_up(self, entries: Sequence[SendBatch], outage: Outage, faults: _Faults) -> Sequence[SendBatch]:
        now = self._loop.time()
        began = outage.at + self._send_timeout
        over = [entry for entry in entries if entry.deadlines[0] <= now and entry.deadlines[0] <= began]
        if over:
            fault = gave_up(_joined(over).ids, self._send_timeout, str(outage.error), "is unconfirmed")
            # Without its traceback the cause is shown as one line; the message has its text already.
            fault.__cause__ = outage.error.with_traceback(None)
            faults.update((id(entry), fault) for entry in over)
        return [entry for entry in entries if id(entry) not in faults]


def _joined(entries: Sequence[SendBatch]) -> NewJobs:
    """All jobs of these entries, which are of one batch."""
    jobs = NewJobs()
    jobs.place = entries[0].place
    for entry in entries:
        jobs.extend(entry)
    return jobs


def _replies(entries: Sequence[SendBatch], faults: _Faults, added: Sequence[Added]) -> _Replies:
    """The reply to each job: its error, or the store's reply."""
    replies: _Replies = []
    start = 0
    for entry in entries:
        count = len(entry)
        fault = faults.get(id(entry))
        if fault is not None:
            replies += [fault] * count
        else:
            replies += added[start : start + count]
            start += count
    return replies


def _refused_of(entry: SendBatch, replies: Sequence[Added | Exception]) -> Sequence[Added | Exception]:
    """The replies to the jobs of an entry; all refused jobs get one error, which names them."""
    faults = [each for each in replies if isinstance(each, Exception)]
    if len(replies) == 1 or not faults:
        return replies
    ids = tuple(job_id for job_id, each in zip(entry.ids, replies, strict=True) if isinstance(each, Exception))
    refused = SendError(f"{len(ids)} of {len(replies)} jobs were not sent: {faults[0]}", ids)
    refused.__cause__ = faults[0].__cause__ if isinstance(faults[0], SendError) else faults[0]
    return [refused if isinstance(each, Exception) else each for each in replies]
