"""Gathers the jobs that are sent to a queue, and makes the first attempt to send each batch."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from math import inf
from typing import NamedTuple

from aioq.errors import QueueFullError, SendError
from aioq.store.columns import NewJobs
from aioq.store.contract import NewJob, Store
from aioq.store.extra import Added, queue_full
from aioq.store.rooms import Place
from aioq.util.batcher import Batch, Batcher

MAX_JOBS = 500
"""The most jobs of one batch. Larger batches gain nothing (measured: 500 are as fast as bulk loading can be) and
block the server for others."""

MAX_BYTES = 1_048_576
"""A batch is closed at this size, so that one reply never takes long."""

EAGER_JOBS = 64
"""A batch of this size leaves at once, although more may follow in the same turn of the loop: the server works
while this process prepares those. Larger batches gain nothing (measured with 150 to 1,000 senders)."""

FAIR_ATTEMPT = 1.0
"""The shortest time in seconds that an attempt gets, even if the deadlines of its jobs are closer or over."""


class SendBatch(NewJobs, Batch):
    """Jobs that are sent in one call, in columns. After a failed attempt each entry becomes a batch of its own.

    Attributes:
        deadlines: for each entry when it is given up, by the loop's clock.
        again: whether some of the jobs were sent before, and it is unknown whether the server has them.
        attempt_ends: when the first attempt is given up.
        expired: whether the first attempt was given up.
        was_repeated: whether the first attempt has failed, or was none.
    """

    def __init__(self) -> None:
        # The attributes of both bases are set here: that saves two calls for each single send.
        self.ids = []
        self.envelopes = []
        self.special = {}
        self.place = None
        self.futures = []
        self.several = {}
        self.deadlines: list[float] = []
        self.again = False
        self.attempt_ends = 0.0
        self.expired = False
        self.was_repeated = False

    @staticmethod
    def entry(
        jobs: Iterable[NewJob], deadline: float, *, again: bool = False, place: Place | None = None
    ) -> "SendBatch":
        """A batch of one entry: jobs that are confirmed or given up together."""
        batch = SendBatch()
        batch.extend(jobs)
        batch.deadlines, batch.again, batch.place = [deadline], again, place
        return batch

    def weights(self, count: int) -> Sequence[int]:
        """The sizes in bytes of the first `count` calls."""
        return [*map(len, self.envelopes[:count])]

    def keep(self, entries: Sequence[int], items: Sequence[int]) -> None:
        """Keep only the entries and jobs at these positions."""
        self.deadlines = [self.deadlines[position] for position in entries]
        self.replace(NewJobs(self[position] for position in items))

    def cut(self, entries: int, items: int) -> "SendBatch":
        """Move the first entries, with their jobs, to a new batch."""
        batch = SendBatch()
        batch.again = self.again
        batch.replace(self.part(0, items))
        self.replace(self.part(items, len(self)))
        batch.deadlines, self.deadlines = self.deadlines[:entries], self.deadlines[entries:]
        return batch

    def one_of(self, errors: Sequence[Exception]) -> Exception:
        """The error of jobs that were sent together; that their queue is full names all that it is about."""
        return full_of(errors) or errors[0]

    def apart(self) -> "list[SendBatch]":
        """A batch for each entry."""
        entries: list[SendBatch] = []
        first = 0
        for entry, deadline in enumerate(self.deadlines):
            after = first + self.several.get(entry, 1)
            entries.append(SendBatch.entry(self.part(first, after), deadline, again=self.again, place=self.place))
            first = after
        return entries


class Outage(NamedTuple):
    """The failure of the last attempt to send to a queue: its error, and when it was."""

    error: Exception
    at: float


class Buffer(Batcher[SendBatch, Added]):
    """Gathers the jobs of one queue and makes the first attempt to send each batch.

    Args:
        store: where to send.
        queue: the queue.
        repeat: takes over a batch whose first attempt has failed, with the error. It also takes over, without an
            error, a batch that must wait for others that are being repeated. It returns None if the failure is
            final.
        send_timeout: seconds after which a job that the server has not confirmed is given up.
        capacity: the most jobs that may wait to be confirmed; further sends wait for space.

    Attributes:
        outage: the failure of the last attempt, if it failed; `repeat` sets it.
        repeating: how many batches are being repeated; `repeat` sets it.
    """

    def __init__(
        self,
        store: Store,
        queue: str,
        repeat: Callable[[SendBatch, BaseException | None], Awaitable[Sequence[Added | Exception]] | None],
        *,
        send_timeout: float,
        capacity: int,
    ) -> None:
        super().__init__(
            SendBatch,
            self._attempt,
            retry=repeat,
            max_items=MAX_JOBS,
            max_weight=MAX_BYTES,
            capacity=capacity,
            in_flight=store.sends_in_flight,
            eager=EAGER_JOBS,
            prompt=True,
        )
        self._store = store
        self._queue = queue
        self._repeat = repeat
        self._send_timeout = send_timeout
        self._loop = asyncio.get_running_loop()
        self._attempts: dict[asyncio.Future[list[Added]], SendBatch] = {}
        self._next_check = inf
        self._timer: asyncio.TimerHandle | None = None
        self.outage: Outage | None = None
        self.repeating = 0

    def put(
        self,
        job_id: str,
        envelope: bytes,
        special: NewJob | None = None,
        *,
        again: bool = False,
        deadline: float = 0.0,
    ) -> Awaitable[Added]:
        """Send one job. Await the returned object; its result is False if the server already had a job of this id.

        Args:
            job_id: its id.
            envelope: the encoded call.
            special: the whole job, if it has more than these two.
            again: whether this very job was sent before, and it is unknown whether the server has it.
            deadline: when it is given up, by the loop's clock; 0 for after `send_timeout`.

        Cancellation: a job that is not in flight yet is withdrawn; for one in flight it is open whether the server
        has it.

        Raises:
            SendError: not confirmed within `send_timeout`.
            ServerRejectedError: the server refuses this user.
        """
        deadline = deadline or self._loop.time() + self._send_timeout
        if self.held >= self._capacity:
            return self._put_later(job_id, envelope, special, again, deadline)
        batch = self.gathering
        if special is not None:
            batch.special[len(batch.ids)] = special
        if again:
            batch.again = True
        batch.ids.append(job_id)
        batch.envelopes.append(envelope)
        batch.deadlines.append(deadline)
        # `loop.create_future()` makes the same object, but takes twice as long in uvloop.
        future: asyncio.Future[Added] = asyncio.Future()
        self.add(future)
        return future

    async def put_part(self, jobs: NewJobs, start: int) -> "tuple[int, asyncio.Future[list[Added]]]":
        """Send as many of several jobs as one batch takes; return their number and the future of the replies.

        Args:
            jobs: all jobs of the queue that are sent together.
            start: the first of them to send.
        """
        await self.wait_for_space()
        most = min(MAX_JOBS, self._capacity - self.held)
        count = _count_for_batch(jobs.envelopes[start : start + most])
        batch = self.gathering
        batch.extend(jobs.part(start, start + count))
        batch.deadlines.append(self._loop.time() + self._send_timeout)
        replies: asyncio.Future[list[Added]] = self._loop.create_future()
        self.add_several(replies, count)
        return count, replies

    async def _put_later(
        self, job_id: str, envelope: bytes, special: NewJob | None, again: bool, deadline: float
    ) -> Added:
        try:
            async with asyncio.timeout_at(deadline):
                await self.wait_for_space()
        except TimeoutError:
            why = "there is no space to send it from"
            raise gave_up([job_id], self._send_timeout, why, "was not sent") from None
        return await self.put(job_id, envelope, special, again=again, deadline=deadline)

    def _attempt(self, batch: SendBatch) -> Awaitable[Sequence[Added | Exception]]:
        """Make the first attempt: only a call to the store, and a timer."""
        if (self.outage is not None or self.repeating) and (repeated := self._repeat(batch, None)) is not None:
            return repeated
        attempt = asyncio.ensure_future(self._store.enqueue(self._queue, batch, again=batch.again))
        batch.attempt_ends = end_of_attempt(self._loop, batch.deadlines)
        self._attempts[attempt] = batch
        attempt.add_done_callback(self._attempts.pop)
        if batch.attempt_ends < self._next_check:
            self._check_at(batch.attempt_ends)
        return attempt

    def _check_at(self, time: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next_check, self._timer = time, self._loop.call_at(time, self._give_up_late)

    def _give_up_late(self) -> None:
        """Give up the first attempts whose time is over; there is one timer for all of them."""
        self._next_check, self._timer, now = inf, None, self._loop.time()
        for attempt, batch in self._attempts.items():
            if attempt.done():
                continue
            if batch.attempt_ends <= now:
                batch.expired = True
                attempt.cancel()
            elif batch.attempt_ends < self._next_check:
                self._check_at(batch.attempt_ends)


def full_of(errors: Iterable[BaseException]) -> QueueFullError | None:
    """One error for those that say that a queue is full; None if one of them says something else."""
    full = [each for each in errors if isinstance(each, QueueFullError)]
    if not full or len(full) < len([*errors]):
        return None
    ids = [job_id for each in full for job_id in each.job_ids]
    last = full[-1]
    return queue_full(last.queue, ids, last.size, last.max_size)


def end_of_attempt(loop: asyncio.AbstractEventLoop, deadlines: Sequence[float]) -> float:
    """When an attempt ends. Each send gets one of `FAIR_ATTEMPT`, even if its loop was blocked for long before."""
    return max(min(deadlines), loop.time() + FAIR_ATTEMPT)


def gave_up(ids: Sequence[str], send_timeout: float, why: str, what: str) -> SendError:
    """The error that names the jobs that are given up; `what` is their state, such as "was not sent"."""
    shown = ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")  # noqa: PLR2004
    return SendError(f"job {shown} {what} after {send_timeout:g} s: {why}", tuple(ids))


def _count_for_batch(envelopes: Sequence[bytes]) -> int:
    """How many of the first jobs one batch takes; at least one."""
    sizes = [*map(len, envelopes)]
    if sum(sizes) <= MAX_BYTES:
        return len(sizes)
    count = weight = 0
    for size in sizes:
        if count and weight + size > MAX_BYTES:
            break
        count, weight = count + 1, weight + size
    return count
