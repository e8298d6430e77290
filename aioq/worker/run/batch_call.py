"""The calls of one batch: of the function with its jobs, and of the middleware around each of them."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

from aioq.errors import ResultError
from aioq.jobs.context import enter_job, here
from aioq.jobs.middleware import Middleware, wrapped
from aioq.jobs.retry import Retry, Snooze
from aioq.jobs.verdicts import Cancel, Fail, asked_by
from aioq.tasks.batches import BatchItem, BatchTask, Marked, item_of, renew, results_of
from aioq.tasks.task import app_of
from aioq.worker.run.call import Begin, Caller
from aioq.worker.run.run import TIMED_OUT, Run

CALLS_A_POISON = 4
"""How often as many calls as it takes to find one job are made, before the jobs that are left fail together. A
guess: four jobs at fault are found, and a database that is away is not asked two hundred times."""


class BatchCall:
    """The calls of the function for one batch.

    Attributes:
        found: by job its result, or its error as a `Marked`.
    """

    def __init__(self, run: Run, caller: Caller, begin: Begin, is_here: Callable[[Run], bool]) -> None:
        self.found: dict[Run, Any] = {}
        self._run = run
        self._caller = caller
        self._begin_run = begin
        self._is_here = is_here
        self._items: dict[Run, BatchItem[Any]] = {}

    async def run_all(self, items: Sequence[Run]) -> None:
        """Call the function for these jobs; with `bisect` again with each half where it raises."""
        task = cast("BatchTask[Any, Any]", items[0].task)
        self._items = {
            item: item_of(app_of(task), item.args[0], item.context) for item in items if item.context is not None
        }
        left = most_calls(len(items)) if task.batch.on_error == "bisect" else 1
        parts = [list(items)]
        while parts:
            part = [item for item in parts.pop() if self._is_here(item)]
            if not part:
                continue
            left -= 1
            error = await self._of(task, part)
            if error is None:
                continue
            if left > 0 and len(part) > 1 and self._may_split(error):
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
                continue
            for item in part:
                self.found[item] = Marked(error)
                item.stop = TIMED_OUT if isinstance(error, _BatchTimeoutError) else item.stop
                item.permanent = error if isinstance(error, ResultError) else None

    def _may_split(self, error: BaseException) -> bool:
        """Whether an error is probably that of some jobs alone; a request of the function is about all."""
        if isinstance(error, _BatchTimeoutError) and self._run.task is not None:
            return self._run.task.executor == "async"  # a thread still runs
        return not isinstance(asked_by(error), Retry | Snooze | Cancel | Fail | ResultError)

    async def _of(self, task: BatchTask[Any, Any], part: Sequence[Run]) -> BaseException | None:
        """Call the function for some jobs; returns what it has raised."""
        run, items = self._run, [self._items[each] for each in part]
        for item in items:
            renew(item)
        run.args, run.kwargs, run.begun = (items,), {}, False
        try:
            results = await self._caller.call_batch(run, partial(self._begin, part))
            found = results_of(f"task {task.name!r}", task.batch, items, results)
        except asyncio.CancelledError as error:
            if run.stop != TIMED_OUT:
                if run.stop is not None:
                    raise
                return error  # the function's own
            cast("asyncio.Task[None]", asyncio.current_task()).uncancel()
            run.stop = None
            return _BatchTimeoutError(f"the batch took longer than its timeout of {run.timeout:g} s")
        except BaseException as error:
            return error
        finally:
            if run.timer is not None:
                run.timer.cancel()
        self.found |= dict(zip(part, found, strict=True))
        return None

    def _begin(self, part: Sequence[Run], run: Run) -> None:
        is_first = not run.begun
        self._begin_run(run)
        now, deadline = asyncio.get_running_loop().time(), run.context and run.context.deadline
        for item in part if is_first else ():
            if item.context is not None:
                item.context.deadline = deadline
            if not item.begun:
                item.begun, item.waited, item.started = True, now - item.started, now


class _BatchTimeoutError(TimeoutError):
    """The timeout of the batch has ended a call."""


def most_calls(count: int) -> int:
    """How often the function is called at most to find out which of so many jobs are at fault."""
    return CALLS_A_POISON * (1 + 2 * (count - 1).bit_length())


def take(item: Run, found: Any) -> None:
    """Note what became of a job."""
    if isinstance(found, Marked):
        item.error = found.error
    else:
        item.result = found
    item.returned = True


class BatchLayers:
    """The middleware around each job of a batch: all come to the call, and then it is made."""

    def __init__(self, middleware: Sequence[Middleware], items: Sequence[Run]) -> None:
        self._middleware = middleware
        self._items = items
        self._missing = set(items)
        self._waiting: dict[Run, asyncio.Future[Any]] = {}
        self._all_here = asyncio.Event()

    async def run(self, call: BatchCall) -> None:
        """Run all jobs inside their middleware."""
        tasks = [asyncio.create_task(self._through(item)) for item in self._items]
        try:
            await self._all_here.wait()
            come = [item for item in self._items if item in self._waiting]
            if come:
                await call.run_all(come)
            for item, future in self._waiting.items():
                if not future.done():
                    future.set_result(call.found.get(item))
            await asyncio.wait(tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for item in self._items:
                item.returned = False
            raise

    async def _through(self, item: Run) -> None:
        assert item.context is not None
        enter_job(item.context)
        here.jobs += 1
        try:
            item.result = await wrapped(self._middleware, item.context, partial(self._outcome, item))
            item.error = None
        except BaseException as error:
            item.error = error
        finally:
            here.jobs -= 1
            item.returned = True
            self._note(item)

    async def _outcome(self, item: Run) -> Any:
        """What became of a job, once the function was called."""
        if item not in self._waiting:
            self._waiting[item] = asyncio.get_running_loop().create_future()
        self._note(item)
        here.jobs -= 1  # it is the batch that runs
        try:
            found = await asyncio.shield(self._waiting[item])
        finally:
            here.jobs += 1
        if isinstance(found, Marked):
            raise found.error.with_traceback(found.traceback)
        return found

    def _note(self, item: Run) -> None:
        self._missing.discard(item)
        if not self._missing:
            self._all_here.set()
