"""The step `call`: runs the task's function (on the loop, in a thread or in a process), inside the middleware."""

import asyncio
import contextlib
import contextvars
import itertools
import logging
import math
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from inspect import isawaitable
from typing import Any

import anyio
import anyio.to_thread
import msgspec

from aioq.errors import ArgumentError, ProcessDiedError, ResultError, WireError
from aioq.jobs.context import JobContext, attach, batch_here, enter_job, here, sink_of
from aioq.jobs.job import Progress
from aioq.jobs.middleware import Middleware, wrapped
from aioq.tasks.task import signature_of
from aioq.util.log import logger
from aioq.util.naming import real_module
from aioq.wire.messages import Failure
from aioq.wire.signature import BadArgumentsError
from aioq.worker.failures import ChildError, caught, result_of
from aioq.worker.processes.pool import Children, DiedError, NotBegunError
from aioq.worker.processes.protocol import NO_ORDER, Ending, Order, OrderResult
from aioq.worker.run.run import Run

log = logger("aioq.worker")

LAST_CHANCES = 16
"""How many jobs on their last chance run at once, each in a process of its own. A guess: a process that has
imported an App takes about 50 MB, and jobs that take hours must not wait for each other."""

_order_numbers = itertools.count(NO_ORDER + 1)

Begin = Callable[[Run], None]


def run_at_once(work: Coroutine[Any, Any, None], context: contextvars.Context) -> "asyncio.Task[None]":
    """Start a task; where this Python can do that, it runs up to its first wait before this returns."""
    loop = asyncio.get_running_loop()
    if sys.version_info >= (3, 12):
        return asyncio.Task(work, loop=loop, context=context, eager_start=True)
    return loop.create_task(work, context=context)


class _UnreadyError(Exception):
    """The process for a job failed before it could begin the job; the message says why."""


def _ignore(progress: Progress) -> None:
    """Takes the reports of a thread whose job has ended: the server would refuse them."""


class _Thread:
    """A run's place among the threads; its fields are read and written under the lock of the `Caller`.

    Attributes:
        busy: whether the function runs.
        job_ended: whether the job has ended, with or without the function.
    """

    __slots__ = ("_lock", "busy", "job_ended")

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self.busy = self.job_ended = False

    def end_job(self) -> bool:
        """Note that the job has ended; return whether its function still runs."""
        with self._lock:
            self.job_ended = True
            return self.busy


