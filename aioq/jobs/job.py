"""A job's life cycle: its states, the legal transitions between them, and the record a handle shows.

                       +--------------------- retry, with a delay ------------------+
                       v                                                            |
    send --> scheduled --- due ---> queued --- claim ---> running --- settle ---> succeeded
      |          |                   ^  |                  |  |  |                failed
      +----------|-------------------+  |                  |  |  +-------------> cancelled
                 |                   ^  |                  |  |
                 |                   +--|--- give back ----+  |
                 +----- cancel ---------+---------------------+

The server's record is the authority; nothing in a process's memory says what state a job is in.
"""

import enum
import os
import re
import struct
from base64 import b64encode
from dataclasses import dataclass, field
from datetime import datetime
from math import isfinite
from typing import Any

from aioq.errors import Failure
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
        """Whether the job has an outcome; such a state is left only where a dead job is opened again."""
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
"""The legal moves. `send` enters at scheduled, queued or waiting."""

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
    """What a running job last said of its progress.

    Attributes:
        done: how much is done, in the task's own unit.
        total: how much there is in all, or None where the task did not say.
        message: a text for people.

    NaN and infinities, which JSON cannot hold, are none of these: `done` is 0 then, and `total` unknown.
    """

    done: float
    total: float | None = None
    message: str = ""

    def __post_init__(self) -> None:
        """Keep to what can be shown; reports are read here, too."""
        object.__setattr__(self, "done", _finite(self.done) or 0.0)
        object.__setattr__(self, "total", None if self.total is None else _finite(self.total))


def _finite(number: float) -> float | None:
    try:
        number = float(number)
    except OverflowError:  # an int beyond 1.8e308
        return None
    return number if isfinite(number) else None


@public
@dataclass(frozen=True, slots=True, kw_only=True)
class JobInfo:
    """What the server knows of a job, at the moment it was asked.

    A plain dataclass of plain values: FastAPI returns it as it is, and `dataclasses.asdict` makes a dict of it for
    `json.dumps(..., default=str)`. Times are in UTC, by the server's clock.

    Attributes:
        id: the job's id.
        queue: its queue.
        task: its task's name.
        state: its state.
        priority: its lane.
        attempts: runs that were started and ended by the task's own doing, the one under way included; one that
            was cancelled is none.
        crashes: runs that ended with the death of their worker.
        interruptions: runs that a worker gave back because it was stopped; they cost no attempt.
        sent_at: when the server took the job.
        due_at: when a scheduled job will be queued, else None.
        started_at: when the last run was started, or None.
        ended_at: when the outcome was stored, or None.
        worker: the worker that runs it or ran it last, or None.
        progress: what the task last reported, or None.
        error: what ended the last failed attempt, or why workers have put the job off; else None.
        headers: the headers the sender gave.
        tags: the tags that its task and its sender gave it.
        expires_at: by when it must have been started, or it ends as cancelled; None for no such time.
        result: what the job returned, where it was asked for (`info(result=True)`) and the job has succeeded; None
            else.
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
    headers: dict[str, str] = field(default_factory=dict[str, str])
    tags: tuple[str, ...] = ()
    expires_at: datetime | None = None
    result: Any = None


UNKNOWN_TASK = "aioq.UnknownTaskError"
"""The type of what a job shows as its error while it is put off, and has as one if it is for too long."""


def put_off(task: str) -> Failure:
    """What is shown of a job that a worker has put off, until one takes it.

    Args:
        task: its task's name; empty where the call cannot be read here.
    """
    what = f"knows the task {task!r}" if task else "can read its call"
    return Failure(UNKNOWN_TASK, f"no worker that has come to it {what}")


_GENERATED = re.compile(r"[A-Za-z0-9]{16}")

MAX_JOB_ID = 256
"""The longest job id, in characters; every id is stored several times."""


DEFAULT_QUEUE = "default"
"""The queue that generated ids do not name."""


MAX_ALIKE = 500
"""The most ids that have most letters in common. As many jobs leave in one batch."""

OWN_LETTERS = 4
"""The last letters of an id, which differ where the others are in common."""

_DRAWN: list[str] = []
_DRAWS = 256
"""How many ids are drawn at once for those that are needed one by one."""


def _words(count: int, size: int) -> list[str]:
    """Random words of `size` letters and digits, `count` of them at once: one by one takes six times as long."""
    letters = b64encode(os.urandom(3 * size * count // 4), b"xX")
    return b" ".join(struct.unpack(f"{size}s" * count, letters)).decode().split(" ")


def _forget_drawn() -> None:
    _DRAWN.clear()


os.register_at_fork(after_in_child=_forget_drawn)  # or parent and child would give out the same ids


def new_job_id(queue: str) -> str:
    """A fresh id: 95 random bits in 16 letters and digits.

    In a queue other than `default` the queue's name comes before it (`mail.x7Gq...`), so that an id
    alone says where its job is. `+` and `/` become letters, which costs less than one bit and keeps an id one
    word for a double-click, a shell and a URL.
    """
    try:
        word = _DRAWN.pop()
    except IndexError:
        _DRAWN.extend(_words(_DRAWS, 16))
        word = _DRAWN.pop()
    return word if queue == DEFAULT_QUEUE else f"{queue}.{word}"


def new_nonce() -> str:
    """A word that distinguishes this send of an id of one's own from other sends of the same id."""
    return new_job_id(DEFAULT_QUEUE)


def new_job_ids(queue: str, count: int) -> list[str]:
    """As many fresh ids for jobs that are sent together.

    Up to 500 have their first twelve letters in common, so that a lane's entry that names many of them is small.
    Those are 71 random bits; the last four letters are random too, but differ.
    """
    ids: list[str] = []
    while len(ids) < count:
        most = min(count - len(ids), MAX_ALIKE)
        (shared,) = _words(1, 12)
        prefix = shared if queue == DEFAULT_QUEUE else f"{queue}.{shared}"
        ends = set(_words(most, 4))
        while len(ends) < most:
            ends.update(_words(most - len(ends), 4))
        ids += [prefix + end for end in ends]
    return ids


def queue_of(job_id: str) -> str | None:
    """The queue a generated id names, or None where it names none."""
    queue, dot, word = job_id.rpartition(".")
    if not dot or not _GENERATED.fullmatch(word) or not NAME.fullmatch(queue):
        return None
    return queue
