"""Duty: put the code's schedules of one queue into the server, and make their ticks.

Every worker keeps the clock, one makes a tick. The one that made the last tick goes first; one that came too late
stands back: it lets each tick's time pass by more than the span between two renewals of its lease, learns from
them that the tick was made, and asks the server nothing. So schedules cost the other workers no command, and
where the first one is gone, the tick is made a few seconds late.

It sleeps until the next tick, as far as any reply of the server has said. A schedule that is put with a tick
before all others wakes one worker, who goes first from then on.
"""

import asyncio
import logging
import random
from collections.abc import Sequence

from aioq.backoff import Backoff
from aioq.declaring import Declared
from aioq.errors import ServerError
from aioq.scheduler import declare, tick_due
from aioq.timetable import Timetable

log = logging.getLogger("aioq.worker")

EARLY_MS = 100
"""Looking this much too early is not coming too late: this host's clock may run faster than the server's."""

MOST_PATIENCE = 5.0
"""The most seconds to stand back, also where leases are renewed less often: below the time after which a tick is
missed (`aioq.timing.MISFIRE_MS`)."""


class Ticker:
    """See the module.

    Args:
        timetable: where the schedules are.
        queue: the queue.
        declared: the code's schedules of this queue.
        whole: whether this worker has the whole App; see `aioq.scheduler.declare`.
        renewal: seconds between two renewals of the lease.
    """

    def __init__(
        self, timetable: Timetable, queue: str, declared: Sequence[Declared], *, whole: bool, renewal: float
    ) -> None:
        self._timetable = timetable
        self._queue = queue
        self._declared = declared
        self._whole = whole
        # Drawn, so that of many who stand back one comes first.
        self._patience = min(renewal * 1.1 + random.uniform(0.0, 1.0), MOST_PATIENCE)  # noqa: S311 - spreads load
        self._first = True
        self._missing = False
        self._stuck: set[str] = set()
        self._tick_at: float | None = None
        self._changed = asyncio.Event()

    def expect(self, next_tick_ms: int | None, *, woken: bool = False) -> None:
        """Some reply said when the next tick is, in ms from now.

        Args:
            next_tick_ms: None for none.
            woken: this worker was woken for it, so it goes first.
        """
        self._first = self._first or woken
        if next_tick_ms is None:
            return
        tick_at = asyncio.get_running_loop().time() + next_tick_ms / 1000
        # What is due and only another process can make is not looked at again with each reply that says so.
        if not self._first or (self._stuck and next_tick_ms == 0):
            tick_at += self._patience
        # Standing back, a later tick is the news that the one before was made. Going first, it may be old news.
        put_off = not self._first and next_tick_ms > 0
        if self._tick_at is None or tick_at < self._tick_at or put_off:
            self._tick_at = tick_at
            self._changed.set()

    def rejoin(self) -> None:
        """The lease was lost, perhaps because the server has lost its data: see that the schedules are there."""
        self._missing = True
        self._tick_at = asyncio.get_running_loop().time()
        self._changed.set()

    async def run(self) -> None:
        """Tick until cancelled."""
        await self._declare(missing_only=False)
        backoff = Backoff()
        while True:
            await self._wait()
            self._tick_at = None
            try:
                await self._step()
                backoff = Backoff()
            except ServerError as error:
                log.debug("queue %s: could not tick: %s", self._queue, error)
                self._tick_at = asyncio.get_running_loop().time() + backoff.next()

    async def _step(self) -> None:
        if self._missing:
            self._missing = False
            await self._declare(missing_only=True)
            return
        step = await tick_due(self._timetable, self._queue)
        for schedule_id in step.stuck.keys() - self._stuck:
            log.warning("schedule %s: this worker cannot make its ticks: %s", schedule_id, step.stuck[schedule_id])
        self._stuck = set(step.stuck)
        if step.won:
            log.debug("queue %s: made the ticks that were due: %d jobs", self._queue, step.made)
        if step.due:
            self._first = step.won
        else:
            self._first = step.next_tick_ms is not None and step.next_tick_ms <= EARLY_MS
        self.expect(step.next_tick_ms)

    async def _declare(self, *, missing_only: bool) -> None:
        backoff = Backoff()
        while True:
            try:
                agenda = await declare(
                    self._timetable, self._queue, self._declared, whole=self._whole, missing_only=missing_only
                )
                break
            except ServerError as error:
                log.debug("queue %s: could not declare its schedules: %s", self._queue, error)
                await asyncio.sleep(backoff.next())
        due = any(entry.next_ms is not None and entry.next_ms <= agenda.now_ms for entry in agenda.entries)
        self.expect(0 if due else agenda.next_tick_ms)

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        while self._tick_at is None or self._tick_at > loop.time():
            self._changed.clear()
            try:
                async with asyncio.timeout_at(self._tick_at):
                    await self._changed.wait()
            except TimeoutError:
                return
