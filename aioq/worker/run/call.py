"""The step `call`: run the task's function where it belongs, inside the middleware."""

import asyncio
import contextlib
import contextvars
import logging
import math
import threading
from collections.abc import Callable, Sequence
from functools import partial
from inspect import isawaitable
from typing import Any

import anyio
import anyio.to_thread
import msgspec

from aioq.errors import ArgumentError, ProcessDiedError, ResultError, WireError
from aioq.jobs.context import JobContext, attach, enter_job
from aioq.jobs.job import Progress
from aioq.jobs.middleware import Middleware, wrapped
from aioq.tasks.task import signature_of
from aioq.util.log import logger
from aioq.util.naming import real_module
from aioq.wire.messages import Failure
from aioq.wire.signature import BadArgumentsError
from aioq.worker.failures import ChildError, caught, result_of
from aioq.worker.processes.pool import Children, DiedError, NotBegunError
from aioq.worker.processes.protocol import Ending, Order, Report
from aioq.worker.run.run import Run

log = logger("aioq.worker")

LAST_CHANCES = 16
"""How many jobs on their last chance run at once, each in a process of its own. A guess: a process that has
imported an App takes some 50 MB, and jobs that take hours must not wait for each other."""

Begin = Callable[[Run], None]


class _UnreadyError(Exception):
    """A process of a job's own came not as far as the job; the message says why."""


def _unread(progress: Progress) -> None:
    """Where a thread reports to whose job has ended."""


class _Thread:
    """A run's place among the threads; its fields are read and written under the caller's lock.

    Attributes:
        busy: whether the function runs.
        left: whether the job does not wait for it any more.
    """

    __slots__ = ("_lock", "busy", "left")

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self.busy = self.left = False

    def leave(self) -> bool:
        """The job has ended; whether the function still runs."""
        with self._lock:
            self.left = True
            return self.busy


class Caller:
    """Runs functions; shared by all runs of a worker.

    Args:
        middleware: what is around each run, outermost first.
        threads: how many plain functions may run at once.
        processes: how many tasks of the process pool may run at once.
    """

    def __init__(self, middleware: Sequence[Middleware], *, threads: int, processes: int) -> None:
        self._middleware = tuple(middleware)
        self._threads = anyio.CapacityLimiter(threads)
        self._processes = anyio.CapacityLimiter(processes)
        self._isolated = anyio.CapacityLimiter(LAST_CHANCES)
        self._unlimited = anyio.CapacityLimiter(math.inf)  # for anyio, which would count to 40 by itself
        self._children = Children()
        self._busy_threads = 0
        self._left: set[JobContext] = set()
        self._lock = threading.Lock()

    @property
    def busy_threads(self) -> int:
        """Threads that run a function, be its job still waited for or not."""
        return self._busy_threads

    def has_left(self, context: JobContext) -> bool:
        """Whether a job has ended, and its function still runs in its thread."""
        return context in self._left

    def lend_threads(self, count: int) -> None:
        """Allow this many more threads, or fewer: that many wait for other jobs."""
        self._threads.total_tokens += count

    def close(self) -> None:
        """Keep no child process: those that are idle end now, the others when their job has ended."""
        self._children.close()

    async def call(self, run: Run, begin: Begin) -> Any:
        """Run the function and return its result; from a child process it may be the encoded one.

        Cancellation: a coroutine is cancelled, a process killed; a thread goes on, and only its result is
        dropped.

        Args:
            run: the run.
            begin: called, once or more, when there is a place for it: a thread, a process. Before that it waits.

        Raises:
            BaseException: whatever the function raises.
        """
        assert run.context is not None
        enter_job(run.context)
        if run.isolated:
            try:
                return await self._placed(self._isolated, partial(self._last_chance, run, begin))
            except _UnreadyError as error:
                _bring_home(run, error)
        assert run.task is not None
        if run.task.executor == "async":
            if self._middleware:
                return await self._within(run, begin)
            begin(run)  # what most jobs are: each further call would be one for every job
            return await run.task.function(*run.args, **(run.kwargs or {}))
        if run.in_child:
            return await self._placed(self._processes, partial(self._within, run, begin))
        return await self._in_thread(run, begin)

    async def _in_thread(self, run: Run, begin: Begin) -> Any:
        """A run of a plain function. Its place is the thread's: it lasts as long as that does, not as the job."""
        thread = run.thread = _Thread(self._lock)
        limiter = self._threads
        try:
            limiter.acquire_on_behalf_of_nowait(thread)
        except anyio.WouldBlock:
            await limiter.acquire_on_behalf_of(thread)
        try:
            return await self._within(run, begin)
        finally:
            if not thread.leave():
                limiter.release_on_behalf_of(thread)
            else:
                assert run.context is not None
                self._left.add(run.context)
                attach(
                    run.context, _unread
                )  # the job has ended, so the server would refuse what the thread reports
                log.warning(
                    "%s[%s] runs on in its thread after its job has ended, and holds one of %g threads till then; "
                    "%d are held so",
                    *(run.name, run.claimed.id, limiter.total_tokens, len(self._left)),
                )

    def _return_thread(self, context: JobContext | None, thread: "_Thread") -> None:
        if context is not None:
            self._left.discard(context)
        self._threads.release_on_behalf_of(thread)

    @staticmethod
    async def _placed(limiter: anyio.CapacityLimiter, call: Callable[[], Any]) -> Any:
        try:
            limiter.acquire_nowait()
        except anyio.WouldBlock:
            await limiter.acquire()
        try:
            return await call()
        finally:
            limiter.release()

    async def _within(self, run: Run, begin: Begin) -> Any:
        """The function inside the middleware, of a run that has its place."""
        if not self._middleware:
            return await self._run(run, begin)
        begin(run)  # the middleware is inside the job's timeout
        assert run.context is not None
        return await wrapped(self._middleware, run.context, partial(self._run, run, begin))

    async def _run(self, run: Run, begin: Begin) -> Any:
        task = run.task
        assert task is not None
        if run.in_child:
            return await self._run_in_child(run, begin)
        begin(run)
        if task.executor == "async":
            return await task.function(*run.args, **(run.kwargs or {}))
        result = result_of(
            await anyio.to_thread.run_sync(
                self._call_plainly,
                run,
                asyncio.get_running_loop(),
                contextvars.copy_context(),
                abandon_on_cancel=True,
                limiter=self._unlimited,
            )
        )
        # A plain function around a coroutine's: it has made the coroutine, which belongs onto this loop.
        return await result if isawaitable(result) else result

    def _call_plainly(self, run: Run, loop: asyncio.AbstractEventLoop, context: contextvars.Context) -> Any:
        """Run the function in this thread; counted here, because a job that is cancelled leaves its thread."""
        thread = run.thread
        assert run.task is not None and thread is not None  # noqa: PT018 - one fact: it has its place
        with self._lock:
            if thread.left:
                return None  # its job has ended in between
            thread.busy = True
            self._busy_threads += 1
        try:
            return context.run(caught, run.task.function, *run.args, **(run.kwargs or {}))
        finally:
            with self._lock:
                thread.busy = False
                self._busy_threads -= 1
                left = thread.left
            if left:
                with contextlib.suppress(RuntimeError):  # the loop is closed, and its worker gone
                    loop.call_soon_threadsafe(self._return_thread, run.context, thread)

    async def _run_in_child(self, run: Run, begin: Begin) -> Any:
        try:
            report = await self._children.carry_out(_order(run), partial(begin, run), keep=True)
        except NotBegunError as error:
            raise ProcessDiedError(f"the job did not run: {error}") from None
        except DiedError:
            raise _died() from None
        encoded = _read(run, report)
        # Without middleware the result is not needed here, and it is passed on encoded.
        return _decoded(run, encoded) if self._middleware else encoded

    async def _last_chance(self, run: Run, begin: Begin) -> Any:
        """Have a new child run the job as a worker does, middleware included."""
        try:
            report = await self._children.carry_out(_order(run), partial(begin, run), keep=False)
        except (NotBegunError, OSError) as error:
            raise _UnreadyError(str(error)) from error
        except DiedError:
            raise _died() from None
        if report.ending is Ending.UNREADY:
            why = "?" if report.failure is None else report.failure.summary
            raise _UnreadyError(f"the App cannot be set up a second time: {why}")
        if report.ending is Ending.FALLEN:
            raise _died()
        return _read(run, report)


