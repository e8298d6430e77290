"""Duty: run claimed jobs, each in an asyncio task of its own, and hand what became of them to the settler.

    submit -> _start -> _execute: prepare -> call -> last report -> _finish

`_execute` carries a run from claimed to settled. Nothing a job does gets past it: whatever it raises,
SystemExit and its like included, becomes its outcome. `_finish` is the one end of all runs: the outcome goes to
the settler and the slot is given back before anything else that the end brings along, the log line above all, so
that nothing can come between.

A job that is cancelled (a timeout, a cancellation, a lost lease) and does not end is left behind: its outcome is
written and its slot is free, whatever its function still does.
"""

import asyncio
import os
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from functools import partial
from typing import Any, cast

from aioq.jobs.context import JobContext, attach, worker_of
from aioq.jobs.job import Progress
from aioq.store.contract import Claimed, Settlement
from aioq.util.introspect import is_a
from aioq.util.log import logger
from aioq.worker.forks import end_fork
from aioq.worker.run.call import Caller
from aioq.worker.run.environment import RunEnvironment
from aioq.worker.run.logging import log_ended, log_received
from aioq.worker.run.pipeline import begin, prepare
from aioq.worker.run.run import CUT_SHORT, FALLEN, INTERRUPTED, LOST, TIMED_OUT, Run, RunKey
from aioq.worker.run.settlements import classify, release, snooze
from aioq.worker.slots import Slots

log = logger("aioq.worker")

GRACE = 5.0
"""Seconds a job has to end once it is cancelled; a guess at what closing connections takes."""

AGAIN_MS = 1_000
"""How long a job waits whose id an earlier one still has in this worker. A guess: only manual changes bring that
about."""

SHORT_RUN = 60.0
"""A run that had begun less than these seconds before its worker was stopped counts as cut short: `Verb.CUT` has a
bound on how often in a row. A job that has its own worker stopped is at it within seconds; one that a deployment
meets is anywhere in its run."""

Settle = Callable[[str, str, Settlement], None]
ReporterOf = Callable[[str, str, str, int], Callable[[Progress], None]]
FlushReport = Callable[[str, str, str, int], "asyncio.Task[None] | None"]


def _run_at_once(work: Coroutine[Any, Any, None], context: Context) -> "asyncio.Task[None]":
    loop = asyncio.get_running_loop()
    if sys.version_info >= (3, 12):
        return asyncio.Task(work, loop=loop, context=context, eager_start=True)
    return loop.create_task(work, context=context)


