"""Duty: put the code's schedules of one queue into the server, and make their ticks.

Every worker keeps the clock, one makes a tick: who, and when each looks, is decided in `aioq.schedules.tick_plan`.
It sleeps until the next tick, as far as any reply of the server has said. A schedule that is put with a tick
before all others wakes one worker, which is the leader from then on. A worker that stops passes the leadership on
to another.

A schedule that another worker's code declares, and this one's does not, is looked at again until it can go (see
`aioq.schedules.owners`): a command or two each half a lease, while there is one.

Nothing here needs a free slot. A worker without one does not fetch and is not woken, so it learns of a schedule by
the renewals of its lease; where those are rare, it looks by itself.
"""

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from aioq.errors import ServerError
from aioq.schedules.declare import Declared
from aioq.schedules.owners import PendingRemovals, Retention, note_retained, remove_unowned
from aioq.schedules.reconcile import declare, sweep
from aioq.schedules.sends import EncodedSends
from aioq.schedules.tick_plan import Look, TickPlan
from aioq.schedules.ticks import tick_due
from aioq.store.schedules import Timetable
from aioq.util.aio import Backoff, end
from aioq.util.log import logger
from aioq.util.plural import counted
from aioq.util.randomness import RANDOM
from aioq.worker.trouble import Trouble

log = logger("aioq.worker")

MOST_PATIENCE = 5.0
"""The most seconds that a standby waits, also where leases are renewed less often, and to go without a look there:
below the time after which a tick is missed (`aioq.schedules.timing.MISFIRE_MS`)."""

OFTEN = 3.0
"""Seconds: renewals that come so often bring the news of a schedule in time, so that there is no need to look.
They and a standby's patience take 8 s together at most, which leaves two until a tick counts as missed."""

RENEWALS = 4
"""Renewals within one lease, as the duty of the leases makes them."""


async def _no_worker() -> str:
    return ""


