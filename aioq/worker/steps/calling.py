"""The step `call`: run the task's function where it belongs, inside the middleware."""

import contextvars
import threading
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import anyio
import anyio.to_process
import anyio.to_thread

from aioq.context import enter_job
from aioq.errors import ProcessDiedError
from aioq.middleware import Middleware
from aioq.naming import real_module
from aioq.wire import ENCODER
from aioq.worker.steps.child import Order, read_report, run_order
from aioq.worker.steps.run import Run

LAST_CHANCES = 16
"""How many jobs on their last chance run at once, each in a process of its own. A guess: a process that has
imported an App takes some 50 MB, and jobs that take hours must not wait for each other."""


class Raised:
    """An exception that a plain function raised: it must not pass through a future (StopIteration cannot)."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


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
        self._busy_threads = 0
        self._lock = threading.Lock()

    @property
    def busy_threads(self) -> int:
        """Threads that run a function, be its job still waited for or not."""
        return self._busy_threads

    async def call(self, run: Run) -> Any:
        """Run the function and return its result; for the process pool the encoded one.

        Cancellation: a coroutine is cancelled, a process killed; a thread goes on, and only its result is
        dropped.

        Raises:
            BaseException: whatever the function raises.
        """
        context = run.context
        assert context is not None
        enter_job(context)
        if not self._middleware:
            return await self._run(run)
        forward: Callable[[], Awaitable[Any]] = partial(self._run, run)
        for layer in reversed(self._middleware):
            forward = partial(layer.run, context, forward)
        return await forward()

    async def _run(self, run: Run) -> Any:
        task = run.task
        assert task is not None
        if run.in_child:
            encoded = await self._run_in_child(run)
            # Without middleware nobody looks at the result here, and it goes on as it is.
            return task.returns.decode(encoded) if self._middleware else encoded
        if task.executor == "async":
            return await task.function(*run.args, **(run.kwargs or {}))
        ended = await anyio.to_thread.run_sync(
            self._call_plainly, run, contextvars.copy_context(), abandon_on_cancel=True, limiter=self._threads
        )
        if isinstance(ended, Raised):
            raise ended.error
        return ended

    def _call_plainly(self, run: Run, context: contextvars.Context) -> Any:
        """Run the function in this thread; counted here, because a job that is cancelled leaves its thread."""
        assert run.task is not None
        with self._lock:
            self._busy_threads += 1
        try:
            return context.run(run.task.function, *run.args, **(run.kwargs or {}))
        except BaseException as error:
            return Raised(error)
        finally:
            with self._lock:
                self._busy_threads -= 1

    async def _run_in_child(self, run: Run) -> Any:
        task, context, envelope = run.task, run.context, run.envelope
        assert task is not None and context is not None and envelope is not None  # noqa: PT018 - one fact: bound
        order = Order(
            module=real_module(task.function.__module__),
            function=task.function.__qualname__,
            task=task.name,
            args=envelope.args,
            kwargs=envelope.kwargs,
            job_id=context.id,
            queue=context.queue,
            attempt=context.attempt,
            max_attempts=context.max_attempts,
            headers=dict(context.headers),
            isolated=run.isolated,
        )
        limiter = self._isolated if run.isolated else self._processes
        try:
            report = await anyio.to_process.run_sync(
                run_order, ENCODER.encode(order), cancellable=True, limiter=limiter
            )
        except anyio.BrokenWorkerProcess:
            raise ProcessDiedError(
                "the process that ran the job died: killed, out of memory, or a crash in native code"
            ) from None
        return read_report(report)
