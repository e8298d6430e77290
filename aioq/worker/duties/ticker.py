"""Duty: put the code's schedules of one queue into the server, and make their ticks.

Every worker keeps the clock, one makes a tick. The one that made the last tick goes first; one that came too late
stands back: it lets each tick's time pass by more than the span between two renewals of its lease, learns from
them that the tick was made, and asks the server nothing. So schedules cost the other workers no command, and
where the first one is gone, the tick is made a few seconds late.

It sleeps until the next tick, as far as any reply of the server has said. A schedule that is put with a tick
before all others wakes one worker, who goes first from then on. A worker that stops passes on to another that it
goes first.

A schedule that another worker's code declares, and this one's does not, is looked at again until it can go (see
`aioq.schedules.owners`): a command or two each half a lease, while there is one.

Nothing here needs a free slot. A worker without one does not fetch and is not woken, so it hears of a schedule by
the renewals of its lease; where those are rare, it looks by itself.
"""

import asyncio
import contextlib
import math
import random
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from aioq.errors import ServerError, ServerRejectedError, ServerUnavailableError
from aioq.schedules.declare import Declared
from aioq.schedules.owners import Departures, Keeping, depart, note_kept
from aioq.schedules.reconcile import declare, sweep
from aioq.schedules.sends import EncodedSends
from aioq.schedules.ticks import tick_due
from aioq.store.schedules import Timetable
from aioq.util.aio import Backoff, end
from aioq.util.log import logger
from aioq.util.plural import counted

log = logger("aioq.worker")

EARLY_MS = 100
"""Looking this much too early is not coming too late: this host's clock may run faster than the server's."""

MOST_PATIENCE = 5.0
"""The most seconds to stand back, also where leases are renewed less often, and to go without a look there: below
the time after which a tick is missed (`aioq.schedules.timing.MISFIRE_MS`)."""

OFTEN = 3.0
"""Seconds: renewals that come so often bring the news of a schedule in time, so that there is no need to look.
They and the standing back take 8 s together at most, which leaves two until a tick counts as missed."""

OUTAGE_TRIES = 6
"""How many times in a row the server cannot be reached until that is told here: the lease tells it sooner, and
most outages end within these 2 s. A guess."""


RENEWALS = 4
"""Renewals within one lease; see `aioq.worker.duties.leases`."""


async def _nobody() -> str:
    return ""


