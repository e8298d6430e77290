"""Duty: stores the code's schedules of one queue in the server, and makes their ticks.

Every worker knows when a tick is due, and one of them makes it. `aioq.schedules.tick_plan` decides which one, and
when each of them checks. This duty sleeps until the next tick that a reply of the server has named. A schedule
that is put with a tick before all others wakes one worker, which is the leader from then on. A worker that stops
passes the leadership on to another.

A schedule that only another worker's code declares is reviewed until it can be removed (`aioq.schedules.owners`).
That costs a command or two each half lease, as long as there is such a schedule.

Nothing here needs a free slot. A worker without one does not fetch and is not woken, so the renewals of its lease
tell it of a new schedule. If renewals are rare, it checks by itself.
"""

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from aioq.errors import ServerError
from aioq.schedules.declare import Declared
from aioq.schedules.owners import PendingRemovals, Retention, note_retained, remove_unowned
from aioq.schedules.reconcile import declare, run_at_start, sweep
from aioq.schedules.sends import EncodedSends
from aioq.schedules.tick_plan import CheckPurpose, TickPlan
from aioq.schedules.ticks import tick_due
from aioq.store.schedules import Timetable
from aioq.util.aio import Backoff, end
from aioq.util.log import logger
from aioq.util.plural import counted
from aioq.util.randomness import RANDOM
from aioq.worker.trouble import Trouble

log = logger("aioq.worker")

MAX_STANDBY_DELAY = 5.0
"""The most seconds that a standby waits after a tick's time, and the most between two checks if renewals are rare.
It is less than the time after which a tick counts as missed (`aioq.schedules.timing.MISFIRE_MS`)."""

FREQUENT_RENEWAL = 3.0
"""Seconds between renewals, up to which they report a new schedule in time and no further checks are needed.
Together with the standby's delay that is 8 s at most, which leaves 2 s until a tick counts as missed."""

RENEWALS = 4
"""Renewals within one lease, as the duty of the leases makes them."""


async def _no_worker() -> str:
    return ""


