"""What `dir()` shows: only what is for users. Whoever adds a public name adds it here, on purpose."""

from typing import Any

import pytest

import aioq
from aioq import App, JobContext, JobHandle, Schedule
from aioq.tasks.task import Sendable, Task

APP = """
aclose by_name cron events every flow flow_handle flows from_config handle jobs lifespan limiter limiters limits
load middleware name operations queue register_type run_sync schedule schedules send send_many send_many_sync
send_sync settings state task tasks test unique workers
"""
SENDABLE = "call handle name options send send_many send_many_sync send_sync unique_key"
TASK = f"{SENDABLE} defaults executor function slots"
HANDLE = """
added cancel cancel_sync copy delete events events_sync follow_logs follow_logs_sync id info info_sync logs
logs_sync move move_sync queue reschedule result result_sync retry run_now set_priority status status_sync
timeline timeline_sync why why_sync
"""
JOB = """
attempt cancel_requested crashes deadline extend headers id log max_attempts parent_id progress queue root_id
sent_at slots snooze state tags task time_left
"""
SCHEDULES = "get list pause put remove resume run_now"
PACKAGE = """
AioqError App ArgumentError Batch BatchItem BatchTask Call Cancel Chain ConfigError CurrentFlow Debounce
DuplicateJobError DuplicateTaskError EmbeddedServerError Event EventKind EventStream Fail FailedAttempt Failure
Fair Flow FlowFailed FlowGraph FlowHandle FlowInfo FlowNode FlowProgress FlowQuery GraphNode Group
JobCancelledError JobContext JobCount JobError JobEvent JobFailed JobHandle JobInfo JobNotFoundError JobPage
JobQuery JobState Limit LimitInfo LimitKey Limiter LimiterInfo LoadError LogLine Middleware NewerVersionError
NoJobError NodeState Operation OperationInfo OperationState Outcome OutcomeKind Outgoing PauseInfo
PayloadTooLargeError Percentiles Permit Priority ProcessDiedError Progress Queue QueueActivity QueueFullError
QueueHandle QueueInfo QueueStats QueueTask RemoteError ResultError Retry RunningLoopError Schedule
ScheduleConflictError ScheduleNotFoundError SendError ServerError ServerRejectedError ServerUnavailableError
ShardInfo Snooze Stack Task TimelineEntry Unique UnknownTaskError Why WhyCode WhyReason WireError WorkerFigures
WorkerInfo WorkerNotFoundError WorkerQuery WorkerRefusedError WorkerStacks WouldDeadlock WrongLoopError
as_completed current_flow current_job gather gather_sync group
"""

app = App("shop", url="redis://nowhere")


@app.task
async def add(x: int, y: int) -> int:
    return x + y


@app.task
def join(*words: str) -> str:
    return " ".join(words)


def shown(thing: Any) -> list[str]:
    return [name for name in dir(thing) if not name.startswith("_")]


@pytest.mark.parametrize(
    ("thing", "names"),
    [
        (aioq, PACKAGE),
        (app, APP),
        (add, TASK),
        (join, TASK),
        (add.options(delay=1), SENDABLE),
        (app.by_name("other"), SENDABLE),
        (JobHandle, HANDLE),
        (add.handle("a"), HANDLE),
        (app.schedules, SCHEDULES),
        (JobContext, JOB),
        (JobContext(job_id="a", task="add", queue="default"), JOB),
    ],
    ids=[
        "aioq",
        "app",
        "async task",
        "sync task",
        "options",
        "by name",
        "JobHandle",
        "handle",
        "schedules",
        "JobContext",
        "job",
    ],
)
def test_an_object_shows_what_is_for_users(thing: Any, names: str) -> None:
    assert shown(thing) == sorted(names.split())


@pytest.mark.parametrize(
    ("kind", "names", "of_instances"),
    [
        (
            App,
            APP,
            "flow flow_handle flows limiter limiters limits middleware name operations schedules settings tasks"
            " unique",
        ),
        (Task, TASK, "defaults executor function name"),
        (Sendable, SENDABLE, "name"),
    ],
)
def test_a_class_shows_what_its_objects_do(kind: type, names: str, of_instances: str) -> None:
    assert shown(kind) == sorted(set(names.split()) - set(of_instances.split()))


def test_the_package_shows_its_version_and_no_module_of_its_own() -> None:
    import_all = [getattr(aioq, name) for name in aioq.__all__]
    assert Schedule in import_all
    assert [name for name in dir(aioq) if name.startswith("_")] == ["__version__"]


@pytest.mark.parametrize("kind", [App, Task, Sendable, JobHandle, JobContext])
def test_every_public_method_is_described(kind: type) -> None:
    found = {name: getattr(kind, name) for name in shown(kind)}
    assert [name for name, method in found.items() if callable(method) and not method.__doc__] == []