class Ticker:
    """Keeps one queue's schedules of the code in the server, and makes its ticks.

    Args:
        timetable: where the schedules are.
        queue: the queue.
        declared: the code's schedules, of every queue.
        whole: whether this worker has the whole App: only then does it remove what its code does not declare.
        renewal: seconds between two renewals of the lease.
        served: of one of the tickers of a worker that has the whole App, all of the worker's queues: then this
            one looks at the start into the other queues of the App too, and removes there what no code declares.
        ready: waits until the server knows the worker, and returns its id in this queue: what it declares is its
            own for as long as it lives. By default no worker's.

    Attributes:
        sends: passes the jobs of ticks through the middleware; None where there is none.
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
    ) -> None:
        self.sends: EncodedSends | None = None
        self._timetable = timetable
        self._queue = queue
        self._declared = declared
        self._whole = whole
        self._served = served
        self._ready = ready
        self._removals = PendingRemovals(renewal * RENEWALS, {each.id for each in declared} if whole else None)
        self._plan = TickPlan(
            # Drawn, so that of many standbys one comes first.
            patience=min(renewal * 1.1 + RANDOM.uniform(0.0, 1.0), MOST_PATIENCE),
            longest=math.inf if renewal <= OFTEN else MOST_PATIENCE,
        )
        self._since = 0
        self._stopped = asyncio.Event()
        self._ended = asyncio.Event()
        self._trouble = Trouble()
        self._changed = asyncio.Event()

    def expect(self, next_tick_ms: int | None, *, woken: bool = False) -> None:
        """Some reply said when the next tick is, in ms from now.

        Args:
            next_tick_ms: None for none.
            woken: this worker was woken for it, so it is the leader.
        """
        if self._plan.hear(next_tick_ms, self._now(), woken=woken):
            self._changed.set()

    def lead(self) -> None:
        """The leader has gone, and has passed that on to this worker: look at once."""
        self._plan.lead(self._now())
        self._changed.set()

    def rejoin(self) -> None:
        """The lease was lost, perhaps because the server has lost its data: see that the schedules are there."""
        self._plan.rejoin(self._now())
        self._changed.set()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    async def run(self) -> None:
        """Tick until `stop`, or until cancelled. Cancellation: a tick under way may have been made."""
        try:
            await self._declare()
            backoff = Backoff()
            while await self._wait():
                look = self._plan.begin(self._now())
                try:
                    if look is Look.TICKS:
                        await self._make_ticks()
                    elif look is Look.DECLARE:
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
        """Tick no more; and where this worker is the leader, pass that on to another one at once.

        To be called when the worker has deregistered, so that it is not passed on to itself. A server that does
        not answer is no matter: then another worker becomes the leader a few seconds late.
        """
        self._stopped.set()
        self._changed.set()
        await self._ended.wait()
        if self._plan.leader:
            try:
                await self._timetable.pass_on(self._queue)
            except ServerError as error:
                log.debug("queue %s: could not pass on who makes the ticks: %s", self._queue, error)

    async def _make_ticks(self) -> None:
        step = await tick_due(self._timetable, self._queue, *(() if self.sends is None else (self.sends,)))
        now = self._now()
        if self._removals.ticked(self._queue, step.of_code, now):
            self._plan.review_in(self._removals.pause, now)
        for schedule_id in self._plan.looked(step, self._now(), healed=self._healed()):
            log.warning("schedule %s: this worker cannot make its ticks: %s", schedule_id, step.stuck[schedule_id])
        if step.won:
            log.debug("queue %s: made the ticks that were due: %s", self._queue, counted(step.made, "job"))

    async def _declare(self) -> None:
        backoff = Backoff()
        while not self._stopped.is_set():
            try:
                worker = await self._joined()
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
                self._keep({self._queue: stored.kept})
                if self._served and not self._since:
                    self._keep(await sweep(self._timetable, self._served, self._declared))
            except ServerError as error:
                self._failed("store", error)
                await asyncio.sleep(backoff.next())
                continue
            self._healed()
            self._since, agenda = stored.since, stored.agenda
            due = any(entry.next_ms is not None and entry.next_ms <= agenda.now_ms for entry in agenda.entries)
            self.expect(0 if due else agenda.next_tick_ms)
            return

    async def _joined(self) -> str | None:
        """This worker's id, once the server knows it; None at the stop."""
        joining, stop = asyncio.ensure_future(self._ready()), asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait([joining, stop], return_when=asyncio.FIRST_COMPLETED)
            return None if self._stopped.is_set() else joining.result()
        finally:
            await end([joining, stop])

    def _keep(self, kept: Mapping[str, Mapping[str, Retention]]) -> None:
        """Schedules stay that this worker's code does not declare: look at them again."""
        now = self._now()
        for queue, its in kept.items():
            note_retained(self._removals, queue, its, now)
        self._plan.review_in(self._removals.pause, now)

    async def _review(self) -> None:
        """Look again at schedules of other owners, and remove those that have no owner any more."""
        try:
            await remove_unowned(self._timetable, self._removals, self._now())
        except ServerError as error:
            log.debug("queue %s: could not look at what its schedules are declared by: %s", self._queue, error)
        self._plan.review_in(self._removals.pause, self._now())

    def _failed(self, what: str, error: ServerError) -> None:
        log.debug("queue %s: could not %s its schedules: %s", self._queue, what, error)
        if self._trouble.failed(error):
            log.warning(
                "queue %s: this worker cannot %s its schedules: %s; trying again until it can",
                self._queue,
                what,
                error,
            )

    def _healed(self) -> bool:
        """Whether something that was logged as failing works again."""
        healed = self._trouble.healed()
        if healed:
            log.warning("queue %s: its schedules are seen to again", self._queue)
        return healed

    async def _wait(self) -> bool:
        """Return when a tick is expected; False at the stop."""
        loop = asyncio.get_running_loop()
        while not self._stopped.is_set() and (until := self._plan.look_at) > loop.time():
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(None if math.isinf(until) else until):
                    await self._changed.wait()
        return not self._stopped.is_set()
