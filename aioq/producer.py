"""The producer: concurrent sends of one process leave in one script call a flush.

A send returns when the server has its job. A flush that fails is repeated with the same job ids, which the server
adds only once, until `send_timeout`; memory is bounded because a send waits while too many others do.
"""

import asyncio
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
    job: NewJob
    deadline: float
    again: bool = False


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
        self._batchers: dict[str, Batcher[_Pending, bool]] = {}
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
        pending = _Pending(job, asyncio.get_running_loop().time() + self._send_timeout, again)
        if batcher.held < self._capacity:
            return await batcher.put(pending)
        try:
            async with asyncio.timeout_at(pending.deadline):
                await batcher.wait_for_space()
        except TimeoutError:
            raise self._gave_up([pending], "there is no space to send it from", "was not sent") from None
        return await batcher.put(pending)

    async def send_many(self, jobs: Sequence[tuple[str, NewJob]]) -> list[bool]:
        """Send jobs, each to its queue, in order; see `send`.

        Raises:
            SendError: naming every job of this call that is not confirmed; the others have been sent.
        """
        futures = await self._put_all(jobs)
        replies = await asyncio.gather(*futures, return_exceptions=True)
        added: list[bool] = []
        failed: list[str] = []
        cause: BaseException | None = None
        for (_, job), reply in zip(jobs, replies, strict=True):
            if isinstance(reply, BaseException):
                failed.append(job.id)
                cause = cause or reply
            else:
                added.append(reply)
        if cause is None:
            return added
        if isinstance(cause, SendError):
            raise SendError(
                f"{len(failed)} of {len(jobs)} jobs are unconfirmed: {cause.__cause__ or cause}",
                tuple(failed),
            ) from cause.__cause__
        raise cause

    async def _put_all(self, jobs: Sequence[tuple[str, NewJob]]) -> list[asyncio.Future[bool]]:
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[bool]] = []
        try:
            for queue, job in jobs:
                batcher = self._batchers.get(queue) or self._batcher(queue)
                if batcher.held >= self._capacity:
                    await batcher.wait_for_space()
                futures.append(batcher.put(_Pending(job, loop.time() + self._send_timeout)))
        except BaseException:
            for future in futures:
                future.cancel()  # withdraws those that no flush has taken yet
            raise
        return futures

    async def drain(self) -> None:
        """Wait until nothing is on its way."""
        for batcher in tuple(self._batchers.values()):
            await batcher.drain()

    def _batcher(self, queue: str) -> Batcher[_Pending, bool]:
        batcher = Batcher(
            partial(self._flush, queue),
            max_items=MAX_JOBS,
            max_weight=MAX_BYTES,
            weigh=_weigh,
            capacity=self._capacity,
            in_flight=self._store.in_flight,
        )
        self._batchers[queue] = batcher
        return batcher

    async def _flush(self, queue: str, batch: list[_Pending]) -> Sequence[bool | Exception]:
        replies: dict[int, bool | Exception] = {}  # by identity: one batch may hold one id twice
        left, backoff, excused = self._spare(queue, batch, replies), Backoff(), False
        again = any(pending.again for pending in left)
        while left:
            attempt = _time_for(left)
            try:
                async with attempt:
                    added = await self._store.enqueue(queue, [pending.job for pending in left], again=again)
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
                replies.update((id(pending), new) for pending, new in zip(left, added, strict=True))
                break
        return [replies[id(pending)] for pending in batch]

    def _spare(self, queue: str, batch: list[_Pending], replies: dict[int, bool | Exception]) -> list[_Pending]:
        """Return the jobs that an attempt is to be made for.

        Where the one before has just failed, it has shown for the jobs that waited meanwhile, and whose time is
        over, what an attempt of their own would: they are answered with its error.
        """
        outage = self._outages.get(queue)
        if outage is None or asyncio.get_running_loop().time() - outage.at > FAIR_ATTEMPT:
            return batch
        return self._give_up(batch, outage, replies)

    def _failed(
        self, queue: str, batch: list[_Pending], error: Exception, replies: dict[int, bool | Exception]
    ) -> list[_Pending]:
        """Note a failed attempt, answer the jobs whose time is over, and return the others."""
        if not str(error):
            error = TimeoutError("the server did not answer in time")
        outage = self._outages[queue] = _Outage(error, asyncio.get_running_loop().time())
        return self._give_up(batch, outage, replies)

    def _give_up(
        self, batch: list[_Pending], outage: _Outage, replies: dict[int, bool | Exception]
    ) -> list[_Pending]:
        now = asyncio.get_running_loop().time()
        over = [p for p in batch if p.deadline <= now and p.deadline - self._send_timeout <= outage.at]
        if over:
            fault = self._gave_up(over, str(outage.error), "is unconfirmed")
            fault.__cause__ = outage.error
            replies.update((id(pending), fault) for pending in over)
        return [pending for pending in batch if id(pending) not in replies]

    def _gave_up(self, batch: Sequence[_Pending], why: str, what: str) -> SendError:
        ids = tuple(pending.job.id for pending in batch)
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


def _weigh(pending: _Pending) -> int:
    return len(pending.job.envelope)
