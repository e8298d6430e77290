"""The producer: concurrent sends of one process leave in one script call a flush.

A send returns when the server has its job. A flush that fails is repeated with the same job ids, which the server
adds only once, until `send_timeout`; memory is bounded because a send waits while too many others do.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from aioq.backoff import Backoff
from aioq.batch import Batcher
from aioq.errors import SendError, ServerUnavailableError
from aioq.store import NewJob, Store

MAX_JOBS = 500
"""The most jobs of one flush: larger ones gain nothing (measured: 500 reach what bulk loading can do) and hold
the server up for others."""

MAX_BYTES = 1_048_576
"""A flush is closed at this size, so that one reply never takes long."""


FAIR_ATTEMPT = 1.0
"""Seconds an attempt is given even when its jobs are late already, and that one which failed counts for others."""


LAG = 0.1
"""Seconds that a timer may be late before the loop counts as blocked. A guess: far above what a busy loop takes
for one turn, far below the second that another attempt costs."""


class _Outage(NamedTuple):
    """The last attempt to send to a queue failed."""

    error: Exception
    at: float


class _Pending(NamedTuple):
    """Jobs that are sent together: one, or a part of a `send_many`."""

    jobs: Sequence[NewJob]
    deadline: float
    again: bool = False


class _Part(NamedTuple):
    """A part of a `send_many`: where its jobs stand in it, and what the server says of them."""

    positions: Sequence[int]
    reply: asyncio.Future[Sequence[bool]]


_Replies = dict[int, Sequence[bool] | Exception]
"""What the jobs of a flush are told, by the identity of their `_Pending`: one batch may hold one id twice."""


class Producer:
    """Sends jobs of one event loop.

    Args:
        store: where to.
        send_timeout: seconds after which a job that the server has not confirmed is given up.
        capacity: the most jobs of a queue that may wait to be confirmed; further sends wait for space.
    """

    def __init__(self, store: Store, *, send_timeout: float, capacity: int) -> None:
        self._store = store
        self._send_timeout = send_timeout
        self._capacity = capacity
        self._batchers: dict[str, Batcher[_Pending, Sequence[bool]]] = {}
        self._outages: dict[str, _Outage] = {}

    async def send(self, queue: str, job: NewJob, *, again: bool = False) -> bool:
        """Send one job; False when the server already had its id.

        Args:
            queue: where to.
            job: what to send.
            again: this very job was sent before, and it is not known whether the server has it.

        Cancellation: a job that no flush has taken yet is withdrawn; of one in flight it is open whether the
        server has it.

        Raises:
            SendError: not confirmed within `send_timeout`.
            ServerRejectedError: the server refuses this user.
        """
        batcher = self._batchers.get(queue) or self._batcher(queue)
        pending = _Pending((job,), asyncio.get_running_loop().time() + self._send_timeout, again)
        if batcher.held < self._capacity:
            return (await batcher.put(pending, weight=len(job.envelope)))[0]
        try:
            async with asyncio.timeout_at(pending.deadline):
                await batcher.wait_for_space()
        except TimeoutError:
            raise self._gave_up([pending], "there is no space to send it from", "was not sent") from None
        return (await batcher.put(pending, weight=len(job.envelope)))[0]

    async def send_many(self, jobs: Sequence[tuple[str, NewJob]]) -> list[bool]:
        """Send jobs, each to its queue, in order; see `send`.

        Raises:
            SendError: naming every job of this call that is not confirmed; the others have been sent.
        """
        parts = await self._put_all(jobs)
        replies = await asyncio.gather(*(part.reply for part in parts), return_exceptions=True)
        added = [False] * len(jobs)
        failed: list[int] = []
        cause: BaseException | None = None
        for part, reply in zip(parts, replies, strict=True):
            if isinstance(reply, BaseException):
                failed += part.positions
                cause = cause or reply
            else:
                for position, new in zip(part.positions, reply, strict=True):
                    added[position] = new
        if cause is None:
            return added
        if isinstance(cause, SendError):
            raise SendError(
                f"{len(failed)} of {len(jobs)} jobs are unconfirmed: {cause.__cause__ or cause}",
                tuple(jobs[position][1].id for position in sorted(failed)),
            ) from cause.__cause__
        raise cause

    async def _put_all(self, jobs: Sequence[tuple[str, NewJob]]) -> list[_Part]:
        """Hand over the jobs in parts that are as large as one flush, and wait for space in between."""
        loop = asyncio.get_running_loop()
        of_queue: defaultdict[str, list[int]] = defaultdict(list)
        for position, (queue, _) in enumerate(jobs):
            of_queue[queue].append(position)
        parts: list[_Part] = []
        try:
            for queue, positions in of_queue.items():
                batcher = self._batchers.get(queue) or self._batcher(queue)
                start = 0
                while start < len(positions):
                    if batcher.held >= self._capacity:
                        await batcher.wait_for_space()
                    most = min(MAX_JOBS, self._capacity - batcher.held)
                    count, weight = _fitting(jobs, positions[start : start + most])
                    taken = positions[start : start + count]
                    start += count
                    pending = _Pending([jobs[position][1] for position in taken], loop.time() + self._send_timeout)
                    parts.append(_Part(taken, batcher.put(pending, count=count, weight=weight)))
        except BaseException:
            for part in parts:
                part.reply.cancel()  # withdraws those that no flush has taken yet
            raise
        return parts

    async def drain(self) -> None:
        """Wait until nothing is on its way."""
        for batcher in tuple(self._batchers.values()):
            await batcher.drain()

    def _batcher(self, queue: str) -> Batcher[_Pending, Sequence[bool]]:
        batcher = Batcher(
            partial(self._flush, queue),
            max_items=MAX_JOBS,
            max_weight=MAX_BYTES,
            capacity=self._capacity,
            in_flight=self._store.in_flight,
        )
        self._batchers[queue] = batcher
        return batcher

    async def _flush(self, queue: str, batch: list[_Pending]) -> Sequence[Sequence[bool] | Exception]:
        replies: _Replies = {}
        left, backoff, excused = self._spare(queue, batch, replies), Backoff(), False
        again = any(pending.again for pending in left)
        while left:
            attempt = _time_for(left)
            try:
                async with attempt:
                    added = await self._store.enqueue(queue, _jobs_of(left), again=again)
            except (ServerUnavailableError, TimeoutError) as error:
                again = True
                if not excused and _loop_was_blocked(attempt):
                    excused = True  # the reply may be here: there was no time to look
                else:
                    left = self._failed(queue, left, error, replies)
                if left:
                    await asyncio.sleep(backoff.next())
            else:
                self._outages.pop(queue, None)
                start = 0
                for pending in left:
                    replies[id(pending)] = added[start : start + len(pending.jobs)]
                    start += len(pending.jobs)
                break
        return [replies[id(pending)] for pending in batch]

    def _spare(self, queue: str, batch: list[_Pending], replies: _Replies) -> list[_Pending]:
        """Return the jobs that an attempt is to be made for.

        Where the one before has just failed, it has shown for the jobs that waited meanwhile, and whose time is
        over, what an attempt of their own would: they are answered with its error.
        """
        outage = self._outages.get(queue)
        if outage is None or asyncio.get_running_loop().time() - outage.at > FAIR_ATTEMPT:
            return batch
        return self._give_up(batch, outage, replies)

    def _failed(self, queue: str, batch: list[_Pending], error: Exception, replies: _Replies) -> list[_Pending]:
        """Note a failed attempt, answer the jobs whose time is over, and return the others."""
        if not str(error):
            error = TimeoutError("the server did not answer in time")
        outage = self._outages[queue] = _Outage(error, asyncio.get_running_loop().time())
        return self._give_up(batch, outage, replies)

    def _give_up(self, batch: list[_Pending], outage: _Outage, replies: _Replies) -> list[_Pending]:
        now = asyncio.get_running_loop().time()
        over = [p for p in batch if p.deadline <= now and p.deadline - self._send_timeout <= outage.at]
        if over:
            fault = self._gave_up(over, str(outage.error), "is unconfirmed")
            fault.__cause__ = outage.error
            replies.update((id(pending), fault) for pending in over)
        return [pending for pending in batch if id(pending) not in replies]

    def _gave_up(self, batch: Sequence[_Pending], why: str, what: str) -> SendError:
        ids = tuple(job.id for job in _jobs_of(batch))
        shown = ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")  # noqa: PLR2004
        return SendError(f"job {shown} {what} after {self._send_timeout:g} s: {why}", ids)


def _time_for(batch: list[_Pending]) -> asyncio.Timeout:
    """The end of an attempt; a loop that was blocked for long must not fail its sends without an honest one."""
    first_deadline = min(pending.deadline for pending in batch)
    return asyncio.timeout_at(max(first_deadline, asyncio.get_running_loop().time() + FAIR_ATTEMPT))


def _loop_was_blocked(attempt: asyncio.Timeout) -> bool:
    """Whether the loop was late for the timer that ended an attempt: it may have been late for the reply, too."""
    when = attempt.when()
    return attempt.expired() and when is not None and asyncio.get_running_loop().time() - when > LAG


def _jobs_of(batch: Sequence[_Pending]) -> Sequence[NewJob]:
    if len(batch) == 1:
        return batch[0].jobs
    return [job for pending in batch for job in pending.jobs]


def _fitting(jobs: Sequence[tuple[str, NewJob]], positions: Sequence[int]) -> tuple[int, int]:
    """How many of the jobs at these positions one flush takes, at least one, and how many bytes they have."""
    count = weight = 0
    for position in positions:
        size = len(jobs[position][1].envelope)
        if count and weight + size > MAX_BYTES:
            break
        count, weight = count + 1, weight + size
    return count, weight
