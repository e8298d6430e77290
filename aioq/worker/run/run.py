"""The record that flows through the worker: one run of one job."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from aioq.errors import ArgumentError, ResultError
from aioq.jobs.context import JobContext
from aioq.jobs.retry import ONE_ATTEMPT, RetryRule
from aioq.store.contract import Claimed, Settlement
from aioq.tasks.task import Task
from aioq.wire.messages import Envelope

RunKey = tuple[str, str, str]


@dataclass(slots=True, eq=False)
class Run:
    """One run of a claimed job. Each step of the pipeline fills in its own part.

    Attributes:
        queue: the queue of the job.
        worker: the worker id under which it was claimed; with `claimed.claim` it is the fence.
        claimed: the claimed job, as the store returned it.
        envelope: the call; its arguments are still encoded (step decode).
        task: the registered task (step resolve).
        args: the positional arguments (step bind).
        kwargs: the keyword arguments (step bind).
        retry: the retry rule that applies (step bind).
        retry_declared: whether the task or the call gave that rule.
        timeout: seconds the attempt may take, None for no limit (step bind).
        result_ttl_ms: how long the outcome is kept (step bind).
        context: the object that `current_job()` returns (step bind).
        lacks_key, lacks_limits, lacks_inputs: whether it has to get its unique key, the permits of its limits, and
            results of other jobs of its flow, first (step bind).
        isolated: whether the run is the job's last chance, in a process of its own (step bind).
        key: queue, worker id and job id: after a lost lease a job may come again under a new worker id while its
            old run has not ended.
        entered: whether its asyncio task has had its first step.
        begun: whether its function, or the middleware around it, has been called, in its place (step call).
        permanent: the error of arguments or a result that no further attempt can correct (step call).
        thread: its place among the threads (step call, of a plain function).
        handle: the asyncio task of the run, once it runs.
        timer: ends the run at its timeout, if it has one.
        returned: whether the function has returned or raised.
        stop: why the run was cancelled from outside, if it was.
        reason: the reason that a person gave for the cancellation.
        started: the loop's time when the run started, and later when it began.
        waited: seconds for which it has waited in this worker for its place.
        settlement: what is written in the end (step classify).
        result: the task's result, for the log.
        error: the exception that it raised, for the log.
        items: of a batch, the runs of its jobs; None for any other run.
        batch: of a job in a batch, the run of that.
        slots: how many slots it takes.
    """

    queue: str
    worker: str
    claimed: Claimed
    envelope: Envelope | None = None
    task: Task[Any, Any] | None = None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] | None = None
    retry: RetryRule = ONE_ATTEMPT
    retry_declared: bool = False
    timeout: float | None = None
    result_ttl_ms: int = 0
    context: JobContext | None = None
    lacks_key: bool = False
    lacks_limits: bool = False
    lacks_inputs: bool = False
    isolated: bool = False
    entered: bool = False
    begun: bool = False
    permanent: ArgumentError | ResultError | None = None
    thread: Any = None
    handle: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None
    returned: bool = False
    stop: str | None = None
    reason: str = ""
    started: float = 0.0
    waited: float = 0.0
    settlement: Settlement | None = None
    result: Any = None
    error: BaseException | None = None
    items: "list[Run] | None" = None
    batch: "Run | None" = None
    slots: int = 1
    key: RunKey = field(init=False)

    def __post_init__(self) -> None:
        self.key = (self.queue, self.worker, self.claimed.id)

    def is_same_send(self, other: "Run") -> bool:
        """Whether both are runs of one send, and not of two sends that used the same id one after the other."""
        mine, others = self.claimed, other.claimed
        return mine.sent_ms == others.sent_ms and mine.envelope == others.envelope

    @property
    def task_name(self) -> str:
        """The task's name; empty if the envelope could not be read."""
        return self.envelope.task if self.envelope is not None else ""

    @property
    def headers(self) -> dict[str, str] | None:
        """The headers of the call; None if there are none, or if the envelope could not be read."""
        return self.envelope.options.headers if self.envelope is not None else None

    @property
    def in_child(self) -> bool:
        """Whether the function runs in another process."""
        return self.isolated or (self.task is not None and self.task.executor == "process")

    @property
    def name(self) -> str:
        """The task's name, for log lines and messages."""
        return self.task_name or "?"

    @property
    def attempt(self) -> int:
        """The number of this attempt, 1 for the first."""
        return self.claimed.attempts + 1


GRACE = 5.0
"""Seconds a job has to end after it was cancelled. A guess: enough to close connections."""

CANCELLED = "cancelled"
"""`Run.stop`: the job was cancelled."""

INTERRUPTED = "interrupted"
"""`Run.stop`: the worker is being stopped; the job is given back."""

CUT_SHORT = "cut short"
"""`Run.stop`: the worker is being stopped, soon after the run had begun; the job is given back."""

WORKER_ENDED = "worker ended"
"""`Run.stop`: the worker ends by itself; the job is given back, and counts a crash."""

TIMED_OUT = "timed out"
"""`Run.stop`: the attempt took longer than its timeout."""

WAITS_FOR_LIMIT = "waits for a limit"
"""`Run.stop`: the job waits for a limit that its sender did not know; it is this worker's no more."""

LOST = "lost"
"""`Run.stop`: the worker's lease was lost; the job belongs to another worker, so no outcome is written."""
