"""What has happened to a job, in the order of time: what `handle.timeline()` returns."""

import enum
from collections.abc import Iterator
from datetime import datetime

import msgspec

from aioq.jobs.job import JobInfo, JobState
from aioq.public import public


@public
class JobEvent(enum.StrEnum):
    """Something that happens to a job."""

    SENT = "sent"
    STARTED = "started"
    RETRIED = "retried"
    CRASHED = "crashed"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SCHEDULED = "scheduled"
    WAITING = "waiting"


@public
class TimelineEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a job's timeline.

    Attributes:
        at: when it happened, in UTC by the server's clock; of `scheduled` when the job is due; of `waiting` when
            that was asked.
        event: what happened. `retried` and `crashed` end an attempt that was, or will be, followed by another one.
            `scheduled` or `waiting` is the last entry of a job that waits now.
        worker: the worker; empty where there was none.
        error: the error in a few words, or why the job was cancelled; empty for none.
        seconds: how long the run took that has ended; None if that is not known.
        why: what a job that is `scheduled` or `waiting` waits for; see `JobHandle.why`.
    """

    at: datetime
    event: JobEvent
    worker: str = ""
    error: str = ""
    seconds: float | None = None
    why: str = ""


def timeline_of(info: JobInfo) -> list[TimelineEntry]:
    """A job's timeline: when it was sent, its last ten failed attempts, its present or last run, its due time."""
    return [*_past(info), *_present(info)]


def _end_is_past(info: JobInfo) -> bool:
    """Whether the last failed attempt is the one with which the job has failed."""
    return (
        info.state is JobState.FAILED
        and bool(info.failed_attempts)
        and info.failed_attempts[-1].ended_at == info.ended_at
    )


def _past(info: JobInfo) -> Iterator[TimelineEntry]:
    if info.sent_at is not None:
        yield TimelineEntry(at=info.sent_at, event=JobEvent.SENT)
    # By its number, for two attempts may end in the same millisecond.
    final = len(info.failed_attempts) - 1 if _end_is_past(info) else None
    for number, each in enumerate(info.failed_attempts):
        yield TimelineEntry(at=each.started_at, event=JobEvent.STARTED, worker=each.worker)
        crashed = JobEvent.CRASHED if each.crashed else JobEvent.RETRIED if each.retried else JobEvent.FAILED
        yield TimelineEntry(
            at=each.ended_at,
            event=JobEvent.FAILED if number == final else crashed,
            worker=each.worker,
            error=each.error,
            seconds=each.seconds,
        )


def _present(info: JobInfo) -> Iterator[TimelineEntry]:
    end_is_past = _end_is_past(info)
    ran = info.started_at is not None and bool(info.worker)
    if info.started_at is not None and ran and not end_is_past:
        yield TimelineEntry(at=info.started_at, event=JobEvent.STARTED, worker=info.worker or "")
    if info.ended_at is not None and not end_is_past:
        yield TimelineEntry(
            at=info.ended_at,
            event=JobEvent(info.state.value),
            worker=info.worker or "",
            error=info.reason if info.error is None else str(info.error),
            seconds=(info.ended_at - info.started_at).total_seconds() if ran and info.started_at else None,
        )
    if info.due_at is not None:
        yield TimelineEntry(at=info.due_at, event=JobEvent.SCHEDULED)
