"""Duty: notices that the event loop is blocked, and logs by which job, with the stack.

A coroutine that computes or waits without `await` delays every other job of its worker. The lease is still renewed
(its thread does not need the loop), so nothing is lost; but without this duty nobody would know the cause. This
thread asks the loop for an answer a few times a second and, if none comes, inspects what the loop's thread is
doing.

Code that holds the interpreter lock (a C extension that does not release it) stops this thread too. Then only the
length of the interruption is known, afterwards.
"""

import asyncio
import sys
import threading
import time
import traceback
from types import FrameType

from aioq.util.log import logger
from aioq.util.printable import printable
from aioq.worker.stacks import WorkerStacks, take_stacks

log = logger("aioq.worker")

MIN_LIMIT = 0.01
"""The shortest `limit` in seconds. A guess: with less, this thread only asks, and every loop is late."""

EXTRA_WAIT = 0.05
"""Seconds for which this thread still waits for a late answer: when a stopped process (SIGSTOP, a suspended host)
goes on, this thread may run before the loop."""

SUSPENDED = 2.0
"""If an answer takes this many times the limit, and this thread did not time out meanwhile, the whole process was
stopped. A guess: high enough that a busy host does not fill the log."""


MINUTE = 60.0
"""Seconds after which the longest lag is forgotten, at the earliest."""


class Watchdog:
    """Asks the event loop for an answer, from a thread of its own, and logs which job blocks it.

    Args:
        limit: how many seconds the event loop may be blocked before that is logged; at least `MIN_LIMIT`.
    """

    def __init__(self, limit: float) -> None:
        self._limit = max(limit, MIN_LIMIT)
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._asked: float | None = None
        self._minute, self._longest, self._longest_before = time.monotonic(), 0.0, 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="aioq-watchdog", daemon=True)

    @property
    def lag(self) -> float:
        """For how many seconds the event loop has not answered up to now; may be read from any thread."""
        asked = self._asked
        return 0.0 if asked is None else time.monotonic() - asked

    @property
    def recent_lag(self) -> float:
        """The longest time for which the loop was blocked in the last minute or two; from any thread."""
        return max(self.lag, self._longest, self._longest_before)

    def stacks(self) -> WorkerStacks:
        """What this process is doing; from any thread."""
        lag = self.lag
        return take_stacks(self._loop, self._loop_thread, lag if lag > self._limit else 0.0)

    def _note_lag(self, lag: float) -> None:
        now = time.monotonic()
        if now - self._minute > MINUTE:
            self._minute, self._longest, self._longest_before = now, 0.0, self._longest
        self._longest = max(self._longest, lag)

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
            if answered.wait(self._limit) or answered.wait(EXTRA_WAIT):
                self._warn_if_suspended(time.monotonic() - asked)
            else:
                self._warn_while_blocked(answered, asked)
            self._note_lag(time.monotonic() - asked)
            self._asked = None

    def _ask(self, answered: threading.Event) -> bool:
        """Let the loop set the event; return False if the loop is closed."""
        try:
            self._loop.call_soon_threadsafe(answered.set)
        except RuntimeError:
            return False
        return True

    def _warn_if_suspended(self, lag: float) -> None:
        if lag > SUSPENDED * self._limit:
            log.warning(
                "this process did not run for %.1f s: it was stopped, or something held the interpreter lock",
                lag,
                extra=_extra("process_suspended", lag),
            )

    def _warn_while_blocked(self, answered: threading.Event, asked: float) -> None:
        """Log who blocks the loop, now and whenever the time has doubled, and at the end for how long."""
        name = self._culprit()
        wait = self._limit
        while not answered.is_set() and not self._stopping.is_set():
            lag = time.monotonic() - asked
            log.warning(
                "%s blocks the event loop, for %.1f s by now; every other job of this worker waits for it. "
                "Make it a plain function, or await in it:\n%s",
                printable(name),
                lag,
                self._stack(),
                extra=_extra("loop_blocking", lag),
            )
            self._wait(answered, wait)
            wait *= 2
        lag = time.monotonic() - asked
        message = "the event loop was blocked for %.1f s by %s"
        log.warning(message, lag, printable(name), extra=_extra("loop_blocked", lag))

    def _wait(self, answered: threading.Event, seconds: float) -> None:
        """Wait until the answer comes, the seconds are over or the worker stops."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._stopping.is_set():
            if answered.wait(min(self._limit, 0.5)):
                return

    def _culprit(self) -> str:
        """The name of the asyncio task that runs now; a job's task is named after the job and its id."""
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
    """A stack as text, without the frames before the user's own code, which are the same each time.

    Frames that the user's code calls stay, also those of libraries. A stack without any user's code stays whole.
    """
    stack = list(traceback.walk_stack(frame))[::-1]
    at = next((at for at, (each, _) in enumerate(stack) if not _is_machinery(each)), 0)
    return "".join(traceback.StackSummary.extract(iter(stack[at:])).format()).rstrip()


_MACHINERY = {"aioq", "asyncio", "uvloop", "click", "runpy", "contextlib"}
"""The packages whose frames come before a task's in the stack of a worker's process."""


def _is_machinery(frame: FrameType) -> bool:
    package = str(frame.f_globals.get("__name__")).partition(".")[0]
    return package in _MACHINERY or (package == "__main__" and frame.f_code.co_filename == sys.argv[0])
