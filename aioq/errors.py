"""All errors that aioq raises on purpose.

There is one base class, `AioqError`, and below it one class for each case in which a caller can do something
different. Exceptions of other libraries are translated: a Redis exception never leaves `store/redis`.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from aioq.public import public, reduce_error


@public
@dataclass(frozen=True, slots=True)
class Failure:
    """The error that ended an attempt, as text: the one form in which all parts of aioq show errors of tasks.

    Attributes:
        type: the qualified name of the exception's class at the worker.
        message: `str()` of the exception at the worker.
        traceback: the formatted traceback at the worker; empty where there was none, or where another attempt
            follows (the worker's log has it).
    """

    type: str
    message: str
    traceback: str = ""

    @property
    def summary(self) -> str:
        """`Type: message`."""
        return f"{self.type}: {self.message}" if self.message else self.type

    def __str__(self) -> str:
        return self.summary


@public
class AioqError(Exception):
    """The base of all errors that aioq raises on purpose."""

    __reduce__ = reduce_error


@public
class ConfigError(AioqError):
    """A setting, an option or a declaration is wrong; the message names it and where it was written."""


@public
class LoadError(ConfigError):
    """`module:app` on the command line does not lead to an App."""


@public
class RunningLoopError(AioqError, RuntimeError):
    """A method for sync code was called where an event loop runs, which it would block; use the async one."""


@public
class DuplicateTaskError(ConfigError):
    """Two functions were registered under one task name."""


@public
class ArgumentError(AioqError, TypeError):
    """A call's arguments do not fit the task, or cannot be encoded; nothing was sent."""


@public
class PayloadTooLargeError(AioqError, ValueError):
    """A call's encoded arguments are larger than `max_payload`; nothing was sent."""


@public
class WireError(AioqError):
    """Bytes that were read are not in the format of this version of aioq."""


@public
class NewerVersionError(WireError):
    """An envelope was written by a newer aioq than this one; another worker may be able to read it."""


@public
class ResultError(AioqError):
    """A task's result cannot be encoded, is over `max_result`, or does not fit its annotation; the job fails."""


@public
class ProcessDiedError(AioqError):
    """The process of the pool that ran the job died: killed, out of memory, or a crash in native code."""


@public
class UnknownTaskError(AioqError):
    """No worker knew the job's task for as long as `unknown_task_ttl`."""


@public
class ServerError(AioqError):
    """The server could not do what aioq asked for."""


@public
class ServerUnavailableError(ServerError):
    """The server cannot be reached or is not ready. Waiting may help, so callers retry with backoff."""


@public
class ServerRejectedError(ServerError):
    """The server answers but refuses (password, permission, version); waiting does not help.

    Attributes:
        is_login: whether the login was refused; then the server refuses everything from this process.
    """

    is_login = False


@public
class EmbeddedServerError(ServerError):
    """The embedded server could not be started or reached; the message names the two remedies."""


@public
class SendError(AioqError):
    """The server did not confirm these jobs within `send_timeout`; it may have some of them.

    Sending again with the same `job_id`s is safe: an id the server already has is not added twice.

    Attributes:
        job_ids: the ids of the jobs that are unconfirmed.
    """

    def __init__(self, message: str, job_ids: tuple[str, ...]) -> None:
        super().__init__(message)
        self.job_ids = job_ids


@public
class QueueFullError(SendError):
    """These jobs were not sent, because as many are in the queue as its `max_size`. The server has none of them.

    Attributes:
        queue: the queue.
        size: how many jobs were in it: queued, scheduled, or waiting for others. Of a sharded queue, in the shard.
        max_size: how many may be.
        job_ids: the ids that the jobs would have had.
    """

    def __init__(self, message: str, job_ids: tuple[str, ...], *, queue: str, size: int, max_size: int) -> None:
        super().__init__(message, job_ids)
        self.queue, self.size, self.max_size = queue, size, max_size


@public
class DuplicateJobError(AioqError):
    """A call was not sent, because another job holds its unique key, and it is declared to fail then.

    Attributes:
        job_id: the job that holds the key.
    """

    def __init__(self, message: str, job_id: str) -> None:
        super().__init__(message)
        self.job_id = job_id


@public
class ScheduleNotFoundError(AioqError):
    """The server knows no such schedule: it was never put there, or it was removed.

    Attributes:
        schedule_id: the id that was asked for.
    """

    def __init__(self, message: str, schedule_id: str) -> None:
        super().__init__(message)
        self.schedule_id = schedule_id


@public
class ScheduleConflictError(AioqError):
    """A schedule could not be changed, because others kept changing it at the same time; try again.

    Attributes:
        schedule_id: the schedule.
    """

    def __init__(self, message: str, schedule_id: str) -> None:
        super().__init__(message)
        self.schedule_id = schedule_id


@public
class WorkerNotFoundError(AioqError):
    """The server knows no such worker: it has ended, or was cut off for so long that others have its jobs.

    Attributes:
        worker_id: the id that was asked for.
    """

    def __init__(self, message: str, worker_id: str) -> None:
        super().__init__(message)
        self.worker_id = worker_id


@public
class WorkerRefusedError(AioqError):
    """A worker does not do what it is asked for; the message says why, and what is possible.

    Attributes:
        worker_id: the worker's id.
    """

    def __init__(self, message: str, worker_id: str) -> None:
        super().__init__(message)
        self.worker_id = worker_id


@public
class WrongLoopError(AioqError, RuntimeError):
    """An App that runs in memory (`app.test()`) was used from another event loop than it was entered on."""


@public
class JobError(AioqError):
    """The base of what awaiting a job can raise, apart from the builtin TimeoutError.

    Attributes:
        job_id: the job that the error is about.
    """

    def __init__(self, message: str, job_id: str) -> None:
        super().__init__(message)
        self.job_id = job_id


@public
class JobNotFoundError(JobError):
    """The server knows no such job: it was never sent to this server, or its record has expired."""


@public
class JobCancelledError(JobError):
    """The job was cancelled before it had an outcome."""


@public
class WouldDeadlock(JobError):  # noqa: N818 - the name is part of the public contract
    """A job was about to wait for another job that cannot end before the waiting job itself has ended.

    Attributes:
        chain: the ids of the jobs it would wait for, each of which waits for the next one; the last is its own id.
    """

    def __init__(self, message: str, job_id: str, chain: tuple[str, ...]) -> None:
        super().__init__(message, job_id)
        self.chain = chain


@public
class RemoteError(AioqError):
    """An exception that a task raised at a worker, as text: the type's name, the message and the traceback.

    Attributes:
        type: the qualified name of the exception's class at the worker.
        message: `str()` of the exception at the worker.
        traceback: the formatted traceback at the worker; empty where there was none.
    """

    def __init__(self, type_name: str, message: str, traceback: str) -> None:
        text = f"{type_name}: {message}" if message else type_name
        super().__init__(f"{text}\n\n{traceback.rstrip()}" if traceback else text)
        self.type = type_name
        self.message = message
        self.traceback = traceback


@public
class JobFailed(JobError):  # noqa: N818 - the name is part of the public contract
    """The job failed. `__cause__` is a `RemoteError`, so that a traceback shows the worker's traceback too.

    Attributes:
        job_id: the job.
        task: the task's name.
        error: the error that ended it: `type`, `message`, `traceback`.
    """

    def __init__(self, job_id: str, task: str, error: Failure) -> None:
        super().__init__(f"job {job_id} ({task}) failed: {error.summary}", job_id)
        self.task = task
        self.error = error
        self.__cause__ = RemoteError(error.type, error.message, error.traceback)

    def __reduce__(self) -> tuple[Any, ...]:
        return JobFailed, (self.job_id, self.task, self.error), vars(self)  # the constructor makes its cause


@public
class FlowFailed(JobFailed):
    """A flow has failed. `error` and `__cause__` are those of the first of its nodes that has failed.

    Attributes:
        job_id: the flow's id.
        task: `flow:` and the flow's name.
        error: the error of the node: `type`, `message`, `traceback`.
        node: the node's name; empty where that is not known any more.
        cancelled: the names of nodes that were not run because of it, at most 20.
        dropped: how many these are in all.
    """

    def __init__(
        self,
        job_id: str,
        task: str,
        error: Failure,
        *,
        node: str = "",
        cancelled: tuple[str, ...] = (),
        dropped: int = 0,
    ) -> None:
        super().__init__(job_id, task, error)
        self.node, self.cancelled, self.dropped = node, cancelled, max(dropped, len(cancelled))
        name = task.removeprefix("flow:")
        text = f"flow {job_id} ({name}) failed: " + (f"node {node!r}: " if node else "") + error.summary
        if cancelled:
            more = f" and {self.dropped - len(cancelled)} more" if self.dropped > len(cancelled) else ""
            text += f"; not run because of it: {', '.join(cancelled)}{more}"
        self.args = (text,)

    def __reduce__(self) -> tuple[Any, ...]:
        more = {"node": self.node, "cancelled": self.cancelled, "dropped": self.dropped}
        return partial(FlowFailed, **more), (self.job_id, self.task, self.error), vars(self)
