"""The outcome of one attempt, as `Middleware.settled` gets it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from aioq.public import public


@public
class OutcomeKind(StrEnum):
    """How an attempt ended.

    SUCCEEDED: the task returned. RETRY: it failed, and another attempt follows. FAILED: it failed for good.
    CANCELLED: by `handle.cancel` or `raise Cancel`. TIMED_OUT: it took longer than its timeout; `retry_in` says
    whether another attempt follows. INTERRUPTED: its worker ended, and the job was given back. SNOOZED: the task
    called `current_job().snooze`. BAD_ARGUMENTS: the arguments do not fit the task. BAD_RESULT: the result cannot
    be stored. PARKED: this worker does not know the task, or cannot read the call. LOST: another worker has the
    job by now, or the server did not answer before this worker ended.
    """

    SUCCEEDED = "succeeded"
    RETRY = "retry"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed out"
    INTERRUPTED = "interrupted"
    SNOOZED = "snoozed"
    BAD_ARGUMENTS = "bad arguments"
    BAD_RESULT = "bad result"
    PARKED = "parked"
    LOST = "lost"


@public
@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The outcome of one attempt of a job.

    Attributes:
        kind: how the attempt ended.
        retry_in: seconds until the job runs again (RETRY, TIMED_OUT, SNOOZED, PARKED); None where it does not, or
            where another worker takes it at once (INTERRUPTED, LOST).
        result: what the task returned (SUCCEEDED).
        error: what it raised; a `RemoteError` where it ran in a child process; None where it raised nothing.
        reason: why it was cancelled: what `handle.cancel` or `raise Cancel` was given.
        duration: seconds the attempt took.
    """

    kind: OutcomeKind
    retry_in: float | None = None
    result: Any = None
    error: BaseException | None = None
    reason: str = ""
    duration: float = 0.0

    @property
    def final(self) -> bool:
        """Whether the job has ended, so that no further attempt follows."""
        return self.retry_in is None and self.kind not in {OutcomeKind.INTERRUPTED, OutcomeKind.LOST}