class Caller:
    """Runs functions; shared by all runs of a worker.

    Args:
        middleware: the App's middleware, outermost first.
        threads: how many plain functions may run at once.
        processes: how many tasks of the process pool may run at once.
        hold_keys: lets a job hold its unique key and the permits of its limits, and reads results that it uses,
            if it has to get them first.

    Attributes:
        middleware: the layers.
    """

    def __init__(
        self,
        middleware: Sequence[Middleware],
        *,
        threads: int,
        processes: int,
        hold_keys: Callable[[Run], Awaitable[None]] | None = None,
    ) -> None:
        self._hold_keys = hold_keys
        self.middleware = tuple(middleware)
        self._threads = anyio.CapacityLimiter(threads)
        self._processes = anyio.CapacityLimiter(processes)
        self._isolated = anyio.CapacityLimiter(LAST_CHANCES)
        self._unlimited = anyio.CapacityLimiter(math.inf)  # anyio's own limit would be 40 threads
        self._children = Children()
        self._busy_threads = 0
        # Jobs that have ended while their function still runs in its thread.
        self._running_on: set[JobContext] = set()
        self._lock = threading.Lock()

    @property
    def busy_threads(self) -> int:
        """How many threads run a function, also of a job that has ended."""
        return self._busy_threads

    def has_left(self, context: JobContext) -> bool:
        """Whether a job has ended while its function still runs in its thread."""
        return context in self._running_on

    def lend_threads(self, count: int) -> None:
        """Allow this many more threads, or fewer, because so many functions wait for other jobs."""
        self._threads.total_tokens += count

    def close(self) -> None:
        """End the child processes: idle ones now, the others when their job has ended."""
        self._children.close()

    async def call(self, run: Run, begin: Begin) -> Any:
        """Run the function and return its result; a child process may return it encoded.

        Cancellation: a coroutine is cancelled, a process killed. A thread goes on, but its result is dropped.

        Args:
            run: the run.
            begin: called, once or more, when the run has its place (a thread, a process). Until then it waits.

        Raises:
            BaseException: whatever the function raises.
        """
        assert run.context is not None
        enter_job(run.context)
        here.jobs += 1
        try:
            if (run.lacks_key or run.lacks_limits or run.lacks_inputs) and self._hold_keys is not None:
                await self._hold_keys(run)
            if run.isolated:
                try:
                    return await self._with_place(self._isolated, partial(self._last_chance, run, begin))
                except _UnreadyError as error:
                    _run_in_worker(run, error)
            assert run.task is not None
            if run.task.executor == "async":
                if self.middleware:
                    return await self._within(run, begin)
                begin(run)  # most jobs come here, so there are as few calls as possible
                return await run.task.function(*run.args, **(run.kwargs or {}))
            if run.in_child:
                return await self._with_place(self._processes, partial(self._within, run, begin))
            return await self._in_thread(run, begin)
        finally:
            here.jobs -= 1

    async def read_inputs(self, run: Run) -> None:
        """Read the results that a job of a batch uses."""
        if self._hold_keys is not None:
            await self._hold_keys(run)

    async def call_batch(self, run: Run, begin: Begin) -> Any:
        """Run the function of a batch, without middleware: its jobs have that around them."""
        assert run.task is not None
        batch_here.set(run.context)
        here.jobs += 1
        try:
            return await (self._run(run, begin) if run.task.executor == "async" else self._in_thread(run, begin))
        finally:
            here.jobs -= 1

    async def _in_thread(self, run: Run, begin: Begin) -> Any:
        """Run a plain function. It keeps its place among the threads until it ends, even if its job ends first."""
        thread = run.thread = _Thread(self._lock)
        limiter = self._threads
        try:
            limiter.acquire_on_behalf_of_nowait(thread)
        except anyio.WouldBlock:
            await limiter.acquire_on_behalf_of(thread)
        try:
            return await self._within(run, begin)
        finally:
            if not thread.end_job():
                limiter.release_on_behalf_of(thread)
            else:
                assert run.context is not None
                self._running_on.add(run.context)
                attach(run.context, _ignore)
                log.warning(
                    "%s[%s] runs on in its thread after its job has ended, and holds one of %g threads till then; "
                    "%d are held so",
                    *(run.name, run.claimed.id, limiter.total_tokens, len(self._running_on)),
                )

    def _return_thread(self, context: JobContext | None, thread: "_Thread") -> None:
        if context is not None:
            self._running_on.discard(context)
        self._threads.release_on_behalf_of(thread)

    @staticmethod
    async def _with_place(limiter: anyio.CapacityLimiter, call: Callable[[], Any]) -> Any:
        try:
            limiter.acquire_nowait()
        except anyio.WouldBlock:
            await limiter.acquire()
        try:
            return await call()
        finally:
            limiter.release()

    async def _within(self, run: Run, begin: Begin) -> Any:
        """Run the function inside the middleware; the run has its place already."""
        if not self.middleware or run.items is not None:
            return await self._run(run, begin)
        begin(run)  # here, because the job's timeout includes the middleware
        assert run.context is not None
        return await wrapped(self.middleware, run.context, partial(self._run, run, begin))

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
        # A plain function that wraps a coroutine function returns a coroutine, which has to run on this loop.
        return await result if isawaitable(result) else result

    def _call_plainly(self, run: Run, loop: asyncio.AbstractEventLoop, context: contextvars.Context) -> Any:
        """Run the function in this thread, and count the thread, because it may outlive a cancelled job."""
        thread = run.thread
        assert run.task is not None and thread is not None  # noqa: PT018 - one fact: it has its place
        with self._lock:
            if thread.job_ended:
                return None  # the job has ended before its function began
            thread.busy = True
            self._busy_threads += 1
        try:
            return context.run(caught, run.task.function, *run.args, **(run.kwargs or {}))
        finally:
            with self._lock:
                thread.busy = False
                self._busy_threads -= 1
                job_ended = thread.job_ended
            if job_ended:
                with contextlib.suppress(RuntimeError):  # the loop is closed, and the worker gone
                    loop.call_soon_threadsafe(self._return_thread, run.context, thread)

    async def _run_in_child(self, run: Run, begin: Begin) -> Any:
        try:
            report = await self._carry_out(run, begin, keep=True)
        except NotBegunError as error:
            raise ProcessDiedError(f"the job did not run: {error}") from None
        except DiedError:
            raise _died() from None
        encoded = _encoded_result(run, report)
        # Only middleware needs the decoded result here.
        return _decoded(run, encoded) if self.middleware else encoded

    async def _carry_out(self, run: Run, begin: Begin, *, keep: bool) -> OrderResult:
        assert run.context is not None
        lines = sink_of(run.context)
        return await self._children.carry_out(_order(run), partial(begin, run), keep=keep, lines=lines)

    async def _last_chance(self, run: Run, begin: Begin) -> Any:
        """Let a new child run the job as a worker does, middleware included."""
        try:
            report = await self._carry_out(run, begin, keep=False)
        except (NotBegunError, OSError) as error:
            raise _UnreadyError(str(error)) from error
        except DiedError:
            raise _died() from None
        if report.ending is Ending.UNREADY:
            why = "?" if report.failure is None else report.failure.summary
            raise _UnreadyError(f"the App cannot be set up a second time: {why}")
        if report.ending is Ending.LOOP_CANCELLED:
            raise _died()
        return _encoded_result(run, report)