class Executor:
    """Runs the claimed jobs of all queues of a worker.

    Args:
        environment: what the steps of all runs share.
        caller: runs the functions.
        slots: given back as jobs end.
        settle: writes a settlement: queue, worker, settlement.
        reporter_of: makes what a job reports its progress through.
        flush_report: writes a job's last report; None when there is none.
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
        self._settle = settle
        self._reporter_of = reporter_of
        self._flush_report = flush_report
        self._on_idle = on_idle
        self._on_end = on_end
        self._running: dict[RunKey, Run] = {}
        self._backlog: deque[Run] = deque()
        self._going_on = False
        self._to_enter = 0  # runs whose tasks have not had their first step
        self._stopping = False
        self._stopped_at = 0.0
        self._falls = False
        self._left: set[Run] = set()
        self._context = copy_context()  # a job sees what its worker's start has set, whichever message brings it
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
        )

    @property
    def left_behind(self) -> int:
        """Coroutines that run on although their jobs have an outcome, because they do not heed a cancellation."""
        return len(self._left)

    @property
    def running(self) -> int:
        """Jobs that are being run."""
        return len(self._running)

    def submit(self, queue: str, worker: str, claimed: Claimed, *, at_once: bool = False) -> None:
        """Run a claimed job, now or when a slot is free; its slot is taken already.

        With `at_once` it runs up to its first wait before this returns, where Python can do that: for a job that
        comes alone, and so delays no other job. Not while one that was claimed earlier has yet to begin.
        """
        run = Run(queue, worker, claimed)
        if self._has_again(run):
            return
        if self._stopping:
            self._end(run, release(run))
        elif len(self._running) - self._lending.lent >= self._slots.total:
            self._backlog.append(run)
        else:
            self._start(run, at_once=at_once)

    def decline(self, queue: str, worker: str, claimed: Claimed) -> None:
        """Give back a job that there is no slot for; one is taken already."""
        run = Run(queue, worker, claimed)
        if not self._has_again(run):
            self._end(run, release(run))

    def cancel(self, queue: str, worker: str, job_id: str, reason: str, why: str = "") -> None:
        """Cancel a job that is here; nothing where it is not (any more). `why` is for the log."""
        run = self._running.get((queue, worker, job_id))
        if run is not None:
            run.why = run.why or why
            self._cancel(run, reason)
            return
        for waiting in self._backlog:
            if waiting.key == (queue, worker, job_id):
                self._backlog.remove(waiting)
                self._end(waiting, release(waiting))  # the server ends it: its cancellation was asked for
                return

    def abandon(self, queue: str, worker: str) -> dict[str, int]:
        """The lease of `worker` is lost: cancel what was claimed under it, and write nothing of it.

        Returns:
            The jobs, and the number of the claim of each.
        """
        claims: dict[str, int] = {}
        for run in [run for run in self._backlog if run.queue == queue and run.worker == worker]:
            self._backlog.remove(run)
            self._slots.give_back()
            claims[run.claimed.id] = run.claimed.claim
        for run in tuple(self._running.values()):
            if run.queue == queue and run.worker == worker:
                self._cancel(run, LOST)
                claims[run.claimed.id] = run.claimed.claim
        return claims

    def stop(self) -> int:
        """Start nothing more, and give back what was not started; how many jobs still run."""
        self._stopping, self._stopped_at = True, asyncio.get_running_loop().time()
        while self._backlog:
            run = self._backlog.popleft()
            self._end(run, release(run))
        self._caller.close()
        return len(self._running)

    def fall(self) -> None:
        """The worker ends by itself: something it runs has done that, and may have cancelled other jobs' tasks."""
        self._falls = True

    async def wait_idle(self) -> None:
        """Return once no job runs."""
        await self._idle.wait()

    async def interrupt(self) -> None:
        """Cancel what runs and give it back; returns when no job runs, after `GRACE` seconds at the latest."""
        for run in tuple(self._running.values()):
            short = self._stopped_at - run.started < SHORT_RUN
            self._cancel(run, FALLEN if self._falls else CUT_SHORT if short else INTERRUPTED)
        await self._idle.wait()

    def _has_again(self, run: Run) -> bool:
        """Whether the worker was given a job that it has already, and so does not run it a second time.

        The server has forgotten the first claim, as after a failover to a replica that lagged. The run that is
        here goes on under the new claim. Where the id is another send's by now it cannot: that one waits until
        it has ended.
        """
        here = self._running.get(run.key)
        if here is None and self._backlog:
            here = next((waiting for waiting in self._backlog if waiting.key == run.key), None)
        if here is None:
            return False
        if not here.runs_what(run):
            log.warning(
                "queue %s: job %s is still run here under an earlier send; this one waits", run.queue, run.key[2]
            )
            self._end(run, snooze(run, AGAIN_MS))
            return True
        log.warning(
            "queue %s: the server gave job %s again, which runs here already: it goes on", run.queue, run.key[2]
        )
        here.claimed = run.claimed
        self._report_from(here)
        self._slots.give_back()
        return True

    def _report_from(self, run: Run) -> None:
        """Let a run report its progress under the claim that it has now."""
        if run.context is not None:
            claimed = run.claimed
            attach(run.context, self._reporter_of(run.queue, run.worker, claimed.id, claimed.claim))

    def _cancel(self, run: Run, reason: str) -> None:
        if run.over and reason != LOST:
            return  # its function has returned: it has an outcome
        cancelled = run.stop is not None
        if cancelled and reason != LOST:
            return  # a second cancellation would break into its cleaning up
        run.stop = reason
        if run.context is not None:
            run.context.cancel_requested = True
        if run.handle is not None:
            run.handle.cancel()
        if not cancelled:
            asyncio.get_running_loop().call_later(GRACE, self._leave_behind, run)

    def _leave_behind(self, run: Run) -> None:
        if self._running.get(run.key) is not run:
            return  # it has ended in time
        self._left.add(run)
        run.error = asyncio.CancelledError()
        self._finish(run)
        log.warning("%s[%s] does not end when it is cancelled; it is left behind", run.name, run.claimed.id)
        if run.handle is not None:
            run.handle.cancel()  # the first one may have been swallowed by chance: asyncio.wait_for on Python 3.11

    def _start(self, run: Run, *, at_once: bool = False) -> None:
        """Start the asyncio task of a run that has a slot."""
        loop = asyncio.get_running_loop()
        run.started = loop.time()
        self._running[run.key] = run
        self._idle.clear()
        at_once = at_once and not self._to_enter  # what was claimed before begins before
        self._to_enter += 1
        work, context = self._execute(run), self._context.copy()
        try:
            if at_once:
                run.handle = _run_at_once(work, context)
            else:
                run.handle = loop.create_task(work, context=context)
        except BaseException as error:  # a task factory of the user's has raised
            self._to_enter -= 1
            work.close()
            self._give_up(run, error)
            return
        if not run.handle.done():
            run.handle.add_done_callback(partial(self._ended, run))
        elif self._running.get(run.key) is run:
            self._ended(run, run.handle)

    async def _execute(self, run: Run) -> None:
        """Carry a run from claimed to settled."""
        run.entered = True
        self._to_enter -= 1
        self._prepare(run)
        if run.settlement is None:
            (run.handle or cast("asyncio.Task[None]", asyncio.current_task())).set_name(
                f"{run.name}[{run.claimed.id}]"
            )
            try:
                run.result = await self._caller.call(run, self._begin)
            except BaseException as error:
                self._failed(run, error)
            if os.getpid() != self._pid:
                end_fork(self._pid, run.error)
            run.over = True
            if run.timer is not None:
                run.timer.cancel()
            report = self._flush_report(run.queue, run.worker, run.claimed.id, run.claimed.claim)
            if report is not None:
                await asyncio.wait([report], timeout=GRACE)  # no outcome waits for it for long
        self._finish(run)

    def _prepare(self, run: Run) -> None:
        """Make a run ready to be called; one that cannot be has its settlement then. It raises nothing."""
        run.settlement = prepare(run, self._environment)
        log_received(run)
        self._report_from(run)

    def _begin(self, run: Run) -> None:
        """The run has a place, and begins: from here on its time is its own."""
        if run.begun or run.stop is not None:
            return
        begin(run)
        loop = asyncio.get_running_loop()
        run.started = loop.time()
        if run.timeout is not None:
            run.timer = loop.call_later(run.timeout, self._cancel, run, TIMED_OUT)

    def _ended(self, run: Run, task: "asyncio.Task[None]") -> None:
        """What was cancelled before its first step, or while its last report was written, is finished here."""
        self._left.discard(run)
        if not run.entered:
            self._to_enter -= 1
        if self._running.get(run.key) is run:
            fault = None if task.cancelled() else task.exception()
            self._give_up(run, asyncio.CancelledError() if fault is None else fault)

    def _give_up(self, run: Run, error: BaseException) -> None:
        """End a run that has not come to its end by itself; where its function has, that is its outcome."""
        if not run.entered:
            self._prepare(run)  # its outcome names its task
        if run.error is None and not run.over:
            self._failed(run, error)
        self._finish(run)

    def _in_thread(self, context: JobContext) -> bool | None:
        """Whether a job's function is in a thread; None where it is not run any more."""
        run = self._running.get((context.queue, worker_of(context), context.id))
        if run is None or run.context is not context:
            return None
        return run.task is not None and run.task.executor == "thread"

    def _slot_lent(self) -> None:
        if self._backlog:
            self._go_on()

    def _failed(self, run: Run, error: BaseException) -> None:
        run.error = error
        if self._falls and run.stop is None and is_a(error, asyncio.CancelledError):
            run.stop = FALLEN  # what ends the worker cancels the tasks of other jobs too

    def _finish(self, run: Run) -> None:
        """End a run: outcome and slot first, then what may raise, which is guarded."""
        if self._running.get(run.key) is not run:
            return  # it was left behind, and has its outcome
        if run.settlement is None or run.stop == LOST:
            run.settlement = classify(run, self._environment)
        del self._running[run.key]
        if self._lending.lent:
            self._lending.drop(run.context)
        self._end(run, run.settlement)
        seconds = asyncio.get_running_loop().time() - run.started
        log_ended(run, seconds)
        if self._backlog:
            self._go_on()
        if not self._running:
            self._idle.set()
            self._on_idle()
        if self._on_end is not None:
            self._on_end(run, seconds)

    def _go_on(self) -> None:
        """Start what waits for a slot; a run that ends at once, in here, leaves the next one to the loop below."""
        if self._going_on:
            return
        self._going_on = True
        try:
            while self._backlog and len(self._running) - self._lending.lent < self._slots.total:
                self._start(self._backlog.popleft())
        finally:
            self._going_on = False

    def _end(self, run: Run, settlement: Settlement | None) -> None:
        try:
            if settlement is not None:
                self._settle(run.queue, run.worker, settlement)
        finally:
            self._slots.give_back()
