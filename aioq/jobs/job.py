"""A job's life cycle: its states, the transitions between them, its ids, and the record that a handle shows.

                       +--------------------- retry, with a delay ------------------+
                       v                                                            |
    send --> scheduled --- due ---> queued --- claim ---> running --- settle ---> succeeded
      |          |                   ^  |                  |  |  |                failed
      +----------|-------------------+  |                  |  |  +-------------> cancelled
                 |                   ^  |                  |  |
                 |                   +--|--- give back ----+  |
                 +----- cancel ---------+---------------------+

Only the server's record says what state a job is in; no process keeps the state in its memory.
"""

import enum
import os
import re
import struct
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from math import isfinite
from typing import Any

from aioq.errors import Failure
from aioq.jobs.shards import SEPARATOR
from aioq.public import public
from aioq.util.naming import NAME


@public
class JobState(enum.StrEnum):
    """The state of a job in its life cycle."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    WAITING = "waiting"

    @property
    def ended(self) -> bool:
        """Whether the job has an outcome. Only a dead job that is queued again leaves such a state."""
        return not TRANSITIONS[self]


TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.SCHEDULED: frozenset({JobState.QUEUED, JobState.CANCELLED}),
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.SCHEDULED, JobState.CANCELLED}),
    JobState.RUNNING: frozenset(
        {
            JobState.SUCCEEDED,
            JobState.FAILED,
            JobState.CANCELLED,
            JobState.SCHEDULED,  # a retry with a delay, or an unknown task that is parked
            JobState.QUEUED,  # given back, recovered, or retried at once
        }
    ),
    JobState.WAITING: frozenset({JobState.QUEUED, JobState.SCHEDULED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}
"""The allowed transitions. A sent job begins as scheduled, queued or waiting."""

WAITS = (JobState.SCHEDULED, JobState.QUEUED)
"""The states of a job that waits for its time or for a worker."""


@public
class Priority(enum.StrEnum):
    """A queue's lanes, the first one served first; a lower lane is served when the higher ones are empty."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


@public
@dataclass(frozen=True, slots=True)
class Progress:
    """The last progress report of a running job.

    Attributes:
        done: how much is done, in the task's own unit.
        total: how much there is in all, or None where the task did not say.
        message: a text for people.
        data: what else the task has reported, as plain data, or None.

    NaN and infinities, which JSON cannot hold, are replaced: `done` becomes 0, and `total` None.
    """

    done: float
    total: float | None = None
    message: str = ""
    data: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        """Replace numbers that are not finite; this is done for stored reports too."""
        object.__setattr__(self, "done", _finite(self.done) or 0.0)
        object.__setattr__(self, "total", None if self.total is None else _finite(self.total))

    @property
    def is_beyond(self) -> bool:
        """Whether more is done than there is in all; sums of fractions may be a little too large."""
        return self.total is not None and self.done - self.total > 1e-9 * abs(self.total)


def _finite(number: float) -> float | None:
    try:
        number = float(number)
    except OverflowError:  # an int beyond 1.8e308
        return None
    return number if isfinite(number) else None


@public
@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """An attempt of a job that failed: its task raised an error, or its worker died.

    Attributes:
        started_at: when the worker took the job.
        ended_at: when its end was stored.
        worker: the worker that ran it.
        error: its error in a few words, such as "ValueError: no such user".
        seconds: how long it ran; None if its worker died.
        crashed: whether its worker died.
        retried: whether another attempt followed by the job's retry rule.
    """

    started_at: datetime
    ended_at: datetime
    worker: str
    error: str
    seconds: float | None = None
    crashed: bool = False
    retried: bool = False


@public
@dataclass(frozen=True, slots=True, kw_only=True)
class JobInfo:
    """All that the server knows of a job at the moment it is asked.

    It is a plain dataclass of plain values: FastAPI returns it as it is, and `dataclasses.asdict` makes a dict for
    `json.dumps(..., default=str)`. Times are in UTC, by the server's clock.

    Attributes:
        id: the job's id.
        queue: its queue.
        task: its task's name.
        state: its state.
        priority: its lane.
        attempts: how many runs the task has ended itself, the one under way included; a cancelled run does not
            count.
        crashes: how many runs ended because their worker died.
        interruptions: how many runs a worker gave back because it was stopped; they do not count as attempts.
        sent_at: when the server received the job.
        due_at: when a scheduled job will be queued, else None.
        started_at: when the last run was started, or None.
        ended_at: when the outcome was stored, or None.
        worker: the worker that runs it or ran it last, or None.
        progress: what the task last reported, or None.
        error: the error that ended the last failed attempt, or why workers have put the job off; else None.
        reason: why it was cancelled, as `cancel` or `raise Cancel` said, or "expired"; empty for no reason.
        headers: the headers the sender gave.
        tags: the tags that its task and its sender gave it.
        expires_at: by when it must have been started, or it ends as cancelled; None if it does not expire.
        unique_key: the unique key that it was sent with; None for a job that is not unique.
        failed_attempts: the last ten attempts that failed, the oldest first; empty where the App keeps no history.
        parent_id: the job within which it was sent; None for a job that was not sent within one.
        root_id: the first of these jobs: the one that its parent's parents were sent within; likewise.
        result: what the job returned, if `info(result=True)` asked for it and the job has succeeded; else None.
    """

    id: str
    queue: str
    task: str
    state: JobState
    priority: Priority = Priority.NORMAL
    attempts: int = 0
    crashes: int = 0
    interruptions: int = 0
    sent_at: datetime | None = None
    due_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    worker: str | None = None
    progress: Progress | None = None
    error: Failure | None = None
    reason: str = ""
    headers: dict[str, str] = field(default_factory=dict[str, str])
    tags: tuple[str, ...] = ()
    expires_at: datetime | None = None
    unique_key: str | None = None
    failed_attempts: tuple[FailedAttempt, ...] = ()
    parent_id: str | None = None
    root_id: str | None = None
    result: Any = None

    def __post_init__(self) -> None:
        """Take the parent out of the headers, where its id travels."""
        if PARENT in self.headers:
            object.__setattr__(self, "parent_id", self.headers[PARENT])
            object.__setattr__(self, "root_id", self.headers.get(ROOT))
            object.__setattr__(self, "headers", without_lineage(self.headers))