class Ticker:
    """Stores the code's schedules of one queue in the server, and makes its ticks.

    Args:
        timetable: where the schedules are.
        queue: the queue.
        declared: the code's schedules, of every queue, each with its shard once they are placed.
        whole: whether this worker serves the whole App: only then does it remove schedules that no code declares.
        renewal: seconds between two renewals of the lease.
        served: all queues of the worker; given to one ticker of a worker that serves the whole App. That ticker
            also removes, at the start, schedules in the App's other queues that no code declares.
        ready: waits until the server knows the worker, and returns the worker's id in this queue: the worker owns
            its declarations as long as it lives. By default there is no owner.
        is_placed: whether the schedules of `declared` are placed. Before, none are stored, and ticks are made of
            those that are stored already. Once they are, `rejoin` has them stored.

    Attributes:
        sends: passes the jobs of ticks through the middleware; None if there is none.
    """

    def __init__(
        self,
        timetable: Timetable,
        queue: str,
        declared: Sequence[Declared],
        *,
        whole: bool,
        renewal: float,
        served: Collection[str] = (),
        ready: Callable[[], Awaitable[str]] = _no_worker,
        is_placed: Callable[[], bool] = lambda: True,
    ) -> None:
        self.sends: EncodedSends | None = None
        self._timetable = timetable
        self._queue = queue
        self._declared = declared
        self._whole = whole
        self._served = served
        self._ready = ready
        self._is_placed = is_placed
        self._removals = PendingRemovals(renewal * RENEWALS, {each.id for each in declared} if whole else None)
        self._plan = TickPlan(
            # Random, so that of many standbys one comes first.
            standby_delay=min(renewal * 1.1 + RANDOM.uniform(0.0, 1.0), MAX_STANDBY_DELAY),
            max_silence=math.inf if renewal <= FREQUENT_RENEWAL else MAX_STANDBY_DELAY,
        )
        self._since = 0
        self._stopped = asyncio.Event()
        self._ended = asyncio.Event()
        self._trouble = Trouble()
        self._changed = asyncio.Event()

    def expect(self, next_tick_ms: int | None, *, woken: bool = False) -> None:
        """Note a reply of the server that names the next tick.

        Args:
            next_tick_ms: how long until that tick; None for none.
            woken: whether the server woke this worker for the tick, which makes it the leader.
        """
        if self._plan.expect(next_tick_ms, self._now(), woken=woken):
            self._changed.set()

    def lead(self) -> None:
        """The leader has stopped and passed the leadership on to this worker: check at once."""
        self._plan.lead(self._now())
        self._changed.set()

    def rejoin(self) -> None:
        """The lease was lost, perhaps because the server has lost its data: store missing schedules again."""
        self._plan.rejoin(self._now())
        self._changed.set()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    async def run(self) -> None:
        """Make ticks until `stop`, or until cancelled. After cancellation, a tick under way may have been made."""
        try:
            await self._declare()
            backoff = Backoff()
            while await self._wait():
                check = self._plan.begin(self._now())
                try:
                    if check is CheckPurpose.TICKS:
                        await self._make_ticks()
                    elif check is CheckPurpose.DECLARE:
                        await self._declare()
                        self._plan.declared(self._now())
                    else:
                        await self._review()
                        continue
                    backoff = Backoff()
                except ServerError as error:
                    self._failed("make the ticks of", error)
                    self._plan.retry(self._now() + backoff.next())
        finally:
            self._ended.set()

    async def stop(self) -> None:
        """Make no more ticks; if this worker is the leader, pass the leadership on to another one at once.

        To be called when the worker has deregistered, so that the leadership is not passed on to itself. If the
        server does not answer, another worker becomes the leader a few seconds late.
        """
        self._stopped.set()
        self._changed.set()
        await self._ended.wait()
        if self._plan.leader:
            try:
                await self._timetable.pass_leadership(self._queue)
            except ServerError as error:
                log.debug("queue %s: could not pass on who makes the ticks: %s", self._queue, error)

    async def _make_ticks(self) -> None:
        step = await tick_due(self._timetable, self._queue, *(() if self.sends is None else (self.sends,)))
        now = self._now()
        if self._removals.ticked(self._queue, step.of_code, now):
            self._plan.review_in(self._removals.next_review_in, now)
        for schedule_id in self._plan.checked(step, self._now(), healed=self._healed()):
            log.warning("schedule %s: this worker cannot make its ticks: %s", schedule_id, step.stuck[schedule_id])
        if step.won:
            log.debug("queue %s: made the ticks that were due: %s", self._queue, counted(step.made, "job"))

    async def _declare(self) -> None:
        backoff = Backoff()
        while self._is_placed() and not self._stopped.is_set():
            try:
                worker = await self._worker_id()
                if worker is None:
                    return
                stored = await declare(
                    self._timetable,
                    self._queue,
                    self._declared,
                    whole=self._whole,
                    since=self._since,
                    worker=worker,
                )
                if not self._since:
                    stored = await run_at_start(self._timetable, self._queue, stored)
                self._note_retained({self._queue: stored.kept})
                if self._served and not self._since:
                    self._note_retained(await sweep(self._timetable, self._served, self._declared))
            except ServerError as error:
                self._failed("store", error)
                await asyncio.sleep(backoff.next())
                continue
            self._healed()
            self._since, agenda = stored.since, stored.agenda
            due = any(entry.next_ms is not None and entry.next_ms <= agenda.now_ms for entry in agenda.entries)
            self.expect(0 if due else agenda.next_tick_ms)
            return

    async def _worker_id(self) -> str | None:
        """Wait until the server knows this worker, and return its id; None if the worker stops."""
        joining, stop = asyncio.ensure_future(self._ready()), asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait([joining, stop], return_when=asyncio.FIRST_COMPLETED)
            return None if self._stopped.is_set() else joining.result()
        finally:
            await end([joining, stop])

    def _note_retained(self, retained: Mapping[str, Mapping[str, Retention]]) -> None:
        """Note, by queue, schedules that stay although this worker's code does not declare them, for a review."""
        now = self._now()
        for queue, its in retained.items():
            note_retained(self._removals, queue, its, now)
        self._plan.review_in(self._removals.next_review_in, now)

    async def _review(self) -> None:
        """Review the schedules of other owners, and remove those that have no owner any more."""
        try:
            await remove_unowned(self._timetable, self._removals, self._now())
        except ServerError as error:
            log.debug("queue %s: could not look at what its schedules are declared by: %s", self._queue, error)
        self._plan.review_in(self._removals.next_review_in, self._now())

    def _failed(self, action: str, error: ServerError) -> None:
        log.debug("queue %s: could not %s its schedules: %s", self._queue, action, error)
        if self._trouble.failed(error):
            log.warning(
                "queue %s: this worker cannot %s its schedules: %s; trying again until it can",
                self._queue,
                action,
                error,
            )

    def _healed(self) -> bool:
        """Note that the schedules work; return, and log, whether a failure was logged before."""
        healed = self._trouble.healed()
        if healed:
            log.warning("queue %s: its schedules are seen to again", self._queue)
        return healed

    async def _wait(self) -> bool:
        """Wait until a check is due; False at the stop."""
        loop = asyncio.get_running_loop()
        while not self._stopped.is_set() and (until := self._plan.check_at) > loop.time():
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(None if math.isinf(until) else until):
                    await self._changed.wait()
        return not self._stopped.is_set()
