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
"""Seconds an attempt is given even when its jobs are late already."""


class _Pending(NamedTuple):
    job: NewJob
    deadline: float


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

    async def send(self, queue: str, job: NewJob) -> bool:
        """Send one job; False when the server already had its id.

        Cancellation: a job that no flush has taken yet is withdrawn; of one in flight it is open whether the
        server has it.

        Raises:
            SendError: not confirmed within `send_timeout`.
            ServerRejectedError: the server refuses this user.
        """
        batcher = self._batchers.get(queue) or self._batcher(queue)
        pending = _Pending(job, asyncio.get_running_loop().time() + self._send_timeout)
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
        left, backoff, first = batch, Backoff(), True
        loop = asyncio.get_running_loop()
        while left:
            try:
                first_deadline = min(pending.deadline for pending in left)
                # A loop that was blocked for long must not fail its sends without an honest attempt.
                async with asyncio.timeout_at(max(first_deadline, loop.time() + FAIR_ATTEMPT)):
                    added = await self._store.enqueue(queue, [pending.job for pending in left])
            except (ServerUnavailableError, TimeoutError) as error:
                left = self._give_up(left, error, replies)
                if left:
                    await asyncio.sleep(backoff.next())
                first = False
            else:
                # After a lost reply "there already" means that the attempt before has added it.
                replies.update((id(pending), new or not first) for pending, new in zip(left, added, strict=True))
                break
        return [replies[id(pending)] for pending in batch]

    def _give_up(
        self, batch: list[_Pending], error: Exception, replies: dict[int, bool | Exception]
    ) -> list[_Pending]:
        """Answer the jobs whose time is over, and return the others."""
        now = asyncio.get_running_loop().time()
        over = [pending for pending in batch if pending.deadline <= now]
        if over:
            why = str(error) or "the server did not answer in time"
            fault = self._gave_up(over, why, "is unconfirmed")
            fault.__cause__ = error
            replies.update((id(pending), fault) for pending in over)
        return [pending for pending in batch if pending.deadline > now]

    def _gave_up(self, batch: Sequence[_Pending], why: str, what: str) -> SendError:
        ids = tuple(pending.job.id for pending in batch)
        shown = ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")  # noqa: PLR2004
        return SendError(f"job {shown} {what} after {self._send_timeout:g} s: {why}", ids)


def _weigh(pending: _Pending) -> int:
    return len(pending.job.envelope)
