"""The event loop for sync code: one for each process, in a thread of its own.

The thread is a daemon and is started when it is first needed. All Apps share it, so a process has one connection
to each App's server, however many threads send. A forked child starts a thread of its own and does not touch its
parent's. The end of the process waits until sends have arrived, and closes the connections.
"""

import asyncio
import atexit
import contextlib
import inspect
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from typing import Generic, ParamSpec, TypeVar

from aioq.errors import RunningLoopError, ServerUnavailableError
from aioq.util.printable import brief

R = TypeVar("R")
P = ParamSpec("P")

THREAD = "aioq-sync"
"""The thread's name."""

EXIT_TIMEOUT = 15.0
"""The most seconds that the end of the process waits for calls under way. A guess: more than `send_timeout`."""


class _Threads(ThreadPoolExecutor):
    """The loop's thread pool, which looks up host names. It works even after the program's main thread has ended.

    A program's other threads may go on then, but Python's own pools take no more work.
    """

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> "Future[R]":
        """Run a function in the pool, or in a new thread where the pool takes no more work."""
        with contextlib.suppress(RuntimeError):
            return super().submit(fn, *args, **kwargs)
        future: Future[R] = Future()

        def run() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return future


class _LoopThread:
    """An event loop, and the thread that runs it."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_default_executor(_Threads(thread_name_prefix=THREAD))
        self._thread = threading.Thread(target=self._serve, name=THREAD, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def close(self) -> None:
        """End everything that runs on the loop, and then the thread."""
        with contextlib.suppress(TimeoutError, asyncio.CancelledError):
            asyncio.run_coroutine_threadsafe(self._wind_up(), self.loop).result(EXIT_TIMEOUT)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(EXIT_TIMEOUT)
        if not self._thread.is_alive():
            self.loop.close()

    @staticmethod
    async def _wind_up() -> None:
        # First the asynchronous generators: they close the Apps, which wait for sends to arrive. Then all tasks.
        await asyncio.get_running_loop().shutdown_asyncgens()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Process:
    """The loop thread of this process, once there is one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: _LoopThread | None = None
        self._left_behind: list[_LoopThread] = []

    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop; its thread is started if it does not run yet.

        Raises:
            ServerUnavailableError: Python is ending, and no thread but this one runs any more.
        """
        if sys.is_finalizing():
            raise ServerUnavailableError("the process is ending; Python has called the handlers of atexit already")
        running = self._running
        if running is None:
            with self._lock:
                running = self._running = self._running or _LoopThread()
        return running.loop

    def close(self) -> None:
        """End the thread. A send that comes later, but before the end of Python, starts another one."""
        with self._lock:
            running, self._running = self._running, None
        if running is not None:
            running.close()

    def forked(self) -> None:
        """Forget the parent's thread in a forked child, which has the parent's memory but not its threads.

        The parent's loop is kept, so that garbage collection does not close what still belongs to the parent.
        """
        self._lock = threading.Lock()
        if self._running is not None:
            self._left_behind.append(self._running)
            self._running = None


_process = _Process()
os.register_at_fork(after_in_child=_process.forked)
atexit.register(_process.close)


class _Call(Generic[R]):
    """A call that one thread waits for.

    Not `asyncio.run_coroutine_threadsafe`: an interrupt may come before that has returned the future to cancel.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, make: Callable[[], Awaitable[R]]) -> None:
        self.loop = loop
        self.outcome: Future[R] = Future()
        self._make = make
        self._task: asyncio.Task[R] | None = None

    def begin(self) -> None:
        """Start it on the loop, with the context variables of the waiting thread, which the callback has."""
        if not self.outcome.cancelled():
            self._task = self.loop.create_task(_awaited(self._make))
            self._task.add_done_callback(self._ended)

    def abandon(self) -> None:
        """Cancel it, because the thread does not wait any more."""
        if self.outcome.cancel():
            self.loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _ended(self, task: "asyncio.Task[R]") -> None:
        error = None if task.cancelled() else task.exception()
        with contextlib.suppress(InvalidStateError):  # it was abandoned at this moment
            if task.cancelled():
                self.outcome.cancel()
            elif error is not None:
                self.outcome.set_exception(error)
            else:
                self.outcome.set_result(task.result())


class SyncRunner:
    """Runs awaitables for sync code; each App has one.

    Attributes:
        loop: the loop on which they run; None for the loop of the process. A test session sets its own loop.
    """

    __slots__ = ("loop",)

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None

    @contextlib.contextmanager
    def on(self, loop: asyncio.AbstractEventLoop) -> Generator[None]:
        """Use another loop within this context."""
        before, self.loop = self.loop, loop
        try:
            yield
        finally:
            self.loop = before

    def run(self, instead: str, make: Callable[[], Awaitable[R]]) -> R:
        """Run the awaitable that `make` returns, and wait for it. Any threads may call this at the same time.

        An exception in the waiting thread, such as KeyboardInterrupt, cancels the awaitable.

        Args:
            instead: the async form of the call, for the error.
            make: makes the awaitable; called on the loop.

        Raises:
            RunningLoopError: an event loop runs in this thread, and would be blocked.
        """
        if asyncio._get_running_loop() is not None:  # noqa: SLF001 - as get_running_loop(), but without its error
            raise RunningLoopError(
                f"an event loop runs in this thread, and would be blocked meanwhile; use {instead} in its place"
            )
        call = _Call(self.loop or _process.loop(), make)
        try:
            call.loop.call_soon_threadsafe(call.begin)
            return call.outcome.result()
        except BaseException:
            call.abandon()  # does nothing if it is the call itself that has raised
            raise

    def run_given(self, given: Awaitable[R]) -> R:
        """Run an awaitable that exists already, and wait for it.

        Raises:
            RunningLoopError: an event loop runs in this thread, and would be blocked.
            TypeError: it cannot be awaited.
        """
        if not inspect.isawaitable(given):
            raise TypeError(f"run_sync takes a coroutine or another awaitable, not {brief(given):.80}")
        try:
            return self.run("await", lambda: given)
        except RunningLoopError:
            if inspect.iscoroutine(given):
                given.close()  # the error says enough; this avoids the warning that it was never awaited
            raise


async def _awaited(make: Callable[[], Awaitable[R]]) -> R:
    return await make()
