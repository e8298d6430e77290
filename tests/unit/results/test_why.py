"""The reasons that `handle.why()` gives, made of what is known of a job and its queue."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from aioq import Failure, JobInfo, JobState, Progress
from aioq.results.why import Facts, WhyCode, reasons_of
from aioq.store.extra import FAIR
from aioq.store.leases import MOST_TASKS, WorkerLease, marks_of, serving
from aioq.store.limits import Blocked
from aioq.store.pauses import PausePeriod, Pauses
from aioq.store.story import Counted
from aioq.wire.messages import encode_cancellation

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
NOON_MS = 1_767_268_800_000
ALIVE, DEAD, STUCK = (
    WorkerLease("w-1", 5_000, 10),
    WorkerLease("w-1", 0, 9_000),
    WorkerLease("w-2", 5_000, 40_000),
)
LATE = Failure("TimeoutError", "slow")


def says(**about: Any) -> WorkerLease:
    """A worker that lives, and what it says of itself."""
    return WorkerLease("w-3", 5_000, 10, msgspec.msgpack.encode({"queues": ["mail"], **about}))


PAUSED, STOPPING, LEAVING = says(paused=True), says(draining=True), says(queues=["post"])
UNKNOWN = Failure("aioq.UnknownTaskError", "no worker that has seen it knows the task 'send'")


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def facts(state: JobState, known: dict[str, Any], **asked: Any) -> Facts:
    queue = known.pop("queue", "mail")
    return Facts(
        info=JobInfo(**{"id": "a", **known}, queue=queue, task="send", state=state, sent_at=NOON),
        now=NOON,
        **asked,
    )


GATHERING = "it waits for others for its batch, until there are enough or the first has waited for long enough"
REASONS: list[tuple[Facts, list[str]]] = [
    (
        facts(JobState.SCHEDULED, {"due_at": at(90)}),
        ["not_due: it is not due before 2026-01-01 12:01:30 UTC, in 90 s"],
    ),
    (
        facts(JobState.SCHEDULED, {"due_at": at(3), "attempts": 2, "error": LATE}),
        [
            "retried_later: attempt 2 failed with TimeoutError: slow; "
            "the next one is at 2026-01-01 12:00:03 UTC, in 3.0 s"
        ],
    ),
    (
        facts(JobState.SCHEDULED, {"due_at": at(5), "error": UNKNOWN}),
        [
            "unknown_task: no worker that has seen it knows the task 'send'; "
            "it is tried again at 2026-01-01 12:00:05 UTC, in 5.0 s"
        ],
    ),
    (
        facts(JobState.SCHEDULED, {"due_at": at(-1)}, workers=[ALIVE]),
        [
            "in_line: it is due, and about to be queued in queue 'mail', priority normal; "
            "1 worker serves queue 'mail'"
        ],
    ),
    (
        facts(JobState.QUEUED, {}, ahead=Counted(0)),
        [
            "no_worker: no worker serves queue 'mail'",
            "in_line: it is the next in queue 'mail', priority normal",
        ],
    ),
    (
        facts(JobState.QUEUED, {"queue": "mail#2"}, ahead=Counted(1), workers=[ALIVE, DEAD]),
        [
            "in_line: 1 job is before it in queue 'mail', shard 2, priority normal; 1 worker serves queue 'mail'",
        ],
    ),
    (
        facts(JobState.QUEUED, {"error": UNKNOWN}, ahead=Counted(12_000, exact=False), workers=[ALIVE, ALIVE]),
        [
            "unknown_task: it was put off before: no worker that has seen it knows the task 'send'",
            "in_line: about 12,000 jobs are before it in queue 'mail', priority normal; "
            "2 workers serve queue 'mail'",
        ],
    ),
    (
        facts(
            JobState.QUEUED, {}, ahead=Counted(0), workers=[ALIVE], pauses=Pauses(PausePeriod(NOON_MS - 60_000))
        ),
        [
            "queue_paused: queue 'mail' is paused since 2026-01-01 11:59:00 UTC",
            "in_line: it is the next in queue 'mail', priority normal; 1 worker serves queue 'mail'",
        ],
    ),
    (
        facts(
            JobState.QUEUED,
            {},
            workers=[ALIVE],
            pauses=Pauses(None, {"send": PausePeriod(NOON_MS, NOON_MS + 9_000)}),
        ),
        ["task_paused: task 'send' is paused since 2026-01-01 12:00:00 UTC, until 2026-01-01 12:00:09 UTC"],
    ),
    (
        facts(JobState.QUEUED, {}, ahead=Counted(0), workers=[STUCK]),
        [
            "workers_stuck: no worker has fetched for 40 s",
            "in_line: it is the next in queue 'mail', priority normal; 1 worker serves queue 'mail'",
        ],
    ),
    (
        facts(JobState.QUEUED, {}, ahead=Counted(0), workers=[PAUSED, PAUSED, STOPPING]),
        [
            "no_worker: no worker serves queue 'mail': 2 workers are paused and 1 worker is leaving it",
            "in_line: it is the next in queue 'mail', priority normal",
        ],
    ),
    (
        facts(JobState.QUEUED, {"queue": "mail#2"}, ahead=Counted(0), workers=[ALIVE, LEAVING]),
        [
            "in_line: it is the next in queue 'mail', shard 2, priority normal; "
            "1 worker serves queue 'mail', 1 worker is leaving it",
        ],
    ),
    (
        facts(
            *(JobState.QUEUED, {}),
            ahead=Counted(0),
            workers=[says(tasks=marks_of({"sand", "sent"})), says(tasks=b""), PAUSED],
        ),
        [
            "unknown_task: no worker of queue 'mail' knows the task 'send'",
            "in_line: it is the next in queue 'mail', priority normal; "
            "2 workers serve queue 'mail', 1 worker is paused",
        ],
    ),
    (
        facts(JobState.QUEUED, {}, ahead=Counted(0), workers=[says(tasks=marks_of({"send", "sent"}))]),
        ["in_line: it is the next in queue 'mail', priority normal; 1 worker serves queue 'mail'"],
    ),
    (
        facts(JobState.WAITING, {}, held_by="tick@1"),
        ['held_back: job tick@1 has not ended (overlap="one")'],
    ),
    (
        facts(JobState.WAITING, {}),
        [f"gathering: {GATHERING}"],
    ),
    (
        facts(JobState.WAITING, {"id": "tick@2"}),
        ['held_back: the job of its schedule\'s earlier tick has not ended (overlap="one")'],
    ),
    (
        facts(JobState.SCHEDULED, {"due_at": at(30)}, limiter="openai"),
        ["limiter: it comes back to the limiter 'openai' at 2026-01-01 12:00:30 UTC, in 30 s"],
    ),
    (
        facts(
            *(JobState.WAITING, {}),
            blocked=Blocked("customer", "7", "full", 3, ("j-1", "j-2")),
            workers=[ALIVE],
        ),
        [
            "limited: limit 'customer', key '7': its permits are held (job j-1, job j-2); "
            "3 jobs are before it there",
        ],
    ),
    (
        facts(JobState.WAITING, {}, blocked=Blocked("api", "", "rate", 1, (), NOON_MS + 500), workers=[ALIVE]),
        [
            "limited: limit 'api': its rate lets the next job start at 2026-01-01 12:00:00 UTC, in 0.5 s; "
            "1 job is before it there",
        ],
    ),
    (
        facts(JobState.WAITING, {}, blocked=Blocked("api", "", "paused", 0, (), NOON_MS + 9_000), workers=[ALIVE]),
        ["limited: limit 'api' is paused until 2026-01-01 12:00:09 UTC"],
    ),
    (
        facts(JobState.WAITING, {}, blocked=Blocked("api", "", "paused"), workers=[ALIVE]),
        ["limited: limit 'api' is paused"],
    ),
    (
        facts(JobState.WAITING, {}, blocked=Blocked("api", "", "turn")),
        [
            "limited: limit 'api': it may run, and waits for a worker",
            "no_worker: no worker serves queue 'mail'",
        ],
    ),
    (
        facts(JobState.WAITING, {}, blocked=Blocked(FAIR, "acme", "turn", 2), workers=[ALIVE]),
        ["limited: jobs are taken in turn by their keys, key 'acme'; 2 jobs are before it there"],
    ),
    (
        facts(
            JobState.RUNNING,
            {"worker": "w-1", "started_at": at(-61), "attempts": 2, "progress": Progress(3, 10)},
            workers=[ALIVE],
        ),
        ["running: worker w-1 has run it for 61 s, in attempt 2 (3 of 10)"],
    ),
    (
        facts(JobState.RUNNING, {"worker": "w-1", "started_at": at(-2)}, workers=[DEAD]),
        [
            "worker_lost: worker w-1 has not renewed its lease: it has died, or the server was away; "
            "no worker is there that would queue it again",
            "running: worker w-1 has run it for 2.0 s",
        ],
    ),
    (
        facts(
            JobState.RUNNING,
            {"worker": "w-1", "started_at": at(-2)},
            workers=[ALIVE],
            cancellation=encode_cancellation("send", "sold out"),
        ),
        [
            "cancelling: its cancellation was asked for (sold out); its function has not ended yet",
            "running: worker w-1 has run it for 2.0 s",
        ],
    ),
    (
        facts(
            JobState.RUNNING,
            {"worker": "w-1", "started_at": at(-2)},
            workers=[DEAD, STUCK],
            cancellation=encode_cancellation("send", ""),
        ),
        [
            "worker_lost: worker w-1 has not renewed its lease: it has died, or the server was away; "
            "another worker is about to end it as cancelled",
            "running: worker w-1 has run it for 2.0 s",
        ],
    ),
    (
        facts(JobState.QUEUED, {"queue": "post"}, is_on_its_way=True),
        ["moving: it is on its way to queue 'post'"],
    ),
    (
        facts(JobState.SUCCEEDED, {"ended_at": NOON, "worker": "w-1"}),
        ["ended: it has succeeded at 2026-01-01 12:00:00 UTC on worker w-1"],
    ),
    (
        facts(JobState.FAILED, {"ended_at": NOON, "error": LATE}),
        ["ended: it has failed at 2026-01-01 12:00:00 UTC: TimeoutError: slow"],
    ),
    (
        facts(JobState.CANCELLED, {"ended_at": NOON}),
        ["ended: it was cancelled at 2026-01-01 12:00:00 UTC"],
    ),
]


@pytest.mark.parametrize(("given", "expected"), REASONS)
def test_each_reason_is_given(given: Facts, expected: list[str]) -> None:
    assert [f"{reason.code}: {reason.text}" for reason in reasons_of(given)] == expected


def test_every_code_is_given() -> None:
    codes = {line.partition(":")[0] for _, lines in REASONS for line in lines}
    assert codes == {code.value for code in WhyCode} - {"flow"}, "what a node waits for, its flow says"


def test_a_worker_that_says_nothing_of_its_tasks_may_know_any() -> None:
    for each in (ALIVE, says(), WorkerLease("w", 1, 1, b"\xc1"), says(tasks=None)):
        assert serving(each).knows("send")
    assert marks_of([f"task{n}" for n in range(MOST_TASKS + 1)]) is None
    marks = marks_of([f"shop.task{n}" for n in range(MOST_TASKS)])
    assert marks is not None
    assert len(marks) == 4 * MOST_TASKS
    knows = serving(says(tasks=marks)).knows
    assert (knows("shop.task999"), knows("shop.task1000"), knows("\ud800")) == (True, False, False)
