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
        queue: where the job came from.
        worker: the worker id it was claimed under; with `claimed.claim` it is the fence.
        claimed: what the store said of it.
        envelope: the call, still encoded (step decode).
        task: the registered task (step resolve).
        args: the positional arguments (step bind).
        kwargs: the keyword arguments (step bind).
        retry: the retry rule that holds (step bind).
        retry_declared: whether the task or the call gave that rule.
        timeout: seconds the attempt may take, None for no limit (step bind).
        result_ttl_ms: how long the outcome is kept (step bind).
        context: what `current_job()` returns (step bind).
        isolated: whether the run is the job's last chance, in a process of its own (step bind).
        key: queue, worker id and job id: after a lost lease a job may come back under a new id while it still ends
            here.
        entered: whether its task has had its first step.
        begun: whether its function, or the middleware around it, has been called: it had a place (step call).
        unfit: arguments or a result that no further attempt would mend (step call).
        thread: its place among the threads (step call, of a plain function).
        handle: the asyncio task of the run, once it runs.
        timer: ends the run at its timeout, if it has one.
        over: whether the function has returned or raised; what is left is to write that down.
        stop: why the run was cancelled from outside, if it was.
        why: the reason that was given for the cancellation.
        started: the loop's time at the start; once it has begun, then.
        settlement: what is written in the end (step classify).
        result: what the task returned, for the log.
        error: what it raised, for the log.
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
    isolated: bool = False
    entered: bool = False
    begun: bool = False
    unfit: ArgumentError | ResultError | None = None
    thread: Any = None
    handle: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None
    over: bool = False
    stop: str | None = None
    why: str = ""
    started: float = 0.0
    settlement: Settlement | None = None
    result: Any = None
    error: BaseException | None = None
    key: RunKey = field(init=False)

    def __post_init__(self) -> None:
        self.key = (self.queue, self.worker, self.claimed.id)

    def runs_what(self, other: "Run") -> bool:
        """Whether both are runs of one send, and not of two that had the same id one after the other."""
        mine, others = self.claimed, other.claimed
        return mine.sent_ms == others.sent_ms and mine.envelope == others.envelope

    @property
    def task_name(self) -> str:
        """The task's name; empty where the envelope could not be read."""
        return self.envelope.task if self.envelope is not None else ""

    @property
    def headers(self) -> dict[str, str] | None:
        """What the sender sent along; None for nothing, or where the envelope could not be read."""
        return self.envelope.options.headers if self.envelope is not None else None

    @property
    def in_child(self) -> bool:
        """Whether the function runs in another process."""
        return self.isolated or (self.task is not None and self.task.executor == "process")

    @property
    def name(self) -> str:
        """The task's name, for people."""
        return self.task_name or "?"

    @property
    def attempt(self) -> int:
        """Which attempt this is, 1 for the first."""
        return self.claimed.attempts + 1


CANCELLED = "cancelled"
"""`Run.stop`: the job was cancelled."""

INTERRUPTED = "interrupted"
"""`Run.stop`: the worker is being stopped; the job is given back."""

CUT_SHORT = "cut short"
"""`Run.stop`: the worker is being stopped, soon after the run had begun; the job is given back."""

FALLEN = "fallen"
"""`Run.stop`: the worker ends by itself; the job is given back, and counts a crash."""

TIMED_OUT = "timed out"
"""`Run.stop`: the attempt took longer than its timeout."""

LOST = "lost"
"""`Run.stop`: the worker's lease was lost; the job belongs to another worker, nothing is written."""
