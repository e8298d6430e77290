from aioq.app import App
from aioq.call import Call
from aioq.context import JobContext, NoJobError, current_job
from aioq.errors import (
    AioqError,
    ArgumentError,
    ConfigError,
    DuplicateTaskError,
    EmbeddedServerError,
    Failure,
    JobCancelledError,
    JobError,
    JobFailed,
    JobNotFoundError,
    LoadError,
    NewerVersionError,
    PayloadTooLargeError,
    ProcessDiedError,
    RemoteError,
    ResultError,
    RunningLoopError,
    ScheduleNotFoundError,
    SendError,
    ServerError,
    ServerRejectedError,
    ServerUnavailableError,
    UnknownTaskError,
    WireError,
    WouldDeadlock,
    WrongLoopError,
)
from aioq.gathering import as_completed, gather, gather_sync
from aioq.job import JobInfo, JobState, Priority, Progress
from aioq.middleware import Middleware, Outgoing
from aioq.outcome import Outcome, OutcomeKind
from aioq.results import JobHandle
from aioq.retry import Retry, Snooze
from aioq.schedule import Schedule
from aioq.task import Task
from aioq.verdicts import Cancel, Fail

__version__: str

__all__ = [
    "AioqError",
    "App",
    "ArgumentError",
    "Call",
    "Cancel",
    "ConfigError",
    "DuplicateTaskError",
    "EmbeddedServerError",
    "Fail",
    "Failure",
    "JobCancelledError",
    "JobContext",
    "JobError",
    "JobFailed",
    "JobHandle",
    "JobInfo",
    "JobNotFoundError",
    "JobState",
    "LoadError",
    "Middleware",
    "NewerVersionError",
    "NoJobError",
    "Outcome",
    "OutcomeKind",
    "Outgoing",
    "PayloadTooLargeError",
    "Priority",
    "ProcessDiedError",
    "Progress",
    "RemoteError",
    "ResultError",
    "Retry",
    "RunningLoopError",
    "Schedule",
    "ScheduleNotFoundError",
    "SendError",
    "ServerError",
    "ServerRejectedError",
    "ServerUnavailableError",
    "Snooze",
    "Task",
    "UnknownTaskError",
    "WireError",
    "WouldDeadlock",
    "WrongLoopError",
    "as_completed",
    "current_job",
    "gather",
    "gather_sync",
]
