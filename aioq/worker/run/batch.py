"""Runs the jobs of a batch by one call of their function.

    prepare -> call, once or more (`on_error="bisect"`) -> finish

A batch is a `Run` with `items`: one run for each of its jobs, which ends as any other run does. The batch itself
has a slot, an asyncio task and a timeout, and no settlement. Each job has the middleware around it: the function
is called once all of them have come to that. A job that is cancelled ends at once, and what is returned for it is
dropped.
"""

import asyncio
import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, cast

from aioq.jobs.context import JobContext
from aioq.store.contract import Claimed, Settlement
from aioq.tasks.batches import BatchTask
from aioq.worker.forks import end_fork
from aioq.worker.run.batch_call import BatchCall, BatchLayers, take
from aioq.worker.run.call import Begin, Caller
from aioq.worker.run.environment import RunEnvironment
from aioq.worker.run.logging import log_ended, log_received
from aioq.worker.run.pipeline import prepare
from aioq.worker.run.run import CANCELLED, GRACE, LOST, Run, RunKey
from aioq.worker.run.settlements import classify, release, report_of
from aioq.worker.run.waiting import WaitingRuns


class Batches:
    """The batches of a worker.

    Args:
        environment: what the steps of all runs share.
        caller: runs the functions.
        settle: writes a settlement; called with queue, worker and settlement.
        flush: writes a job's last report and lines; returns the task that does so, None if nothing is left.
        on_end: called with each settled run and its duration in seconds; None for no call.

    Attributes:
        items: the runs of all jobs of batches that have not ended.
    """

    def __init__(
        self,
        environment: RunEnvironment,
        caller: Caller,
        *,
        settle: Callable[[str, str, Settlement], None],
        flush: Callable[[str, str, str, int], "asyncio.Task[None] | None"],
        on_end: Callable[[Run, float], None] | None,
    ) -> None:
        self.items: dict[RunKey, Run] = {}
        self._environment = environment
        self._caller = caller
        self._settle = settle
        self._flush = flush
        self._on_end = on_end
        self._reports = bool(environment.settings.history or environment.settings.stats)

    def gathered(self, items: list[Run]) -> Run:
        """The run of a batch of these jobs."""
        first = items[0]
        run = Run(first.queue, first.worker, first.claimed, items=items)
        run.key = (first.queue, first.worker, f"\n{first.claimed.id}")  # no job has such an id
        for item in items:
            item.batch = run
            self.items[item.key] = item
        return run

    def prepare(self, run: Run) -> list[Run]:
        """Prepare the jobs of a batch for its call; those that cannot be called end.

        Returns:
            Those that are to be run alone: on their last chance, or of a task that has no batches any more.
        """
        assert run.items is not None
        alone: list[Run] = []
        for item in tuple(run.items):
            item.started, item.entered = run.started, True
            item.settlement = prepare(item, self._environment)
            if item.settlement is None and (item.isolated or not isinstance(item.task, BatchTask)):
                item.entered, item.batch = False, None
                run.items.remove(item)
                self.items.pop(item.key, None)
                alone.append(item)
                continue
            log_received(item)
            if item.settlement is not None:
                self._end(item)
        run.items = [item for item in run.items if item.key in self.items]
        if run.items:
            first = run.items[0]
            run.envelope, run.task, run.timeout = (
                first.envelope,
                cast("Any", first.task).many,
                self._timeout(first),
            )
            run.context = JobContext(job_id=first.claimed.id, task=run.name, queue=run.queue, slots=run.slots)
        return alone

    def _timeout(self, run: Run) -> float | None:
        """The timeout of a batch: the task's, and not that of one of its jobs."""
        given = None if run.task is None else run.task.defaults.timeout
        return (self._environment.settings.timeout if given is None else given) or None

    async def call(self, run: Run, begin: Begin) -> None:
        """Call the function; after that each job has its result or its error.

        Cancellation: the function is cancelled, and this raises CancelledError, unless that was the timeout.
        """
        for item in tuple(run.items or ()):
            if item.lacks_inputs:
                await self._read_inputs(item)
        items = [item for item in run.items or () if self._is_here(item)]
        if not items:
            return
        call = BatchCall(run, self._caller, begin, self._is_here)
        if self._caller.middleware:
            await BatchLayers(self._caller.middleware, items).run(call)
        else:
            await call.run_all(items)
            for item in items:
                take(item, call.found.get(item))
        lines = [self._flush(item.queue, item.worker, item.claimed.id, item.claimed.claim) for item in items]
        if writing := [task for task in lines if task is not None]:
            await asyncio.wait(writing, timeout=GRACE)

    async def _read_inputs(self, item: Run) -> None:
        """Read the results that a job of a flow uses; if that fails, it ends alone."""
        try:
            await self._caller.read_inputs(item)
        except Exception as error:
            item.error = error
            self._end(item)

    def _is_here(self, item: Run) -> bool:
        return self.items.get(item.key) is item

    def cancel(self, item: Run) -> bool:
        """End one job of a batch as cancelled; returns whether the batch has no other one left."""
        if item.envelope is None:
            prepare(item, self._environment)
        item.stop, item.error, item.settlement = CANCELLED, asyncio.CancelledError(), None
        if item.context is not None:
            item.context.cancel_requested = True
        self._end(item)
        assert item.batch is not None
        return not any(self._is_here(other) for other in item.batch.items or ())

    def release(self, run: Run) -> None:
        """Give back the jobs of a batch that was not started."""
        for item in run.items or ():
            if self._is_here(item):
                item.settlement = release(item)
                self._end(item, is_logged=False)

    @staticmethod
    def request_cancel(run: Run) -> None:
        """Let the items of a batch say that it is being cancelled."""
        for item in run.items or ():
            if item.context is not None:
                item.context.cancel_requested = True

    def claims_of(self, run: Run) -> dict[str, int]:
        """The number of the claim of a run, or of each job of a batch, by job id."""
        return {each.claimed.id: each.claimed.claim for each in ([run] if run.items is None else run.items)}

    def abandoned(self, run: Run) -> dict[str, int]:
        """The same for one that has not begun, and whose lease is lost: nothing is written of it."""
        for item in run.items or ():
            self.items.pop(item.key, None)
        return self.claims_of(run)

    def finish(self, run: Run) -> None:
        """End the jobs of a batch that have not ended."""
        for item in run.items or ():
            if not self._is_here(item):
                continue
            if not item.returned or run.stop == LOST:
                if item.envelope is None:
                    prepare(item, self._environment)
                item.stop = run.stop or item.stop
                item.error = run.error or asyncio.CancelledError()
            item.returned = True
            self._end(item)

    def _end(self, item: Run, *, is_logged: bool = True) -> None:
        """Settle one job, and then call what might raise, guarded."""
        del self.items[item.key]
        seconds = asyncio.get_running_loop().time() - item.started
        if item.settlement is None or item.stop == LOST:
            item.settlement = classify(item, self._environment, seconds if self._reports else None)
        if item.settlement is not None:
            if self._reports and item.settlement.report is None:
                item.settlement.report = report_of(item, item.settlement, seconds)
            self._settle(item.queue, item.worker, item.settlement)
        if not is_logged:
            return
        log_ended(item, seconds)
        if self._on_end is not None:
            self._on_end(item, seconds)


