"""The way of a queue's sends to the next flush, which is to be short."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from aioq.producer.parcel import Parcel, Pending, gave_up
from aioq.store.columns import NewJobs
from aioq.store.contract import NewJob
from aioq.util.batcher import Batcher

MAX_JOBS = 500
"""The most jobs of one flush: larger ones gain nothing (measured: 500 reach what bulk loading can do) and hold
the server up for others."""

MAX_BYTES = 1_048_576
"""A flush is closed at this size, so that one reply never takes long."""

EAGER_JOBS = 64
"""With so many a flush leaves at once, though more may follow in the same turn of the loop: the server works while
this process prepares those. Larger ones gain nothing (measured with 150 to 1,000 senders)."""


class Part(NamedTuple):
    """A part of a `send_many`: where its jobs stand in it, and what the server says of them."""

    positions: Sequence[int]
    reply: asyncio.Future[list[bool]]


class Outbox(Batcher[Parcel, bool]):
    """Gathers the jobs of one queue.

    Args:
        flush: see `Batcher`.
        retry: see `Batcher`.
        send_timeout: seconds after which a job that the server has not confirmed is given up.
        capacity: the most jobs that may wait to be confirmed; further sends wait for space.
        in_flight: the most flushes in flight at once.
    """

    def __init__(
        self,
        flush: Callable[[Parcel], Awaitable[Sequence[bool | Exception]]],
        retry: Callable[[Parcel, BaseException], Awaitable[Sequence[bool | Exception]] | None],
        *,
        send_timeout: float,
        capacity: int,
        in_flight: int,
    ) -> None:
        super().__init__(
            Parcel,
            flush,
            retry=retry,
            max_items=MAX_JOBS,
            max_weight=MAX_BYTES,
            capacity=capacity,
            in_flight=in_flight,
            eager=EAGER_JOBS,
            prompt=True,
        )
        self._send_timeout = send_timeout
        self._loop = asyncio.get_running_loop()

    def put(self, job_id: str, envelope: bytes, waiter: str = "") -> "asyncio.Future[bool] | None":
        """Send one job that is an id and an envelope, and may have a waiter, where there is space for it at once.

        Returns the future of what `Producer.send` returns, None where there is no space.
        """
        if self.held >= self._capacity:
            return None
        parcel = self.gathering
        if waiter:
            parcel.special[len(parcel.ids)] = NewJob(job_id, envelope, waiter=waiter)
        parcel.ids.append(job_id)
        parcel.envelopes.append(envelope)
        parcel.deadlines.append(self._loop.time() + self._send_timeout)
        # Not `loop.create_future()`, which makes the same and takes twice as long in uvloop.
        future: asyncio.Future[bool] = asyncio.Future()
        self.add(future)
        return future

    def put_job(self, job: NewJob, *, again: bool) -> "asyncio.Future[bool] | None":
        """Send one job of any kind as `put` does."""
        if self.held >= self._capacity:
            return None
        return self._put(job, again, self._loop.time() + self._send_timeout)

    async def put_later(self, job: NewJob, *, again: bool) -> bool:
        """Send one job once there is space for it; see `Producer.send`."""
        deadline = self._loop.time() + self._send_timeout
        try:
            async with asyncio.timeout_at(deadline):
                await self.wait_for_space()
        except TimeoutError:
            late, why = [Pending((job,), deadline)], "there is no space to send it from"
            raise gave_up(late, self._send_timeout, why, "was not sent") from None
        return await self._put(job, again, deadline)

    def _put(self, job: NewJob, again: bool, deadline: float) -> "asyncio.Future[bool]":
        parcel = self.gathering
        parcel.append(job)
        parcel.again |= again
        parcel.deadlines.append(deadline)
        future: asyncio.Future[bool] = asyncio.Future()
        self.add(future)
        return future

    async def put_all(self, jobs: NewJobs, parts: list[Part], positions: Sequence[int]) -> None:
        """See `Producer.put_all`."""
        start = 0
        while start < len(jobs):
            if self.held >= self._capacity:
                await self.wait_for_space()
            most = min(MAX_JOBS, self._capacity - self.held)
            count = _fitting(jobs.envelopes[start : start + most])
            reply: asyncio.Future[list[bool]] = self._loop.create_future()
            parcel = self.gathering
            parcel.extend(jobs.part(start, start + count))
            parcel.deadlines.append(self._loop.time() + self._send_timeout)
            self.add_several(reply, count)
            parts.append(Part(positions[start : start + count], reply))
            start += count


def _fitting(envelopes: Sequence[bytes]) -> int:
    """How many of the first jobs one flush takes; at least one."""
    sizes = [*map(len, envelopes)]
    if sum(sizes) <= MAX_BYTES:
        return len(sizes)
    count = weight = 0
    for size in sizes:
        if count and weight + size > MAX_BYTES:
            break
        count, weight = count + 1, weight + size
    return count