class Ticker:
    """See the module.

    Args:
        timetable: where the schedules are.
        queue: the queue.
        declared: the code's schedules, of every queue.
        whole: whether this worker has the whole App; see `aioq.schedules.reconcile.declare`.
        renewal: seconds between two renewals of the lease.
        served: of one of the tickers of a worker that has the whole App, all of the worker's queues: then this
            one looks at the start into the others, too; see `aioq.schedules.reconcile.sweep`.
        ready: waits until the server knows the worker, and returns its id in this queue: what it declares is its
            own for as long as it lives. By default it is nobody's.

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
        ready: Callable[[], Awaitable[str]] = _nobody,
    ) -> None:
        self.sends: EncodedSends | None = None
        self._timetable = timetable
        self._queue = queue
        self._declared = declared
        self._declared_ids = {each.id for each in declared}
        self._whole = whole
        self._served = served
        self._ready = ready
        self._departures = Departures(renewal * RENEWALS)
        self._review_at: float = math.inf
        # Drawn, so that of many who stand back one comes first.
        self._patience = min(renewal * 1.1 + random.uniform(0.0, 1.0), MOST_PATIENCE)  # noqa: S311 - spreads load
        self._longest = math.inf if renewal <= OFTEN else MOST_PATIENCE
        self._first = True
        self._led = False
        self._looking = False
        self._more = False
        self._missing = False
        self._since = 0
        self._stopped = asyncio.Event()
        self._ended = asyncio.Event()
        self._failures = 0
        self._told: set[str] = set()
        self._stuck: set[str] = set()
        self._tick_at: float = math.inf
        self._changed = asyncio.Event()

    def expect(self, next_tick_ms: int | None, *, woken: bool = False) -> None:
        """Some reply said when the next tick is, in ms from now.

        Args:
            next_tick_ms: None for none.
            woken: this worker was woken for it, so it goes first.
        """
        self._first = self._first or woken
        now = asyncio.get_running_loop().time()
        tick_at = math.inf if next_tick_ms is None else now + next_tick_ms / 1000
        # What is due and only another process can make is not looked at again with each reply that says so.
        if not self._first or (self._stuck and next_tick_ms == 0):
            tick_at += self._patience
        # Standing back, a later tick is the news that the one before was made. Going first, it may be old news.
        put_off = not self._first and next_tick_ms is not None and next_tick_ms > 0
        looking = now + self._longest < tick_at
        if looking:
            tick_at = now + self._longest
        if tick_at < self._tick_at or (put_off and tick_at != self._tick_at):
            self._tick_at, self._looking = tick_at, looking
            self._changed.set()

    def lead(self) -> None:
        """The worker that went first has gone, and has passed that on to this one: look at once."""
        self._first = self._led = True
        self._look()

    def rejoin(self) -> None:
        """The lease was lost, perhaps because the server has lost its data: see that the schedules are there."""
        self._missing = True
        self._look()

    def _look(self) -> None:
        self._tick_at, self._looking = asyncio.get_running_loop().time(), False
        self._changed.set()

    @property
    def _look_at(self) -> float:
        """When to look for ticks; at once after a lost lease, whatever a reply has said since of the next tick."""
        return -math.inf if self._missing else self._tick_at

    async def run(self) -> None:
        """Tick until `stop`, or until cancelled. Cancellation: a tick under way may have been made."""
        try:
            await self._declare()
            backoff = Backoff()
            while await self._wait():
                try:
                    if self._look_at > asyncio.get_running_loop().time():
                        await self._review()
                        continue
                    self._tick_at = math.inf
                    await self._step()
                    backoff = Backoff()
                except ServerError as error:
                    self._failed("make the ticks of", error)
                    self._tick_at = asyncio.get_running_loop().time() + backoff.next()
        finally:
            self._ended.set()

    async def stop(self) -> None:
        """Tick no more; and where this worker went first, let another one do so at once.

        To be called when the worker has departed, so that it is not passed on to itself. A server that does not
        answer is no matter: then another worker goes first a few seconds late.
        """
        self._stopped.set()
        self._changed.set()
        await self._ended.wait()
        if self._first:
            try:
                await self._timetable.pass_on(self._queue)
            except ServerError as error:
                log.debug("queue %s: could not pass on who makes the ticks: %s", self._queue, error)

    async def _step(self) -> None:
        if self._missing:
            self._missing = False
            await self._declare()
            if self._more:
                self._look()
            return
        # To look because there was no news for long is not coming too late either.
        self._led, keeps = False, self._led or (self._looking and self._first)
        step = await tick_due(self._timetable, self._queue, *(() if self.sends is None else (self.sends,)))
        self._examine(step.of_code)
        news = step.stuck.keys() - self._stuck
        if self._healed() or news:
            # Perhaps by somebody who has moved away what was in the way, and the schedules with it. And of one
            # that cannot be read nothing may be left but its place in the index.
            self.rejoin()
        for schedule_id in news:
            log.warning("schedule %s: this worker cannot make its ticks: %s", schedule_id, step.stuck[schedule_id])
        self._stuck = set(step.stuck)
        if step.won:
            log.debug("queue %s: made the ticks that were due: %s", self._queue, counted(step.made, "job"))
        early = step.next_tick_ms is not None and step.next_tick_ms <= EARLY_MS
        first = step.won if step.due else keeps or early
        self._first = first or self._led  # it may have been passed on to this worker meanwhile
        self.expect(step.next_tick_ms)
        self._more = step.more
        if step.more:
            self._look()

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

    def _keep(self, kept: Mapping[str, Mapping[str, Keeping]]) -> None:
        """Schedules stay that this worker's code does not declare: look at them again."""
        now = asyncio.get_running_loop().time()
        for queue, its in kept.items():
            note_kept(self._departures, queue, its, now)
        self._plan_review()

    def _examine(self, ticked: Sequence[str]) -> None:
        """Of what is ticked the code may declare something no more that was not there at the start."""
        foreign = [each for each in ticked if each not in self._declared_ids] if self._whole else []
        now = asyncio.get_running_loop().time()
        for schedule_id in foreign:
            if schedule_id not in self._departures.waiting().get(self._queue, ()):
                # As if somebody had it: who has been away for a moment finds it as it was.
                self._departures.find(self._queue, schedule_id, Keeping(""), now)
                self._plan_review()

    def _plan_review(self) -> None:
        pause = self._departures.pause if self._whole else None  # only who has the whole App removes
        self._review_at = math.inf if pause is None else asyncio.get_running_loop().time() + pause

    async def _review(self) -> None:
        """Look again at what stays because of others, and remove what nobody declares any more."""
        try:
            await depart(self._timetable, self._departures, asyncio.get_running_loop().time())
        except ServerError as error:
            log.debug("queue %s: could not look at what its schedules are declared by: %s", self._queue, error)
        self._plan_review()

    def _failed(self, what: str, error: ServerError) -> None:
        """Tell what does not work: each cause once, until it works again."""
        log.debug("queue %s: could not %s its schedules: %s", self._queue, what, error)
        self._failures += 1
        if isinstance(error, ServerUnavailableError) and self._failures < OUTAGE_TRIES:
            return
        if isinstance(error, ServerRejectedError) and error.is_login:
            return  # it is refused to all, and the leases tell
        if str(error) not in self._told:
            self._told.add(str(error))
            log.warning(
                "queue %s: this worker cannot %s its schedules: %s; trying again until it can",
                self._queue,
                what,
                error,
            )

    def _healed(self) -> bool:
        """Whether something that was told as failing works again."""
        told, self._told, self._failures = self._told, set(), 0
        if told:
            log.warning("queue %s: its schedules are seen to again", self._queue)
        return bool(told)

    async def _wait(self) -> bool:
        """Return when a tick is expected; False at the stop."""
        loop = asyncio.get_running_loop()
        while not self._stopped.is_set() and (until := min(self._look_at, self._review_at)) > loop.time():
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(None if math.isinf(until) else until):
                    await self._changed.wait()
        return not self._stopped.is_set()