PARENT, ROOT = "aioq-parent", "aioq-root"
"""The headers by which a job that was sent within another one carries the ids of that job, and of the first one of
all. They are shown as `JobInfo.parent_id` and `root_id`, and not among the headers."""

_LINEAGE = frozenset({PARENT, ROOT})


def without_lineage(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that the sender gave."""
    return {name: value for name, value in headers.items() if name not in _LINEAGE}


UNKNOWN_TASK = "aioq.UnknownTaskError"
"""The type of the error that a job shows while workers put it off. If that lasts too long, it fails with this."""


def put_off(task: str) -> Failure:
    """The error that a job shows after a worker has put it off, until a worker runs it.

    Args:
        task: its task's name; empty where the call cannot be read here.
    """
    what = f"knows the task {task!r}" if task else "can read its call"
    return Failure(UNKNOWN_TASK, f"no worker that has seen it {what}")


_LETTERS = 16
_GENERATED = re.compile(r"[A-Za-z0-9]{16}")

_NODE = re.compile(r"[0-9a-z]{3,7}(?:~[1-9][0-9]{0,5})?")
"""What comes after the id of a flow in that of one of its nodes (`aioq.flows.ids`)."""

_SHARD = re.compile(r"[1-9][0-9]{0,3}")
"""The number of a shard in an id; the first shard is named like the queue."""

MAX_JOB_ID = 256
"""The longest job id, in characters; every id is stored several times."""


DEFAULT_QUEUE = "default"
"""The queue whose name is not in generated ids."""


MAX_SHARING = 500
"""The most ids that share a prefix: as many as a batch of sends has jobs at most."""

OWN_LETTERS = 4
"""How many letters at the end of an id differ where ids share a prefix."""

_PREPARED: list[str] = []
_PREPARED_AT_ONCE = 256
"""How many ids are made at once, for jobs that are sent one by one."""


def _words(count: int, size: int) -> list[str]:
    """`count` random words of `size` letters and digits each. To make them one by one takes six times as long."""
    letters = b64encode(os.urandom(3 * size * count // 4), b"xX")
    return b" ".join(struct.unpack(f"{size}s" * count, letters)).decode().split(" ")


def _forget_prepared() -> None:
    _PREPARED.clear()


os.register_at_fork(after_in_child=_forget_prepared)  # otherwise parent and child would use the same ids


def new_job_id(queue: str) -> str:
    """A new id: 95 random bits in 16 letters and digits.

    In a queue other than `default` the queue's name comes before it (`mail.x7Gq...`), so that an id alone tells
    which queue its job is in. The `+` and `/` of base64 are replaced by letters. That costs less than one random
    bit, and an id stays one word for a double-click, a shell and a URL.
    """
    try:
        word = _PREPARED.pop()
    except IndexError:
        _PREPARED.extend(_words(_PREPARED_AT_ONCE, 16))
        word = _PREPARED.pop()
    return word if queue == DEFAULT_QUEUE else f"{queue}.{word}"


def new_nonce() -> str:
    """A random word that distinguishes one send from other sends of the same id, where a caller gives the id."""
    return new_job_id(DEFAULT_QUEUE)


def new_job_ids(queue: str, count: int) -> list[str]:
    """`count` new ids for jobs that are sent together.

    Up to 500 of them share their first twelve letters (71 random bits), so that an entry of a lane that names many
    of them is small. The last four letters are random too, and different for each.
    """
    ids: list[str] = []
    while len(ids) < count:
        most = min(count - len(ids), MAX_SHARING)
        (shared,) = _words(1, 12)
        prefix = shared if queue == DEFAULT_QUEUE else f"{queue}.{shared}"
        ends = set(_words(most, 4))
        while len(ends) < most:
            ends.update(_words(most - len(ends), 4))
        ids += [prefix + end for end in ends]
    return ids


def queue_of(job_id: str) -> str | None:
    """The queue that a generated id names, or the shard of a queue that has several; None where it names none.

    The id of a flow's node names the flow's home, where its record is.
    """
    name, dot, word = job_id.rpartition(".")
    if len(word) != _LETTERS and _NODE.fullmatch(word):
        name, dot, word = name.rpartition(".")
    queue, separator, shard = name.partition(SEPARATOR)
    if not dot or not _GENERATED.fullmatch(word) or not NAME.fullmatch(queue):
        return None
    return name if not separator or _SHARD.fullmatch(shard) else None
