"""The worker: connects its services, and starts and stops them in the right order.

    fetcher --> executor --> settler          one fetcher, promoter, ticker, recovery and canceller for each
       |           |                          queue; one executor, settler and reporter, and a lease and a
    promoter    reporter                      watchdog thread for all

No service knows another; what one tells the others goes through the callbacks wired up here.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from aioq.errors import ServerError
from aioq.store.contract import Claimed, ServerInfo, Settlement, Store
from aioq.store.leases import Renewal
from aioq.util.aio import end
from aioq.util.log import logger
from aioq.worker.app_parts import Host, compile_signatures, unknown_tasks, worker_queues
from aioq.worker.connecting import connected
from aioq.worker.duties.cancellation import Canceller
from aioq.worker.duties.drain import Burst
from aioq.worker.duties.executor import Executor
from aioq.worker.duties.fetcher import Fetcher
from aioq.worker.duties.handoff import Receiver
from aioq.worker.duties.hooks import Hooks
from aioq.worker.duties.leases import RENEWALS, LeaseService
from aioq.worker.duties.progress import Reporter
from aioq.worker.duties.promoter import Promoter
from aioq.worker.duties.recovery import Recovery
from aioq.worker.duties.settler import Settler
from aioq.worker.duties.ticker import Ticker
from aioq.worker.duties.watchdog import Watchdog
from aioq.worker.forks import forks_end
from aioq.worker.health import Health, QueueHealth, judge
from aioq.worker.held_jobs import Holdings
from aioq.worker.identity import Life, Membership
from aioq.worker.lending import Lending
from aioq.worker.run.call import Caller
from aioq.worker.run.environment import RunEnvironment
from aioq.worker.run.logging import stopping
from aioq.worker.run.run import CANCELLED
from aioq.worker.service_end import ServiceEnd
from aioq.worker.slots import Slots

log = logger("aioq.worker")

LAST_FETCH = 2.0
"""Seconds that the fetching may take to end at the stop."""

FAREWELL = 5.0
"""Seconds to write the last outcomes at the stop; if the server is gone for longer, the recovery has them.
Together with `LAST_FETCH` below the 10 s that container engines give a process as a rule."""

HURRIED_FAREWELL = 1.0
"""The same once a second signal has come."""


@dataclass(slots=True)
class _QueueDuties:
    """The services of one queue."""

    membership: Membership
    holdings: Holdings
    fetcher: Fetcher
    promoter: Promoter
    recovery: Recovery
    canceller: Canceller
    receiver: Receiver
    ticker: Ticker


class Worker:
    """Runs the jobs of some queues until it is stopped.

    Args:
        host: the App's parts.
        queues: the queues, all of equal rank; none for those the tasks are declared with.
        concurrency: how many jobs may run at once.
        burst: end when the queues are empty.
        on_start: told of the server once it answers, before the first job is claimed.
        life: what its ids carry; see `Life`.

    Attributes:
        ended_by_itself: whether it has ended, or ends, without having been stopped: a job has cancelled it, say.

    Raises:
        ConfigError: a task's annotations cannot be decoded into.
    """

    def __init__(
        self,
        host: Host,
        *,
        queues: Sequence[str],
        concurrency: int | None = None,
        burst: bool = False,
        on_start: Callable[[ServerInfo], None] | None = None,
        life: Life | None = None,
    ) -> None:
        self._host = host
        self._life = life or Life()
        self.queues = tuple(dict.fromkeys(queues))
        self.concurrency = concurrency or host.settings.concurrency
        self._burst_mode = burst
        self._on_start = on_start
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._serving = asyncio.Event()
        self._task: asyncio.Task[Any] | None = None
        self.ended_by_itself = False
        self._declared = host.schedules()
        self._whole = set(worker_queues(host, ())) <= set(self.queues)
        compile_signatures(host)  # now, so that a bad annotation stops the start and not a job

    @property
    def left_behind(self) -> int:
        """After the end: functions that run on although their jobs were given back, until the process ends."""
        return self._executor.left_behind + self._caller.busy_threads if self._serving.is_set() else 0

    def stop(self) -> None:
        """Ask for a graceful stop; asked a second time, what runs is cancelled and given back at once."""
        if self._stop.is_set():
            self._hurry.set()
            if self._task is not None and not self._serving.is_set():
                self._task.cancel()  # the lifespan or the server keeps it from starting
        self._stop.set()

    def health(self) -> Health:
        """How the worker does; may be called from any thread."""
        if not self._serving.is_set():
            return Health(ready=False, reasons=["it has not reached its server yet, or is still in its lifespan"])
        queues = {
            queue: QueueHealth(
                *(duties.membership.worker, duties.membership.joined, round(self._fetched_ago(queue), 3)),
                *(round(self._settler.late(queue), 3), self._lease.rejection(queue)),
            )
            for queue, duties in self._queues.items()
        }
        return judge(
            queues,
            running=self._executor.running,
            concurrency=self.concurrency,
            loop_lag=self._watchdog.lag,
            refused=self._settler.refused + self._reporter.refused,
            full_for=self._slots.full_for,
        )

    async def wait_empty(self) -> None:
        """Return when a look at the queues has found nothing to run, and nothing runs; only while it serves."""
        await self._serving.wait()
        await self._burst.wait()
        await self._hooks.drain()

    async def run(self) -> None:
        """Work until `stop`, or in burst mode until the queues are empty.

        Cancellation: as a stop in a hurry, but what it ran counts a crash, for it comes from there as a rule.

        Raises:
            ServerRejectedError: the server refuses this user or is too old.
        """
        self._task = asyncio.current_task()
        store = await self._host.store()
        info = await connected(store, self._stop)
        if info is None:
            return
        for words in unknown_tasks(self._host, self._declared, self.queues):
            log.warning("%s", words)
        async with forks_end(), self._host.lifespan() as state:
            if self._on_start is not None:
                self._on_start(info)
            await self._serve(store, state)

    async def _serve(self, store: Store, state: Any) -> None:
        self._build(store, state)
        background = [self._lease.run(), self._reporter.run(), self._watchdog.run()]
        for duties in self._queues.values():
            background += [duties.promoter.run(), duties.recovery.run()]
            background += [duties.canceller.run(), duties.receiver.run(), duties.ticker.run()]
        fetchers = [duties.fetcher.run() for duties in self._queues.values()]
        tasks = [asyncio.create_task(duty) for duty in (*background, *fetchers)]
        enders: list[asyncio.Task[Any]] = [asyncio.create_task(self._stop.wait())]
        if self._burst_mode:
            enders.append(asyncio.create_task(self._burst.wait()))
        self._serving.set()
        try:
            await ServiceEnd([*tasks, *enders], self._cancelled)
            for task in [each for each in (*tasks, *enders) if each.done()]:
                task.result()  # a service that ends by itself has met a bug: let it be seen
        except BaseException as error:
            # Cancelled, or a duty has failed, be it the leases': what still runs must not go on without one.
            self._hurry.set()
            if not isinstance(error, ServerError):  # that is the server's doing, and no job's
                self._cancelled("")
            raise
        finally:
            await self._shut_down(store, tasks, enders)

    def _cancelled(self, job: str) -> None:
        """The worker ends, and nobody has stopped it: something that runs in it does that, be it `job` or not."""
        if self._stop.is_set() or self.ended_by_itself:
            return
        self.ended_by_itself = True
        self._executor.fall()
        by = f", by {job}" if job else ""
        log.error("this worker was ended from within%s, not by a signal; each job that it ran counts a crash", by)

    def _build(self, store: Store, state: Any) -> None:
        host, settings = self._host, self._host.settings
        self._slots = Slots(self.concurrency)
        self._watchdog = Watchdog(settings.loop_lag_warning)
        self._reporter = Reporter(store)
        self._hooks = Hooks(host.middleware, store)
        self._settler = Settler(store, on_written=self._written, on_refused=self._refused, idle=self._is_idle)
        self._settler.on_answer = self._hooks.on_answer
        self._burst = Burst(self.queues, lambda: self._executor.running, self._look_again)
        self._caller = Caller(
            host.middleware,
            threads=settings.threads or self.concurrency,
            processes=settings.pool_size or os.cpu_count() or 1,
        )
        self._executor = Executor(
            RunEnvironment(host.tasks, settings, state, Lending(host.app, host.waits)),
            self._caller,
            self._slots,
            settle=self._settler.put,
            reporter_of=self._reporter.reporter,
            flush_report=self._reporter.flush,
            on_idle=self._no_job_runs,
            on_end=self._hooks.on_end,
        )
        self._queues = {queue: self._duties(store, queue) for queue in self.queues}
        self._lease = LeaseService(
            store.keeper(),
            [duties.membership for duties in self._queues.values()],
            settings.lease,
            on_renewal=self._renewed,
            on_lost=lambda membership, worker: self._lost(membership.queue, worker),
            fetched_ago=self._fetched_ago,
        )

    def _duties(self, store: Store, queue: str) -> _QueueDuties:
        host, settings = self._host, self._host.settings
        membership = Membership(queue, self._life)
        holdings, promoter = Holdings(), Promoter(store, queue)
        served = self.queues if self._whole and queue == self.queues[0] else ()
        ready, renewal = membership.ready, settings.lease / RENEWALS
        ticker = Ticker(
            store.timetable, queue, self._declared, whole=self._whole, renewal=renewal, served=served, ready=ready
        )
        ticker.sends = host.sends
        fetcher = Fetcher(
            store,
            membership,
            self._slots,
            deliver=self._deliver,
            on_handed=self._handed,
            on_due=promoter.expect,
            on_tick=ticker.expect,
            on_lost=partial(self._lost, queue),
            on_empty=partial(self._burst.empty, queue),
            held=holdings.ids,
            space=self._hooks.space_after(partial(self._settler.space, queue)),
        )
        canceller = Canceller(
            *(store.inbox, host.name, membership),
            cancel=self._cancel,
            on_gap=lambda: self._lease.hurry(),  # noqa: PLW0108 - it is made later
            on_lead=ticker.lead,
        )
        recovery = Recovery(store, queue, lease=settings.lease, max_crashes=settings.max_crashes)
        receiver = Receiver(store, membership, deliver=fetcher.hand, on_gap=fetcher.look_again)
        return _QueueDuties(membership, holdings, fetcher, promoter, recovery, canceller, receiver, ticker)

    def _fetched_ago(self, queue: str) -> float:
        """Seconds since the last fetch; a worker whose slots are all taken does not fetch, but must not hang."""
        return max(self._queues[queue].fetcher.fetched_ago, self._watchdog.lag)

    def _no_job_runs(self) -> None:
        self._settler.hurry()
        self._burst.idle()

    def _is_idle(self, queue: str) -> bool:
        return self._queues[queue].fetcher.waiting and self._slots.free > 0

    def _handed(self, queue: str, worker: str, claimed: Claimed) -> None:
        duties = self._queues[queue]
        if worker != duties.membership.worker:
            return  # its lease is lost, and the job with it
        was_full = not self._slots.free  # another queue's jobs have taken what was free
        self._slots.take(1)
        if is_full := not self._slots.free:
            duties.fetcher.end_waiting()  # what comes next is for a worker that can run it
        self._note(queue, claimed)
        if was_full:
            self._executor.decline(queue, worker, claimed)
        else:
            self._executor.submit(queue, worker, claimed, at_once=not is_full)

    def _deliver(self, queue: str, worker: str, claimed: Claimed) -> None:
        self._note(queue, claimed)
        self._executor.submit(queue, worker, claimed)

    def _note(self, queue: str, claimed: Claimed) -> None:
        self._burst.delivered()
        self._queues[queue].holdings.add(claimed.id, claimed.claim)

    def _renewed(self, membership: Membership, renewal: Renewal, healed: bool) -> None:
        duties = self._queues[membership.queue]
        if healed:
            duties.recovery.hold_off()
        duties.promoter.expect(renewal.next_due_ms)
        duties.ticker.expect(renewal.next_tick_ms)
        if renewal.expired:
            duties.recovery.want()
        if not renewal.holds:
            duties.fetcher.hold_again()
        for job_id in renewal.cancelled:
            self._cancel(membership.queue, job_id)

    def _cancel(self, queue: str, job_id: str, why: str = "") -> None:
        self._executor.cancel(queue, self._queues[queue].membership.worker, job_id, CANCELLED, why)

    def _lost(self, queue: str, worker: str) -> None:
        if (duties := self._queues[queue]).membership.lose(worker):
            log.warning(
                "queue %s: the lease of %s was lost; what it ran is cancelled here and runs elsewhere",
                *(queue, worker),
            )
            duties.recovery.give_back(worker, self._executor.abandon(queue, worker))
            duties.holdings.clear()
            duties.ticker.rejoin()
            self._lease.hurry()

    def _written(self, queue: str, settlement: Settlement) -> None:
        self._queues[queue].holdings.discard(settlement.job_id, settlement.claim)

    def _refused(self, queue: str, worker: str, settlement: Settlement) -> None:
        log.warning(
            "queue %s: the outcome (%s) of job %s was refused: it is no longer held by %s",
            *(queue, settlement.verb.value, settlement.job_id, worker),
        )

    async def _look_again(self) -> None:
        await self._settler.drain()
        for duties in self._queues.values():
            await duties.fetcher.nudge()

    async def _shut_down(
        self, store: Store, tasks: Sequence[asyncio.Task[None]], enders: Sequence[asyncio.Task[Any]]
    ) -> None:
        fetching = [asyncio.create_task(duties.fetcher.stop()) for duties in self._queues.values()]
        try:
            # A server that does not answer keeps nobody here: what comes late is given back unstarted.
            await asyncio.wait(fetching, timeout=LAST_FETCH)
            await self._finish_jobs(self._executor.stop())
            await self._take_leave(store)
            await self._hooks.stop(FAREWELL)
        finally:
            await end([*fetching, *tasks, *enders])
        log.info("stopped")

    async def _take_leave(self, store: Store) -> None:
        """Write the last outcomes and depart; if the server is gone, the recovery does that."""
        leave = asyncio.create_task(self._depart(store))
        hurry = asyncio.create_task(self._hurry.wait())
        try:
            if not self._hurry.is_set():
                await asyncio.wait([leave, hurry], timeout=FAREWELL, return_when=asyncio.FIRST_COMPLETED)
            if self._hurry.is_set():
                await asyncio.wait([leave], timeout=HURRIED_FAREWELL)
            if not leave.done():
                log.warning("could not take leave of the server: no answer in time; the recovery will")
            elif (error := leave.exception()) is not None:
                log.warning("could not take leave of the server: %s; the recovery will", error)
        finally:
            await end([leave, hurry])

    async def _depart(self, store: Store) -> None:
        await self._settler.drain()
        await self._lease.stop()
        for queue, duties in self._queues.items():
            await store.depart(queue, duties.membership.worker)
        for duties in self._queues.values():
            await duties.ticker.stop()

    async def _finish_jobs(self, running: int) -> None:
        if running and not self._hurry.is_set():
            patience = self._host.settings.shutdown_timeout
            log.info("%s", stopping(running, patience))
            either = [asyncio.create_task(each) for each in (self._executor.wait_idle(), self._hurry.wait())]
            await asyncio.wait(either, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            for task in either:
                task.cancel()
        if self._executor.running:
            await self._executor.interrupt()
