"""The context of a running job: what its task can read and report by `current_job()`."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn, Protocol

import msgspec

from aioq.errors import AioqError, ArgumentError, ConfigError
from aioq.jobs.job import PARENT, ROOT, Progress, without_lineage
from aioq.jobs.loglines import Sink, text_of_line
from aioq.jobs.retry import Snooze
from aioq.jobs.shards import queue_of_shard
from aioq.public import public
from aioq.util.durations import MAX_DELAY, Duration, seconds
from aioq.util.log import GuardedLogger, report_fault
from aioq.util.migration import ApiPart, explain_missing
from aioq.util.texts import cut

MAX_DATA = 4_096
"""Bytes that the data of a progress report may have, encoded. A guess: figures and names, and no results."""

MAX_MESSAGE = 1_000
"""Characters kept of a progress message. A guess: nobody needs more, and the server copies it with each change."""


@public
class NoJobError(AioqError):
    """`current_job()` was called where no job is running."""


class JobLogger(GuardedLogger):
    """The logger `aioq.task`, with the job's id and task in front of each message and in the record's extras.

    `current_job().log("text")` is short for `current_job().log.info("text")`. Where the setting `logs` is on, its
    lines are also kept with the job.

    An error in a logging handler, filter or formatter does not reach the task. Standard error shows it once.
    """

    def __call__(self, msg: object, *args: object, **kwargs: Any) -> None:
        """Log a line as `info` does."""
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
        self.info(msg, *args, **kwargs)

    def _emit(self, level: int, msg: object, args: tuple[object, ...], **kwargs: Any) -> None:
        extra = self.extra or {}
        job = f"{extra['task']}[{extra['job_id']}]"
        if args:
            job = job.replace("%", "%%")  # the message is a format
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1  # the caller's line, not this one
        super()._emit(level, f"{job} {msg}", args, **kwargs)


class KeptJobLogger(JobLogger):
    """The same, where lines are kept with the job: those from `info` on, and others if the logger shows them.

    Args:
        logger: the logger.
        extra: the fields of each record.
        sink: keeps a line.
    """

    def __init__(self, logger: logging.Logger, extra: Mapping[str, object], sink: Sink) -> None:
        super().__init__(logger, extra)
        self._sink = sink

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Keep the line, and log it; neither raises anything."""
        try:
            if level >= logging.INFO or self.logger.isEnabledFor(level):
                self._sink(level, text_of_line(msg, args, kwargs.get("exc_info")))
        except BaseException as fault:
            report_fault(self.logger.name, fault)
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
        super().log(level, msg, *args, **kwargs)


class Lender(Protocol):
    """The worker's part that lends a job's slot while that job waits for others. Any thread may call it."""

    app: object
    """The App whose jobs it is for."""

    def begin(self, job: "JobContext", queue: str, job_id: str, *, held: bool) -> None:
        """Note that a job begins to wait for another job of its App.

        Args:
            job: the job.
            queue: the queue of the other job.
            job_id: the id of the other job.
            held: whether the other job is held back until the job of its schedule's previous tick has ended.

        Raises:
            WouldDeadlock: it would wait for ever.
        """
        ...

    def end(self, job: "JobContext", queue: str, job_id: str, *, held: bool) -> None:
        """Note that the wait is over; called once for each `begin`."""
        ...


