"""Duty: runs claimed jobs, each in an asyncio task of its own, and passes their settlements to the settler.

    submit -> _start -> _execute: prepare -> call -> last report -> _finish

`_execute` carries a run from claimed to settled. Whatever a job raises becomes its outcome, SystemExit and similar
exceptions included. All runs end in `_finish`. It first passes the outcome to the settler and gives the slot back.
Everything else, such as the log line, comes after that, so that no error in it can prevent these two.

A job may go on although it was cancelled (by a timeout, a cancellation or a lost lease). Then it is left behind:
its outcome is written and its slot is free, whatever its function still does.
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import cast

from aioq.jobs.context import JobContext, attach, place_of, worker_of
from aioq.jobs.job import Progress
from aioq.store.contract import Claimed, Settlement
from aioq.util.introspect import is_a
from aioq.util.log import logger
from aioq.worker.forks import end_fork
from aioq.worker.run.batch import Batches, BatchExecution
from aioq.worker.run.call import Caller, run_at_once
from aioq.worker.run.environment import RunEnvironment
from aioq.worker.run.logging import log_ended, log_received
from aioq.worker.run.pipeline import begin, prepare
from aioq.worker.run.run import CUT_SHORT, GRACE, INTERRUPTED, LOST, WORKER_ENDED, Run, RunKey
from aioq.worker.run.settlements import classify, report_of, snooze
from aioq.worker.run.timeout import start_timeout
from aioq.worker.slots import Slots
from aioq.worker.weights import Weights, heavy

log = logger("aioq.worker")

SAME_ID_DELAY_MS = 1_000
"""How long a job is delayed while one of the same id runs here. A guess: only manual changes cause this."""

SHORT_RUN = 60.0
"""A run that began less than these seconds before its worker was stopped counts as cut short, and `Verb.CUT`
limits how often in a row that may happen. A job that stops its own worker does so within seconds of its start; a
deployment interrupts jobs at any time of their run."""

Settle = Callable[[str, str, Settlement], None]
ReporterOf = Callable[[str, str, str, int], Callable[[Progress], None]]
FlushReport = Callable[[str, str, str, int], "asyncio.Task[None] | None"]


class Executor(BatchExecution):
    """Runs the claimed jobs of all queues of a worker.

    Args:
        environment: what the steps of all runs share.
        caller: runs the functions.
        slots: the worker's slots; one is given back when a job ends.
        settle: writes a settlement; called with queue, worker and settlement.
        reporter_of: makes the function by which a job reports its progress.
        flush_report: writes a job's last report; returns the task that does so, None if there is nothing to write.
        on_idle: called when the last running job has ended.
        on_end: called with each settled run and its duration in seconds; None for no call.
    """

    def __init__(
        self,
        environment: RunEnvironment,
        caller: Caller,
        slots: Slots,
        *,
        settle: Settle,
        reporter_of: ReporterOf,
        flush_report: FlushReport,
        on_idle: Callable[[], None],
        on_end: Callable[[Run, float], None] | None = None,
    ) -> None:
        self._environment = environment
        self._caller = caller
        self._slots = slots
        self._weights = Weights(environment.tasks) if heavy(environment.tasks) else None
        self._settle = settle
        self._reporter_of = reporter_of
        self._flush_report = flush_report
        self._on_idle = on_idle
        self._on_end = on_end
        self._reports = bool(environment.settings.history or environment.settings.stats)
        self._batches = Batches(environment, caller, settle=settle, flush=flush_report, on_end=on_end)
        self._running: dict[RunKey, Run] = {}
        self._backlog: deque[Run] = deque()
        self._not_entered = 0  # runs whose tasks have not had their first step
        self._stopping = False
        self._stopped_at = 0.0
        self._worker_ends = False
        self._left_behind: set[Run] = set()
        self._context = copy_context()  # of the worker's start: each job sees this, whichever message brings it
        self._idle = asyncio.Event()
        self._idle.set()
        self._pid = os.getpid()
        self._lending = environment.lending
        self._lending.serve(
            slots,
            in_thread=self._in_thread,
            lend_threads=caller.lend_threads,
            on_lent=self._slot_lent,
            has_left=caller.has_left,
            slots_of=self._slots_of,
        )

    @property
    def left_behind(self) -> int:
        """How many coroutines still run although their jobs have an outcome: they ignored their cancellation."""
        return len(self._left_behind)

    @property
    def running(self) -> int:
        """How many jobs run now."""
        return len(self._running)

    def is_running(self, queue: str, worker: str, job_id: str, claim: int) -> bool:
        """Whether the function of a job runs, under this claim."""
        run = self._running.get((queue, worker, job_id)) or self._batches.items.get((queue, worker, job_id))
        return run is not None and run.claimed.claim == claim and not run.returned

    def submit(self, queue: str, worker: str, claimed: Claimed, *, at_once: bool = False) -> None:
        """Run a claimed job, now or when a slot is free; its slot is counted as taken already.

        With `at_once` it runs up to its first wait before this returns, for a job that comes alone (Python 3.12).
        """
        run = Run(queue, worker, claimed)
        if self._is_duplicate(run):
            return
        if self._weights is not None:
            self._weigh(run)
        if self._stopping:
            self._release(run)
        elif self._weights is None and len(self._running) - self._lending.lent >= self._slots.total:
            self._backlog.append(run)
        elif self._weights is not None and not self._may_start(run):
            self._wait(run)
        else:
            self._start(run, at_once=at_once)

    def decline(self, queue: str, worker: str, claimed: Claimed) -> None:
        """Give back a job for which no slot is free; one is counted as taken for it already."""
        run = Run(queue, worker, claimed)
        if not self._is_duplicate(run):
            self._release(run)

    def cancel(self, queue: str, worker: str, job_id: str, stop: str, reason: str = "") -> None:
        """Cancel a job that was claimed under this worker id, if it is here.

        `stop` is the cause, as in `Run.stop`, and `reason` the reason that a person gave, for the log.
        """
        run = self._running.get((queue, worker, job_id))
        if run is not None:
            run.reason = run.reason or reason
            self._cancel(run, stop)
            return
        if not self._cancel_item((queue, worker, job_id), stop, reason):
            self._cancel_waiting((queue, worker, job_id))

    def abandon(self, queue: str, worker: str) -> dict[str, int]:
        """The lease of `worker` is lost: cancel the jobs that were claimed under it, and write no outcome of them.

        Returns the number of the claim, by job id.
        """
        claims: dict[str, int] = {}
        for run in [run for run in self._backlog if run.key[:2] == (queue, worker)]:
            self._backlog.remove(run)
            self._slots.give_back(run.slots, queue)
            claims |= self._batches.abandoned(run)
        for run in tuple(self._running.values()):
            if run.queue == queue and run.worker == worker:
                self._cancel(run, LOST)
                claims |= self._batches.claims_of(run)
        return claims

    def stop(self) -> int:
        """Start no more jobs, and give back those that were not started; return how many jobs still run."""
        self._stopping, self._stopped_at = True, asyncio.get_running_loop().time()
        self._give_up_waiting()
        self._caller.close()
        return len(self._running)

    def note_worker_ends(self) -> None:
        """The worker ends by itself: code in it has caused that, and may have cancelled other jobs' tasks."""
        self._worker_ends = True

    async def wait_idle(self) -> None:
        """Return once no job runs."""
        await self._idle.wait()

    async def interrupt(self) -> None:
        """Cancel the running jobs and give them back; return when none runs, after at most `GRACE` seconds."""
        for run in tuple(self._running.values()):
            short = self._stopped_at - run.started < SHORT_RUN
            self._cancel(run, WORKER_ENDED if self._worker_ends else CUT_SHORT if short else INTERRUPTED)
        await self._idle.wait()

    def _is_duplicate(self, run: Run) -> bool:
        """Whether the worker already has this job; if so, it is handled here and not run a second time.

        The server may have forgotten the first claim, as after a failover. The present run goes on under the new
        one; a job of another send waits for its end.
        """
        present = self._running.get(run.key)
        if present is None and self._batches.items:
            present = self._batches.items.get(run.key)
        if present is None and self._backlog:
            present = next((waiting for waiting in self._backlog if waiting.key == run.key), None)
        if present is None:
            return False
        if not present.is_same_send(run):
            log.warning(
                "queue %s: job %s is still run here under an earlier send; this one waits", run.queue, run.key[2]
            )
            self._end(run, snooze(run, SAME_ID_DELAY_MS))
            return True
        log.warning(
            "queue %s: the server gave job %s again, which runs here already: it goes on", run.queue, run.key[2]
        )
        present.claimed = run.claimed
        self._attach_reporter(present)
        self._slots.give_back(1, run.queue)
        return True

    def _attach_reporter(self, run: Run) -> None:
        """Let a run report its progress under its present claim."""
        if run.context is not None:
            claimed = run.claimed
            attach(run.context, self._reporter_of(run.queue, run.worker, claimed.id, claimed.claim))

    def _cancel(self, run: Run, stop: str) -> None:
        if run.returned and stop != LOST:
            return  # its function has returned, so it has an outcome
        cancelled = run.stop is not None
        if cancelled and stop != LOST:
            return  # a second cancellation would interrupt its clean-up
        run.stop = stop
        if run.context is not None:
            run.context.cancel_requested = True
        if run.items is not None:
            self._batches.request_cancel(run)
        if run.handle is not None:
            run.handle.cancel()
        if not cancelled:
            asyncio.get_running_loop().call_later(GRACE, self._leave_behind, run)

    def _leave_behind(self, run: Run) -> None:
        if self._running.get(run.key) is not run or run.stop is None:
            return  # it has ended in time, or goes on after a call that has
        self._left_behind.add(run)
        run.error = asyncio.CancelledError()
        self._finish(run)
        log.warning("%s[%s] does not end when it is cancelled; it is left behind", run.name, run.claimed.id)
        if run.handle is not None:
            run.handle.cancel()  # the first cancellation may have got lost in asyncio.wait_for of Python 3.11

    def _start(self, run: Run, *, at_once: bool = False) -> None:
        """Start the asyncio task of a run that has a slot."""
        loop = asyncio.get_running_loop()
        run.started = loop.time()
        self._running[run.key] = run
        self._heavier += run.slots - 1
        self._idle.clear()
        at_once = at_once and not self._not_entered  # jobs that were claimed before begin before
        self._not_entered += 1
        execute = self._execute if run.items is None else self._execute_batch
        work, context = execute(run), self._context.copy()
        try:
            run.handle = run_at_once(work, context) if at_once else loop.create_task(work, context=context)
        except BaseException as error:  # a task factory of the user's has raised
            self._not_entered -= 1
            work.close()
            self._end_early(run, error)
            return
        if not run.handle.done():
            run.handle.add_done_callback(partial(self._on_task_done, run))
        elif self._running.get(run.key) is run:
            self._on_task_done(run, run.handle)

    async def _execute(self, run: Run) -> None:
        """Carry a run from claimed to settled."""
        run.entered = True
        self._not_entered -= 1
        self._prepare(run)
        if run.settlement is None:
            asyncio_task = run.handle or cast("asyncio.Task[None]", asyncio.current_task())
            asyncio_task.set_name(f"{run.name}[{run.claimed.id}]")
            try:
                run.result = await self._caller.call(run, self._begin)
                if run.envelope is not None and run.envelope.flow is not None:
                    await self._environment.offer(run)
            except BaseException as error:
                self._failed(run, error)
            if os.getpid() != self._pid:
                end_fork(self._pid, run.error)
            run.returned = True
            if run.timer is not None:
                run.timer.cancel()
            report = self._flush_report(run.queue, run.worker, run.claimed.id, run.claimed.claim)
            if report is not None:
                await asyncio.wait([report], timeout=GRACE)  # the outcome does not wait for it any longer
        self._finish(run)

    def _prepare(self, run: Run) -> None:
        """Prepare a run for its call; if that is impossible, `run.settlement` is set. It raises nothing."""
        run.settlement = prepare(run, self._environment)
        log_received(run)
        self._attach_reporter(run)

    def _begin(self, run: Run) -> None:
        """The run has its place (a thread, a process) and begins: its timeout starts."""
        if run.begun or run.stop is not None:
            return
        begin(run)
        loop = asyncio.get_running_loop()
        arrived, run.started = run.started, loop.time()
        run.waited = run.started - arrived
        if run.timeout is not None:
            start_timeout(run, self._cancel, run.timeout)

    def _on_task_done(self, run: Run, task: "asyncio.Task[None]") -> None:
        """Finish a run that was cancelled before its first step, or while its last report was written."""
        self._left_behind.discard(run)
        if not run.entered:
            self._not_entered -= 1
        if self._running.get(run.key) is run:
            fault = None if task.cancelled() else task.exception()
            self._end_early(run, asyncio.CancelledError() if fault is None else fault)

    def _end_early(self, run: Run, error: BaseException) -> None:
        """End a run that has not finished by itself; if its function has returned, its own outcome counts."""
        if not run.entered and run.items is None:
            self._prepare(run)  # so that its outcome names its task
        if run.error is None and not run.returned:
            self._failed(run, error)
        self._finish(run)

    def _in_thread(self, context: JobContext) -> bool | None:
        """Whether a job's function runs in a thread; None if the job does not run any more."""
        run = self._running.get((place_of(context), worker_of(context), context.id))
        if run is None or run.context is not context:
            return None
        return run.task is not None and run.task.executor == "thread"

    def _slots_of(self, context: JobContext) -> int:
        """How many slots a job has."""
        run = self._running.get((place_of(context), worker_of(context), context.id))
        return 1 if run is None else run.slots

    def _slot_lent(self) -> None:
        if self._backlog:
            self._start_backlog()

    def _failed(self, run: Run, error: BaseException) -> None:
        run.error = error
        if self._worker_ends and run.stop is None and is_a(error, asyncio.CancelledError):
            run.stop = WORKER_ENDED  # the code that ends the worker cancels the tasks of other jobs too

    def _finish(self, run: Run) -> None:
        """End a run: first settle it and give its slot back, then call what might raise, guarded."""
        if self._running.get(run.key) is not run:
            return  # it was left behind, and has its outcome
        if run.items is not None:
            self._finish_batch(run)
            return
        seconds = asyncio.get_running_loop().time() - run.started
        if run.settlement is None or run.stop == LOST:
            run.settlement = classify(run, self._environment, seconds if self._reports else None)
        del self._running[run.key]
        self._heavier -= run.slots - 1
        if self._lending.lent:
            self._lending.drop(run.context)
        self._end(run, run.settlement, seconds)
        log_ended(run, seconds)
        if self._backlog:
            self._start_backlog()
        if not self._running:
            self._idle.set()
            self._on_idle()
        if self._on_end is not None:
            self._on_end(run, seconds)

    def _end(self, run: Run, settlement: Settlement | None, seconds: float = 0.0) -> None:
        """Pass a settlement to the settler, if there is one, and give the slot back."""
        try:
            if settlement is not None:
                if self._reports and settlement.report is None:
                    settlement.report = report_of(run, settlement, seconds)
                self._settle(run.queue, run.worker, settlement)
        finally:
            self._slots.give_back(run.slots, run.queue)
