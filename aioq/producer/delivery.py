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

from aioq.errors import ServerUnavailableError
from aioq.producer.buffer import Outbox, Part
from aioq.producer.parcel import Parcel, Pending, gave_up, jobs_of, refused_of
from aioq.store.columns import NewJobs
from aioq.store.contract import NewJob, Store
from aioq.store.refusals import each_alone, is_refusal
from aioq.util.aio import Backoff

FAIR_ATTEMPT = 1.0
"""Seconds an attempt is given even when its jobs are late already, and that one which failed counts for others."""


LAG = 0.1
"""Seconds that a timer may be late before the loop counts as blocked. A guess: far above what a busy loop takes
for one turn, far below the second that another attempt costs."""


class _Outage(NamedTuple):
    """The last attempt to send to a queue failed."""

    error: Exception
    at: float


_Faults = dict[int, Exception]
"""Why jobs are given up, by the identity of their `Pending`: one batch may hold one id twice."""

_Told = list[bool | Exception]
"""What a flush is told, for each job in its order."""


class Producer:
    """Sends jobs of one event loop.

    Args:
        store: where to.
        send_timeout: seconds after which a job that the server has not confirmed is given up.
        capacity: the most jobs of a queue that may wait to be confirmed; further sends wait for space.

    Attributes:
        outboxes: by queue, those that were sent to.
    """

    def __init__(self, store: Store, *, send_timeout: float, capacity: int) -> None:
        self._store = store
        self._send_timeout = send_timeout
        self._capacity = capacity
        self._loop = asyncio.get_running_loop()
        self.outboxes: dict[str, Outbox] = {}
        self._attempts: dict[asyncio.Future[list[bool]], Parcel] = {}
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
        outbox = self._outbox(queue)
        return await (outbox.put_job(job, again=again) or outbox.put_later(job, again=again))

    def put(self, queue: str, job: NewJob) -> "asyncio.Future[bool] | None":
        """Send one job where there is space for it at once: the future of what `send` returns."""
        return self._outbox(queue).put_job(job, again=False)

    async def put_all(self, jobs: NewJobs, queue: str, parts: list[Part], positions: Sequence[int]) -> None:
        """Hand over jobs in parts that are as large as one flush, and wait for space in between.

        Args:
            jobs: some of the jobs of a `Sending`.
            queue: where to.
            parts: takes the parts.
            positions: where each of these jobs stands in it.
        """
        await self._outbox(queue).put_all(jobs, parts, positions)

    async def drain(self) -> None:
        """Wait until nothing is on its way."""
        for outbox in tuple(self.outboxes.values()):
            await outbox.drain()

    def _outbox(self, queue: str) -> Outbox:
        outbox = self.outboxes.get(queue)
        if outbox is None:
            outbox = self.outboxes[queue] = Outbox(
                partial(self._flush, queue),
                partial(self._retry, queue),
                send_timeout=self._send_timeout,
                capacity=self._capacity,
                in_flight=self._store.sends_in_flight,
            )
        return outbox

    def _flush(self, queue: str, parcel: Parcel) -> Awaitable[Sequence[bool | Exception]]:
        """Make the first attempt, as a rule the only one: nothing but a call to the store, and a timer."""
        if queue in self._outages or self._persisting.get(queue):
            return self._persist(queue, parcel.pending())
        attempt = self._attempt(queue, parcel, again=parcel.again)
        parcel.attempt_ends = _time_for(parcel.deadlines)
        self._attempts[attempt] = parcel
        attempt.add_done_callback(self._attempts.pop)
        if parcel.attempt_ends < self._looks_at:
            self._look_at(parcel.attempt_ends)
        return attempt

    def _look_at(self, time: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._looks_at, self._timer = time, self._loop.call_at(time, self._look)

    def _look(self) -> None:
        """Give up the first attempts whose time is over; one timer for all of them."""
        self._looks_at, self._timer, now = inf, None, self._loop.time()
        for attempt, parcel in self._attempts.items():
            if attempt.done():
                continue
            if parcel.attempt_ends <= now:
                parcel.expired = True
                attempt.cancel()
            elif parcel.attempt_ends < self._looks_at:
                self._look_at(parcel.attempt_ends)

    def _attempt(self, queue: str, jobs: Sequence[NewJob], *, again: bool) -> "asyncio.Future[list[bool]]":
        return asyncio.ensure_future(self._store.enqueue(queue, jobs, again=again))

    def _retry(self, queue: str, parcel: Parcel, error: BaseException) -> "asyncio.Task[_Told] | None":
        """Go on after a first attempt that has failed, unless that is final."""
        if isinstance(error, asyncio.CancelledError):
            if not parcel.expired:
                return None  # the loop is being closed
            parcel.expired = False
            # Where the timer was late, the loop was blocked: the reply may be here, and there was no time to look.
            late = self._loop.time() - parcel.attempt_ends
            return self._persist(queue, parcel.pending(), TimeoutError(), excused=late > LAG)
        if isinstance(error, (ServerUnavailableError, TimeoutError)):
            return self._persist(queue, parcel.pending(), error)
        if len(parcel) > 1 and isinstance(error, Exception) and is_refusal(error):
            return self._loop.create_task(self._try_apart(queue, parcel.pending(), error), name="aioq-send")
        return None

    def _persist(
        self, queue: str, batch: list[Pending], error: Exception | None = None, *, excused: bool = False
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

    async def _take_turn(self, queue: str, batch: list[Pending], error: Exception | None, excused: bool) -> _Told:
        try:
            async with self._turns[queue]:
                return await self._try(queue, batch, error, excused)
        finally:
            self._persisting[queue] -= 1

    async def _try(self, queue: str, batch: list[Pending], error: Exception | None, excused: bool) -> _Told:
        try:
            return await self._try_together(queue, batch, error, excused)
        except Exception as fault:
            if not is_refusal(fault):
                raise
            return await self._try_apart(queue, batch, fault)

    async def _try_together(
        self, queue: str, batch: Sequence[Pending], error: Exception | None, excused: bool
    ) -> _Told:
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
            ends = _time_for([pending.deadline for pending in left])
            attempt = asyncio.timeout_at(ends)
            try:
                async with attempt:
                    added = await self._attempt(queue, jobs_of(left), again=again)
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

    async def _try_apart(self, queue: str, batch: Sequence[Pending], error: Exception) -> _Told:
        """Send again what the server refuses, so that only what it refuses by itself fails."""
        apart = [Pending((job,), pending.deadline, again=True) for pending in batch for job in pending.jobs]
        send = partial(self._try_together, queue, error=None, excused=False)
        told = await each_alone(apart, send, error)
        start = 0
        for pending in batch:
            after = start + len(pending.jobs)
            told[start:after] = refused_of(pending, told[start:after])
            start = after
        return told

    def _spare(self, queue: str, batch: Sequence[Pending], faults: _Faults) -> Sequence[Pending]:
        """Return the jobs that an attempt is to be made for.

        Where the one before has just failed, it has shown for the jobs that waited meanwhile, and whose time is
        over, what an attempt of their own would: they are answered with its error.
        """
        outage = self._outages.get(queue)
        if outage is None or self._loop.time() - outage.at > FAIR_ATTEMPT:
            return batch
        return self._give_up(batch, outage, faults)

    def _failed(
        self, queue: str, batch: Sequence[Pending], error: Exception, faults: _Faults
    ) -> Sequence[Pending]:
        """Note a failed attempt, answer the jobs whose time is over, and return the others."""
        if not str(error):
            error = TimeoutError("the server did not answer in time")
        outage = self._outages[queue] = _Outage(error, self._loop.time())
        return self._give_up(batch, outage, faults)

    def _give_up(self, batch: Sequence[Pending], outage: _Outage, faults: _Faults) -> Sequence[Pending]:
        now = self._loop.time()
        over = [p for p in batch if p.deadline <= now and p.deadline - self._send_timeout <= outage.at]
        if over:
            fault = gave_up(over, self._send_timeout, str(outage.error), "is unconfirmed")
            # Its text is in the message; without its traceback it is one line where the error is shown.
            fault.__cause__ = outage.error.with_traceback(None)
            faults.update((id(pending), fault) for pending in over)
        return [pending for pending in batch if id(pending) not in faults]


def _time_for(deadlines: Sequence[float]) -> float:
    """When an attempt ends; a loop that was blocked for long must not fail its sends without an honest one."""
    return max(min(deadlines), asyncio.get_running_loop().time() + FAIR_ATTEMPT)


def _told(batch: Sequence[Pending], faults: _Faults, added: Sequence[bool]) -> _Told:
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