@public
class JobContext:
    """The running job, as `current_job()` returns it.

    Attributes:
        id: the job's id.
        task: the task's name.
        attempt: which attempt this is, 1 for the first.
        max_attempts: how many attempts the retry policy allows; None for no limit.
        crashes: how many runs of this job died with their worker. slots: how many slots of its worker it has.
        headers: what the sender sent along.
        parent_id: the job within which it was sent; None for a job that was not sent within one.
        root_id: the first of these jobs, likewise.
        tags: the tags that its task and its sender gave it.
        deadline: when the attempt's timeout ends it, by this host's clock; None without a timeout. `extend` puts
            it off.
        state: the value the App's lifespan yielded; None without a lifespan.
        cancel_requested: whether the job is being cancelled, or its worker is stopping. A coroutine gets a
            CancelledError then. A plain function in a thread cannot be interrupted; it can look here.
    """

    __slots__ = (
        "_extension",
        "_graft",
        "_is_beyond",
        "_lender",
        "_lines",
        "_log",
        "_place",
        "_report",
        "_sent_at",
        "_worker",
        "attempt",
        "cancel_requested",
        "crashes",
        "deadline",
        "headers",
        "id",
        "max_attempts",
        "parent_id",
        "root_id",
        "slots",
        "state",
        "tags",
        "task",
    )

    def __init__(
        self,
        *,
        job_id: str,
        task: str,
        queue: str,
        attempt: int = 1,
        max_attempts: int | None = 1,
        crashes: int = 0,
        slots: int = 1,
        headers: Mapping[str, str] | None = None,
        tags: Sequence[str] = (),
        sent_at: datetime | int | None = None,
        deadline: datetime | None = None,
        state: Any = None,
        report: Callable[[Progress], None] | None = None,
        worker: str = "",
        lender: Lender | None = None,
        lines: Sink | None = None,
    ) -> None:
        self.id = job_id
        self.task = task
        self._place = queue
        self.attempt = attempt
        self.max_attempts = max_attempts
        self.crashes, self.slots = crashes, slots
        self.headers: Mapping[str, str] = headers or {}
        self.parent_id: str | None = None
        self.root_id: str | None = None
        if headers and PARENT in headers:
            self.parent_id, self.root_id = headers[PARENT], headers.get(ROOT)
            self.headers = without_lineage(headers)
        self.tags = tuple(tags)
        self._sent_at = sent_at
        self.deadline = deadline
        self.state = state
        self.cancel_requested = False
        self._report = report
        self._worker = worker
        self._lender = lender
        self._log: JobLogger | None = None
        self._lines = lines
        self._extension = 0.0
        self._graft: object = None  # what it adds to its flow, see `aioq.flows.grafts`
        self._is_beyond = False

    @property
    def queue(self) -> str:
        """The queue it came from."""
        return queue_of_shard(self._place)

    @property
    def sent_at(self) -> datetime | None:
        """When the server received the job."""
        if isinstance(self._sent_at, int):  # in milliseconds; converted here, because few tasks ask for it
            self._sent_at = datetime.fromtimestamp(self._sent_at / 1000, UTC)
        return self._sent_at

    @property
    def log(self) -> JobLogger:
        """A logger whose messages name the job; with the setting `logs` they are kept with it too."""
        if self._log is None:
            logger, extra = logging.getLogger("aioq.task"), {"job_id": self.id, "task": self.task}
            self._log = (
                JobLogger(logger, extra) if self._lines is None else KeptJobLogger(logger, extra, self._lines)
            )
        return self._log

    def progress(
        self,
        done: float,
        total: float | None = None,
        message: str = "",
        *,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Report how far the task is; `handle.info()` shows it, in any process.

        It returns at once, and a thread may call it: the worker stores the latest report with its next
        write. Do not await it.

        Args:
            done: how much is done, in any unit; a number that is not finite counts as 0.
            total: how much there is in all, in the same unit; a number that is not finite counts as unknown. Of
                reports that more than all is done the first one of a run is logged as a warning.
            message: a text for people; where it is longer than `MAX_MESSAGE`, its middle is left out.
            data: what else there is to say, by name: plain data of up to 4,096 bytes, encoded.

        Raises:
            NoJobError: in a process pool, where a job cannot report to its worker.
            ArgumentError: `done` or `total` is no number, or `data` cannot be encoded or is too large.
        """
        if self._report is None:
            raise NoJobError(
                f"job {self.id} runs in a process pool, where progress cannot be reported; do so in its task"
            )
        more = None if data is None else _plain(data)
        try:
            report = Progress(done, total, cut(str(message), MAX_MESSAGE), more)
        except (TypeError, ValueError):
            given = f"progress({done!r}, {total!r})"
            raise ArgumentError(f"{given}: done and total are numbers; a text goes in message=...") from None
        if report.is_beyond and not self._is_beyond:
            # No error: a total that was guessed too low should not fail the job.
            self._is_beyond = True
            self.log.warning("progress: %g of %g is more than all", report.done, report.total, stacklevel=2)
        self._report(report)

    def extend(self, span: Duration) -> None:
        """Lengthen the timeout of this attempt: `current_job().extend(60)` before a step that takes longer.

        It returns at once, and a thread may call it; do not await it. Without a timeout nothing changes. On its
        last chance, in a process of its own, a job gets no more time.

        Args:
            span: by how much, in seconds or as a timedelta, above 0.

        Raises:
            NoJobError: in a process pool, where a job cannot reach its worker.
            ConfigError: the span is no such time.
        """
        more = seconds(span, "current_job().extend: the time")
        if not 0 < more <= MAX_DELAY:
            raise ConfigError(f"current_job().extend({span!r}): expected more than 0 s, and up to ten years")
        if self._report is None:
            raise NoJobError(
                f"job {self.id} runs in a process pool, where its timeout cannot be lengthened; do so in its task"
            )
        if self.deadline is not None:
            with _extending:
                self._extension += more
                self.deadline += timedelta(seconds=more)

    def snooze(self, delay: Duration) -> NoReturn:
        """End this run here, and run the job again after `delay`; it counts as neither attempt nor failure.

            if not await is_ready(order):
                current_job().snooze(30)

        It works by an exception, so nothing after it runs; do not await it, and do not catch what it raises. In an
        `asyncio.TaskGroup` it cancels the other tasks of the group. If several of them snooze, the longest delay
        counts; if one of them raises an error, the job fails.

        Args:
            delay: seconds or a timedelta, from 0 to ten years.

        Raises:
            Snooze: always.
            ConfigError: the delay is out of its range.
        """
        raise Snooze(delay)

    def time_left(self) -> float | None:
        """Seconds until the attempt's timeout; None without one."""
        return None if self.deadline is None else (self.deadline - datetime.now(UTC)).total_seconds()


explain_missing(JobContext, ApiPart.JOB)

_extending = threading.Lock()
"""Held while a timeout is lengthened: a task may do so from several threads at once."""


def take_extension(job: JobContext) -> float:
    """By how many seconds its task has lengthened the timeout since this was asked last."""
    with _extending:
        more, job._extension = job._extension, 0.0  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - this module's own, not for users
    return more


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    """The data of a report as it is stored, so that later changes of it change nothing."""
    if not isinstance(data, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - users without a type checker
        raise ArgumentError(f"progress(data={data!r}): expected a dict")
    try:
        encoded = msgspec.msgpack.encode(dict(data))
        found = msgspec.msgpack.decode(encoded, type=dict[str, Any])
    except Exception as error:
        raise ArgumentError(f"progress(data=...): this cannot be stored: {error}") from error
    if len(encoded) > MAX_DATA:
        raise ArgumentError(f"progress(data=...): {len(encoded):,} bytes, at most {MAX_DATA:,} are stored")
    return found


class RunningHere:
    """How many jobs run in this process.

    Attributes:
        jobs: how many. While it is 0, whoever sends a job need not ask whether that is done within another one.
    """

    jobs = 0


here = RunningHere()

_current: ContextVar[JobContext] = ContextVar("aioq_current_job")
batch_here: ContextVar[JobContext | None] = ContextVar("aioq_batch", default=None)
"""What stands for the batch whose function is called here; none of its jobs is the current one."""


def current_job() -> JobContext:
    """The job that is running here: in a task, in functions it calls, its thread, and asyncio tasks it starts.

    Raises:
        NoJobError: no job is running here, for example in a plain call of a task.
    """
    try:
        return _current.get()
    except LookupError:
        raise NoJobError("no job is running here; current_job() works inside a task run by a worker") from None


def job_here() -> JobContext | None:
    """The job that is running here, if there is one."""
    return _current.get(None)


def worker_of(job: JobContext) -> str:
    """The id of the worker that runs a job, in the job's queue; empty in a process of the pool."""
    return job._worker  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - this module's own, not for users


def place_of(job: JobContext) -> str:
    """The queue of a job, or the shard of it, as the stores call it."""
    return job._place  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - this module's own, not for users


def attach(job: JobContext, report: Callable[[Progress], None]) -> None:
    """Set the function that gets the job's progress reports; the worker calls this."""
    job._report = report  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - this module's own, not for users


def sink_of(job: JobContext) -> Sink | None:
    """What keeps the lines that a job logs; None if they are not kept."""
    return job._lines  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - this module's own, not for users


def lender_of(job: JobContext | None, app: object) -> Lender | None:
    """The object that lends a job's slot while it waits for a job of `app`; None if there is none."""
    lender = None if job is None else job._lender  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - this module's own, not for users
    return lender if lender is not None and lender.app is app else None


def enter_job(context: JobContext) -> None:
    """Make `context` the current job of the running context (a Task's, a thread's or a process's)."""
    _current.set(context)