def _died() -> ProcessDiedError:
    return ProcessDiedError("the process that ran the job died: killed, out of memory, or a crash in native code")


def _run_in_worker(run: Run, error: _UnreadyError) -> None:
    """Prepare a job on its last chance to run in the worker after all: that its process failed is not its fault.

    If this job kills its workers, it kills this one too; then it has crashed too often.
    """
    log.warning("%s[%s] gets no process of its own, and runs in the worker: %s", run.name, run.claimed.id, error)
    run.isolated = False
    assert run.task is not None and run.envelope is not None  # noqa: PT018 - one fact: bound
    try:
        run.args, run.kwargs = signature_of(run.task).decode(run.envelope.args, run.envelope.kwargs)
    except BadArgumentsError as bad:
        run.permanent = ArgumentError(str(bad))
        raise run.permanent from None


def _order(run: Run) -> Order:
    task, context, envelope = run.task, run.context, run.envelope
    assert task is not None and context is not None and envelope is not None  # noqa: PT018 - one fact: bound
    return Order(
        number=next(_order_numbers),
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
        slots=context.slots,
        headers=dict(context.headers),
        tags=context.tags,
        sent_at=context.sent_at,
        timeout=run.timeout,
        deadline=context.deadline,
        log_level=logging.getLogger().level,
        own_log_level=logging.getLogger("aioq").getEffectiveLevel(),
        keeps_lines=sink_of(context) is not None,
        isolated=run.isolated,
    )


def _encoded_result(run: Run, report: OrderResult) -> msgspec.Raw:
    """The encoded result in a report.

    Raises:
        ArgumentError: the arguments do not match the task's signature.
        ResultError: the result cannot be encoded.
        ChildError: the task raised, or its module could not be imported.
    """
    if report.ending is Ending.RETURNED:
        return report.value
    if report.ending is Ending.BAD_ARGUMENTS:
        run.permanent = ArgumentError(report.text)
        raise run.permanent
    if report.ending is Ending.BAD_RESULT:
        run.permanent = ResultError(report.text)
        raise run.permanent
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
    """The result for the middleware; if it does not match the task's return type, it is plain data."""
    assert run.task is not None
    try:
        return signature_of(run.task).returns.decode(encoded)
    except WireError:
        return msgspec.msgpack.decode(encoded)
