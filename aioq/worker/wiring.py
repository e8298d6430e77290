"""Makes all duties of a worker that serves, and connects them by callbacks; no duty knows another one.

    receiver --+                             each queue has a fetcher, receiver, promoter, ticker, recovery and
               v                             canceller, relays, operations and a log of pauses; all queues share
    fetcher -> executor -> settler -> hooks  executor, settler, hooks, reporter, writer of logs, control, and the
       |          |                          threads of leases and watchdog
    promoter   reporter, logs

The promoter also wakes the relays and the operations.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from aioq.jobs.job import DEFAULT_QUEUE, queue_of
from aioq.jobs.shards import by_queue, queue_of_shard
from aioq.store.contract import Claimed, Settlement, Store
from aioq.store.leases import Renewal
from aioq.util.aio import all_of, wait_for_all
from aioq.util.log import logger
from aioq.worker.about import About, Announcer
from aioq.worker.app_parts import AppParts, worker_queues
from aioq.worker.duties.cancellation import Canceller
from aioq.worker.duties.control import Control, ControlVerb
from aioq.worker.duties.dispatch import Receiver
from aioq.worker.duties.drain import Burst, Hurry
from aioq.worker.duties.executor import Executor
from aioq.worker.duties.fetcher import ClaimReply, Fetcher
from aioq.worker.duties.flows import FlowSteps
from aioq.worker.duties.hooks import SettledHooks
from aioq.worker.duties.leases import RENEWALS, LeaseService
from aioq.worker.duties.logs import LogWriter
from aioq.worker.duties.operations import OperationRunner
from aioq.worker.duties.pauses import PauseLog
from aioq.worker.duties.progress import Reporter
from aioq.worker.duties.promoter import Promoter
from aioq.worker.duties.recovery import Recovery
from aioq.worker.duties.relays import Relays
from aioq.worker.duties.settler import Settler
from aioq.worker.duties.ticker import Ticker
from aioq.worker.duties.watchdog import Watchdog
from aioq.worker.health import Health, QueueHealth, judge, merged
from aioq.worker.held_jobs import HeldJobs
from aioq.worker.identity import Incarnation, Membership
from aioq.worker.lending import Lending
from aioq.worker.placement import Placement
from aioq.worker.queue_duties import QueueDuties
from aioq.worker.run.call import Caller
from aioq.worker.run.environment import RunEnvironment
from aioq.worker.run.flow_inputs import offer_graft
from aioq.worker.run.limits import hold_keys
from aioq.worker.run.run import CANCELLED, Run
from aioq.worker.shares import Share
from aioq.worker.slots import Slots

log = logger("aioq.worker")


class Duties:
    """All duties of a worker that serves. To be made on the event loop on which they run.

    Args:
        app_parts: the App's parts.
        store: where the jobs are.
        state: the value that the lifespan yielded.
        queues: the queues.
        concurrency: how many jobs may run at once.
        incarnation: makes the worker's ids.
        placement: the schedules of the code.
        describe: what the worker says of itself; from any thread.
        verbs: what operators can ask for, see `Control`.
        shares: the queues' shares of the slots; empty if a free slot is for the first that comes.

    Attributes:
        gaps: how often the subscription had to be made again.
    """

    def __init__(
        self,
        app_parts: AppParts,
        store: Store,
        state: Any,
        *,
        queues: Sequence[str],
        concurrency: int,
        incarnation: Incarnation,
        placement: Placement,
        describe: Callable[[], About],
        verbs: Mapping[str, ControlVerb] = MappingProxyType({}),
        shares: Mapping[str, Share] = MappingProxyType({}),
    ) -> None:
        self._app_parts, settings = app_parts, app_parts.settings
        self._store, self._incarnation = store, incarnation
        self._placement, self._all_queues = placement, tuple(queues)
        self._whole = set(worker_queues(app_parts, ())) <= by_queue(queues).keys()
        self.slots = Slots(concurrency, shares)
        self.watchdog = Watchdog(settings.loop_lag_warning)
        self.reporter = Reporter(store, lambda key: self.executor.is_running(*key))
        every = settings.logs_from == "all"
        self.logs = LogWriter(store, settings.logs, all_loggers=every) if settings.logs else None
        self.hooks = SettledHooks(app_parts.middleware, store)
        self.settler = Settler(store, on_written=self._written, on_refused=self._refused, idle=self._is_idle)
        self.settler.on_answer = self.hooks.on_answer
        self.burst = Burst(queues, lambda: self.executor.running, self._check_again)
        self.caller = Caller(
            app_parts.middleware,
            threads=settings.threads or concurrency,
            processes=settings.pool_size or os.cpu_count() or 1,
            hold_keys=partial(hold_keys, store, app_parts.shards, self._put_back, set[str]()),
        )
        self.executor = Executor(
            RunEnvironment(
                *(app_parts.tasks, settings, state, Lending(app_parts.app, app_parts.waits)),
                *(None if self.logs is None else self.logs.lines_of, partial(offer_graft, store)),
            ),
            self.caller,
            self.slots,
            settle=self.settler.put,
            reporter_of=self.reporter.reporter,
            flush_report=self.reporter.flush if self.logs is None else self._flush,
            on_idle=self._no_job_runs,
            on_end=self.hooks.on_end,
        )
        self.gaps, self._leaving, self._flows = 0, frozenset[str](), dict[str, str]()
        self.queues = {queue: self._queue_duties(queue) for queue in queues}
        self._announcer = Announcer(describe, lambda: self._home)
        control = Control(verbs, stacks=self.watchdog.stacks, answer=self._answer)
        self.lease = LeaseService(
            store.lease_client(),
            [duties.membership for duties in self.queues.values()],
            settings.lease,
            on_renewal=self._renewed,
            on_lost=lambda membership, worker: self._lost(membership.queue, worker),
            fetched_ago=self._fetched_ago,
            announcer=self._announcer,
            on_asked=control.asked,
        )

    def _queue_duties(self, queue: str) -> QueueDuties:
        app_parts, store, settings = self._app_parts, self._store, self._app_parts.settings
        membership = Membership(queue, self._incarnation)
        held, relays = HeldJobs(), Relays(store, queue)
        # The promoter is made after the operations, because it is given a callback of theirs.
        ops = OperationRunner(queue, app_parts.attend, expect=lambda ms: promoter.expect(ms))  # noqa: PLW0108
        flows = FlowSteps(store, queue, relay=relays.relay)
        asked = {"on_outbox": relays.request, "on_operations": ops.request, "on_flows": flows.request}
        promoter = Promoter(store, queue, **asked)
        ticker = Ticker(
            *(store.timetable, queue, self._placement.declared),
            whole=self._whole,
            renewal=settings.lease / RENEWALS,
            served=self._all_queues if self._whole and queue == self._all_queues[0] else (),
            ready=membership.ready,
            is_placed=lambda: self._placement.is_known,
        )
        ticker.sends = app_parts.sends
        fetcher = Fetcher(
            *(store, membership, self.slots),
            deliver=self._deliver,
            deliver_batch=self._deliver_batch,
            on_dispatch=self._dispatched,
            on_answer=partial(self._claim_answered, queue),
            held=held.ids,
            space=self.hooks.space_after(partial(self.settler.space, queue)),
            queues=len(self._all_queues),
            weighted=settings.queue(queue_of_shard(queue)).priorities == "weighted",
        )
        canceller = Canceller(
            *(store.inbox, app_parts.name, membership),
            cancel=self._cancel,
            on_gap=partial(self._gap, queue),
            on_lead=ticker.lead,
            on_asked=lambda: self.lease.renew_one(queue),
        )
        recovery = Recovery(store, queue, lease=settings.lease, max_crashes=settings.max_crashes)
        receiver = Receiver(
            *(store, membership),
            deliver=fetcher.dispatched,
            on_gap=fetcher.find_unknown,
            on_wake=fetcher.woken,
            on_listening=fetcher.listens,
        )
        others = recovery, canceller, receiver, ticker, PauseLog(store, queue)
        return QueueDuties(membership, held, fetcher, promoter, relays, ops, flows, *others)

    def coroutines(self) -> "list[tuple[str, Coroutine[Any, Any, None]]]":
        """What runs while the worker serves, each in a task of its own, with its queue; the fetchers come last."""
        shared: list[Coroutine[Any, Any, None]] = [self.lease.run(), self.reporter.run(), self.watchdog.run()]
        if self.logs is not None:
            shared.append(self.logs.run())
        served = self.queues.items()
        beside = [(queue, each) for queue, duties in served for each in duties.beside_fetching()]
        return [*(("", each) for each in shared), *beside, *((name, each.fetcher.run()) for name, each in served)]

    def add(self, queue: str) -> list[Coroutine[Any, Any, None]]:
        """Serve one more queue, or shard. Returns the coroutines to run, each in a task of its own."""
        self._all_queues = (*self._all_queues, queue)
        duties = self._queue_duties(queue)
        self.queues = {**self.queues, queue: duties}  # a new dict: another thread may be asking for the health
        self.burst.add(queue)
        self.lease.add(duties.membership)
        return [*duties.beside_fetching(), duties.fetcher.run()]

    def begin_to_leave(self, queues: Iterable[str]) -> None:
        """No more jobs of these queues are to be taken, because the worker leaves them."""
        self._leaving |= {*queues}
        self._all_queues = tuple(each for each in self._all_queues if each not in self._leaving)

    async def leave(self, queue: str) -> None:
        """Leave a queue that has no jobs here any more."""
        duties = self.queues[queue]
        self.queues = {name: each for name, each in self.queues.items() if name != queue}
        self._leaving -= {queue}
        self.burst.remove(queue)
        await duties.ticker.stop()
        await self._store.depart(queue, duties.membership.worker)

    def announce(self) -> None:
        """Tell the server at once what the worker says of itself now."""
        self._announcer.changed()
        self.lease.renew_now()

    @property
    def _home(self) -> str:
        return next((queue for queue in self.queues if queue not in self._leaving), "")

    def placed(self) -> None:
        """It is known now in which shards schedules are: they are stored."""
        for duties in self.queues.values():
            duties.ticker.rejoin()

    def _answer(self, queue: str, request: str, answer: bytes) -> None:
        self.lease.answer(queue, request, answer)

    def _gap(self, queue: str) -> None:
        self.gaps += queue == self._home
        self.lease.renew_now()

    @property
    def left_behind(self) -> int:
        """How many functions still run although their jobs were given back."""
        return self.executor.left_behind + self.caller.busy_threads

    def health(self) -> Health:
        """The worker's health; may be called from any thread."""
        queues = {
            queue: QueueHealth(
                *(duties.membership.worker, duties.membership.joined, round(self._fetched_ago(queue), 3)),
                *(round(self.settler.late(queue), 3), self.lease.rejection(queue)),
            )
            for queue, duties in self.queues.items()
            if queue not in self._leaving
        }
        return judge(
            merged(queues),
            running=self.executor.running,
            concurrency=self.slots.total,
            loop_lag=self.watchdog.lag,
            refused=self.settler.refused + self.reporter.refused,
            full_for=self.slots.full_for,
        )

    async def wait_empty(self, *, or_paused: bool = True, hurry: Hurry | None = None) -> None:
        """Return when there is nothing to do and to run, and all hooks have been called; see `Burst.wait`."""
        more = True
        while more:
            await self.burst.wait(or_paused=or_paused, hurry=hurry)
            more = any([await duties.catch_up() for duties in tuple(self.queues.values())])
        await self.hooks.drain()

    async def depart(self, store: Store) -> None:
        """Write the last outcomes, and deregister from the server."""
        await self.settler.drain()
        await self.lease.stop()
        memberships = [duties.membership for duties in self.queues.values()]
        await all_of(store.depart(each.queue, each.worker) for each in memberships)
        await all_of(duties.ticker.stop() for duties in self.queues.values())

    def _fetched_ago(self, queue: str) -> float:
        """Seconds since the last fetch, or of a blocked loop if these are more: a full worker may hang too."""
        return max(self.queues[queue].fetcher.fetched_ago, self.watchdog.lag)

    def _flush(self, queue: str, worker: str, job_id: str, claim: int) -> "asyncio.Task[None] | None":
        """Write a job's last report and its last log lines; returns the task to wait for, None for none."""
        flushes = (self.reporter.flush, *(() if self.logs is None else (self.logs.flush,)))
        tasks = [task for flush in flushes if (task := flush(queue, worker, job_id, claim)) is not None]
        return asyncio.get_running_loop().create_task(wait_for_all(tasks)) if tasks else None

    def _no_job_runs(self) -> None:
        self.settler.hurry()
        self.burst.idle()

    def _is_idle(self, queue: str) -> bool:
        return self.queues[queue].fetcher.waiting and self.slots.free_for(queue) > 0

    def _dispatched(self, queue: str, worker: str, claimed: Claimed) -> None:
        duties = self.queues[queue]
        if worker != duties.membership.worker:
            return  # that lease is lost, and the job with it
        # Jobs of another queue have taken the free slots, or the worker leaves this one.
        was_full = not self.slots.free_for(queue) or queue in self._leaving
        self.slots.take(1, queue)
        is_full = not self.slots.free_for(queue)
        self._note(queue, claimed)
        if was_full:
            self.executor.decline(queue, worker, claimed)
        else:
            self.executor.submit(queue, worker, claimed, at_once=not is_full)
        if is_full or (self.slots.weights and not self.slots.free_for(queue)):
            duties.fetcher.filled()

    def _deliver(self, queue: str, worker: str, claimed: Claimed) -> None:
        if worker == self.queues[queue].membership.worker:
            self._note(queue, claimed)
            self.executor.submit(queue, worker, claimed)
        else:  # the lease was lost while the reply was on its way, and the job with it
            self.slots.give_back(1, queue)

    def _deliver_batch(self, queue: str, worker: str, batch: Sequence[Claimed]) -> None:
        if worker != self.queues[queue].membership.worker:
            self.slots.give_back(1, queue)
            return
        for claimed in batch:
            self._note(queue, claimed)
        self.executor.submit_batch(queue, worker, batch)

    def _note(self, queue: str, claimed: Claimed) -> None:
        self.burst.delivered()
        self.queues[queue].held.add(claimed.id, claimed.claim)
        if claimed.flow:
            self._flows[claimed.id] = claimed.flow

    def _claim_answered(self, queue: str, answer: ClaimReply) -> None:
        if answer.claim.lost:
            self._lost(queue, answer.worker)
            return
        duties = self.queues[queue]
        duties.promoter.expect(answer.claim.next_due_ms)
        duties.ticker.expect(answer.claim.next_tick_ms, woken=answer.woken)
        duties.pauses.note(answer.claim.pause)
        if answer.empty:
            self.burst.empty(queue)

    def _renewed(self, membership: Membership, renewal: Renewal, healed: bool) -> None:
        duties = self.queues.get(membership.queue)
        if duties is None:
            return  # the worker has left it
        if healed:
            duties.recovery.hold_off()
        duties.promoter.expect(renewal.next_due_ms)
        duties.ticker.expect(renewal.next_tick_ms)
        if renewal.expired:
            duties.recovery.request()
        duties.fetcher.noticed(renewal.pause)
        if not renewal.holds:
            duties.fetcher.restore_held()
        for job_id in renewal.cancelled:
            self._cancel(membership.queue, job_id)

    def _cancel(self, queue: str, job_id: str, reason: str = "") -> None:
        if (duties := self.queues.get(queue)) is not None:
            self.executor.cancel(queue, duties.membership.worker, job_id, CANCELLED, reason)

    def _lost(self, queue: str, worker: str) -> None:
        if (duties := self.queues.get(queue)) is not None and duties.membership.lose(worker):
            log.warning(
                "queue %s: the lease of %s was lost; what it ran is cancelled here and runs elsewhere",
                *(queue, worker),
            )
            duties.recovery.give_back(worker, self.executor.abandon(queue, worker))
            duties.held.clear()
            self._flows.clear()  # only hints
            duties.ticker.rejoin()
            self.lease.renew_now()

    def _written(self, queue: str, settlement: Settlement) -> None:
        self.queues[queue].held.discard(settlement.job_id, settlement.claim)
        flow = self._flows.pop(settlement.job_id, "") if self._flows else ""
        if flow and (home := self.queues.get(queue_of(flow) or DEFAULT_QUEUE)) is not None:
            home.flows.wake(flow)  # otherwise the workers of its home take the step

    def _put_back(self, run: Run) -> None:
        """A job waits for a limit now: this worker does not hold it any more."""
        self.queues[run.queue].held.discard(run.claimed.id, run.claimed.claim)

    def _refused(self, queue: str, worker: str, settlement: Settlement) -> None:
        log.warning(
            "queue %s: the outcome (%s) of job %s was refused: it is no longer held by %s",
            *(queue, settlement.verb.value, settlement.job_id, worker),
        )

    async def _check_again(self) -> None:
        await self.settler.drain()
        for duties in self.queues.values():
            await duties.fetcher.wake()
