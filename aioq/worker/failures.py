"""Turns exceptions into text that can be stored and sent; nothing is raised, whatever an exception's code does."""

import os
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

from aioq.errors import ProcessDiedError
from aioq.jobs.retry import Retry
from aioq.store.contract import MAX_CUTS
from aioq.util.introspect import cause_of, full_name_of, is_a, name_of, text_of, traceback_of
from aioq.util.plural import counted
from aioq.wire.messages import Failure
from aioq.worker.forks import end_fork

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


_SELF_EXPLAINING = (TimeoutError, ProcessDiedError)
"""Errors of aioq's own about a job, whose message says everything: a traceback of aioq's frames would add
nothing."""


class ChildError(Exception):
    """An exception that a task raised in a child process, as text.

    Attributes:
        failure: the exception as text.
        names: the names of its class and of the classes it derives from.
        retry_delay: the delay in seconds, if it was a `Retry` that gave one.
        retry_attempts: the number of attempts, if it was a `Retry` that gave one.
        is_retry: whether it was a `Retry`.
        snooze: the delay in seconds, if it was a `Snooze`.
        leaves: for an exception group, the class names of each kind of error in it.
        retry_max_elapsed: the `max_elapsed`, if it was a `Retry` that gave one.
        cancel_reason: the reason, if it was a `Cancel`.
        is_fail: whether it was a `Fail`.
    """

    def __init__(
        self,
        failure: Failure,
        names: tuple[str, ...],
        *,
        is_retry: bool = False,
        retry_delay: float | None = None,
        retry_attempts: int | None = None,
        snooze: float | None = None,
        leaves: tuple[tuple[str, ...], ...] = (),
        retry_max_elapsed: float | None = None,
        cancel_reason: str | None = None,
        is_fail: bool = False,
    ) -> None:
        super().__init__(failure.summary)
        self.failure = failure
        self.names = names
        self.is_retry = is_retry
        self.snooze = snooze
        self.retry_delay = retry_delay
        self.retry_attempts = retry_attempts
        self.leaves = leaves
        self.retry_max_elapsed = retry_max_elapsed
        self.cancel_reason = cancel_reason
        self.is_fail = is_fail


class Raised:
    """Holds an exception that a plain function raised, because a future cannot raise every one (StopIteration)."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


def caught(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call the function; an exception is returned, as a `Raised`. A fork that the function made ends here."""
    pid = os.getpid()
    try:
        result = function(*args, **kwargs)
    except BaseException as error:
        end_fork(pid, error)
        return Raised(error)
    end_fork(pid, None)
    return result


def result_of(returned: Any) -> Any:
    """The function's result, given what `caught` returned.

    Raises:
        BaseException: the exception that the function raised.
    """
    if is_a(returned, Raised):
        raise returned.error
    return returned


def failure_of(error: BaseException) -> Failure:
    """An exception as text: its type, its message and its traceback without aioq's own frames at the top."""
    if is_a(error, ChildError):
        return error.failure
    return Failure(full_name_of(type(error)), message_of(error), _traceback_of(error))


def failure_to_show(error: BaseException, attempt: int) -> Failure:
    """As `failure_of`; but a `Retry` that was raised from another exception is shown as that one."""
    if not is_a(error, Retry):
        return failure_of(error)
    cause = cause_of(error)
    if cause is not None:
        return failure_of(cause)
    shown = failure_of(error)
    return Failure(shown.type, f"asked for another attempt in attempt {attempt}", shown.traceback)


def message_of(error: BaseException) -> str:
    """`str(error)`, or a text that says why that failed."""
    text, fault = text_of(str, error)
    return text if fault is None else f"<its message could not be read: {name_of(fault)}>"


def _traceback_of(error: BaseException) -> str:
    start = traceback_of(error)
    frames = _own_frames(start)
    if frames is None and any(is_a(error, kind) for kind in _SELF_EXPLAINING):
        return ""
    try:
        return "".join(traceback.format_exception(type(error), error, frames or start))
    except BaseException as fault:
        return f"<the traceback could not be formatted: {name_of(fault)}>"


def _own_frames(start: TracebackType | None) -> TracebackType | None:
    """The traceback from the first frame that is not aioq's; None if all are."""
    frame = start
    while frame is not None and frame.tb_frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.tb_next
    return frame


def crashed_too_often(max_crashes: int) -> Failure:
    """The failure of a job whose worker ended too often while it ran.

    It is also the error of each run before, after which the job runs again: so it has to be true there too.
    """
    return Failure(
        "WorkerCrashed",
        f"the job's worker ended while running it: by itself, or stopped from outside soon after the start of the "
        f"run, more than {MAX_CUTS} times in a row; a job whose worker ended so more than "
        f"{counted(max_crashes, 'time')} (max_crashes) is not run again",
    )


def crashed_alone(crashes: int) -> Failure:
    """The failure of a job that has killed the process in which it ran alone."""
    return Failure(
        "WorkerCrashed",
        f"the job's worker died {counted(crashes, 'time')} while running it (max_crashes), and so did the "
        "process of its own that it was given then",
    )
