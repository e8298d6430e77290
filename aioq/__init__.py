"""aioq: an asyncio-native job queue on Redis streams.

    from aioq import App

    app = App("shop")

    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    handle = await add.send(1, 2)
    assert await handle == 3

Run the jobs with `aioq worker module:app`.
"""

from aioq.app import App
from aioq.context import JobContext, NoJobError, current_job
from aioq.errors import (
    AioqError,
    ArgumentError,
    ConfigError,
    DuplicateTaskError,
    EmbeddedServerError,
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
    SendError,
    ServerError,
    ServerRejectedError,
    ServerUnavailableError,
    UnknownTaskError,
    WireError,
)
from aioq.job import JobInfo, JobState, Priority, Progress
from aioq.middleware import Middleware, Outgoing
from aioq.results import JobHandle, as_completed, gather
from aioq.retry import Retry
from aioq.task import Call, Task

__version__ = "0.1.0"

__all__ = [
    "AioqError",
    "App",
    "ArgumentError",
    "Call",
    "ConfigError",
    "DuplicateTaskError",
    "EmbeddedServerError",
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
    "Outgoing",
    "PayloadTooLargeError",
    "Priority",
    "ProcessDiedError",
    "Progress",
    "RemoteError",
    "ResultError",
    "Retry",
    "SendError",
    "ServerError",
    "ServerRejectedError",
    "ServerUnavailableError",
    "Task",
    "UnknownTaskError",
    "WireError",
    "as_completed",
    "current_job",
    "gather",
]
