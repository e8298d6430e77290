"""The way of sync code into asyncio: one event loop of the process, in a thread of its own.

The thread is a daemon and is started when it is first needed. All Apps share it, so a process has one connection
to each App's server however many threads send. A forked child starts one of its own: the parent's is not touched
there. At the end of the process what was sent is let arrive, and connections are closed.
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

FAREWELL = 15.0
"""Seconds that the end of the process waits for what is under way at the most. A guess: above `send_timeout`."""


class _Threads(ThreadPoolExecutor):
    """What the loop looks up names in. A program's threads may outlive its main one, and Python's pools do not."""

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> "Future[R]":
        """Start it, in a thread of its own where the pool takes no more."""
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
        """Let everything end, and the thread too."""
        with contextlib.suppress(TimeoutError, asyncio.CancelledError):
            asyncio.run_coroutine_threadsafe(self._wind_up(), self.loop).result(FAREWELL)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(FAREWELL)
        if not self._thread.is_alive():
            self.loop.close()

    @staticmethod
    async def _wind_up() -> None:
        # First what closes with the loop, which is what lets the jobs on their way arrive; then what still waits.
        await asyncio.get_running_loop().shutdown_asyncgens()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Process:
    """What this process has: no thread, or one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: _LoopThread | None = None
        self._left_behind: list[_LoopThread] = []

    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop, which runs from now on.

        Raises:
            ServerUnavailableError: Python is taking itself apart, and no thread but this one runs any more.
        """
        if sys.is_finalizing():
            raise ServerUnavailableError(
                "the process is at its end, in what Python does after the handlers of atexit"
            )
        running = self._running
        if running is None:
            with self._lock:
                running = self._running = self._running or _LoopThread()
        return running.loop

    def close(self) -> None:
        """Let it end; what still sends before the end of Python starts another."""
        with self._lock:
            running, self._running = self._running, None
        if running is not None:
            running.close()

    def forked(self) -> None:
        """This is a child: it has the parent's memory and none of its threads.

        The parent's loop is kept from being collected, for whatever would be closed then is the parent's too.
        """
        self._lock = threading.Lock()
        if self._running is not None:
            self._left_behind.append(self._running)
            self._running = None


_process = _Process()
os.register_at_fork(after_in_child=_process.forked)
atexit.register(_process.close)


class _Call(Generic[R]):
    """What one thread waits for.

    Not `asyncio.run_coroutine_threadsafe`: an interrupt may come before that has returned what can be cancelled.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, make: Callable[[], Awaitable[R]]) -> None:
        self.loop = loop
        self.outcome: Future[R] = Future()
        self._make = make
        self._task: asyncio.Task[R] | None = None

    def begin(self) -> None:
        """Start it, on the loop; in the context of the thread that waits, which came with the callback."""
        if not self.outcome.cancelled():
            self._task = self.loop.create_task(_awaited(self._make))
            self._task.add_done_callback(self._ended)

    def abandon(self) -> None:
        """Nothing waits any more."""
        if self.outcome.cancel():
            self.loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _ended(self, task: "asyncio.Task[R]") -> None:
        error = None if task.cancelled() else task.exception()
        with contextlib.suppress(InvalidStateError):  # abandoned this very moment
            if task.cancelled():
                self.outcome.cancel()
            elif error is not None:
                self.outcome.set_exception(error)
            else:
                self.outcome.set_result(task.result())


class SyncRunner:
    """Runs for sync code what is async; each App has one.

    Attributes:
        loop: where it runs; None for the loop of the process. A test's session has it run where it is itself.
    """

    __slots__ = ("loop",)

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None

    @contextlib.contextmanager
    def on(self, loop: asyncio.AbstractEventLoop) -> Generator[None]:
        """Have it run on a loop that it does not own for a while."""
        before, self.loop = self.loop, loop
        try:
            yield
        finally:
            self.loop = before

    def run(self, instead: str, make: Callable[[], Awaitable[R]]) -> R:
        """Run what `make` returns, and wait for it. From any thread, from many at once.

        An exception in the waiting thread, such as KeyboardInterrupt, cancels what it waits for.

        Args:
            instead: what async code writes in its place, for the error.
            make: makes the awaitable; called on the loop.

        Raises:
            RunningLoopError: an event loop runs in this thread, and would be blocked.
        """
        if asyncio._get_running_loop() is not None:  # noqa: SLF001 - what get_running_loop() asks, without its error
            raise RunningLoopError(
                f"an event loop runs in this thread, and would be blocked meanwhile; use {instead} in its place"
            )
        call = _Call(self.loop or _process.loop(), make)
        try:
            call.loop.call_soon_threadsafe(call.begin)
            return call.outcome.result()
        except BaseException:
            call.abandon()  # where it has raised that itself, this does nothing
            raise

    def run_given(self, given: Awaitable[R]) -> R:
        """The same of an awaitable that there is already; see `App.run_sync`.

        Raises:
            TypeError: it cannot be awaited.
        """
        if not inspect.isawaitable(given):
            raise TypeError(f"run_sync takes a coroutine or another awaitable, not {brief(given):.80}")
        try:
            return self.run("await", lambda: given)
        except RunningLoopError:
            if inspect.iscoroutine(given):
                given.close()  # the error says all; that it was never awaited is no news
            raise


async def _awaited(make: Callable[[], Awaitable[R]]) -> R:
    return await make()
