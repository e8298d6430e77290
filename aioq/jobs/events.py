"""What happens to jobs, workers and queues, as `app.events()` and `handle.events()` report it."""

import enum
from datetime import datetime

import msgspec

from aioq.jobs.job import Progress
from aioq.public import public


@public
class EventKind(enum.StrEnum):
    """What has happened."""

    SENT = "sent"
    STARTED = "started"
    PROGRESS = "progress"
    RETRIED = "retried"
    CRASHED = "crashed"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    WORKER_JOINED = "worker_joined"
    WORKER_LEFT = "worker_left"
    WORKER_PAUSED = "worker_paused"
    WORKER_RESUMED = "worker_resumed"
    QUEUE_PAUSED = "queue_paused"
    QUEUE_RESUMED = "queue_resumed"
    MISSED = "missed"


END_KINDS = (EventKind.SUCCEEDED, EventKind.FAILED, EventKind.CANCELLED)
"""The kinds with which a job ends."""

LIVE = (EventKind.SENT, EventKind.STARTED, EventKind.PROGRESS)
"""The kinds that are recorded only while somebody listens, or with `history="full"`."""

PRESENCE = (EventKind.WORKER_JOINED, EventKind.WORKER_LEFT)
"""The kinds that say which workers there are."""

OF_WORKERS = (*PRESENCE, EventKind.WORKER_PAUSED, EventKind.WORKER_RESUMED)
"""The kinds that are about workers."""

OF_QUEUES = (EventKind.QUEUE_PAUSED, EventKind.QUEUE_RESUMED)
"""The kinds that are about a queue, or about a task of it."""

OF_JOBS = tuple(kind for kind in EventKind if kind not in {*OF_WORKERS, *OF_QUEUES, EventKind.MISSED})
"""The kinds that are about a job."""


@public
class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that has happened.

    Attributes:
        kind: what. `retried` and `crashed` end an attempt that is followed by another one. `missed` stands for
            events that are not recorded any more, or never were.
        at: when, in UTC by the server's clock; of a worker that died, and of a pause that ended by itself, when
            that was noticed; of `missed` until when.
        queue: the queue.
        job_id: the job; empty for none.
        task: its task's name; empty if that is not known. Of a pause the task that is paused, empty for all.
        worker: the worker; empty for none.
        error: the error in a few words; of a worker that has left why, if it did not end by itself; empty for
            none.
        seconds: how long the run took that has ended; None if that is not known.
        waited: how long the job had waited for a worker before that run, likewise.
        progress: what the job has reported last, of `progress`.
        missed: of `missed`, how many events; None if that is not known.
        since: of `missed`, since when events are missing.
    """

    kind: EventKind
    at: datetime
    queue: str
    job_id: str = ""
    task: str = ""
    worker: str = ""
    error: str = ""
    seconds: float | None = None
    waited: float | None = None
    progress: Progress | None = None
    missed: int | None = None
    since: datetime | None = None