def _died() -> ProcessDiedError:
    return ProcessDiedError("the process that ran the job died: killed, out of memory, or a crash in native code")


def _bring_home(run: Run, error: _UnreadyError) -> None:
    """Run a job on its last chance in the worker after all: it has not met its process, and must not pay for it.

    If it is the one that kills its workers, it does so once more, and that is one crash too many.
    """
    log.warning("%s[%s] gets no process of its own, and runs in the worker: %s", run.name, run.claimed.id, error)
    run.isolated = False
    assert run.task is not None and run.envelope is not None  # noqa: PT018 - one fact: bound
    try:
        run.args, run.kwargs = signature_of(run.task).decode(run.envelope.args, run.envelope.kwargs)
    except BadArgumentsError as bad:
        run.unfit = ArgumentError(str(bad))
        raise run.unfit from None


def _order(run: Run) -> Order:
    task, context, envelope = run.task, run.context, run.envelope
    assert task is not None and context is not None and envelope is not None  # noqa: PT018 - one fact: bound
    return Order(
        module=real_module(task.__module__),
        function=task.__qualname__,
        task=task.name,
        args=envelope.args,
        kwargs=envelope.kwargs,
        job_id=context.id,
        queue=context.queue,
        attempt=context.attempt,
        max_attempts=context.max_attempts,
        crashes=context.crashes,
        headers=dict(context.headers),
        tags=context.tags,
        sent_at=context.sent_at,
        timeout=run.timeout,
        deadline=context.deadline,
        log_level=logging.getLogger().level,
        own_log_level=logging.getLogger("aioq").getEffectiveLevel(),
        isolated=run.isolated,
    )


def _read(run: Run, report: Report) -> msgspec.Raw:
    """The encoded result of a report.

    Raises:
        ArgumentError: the arguments do not fit the task.
        ResultError: the result cannot be encoded.
        ChildError: the task raised, or its module could not be imported.
    """
    if report.ending is Ending.RETURNED:
        return report.value
    if report.ending is Ending.BAD_ARGUMENTS:
        run.unfit = ArgumentError(report.text)
        raise run.unfit
    if report.ending is Ending.BAD_RESULT:
        run.unfit = ResultError(report.text)
        raise run.unfit
    raise ChildError(
        report.failure or Failure("Unknown", ""),
        report.names,
        is_retry=report.is_retry,
        retry_delay=report.retry_delay,
        retry_attempts=report.retry_attempts,
        snooze=report.snooze,
        leaves=report.leaves,
        retry_max_elapsed=report.retry_max_elapsed,
        cancel_reason=report.cancel_reason,
        is_fail=report.is_fail,
    )


def _decoded(run: Run, encoded: msgspec.Raw) -> Any:
    """The result for the middleware; one that is not what the task promises is theirs to see as it is."""
    assert run.task is not None
    try:
        return signature_of(run.task).returns.decode(encoded)
    except WireError:
        return msgspec.msgpack.decode(encoded)
