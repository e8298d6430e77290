"""The producer: concurrent sends of one process leave in one script call a flush.

A send returns when the server has its job. A flush that fails is repeated with the same job ids, which the server
adds only once, until `send_timeout`; memory is bounded because a send waits while too many others do.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Sequence
from functools import partial
from math import inf
from typing import NamedTuple

from aioq.backoff import Backoff
from aioq.batch import Batcher, Item
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


EAGER_JOBS = 64
"""Jobs that leave at once although more may follow in the same turn of the loop: the server works while this
process prepares those."""


class _Outage(NamedTuple):
    """The last attempt to send to a queue failed."""

    error: Exception
    at: float


class Part(NamedTuple):
    """A part of a `send_many`: where its jobs stand in it, and what the server says of them."""

    positions: Sequence[int]
    reply: asyncio.Future[list[bool]]


class _Pending(Item):
    """Jobs that are sent together: one, or a part of a `send_many`."""

    jobs: Sequence[NewJob]
    deadline: float
    again: bool = False
    attempt_ends: float = 0.0
    expired: bool = False


_Faults = dict[int, Exception]
"""Why jobs are given up, by the identity of their `_Pending`: one batch may hold one id twice."""

_Told = list[bool | Exception]
"""What a flush is told, for each job in its order."""


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
        self._loop = asyncio.get_running_loop()
        self._batchers: dict[str, Batcher[_Pending, bool]] = {}
        self._attempts: dict[asyncio.Future[list[bool]], _Pending] = {}
        self._looks_at = inf
        self._timer: asyncio.TimerHandle | None = None
        self._outages: dict[str, _Outage] = {}
        self._persisting: Counter[str] = Counter()
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

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
        return await (self.put(queue, job, again=again) or self._put_later(queue, job, again))

    def put(self, queue: str, job: NewJob, *, again: bool = False) -> "asyncio.Future[bool] | None":
        """Hand over one job, where there is space for it at once: the future of what `send` returns."""
        batcher = self._batchers.get(queue) or self._batcher(queue)
        if batcher.held >= self._capacity:
            return None
        deadline = self._loop.time() + self._send_timeout
        # Not `loop.create_future()`, which makes the same and takes twice as long in uvloop.
        future: asyncio.Future[bool] = asyncio.Future()
        batcher.add(_Pending((job,), deadline, again, future=future, weight=len(job.envelope)))
        return future

    async def _put_later(self, queue: str, job: NewJob, again: bool) -> bool:
        batcher = self._batchers[queue]
        deadline = self._loop.time() + self._send_timeout
        pending = _Pending((job,), deadline, again, weight=len(job.envelope))
        try:
            async with asyncio.timeout_at(pending.deadline):
                await batcher.wait_for_space()
        except TimeoutError:
            raise self._gave_up([pending], "there is no space to send it from", "was not sent") from None
        pending.future = future = self._loop.create_future()
        batcher.add(pending)
        return await future

    async def put_all(
        self, jobs: Sequence[NewJob], queue: str, parts: list[Part], positions: Sequence[int]
    ) -> None:
        """Hand over jobs in parts that are as large as one flush, and wait for space in between.

        Args:
            jobs: the jobs of a `Sending`.
            queue: where to.
            parts: takes the parts.
            positions: those of the jobs to hand over.
        """
        batcher = self._batchers.get(queue) or self._batcher(queue)
        start = 0
        while start < len(positions):
            if batcher.held >= self._capacity:
                await batcher.wait_for_space()
            end = start + min(MAX_JOBS, self._capacity - batcher.held)
            some = [jobs[position] for position in positions[start:end]]
            count, weight = _fitting(some)
            deadline = self._loop.time() + self._send_timeout
            reply: asyncio.Future[list[bool]] = self._loop.create_future()
            batcher.add(_Pending(some[:count], deadline, future=reply, weight=weight, size=count, several=True))
            parts.append(Part(positions[start : start + count], reply))
            start += count

    async def drain(self) -> None:
        """Wait until nothing is on its way."""
        for batcher in tuple(self._batchers.values()):
            await batcher.drain()

    def _batcher(self, queue: str) -> Batcher[_Pending, bool]:
        batcher = Batcher(
            partial(self._flush, queue),
            retry=partial(self._retry, queue),
            max_items=MAX_JOBS,
            max_weight=MAX_BYTES,
            capacity=self._capacity,
            in_flight=self._store.sends_in_flight,
            eager=EAGER_JOBS,
            prompt=True,
        )
        self._batchers[queue] = batcher
        return batcher

    def _flush(self, queue: str, batch: list[_Pending]) -> Awaitable[Sequence[bool | Exception]]:
        """Make the first attempt, as a rule the only one: nothing but a call to the store, and a timer."""
        if queue in self._outages or self._persisting[queue]:
            return self._persist(queue, batch)
        first = batch[0]
        attempt = self._attempt(queue, batch, again=True in [pending.again for pending in batch])
        first.attempt_ends = _time_for(batch)
        self._attempts[attempt] = first
        attempt.add_done_callback(self._attempts.pop)
        if first.attempt_ends < self._looks_at:
            self._look_at(first.attempt_ends)
        return attempt

    def _look_at(self, time: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._looks_at, self._timer = time, self._loop.call_at(time, self._look)

    def _look(self) -> None:
        """Give up the first attempts whose time is over; one timer for all of them."""
        self._looks_at, self._timer, now = inf, None, self._loop.time()
        for attempt, first in self._attempts.items():
            if attempt.done():
                continue
            if first.attempt_ends <= now:
                first.expired = True
                attempt.cancel()
            elif first.attempt_ends < self._looks_at:
                self._look_at(first.attempt_ends)

    def _attempt(self, queue: str, batch: list[_Pending], *, again: bool) -> "asyncio.Future[list[bool]]":
        return asyncio.ensure_future(self._store.enqueue(queue, _jobs_of(batch), again=again))

    def _retry(self, queue: str, batch: list[_Pending], error: BaseException) -> "asyncio.Task[_Told] | None":
        """Go on after a first attempt that has failed, unless that is final."""
        if isinstance(error, asyncio.CancelledError):
            if not batch[0].expired:
                return None  # the loop is being closed
            batch[0].expired = False
            # Where the timer was late, the loop was blocked: the reply may be here, and there was no time to look.
            late = self._loop.time() - batch[0].attempt_ends
            return self._persist(queue, batch, TimeoutError(), excused=late > LAG)
        if isinstance(error, (ServerUnavailableError, TimeoutError)):
            return self._persist(queue, batch, error)
        return None

    def _persist(
        self, queue: str, batch: list[_Pending], error: Exception | None = None, *, excused: bool = False
    ) -> "asyncio.Task[_Told]":
        """Try until the jobs are there or their time is over, one flush of a queue after the other.

        Args:
            queue: where to.
            batch: the jobs.
            error: what a first attempt has failed with.
            excused: that says nothing about the server.
        """
        self._persisting[queue] += 1
        return self._loop.create_task(self._take_turn(queue, batch, error, excused), name="aioq-send")

    async def _take_turn(self, queue: str, batch: list[_Pending], error: Exception | None, excused: bool) -> _Told:
        try:
            async with self._turns[queue]:
                return await self._try(queue, batch, error, excused)
        finally:
            self._persisting[queue] -= 1

    async def _try(self, queue: str, batch: list[_Pending], error: Exception | None, excused: bool) -> _Told:
        faults: _Faults = {}
        added: Sequence[bool] = ()
        backoff = Backoff()
        again = error is not None or any(pending.again for pending in batch)
        if error is not None and not excused:
            left = self._failed(queue, batch, error, faults)
        else:
            left = self._spare(queue, batch, faults)
        while left:
            if error is not None:
                await asyncio.sleep(backoff.next())
            ends = _time_for(left)
            attempt = asyncio.timeout_at(ends)
            try:
                async with attempt:
                    added = await self._attempt(queue, left, again=again)
            except (ServerUnavailableError, TimeoutError) as fault:
                error, again = fault, True
                if not excused and attempt.expired() and self._loop.time() - ends > LAG:
                    excused = True
                else:
                    left = self._failed(queue, left, fault, faults)
            else:
                self._outages.pop(queue, None)
                break
        return _told(batch, faults, added)

    def _spare(self, queue: str, batch: list[_Pending], faults: _Faults) -> list[_Pending]:
        """Return the jobs that an attempt is to be made for.

        Where the one before has just failed, it has shown for the jobs that waited meanwhile, and whose time is
        over, what an attempt of their own would: they are answered with its error.
        """
        outage = self._outages.get(queue)
        if outage is None or self._loop.time() - outage.at > FAIR_ATTEMPT:
            return batch
        return self._give_up(batch, outage, faults)

    def _failed(self, queue: str, batch: list[_Pending], error: Exception, faults: _Faults) -> list[_Pending]:
        """Note a failed attempt, answer the jobs whose time is over, and return the others."""
        if not str(error):
            error = TimeoutError("the server did not answer in time")
        outage = self._outages[queue] = _Outage(error, self._loop.time())
        return self._give_up(batch, outage, faults)

    def _give_up(self, batch: list[_Pending], outage: _Outage, faults: _Faults) -> list[_Pending]:
        now = self._loop.time()
        over = [p for p in batch if p.deadline <= now and p.deadline - self._send_timeout <= outage.at]
        if over:
            fault = self._gave_up(over, str(outage.error), "is unconfirmed")
            fault.__cause__ = outage.error
            faults.update((id(pending), fault) for pending in over)
        return [pending for pending in batch if id(pending) not in faults]

    def _gave_up(self, batch: Sequence[_Pending], why: str, what: str) -> SendError:
        ids = tuple(job.id for job in _jobs_of(batch))
        shown = ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")  # noqa: PLR2004
        return SendError(f"job {shown} {what} after {self._send_timeout:g} s: {why}", ids)


def _time_for(batch: list[_Pending]) -> float:
    """When an attempt ends; a loop that was blocked for long must not fail its sends without an honest one."""
    first_deadline = min([pending.deadline for pending in batch])
    return max(first_deadline, asyncio.get_running_loop().time() + FAIR_ATTEMPT)


def _told(batch: list[_Pending], faults: _Faults, added: Sequence[bool]) -> _Told:
    """What each job of a batch is told: its fault, or else what the store says of it."""
    told: _Told = []
    start = 0
    for pending in batch:
        count = len(pending.jobs)
        fault = faults.get(id(pending))
        if fault is not None:
            told += [fault] * count
        else:
            told += added[start : start + count]
            start += count
    return told


def _jobs_of(batch: Sequence[_Pending]) -> Sequence[NewJob]:
    return batch[0].jobs if len(batch) == 1 else [job for pending in batch for job in pending.jobs]


def _fitting(jobs: Sequence[NewJob]) -> tuple[int, int]:
    """How many of the first jobs one flush takes, at least one, and how many bytes they have."""
    sizes = [len(job.envelope) for job in jobs]
    total = sum(sizes)
    if total <= MAX_BYTES:
        return len(jobs), total
    count = weight = 0
    for size in sizes:
        if count and weight + size > MAX_BYTES:
            break
        count, weight = count + 1, weight + size
    return count, weight
