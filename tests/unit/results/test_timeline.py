"""The story that `handle.timeline()` makes of what is known of a job."""

from datetime import UTC, datetime, timedelta

import pytest

from aioq import FailedAttempt, JobInfo, JobState
from aioq.results.timeline import timeline_of

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def failed(start: float, end: float, *, crashed: bool = False, retried: bool = False) -> FailedAttempt:
    return FailedAttempt(at(start), at(end), "w-1", "ValueError: no", end - start, crashed, retried)


def info(state: JobState, **known: object) -> JobInfo:
    return JobInfo(id="a", queue="mail", task="send", state=state, sent_at=NOON, **known)  # pyright: ignore[reportArgumentType] - each test gives what its job has


@pytest.mark.parametrize(
    ("job", "events"),
    [
        (info(JobState.QUEUED), [(0, "sent")]),
        (info(JobState.SCHEDULED, due_at=at(60)), [(0, "sent"), (60, "scheduled")]),
        (info(JobState.RUNNING, started_at=at(1), worker="w-1"), [(0, "sent"), (1, "started")]),
        (
            info(JobState.SUCCEEDED, started_at=at(1), ended_at=at(3), worker="w-1"),
            [(0, "sent"), (1, "started"), (3, "succeeded")],
        ),
        (info(JobState.CANCELLED, ended_at=at(3)), [(0, "sent"), (3, "cancelled")]),
        (
            info(
                JobState.SCHEDULED,
                started_at=at(1),
                due_at=at(9),
                failed_attempts=(failed(1, 2, retried=True),),
            ),
            [(0, "sent"), (1, "started"), (2, "retried"), (9, "scheduled")],
        ),
        (
            info(
                JobState.FAILED,
                started_at=at(4),
                ended_at=at(5),
                worker="w-1",
                failed_attempts=(failed(1, 2, crashed=True), failed(4, 5)),
            ),
            [(0, "sent"), (1, "started"), (2, "crashed"), (4, "started"), (5, "failed")],
        ),
    ],
    ids=["queued", "scheduled", "running", "succeeded", "cancelled", "waits for a retry", "failed"],
)
def test_each_state_has_its_story(job: JobInfo, events: list[tuple[float, str]]) -> None:
    entries = timeline_of(job)
    assert [(entry.at, entry.event) for entry in entries] == [(at(second), event) for second, event in events]


def test_an_attempt_has_its_worker_its_error_and_its_time() -> None:
    entries = timeline_of(info(JobState.QUEUED, failed_attempts=(failed(1, 3.5, retried=True),)))
    assert (entries[2].worker, entries[2].error, entries[2].seconds) == ("w-1", "ValueError: no", 2.5)