class BatchExecution(WaitingRuns):
    """What the executor does for batches; the rest of it is for single jobs and for batches alike."""

    _batches: Batches
    _stopping: bool
    _not_entered: int
    _pid: int
    _idle: asyncio.Event
    _on_idle: Callable[[], None]

    def submit_batch(self, queue: str, worker: str, claimed: Sequence[Claimed]) -> None:
        """Run jobs that were claimed together by one call, now or when a slot is free; one is counted as taken."""
        self._slots.take(len(claimed) - 1, queue)  # each that runs here already gives one back
        items = [run for each in claimed if not self._is_duplicate(run := Run(queue, worker, each))]
        self._slots.give_back(max(len(items) - 1, 0), queue)
        if not items:
            return
        run = self._batches.gathered(items)
        if self._weights is not None:
            self._weigh(run)
        if self._stopping:
            self._release(run)
        elif not (self._has_room(run) if self._weights is None else self._may_start(run)):
            self._wait(run)
        else:
            self._start(run)

    def _cancel_item(self, key: RunKey, stop: str, reason: str) -> bool:
        """Cancel one job of a batch, if it is one; with the last one of them the batch is cancelled."""
        item = self._batches.items.get(key)
        if item is None:
            return False
        item.reason = item.reason or reason
        if self._batches.cancel(item) and item.batch is not None:
            self._cancel(item.batch, stop)
        return True

    async def _execute_batch(self, run: Run) -> None:
        """Carry a batch from claimed to settled."""
        run.entered = True
        self._not_entered -= 1
        for alone in self._batches.prepare(run):
            alone.slots = run.slots
            self._slots.take(run.slots, run.queue)
            self._start(alone)
        asyncio_task = run.handle or cast("asyncio.Task[None]", asyncio.current_task())
        asyncio_task.set_name(f"{run.name}[a batch of {len(run.items or ())}]")
        try:
            await self._batches.call(run, self._begin)
        except BaseException as error:
            self._failed(run, error)
        if os.getpid() != self._pid:
            end_fork(self._pid, run.error)
        run.returned = True
        self._finish(run)

    def _finish_batch(self, run: Run) -> None:
        """End a batch, as `_finish` ends any other run."""
        del self._running[run.key]
        self._heavier -= run.slots - 1
        self._batches.finish(run)
        self._end(run, None)
        if self._backlog:
            self._start_backlog()
        if not self._running:
            self._idle.set()
            self._on_idle()

    def _release(self, run: Run) -> None:
        """Give back a run that was not started."""
        if run.items is not None:
            self._batches.release(run)
        self._end(run, None if run.items is not None else release(run))

    @abstractmethod
    def _is_duplicate(self, run: Run) -> bool: ...
    @abstractmethod
    def _cancel(self, run: Run, stop: str) -> None: ...
    @abstractmethod
    def _begin(self, run: Run) -> None: ...
    @abstractmethod
    def _failed(self, run: Run, error: BaseException) -> None: ...
    @abstractmethod
    def _finish(self, run: Run) -> None: ...
    @abstractmethod
    def _end(self, run: Run, settlement: Settlement | None, seconds: float = 0.0) -> None: ...
