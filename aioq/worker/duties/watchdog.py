"""Duty: notice that the event loop is blocked, and say by which job, with the stack.

A coroutine that computes or waits without awaiting holds up every other job of its worker. The lease survives
that (its thread does not need the loop), so nothing is lost; but the cause would not be known. This thread asks
the loop for an answer a few times a second and, where none comes, looks at what the loop's thread is doing.

What holds the interpreter lock (a C extension that does not release it) stops this thread as well: then all that
is known afterwards is for how long the process was suspended.
"""

import asyncio
import sys
import threading
import time
import traceback
from types import FrameType

from aioq.util.log import logger
from aioq.util.printable import printable

log = logger("aioq.worker")

LEAST = 0.01
"""The shortest `limit` in seconds. A guess: below, this thread does nothing but ask, and every loop is late."""

LOOK = 0.05
"""Seconds that an answer which is late is still waited for: after a stopped process (SIGSTOP, a suspended host)
goes on, this thread may come first."""

SUSPENDED = 2.0
"""An answer that comes this many times too late, without having been missed in between, tells of a process that
was stopped as a whole. A guess, high enough that a busy host does not fill the log."""


class Watchdog:
    """Asks the event loop for an answer, from a thread of its own, and says which job holds it up.

    Args:
        limit: how long the event loop may be blocked before it is said, in seconds; `LEAST` where it is less.
    """

    def __init__(self, limit: float) -> None:
        self._limit = max(limit, LEAST)
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._asked: float | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="aioq-watchdog", daemon=True)

    @property
    def lag(self) -> float:
        """Seconds the event loop has not answered for by now; may be read from any thread."""
        asked = self._asked
        return 0.0 if asked is None else time.monotonic() - asked

    async def run(self) -> None:
        """Watch until cancelled."""
        self._thread.start()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self._stopping.set()

    def _watch(self) -> None:
        while not self._stopping.wait(self._limit / 2):
            answered = threading.Event()
            asked = self._asked = time.monotonic()
            if not self._ask(answered):
                return
            if answered.wait(self._limit) or answered.wait(LOOK):
                self._look_back(time.monotonic() - asked)
            else:
                self._blocked(answered, asked)
            self._asked = None

    def _ask(self, answered: threading.Event) -> bool:
        """Have the loop set the event; False where the loop is no more."""
        try:
            self._loop.call_soon_threadsafe(answered.set)
        except RuntimeError:
            return False
        return True

    def _look_back(self, lag: float) -> None:
        if lag > SUSPENDED * self._limit:
            log.warning(
                *(
                    "this process did not run for %.1f s: it was stopped, or something held the interpreter lock",
                    lag,
                ),
                extra=_extra("process_suspended", lag),
            )

    def _blocked(self, answered: threading.Event, asked: float) -> None:
        """Say who blocks the loop, now and each time it has taken twice as long, and at the end for how long."""
        name = self._culprit()
        wait = self._limit
        while not answered.is_set() and not self._stopping.is_set():
            lag = time.monotonic() - asked
            log.warning(
                "%s blocks the event loop, for %.1f s by now; every other job of this worker waits for it. "
                "Make it a plain function, or await in it:\n%s",
                *(printable(name), lag, self._stack()),
                extra=_extra("loop_blocking", lag),
            )
            self._wait(answered, wait)
            wait *= 2
        lag = time.monotonic() - asked
        words = "the event loop was blocked for %.1f s by %s"
        log.warning(words, lag, printable(name), extra=_extra("loop_blocked", lag))

    def _wait(self, answered: threading.Event, seconds: float) -> None:
        """Wait for the answer, and look for the worker's end in between."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._stopping.is_set():
            if answered.wait(min(self._limit, 0.5)):
                return

    def _culprit(self) -> str:
        """The job whose asyncio task runs now: its task carries the job's name and id."""
        task = asyncio.current_task(self._loop)
        return "something outside of the jobs" if task is None else task.get_name()

    def _stack(self) -> str:
        frames = sys._current_frames()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - documented, for this
        frame = frames.get(self._loop_thread)
        return stack_of_the_user(frame) if frame is not None else "(its stack is not known)"


def _extra(event: str, seconds: float) -> dict[str, object]:
    """The fields of a log record, for log queries."""
    return {"event": event, "duration": round(seconds, 6)}


def stack_of_the_user(frame: FrameType) -> str:
    """A stack in words, from the user's own code on: how the event loop came to it is the same each time.

    What the user's code calls stays, be it a library. A stack that is not in the user's code at all stays whole.
    """
    stack = list(traceback.walk_stack(frame))[::-1]
    at = next((at for at, (each, _) in enumerate(stack) if not _is_machinery(each)), 0)
    return "".join(traceback.StackSummary.extract(iter(stack[at:])).format()).rstrip()


_MACHINERY = {"aioq", "asyncio", "uvloop", "click", "runpy", "contextlib"}
"""The packages between the start of a worker's process and a task."""


def _is_machinery(frame: FrameType) -> bool:
    package = str(frame.f_globals.get("__name__")).partition(".")[0]
    return package in _MACHINERY or (package == "__main__" and frame.f_code.co_filename == sys.argv[0])
