"""Further data of a job that the stores act on, such as tags or an expiry: one field of its record.

A plain job has none. Each feature has one key in it, and may have a hook in the stores, which is called whenever a
job with that key changes its state: `lua/lib/hooks.lua` and `aioq.store.memory.hooks`. `docs/design.md`,
"Hooks of features", says when.
"""

import enum
from collections.abc import Sequence
from typing import cast

import msgspec

from aioq.errors import Failure, QueueFullError
from aioq.jobs.job import JobState
from aioq.jobs.shards import queue_of_shard
from aioq.util.plural import counted
from aioq.wire.messages import encode_cancellation, encode_failure


class Expiry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The time by which a job must have been started.

    Attributes:
        at_ms: that time, in milliseconds since the Unix epoch; the store computes it if there is a `span_ms`.
        span_ms: how long after the job is due that time is, in milliseconds; 0 if the sender has given `at_ms`.
        begun: the job cannot expire now, because a worker has it or it has been started.
        has_run: the job has been started: it never expires.
    """

    at_ms: int = 0
    span_ms: int = 0
    begun: bool = False
    has_run: bool = False


ASKS, ASKS_FOR_CALL = -1, -2
"""`Lock.due_ms` of a job that was sent without its key and follows another one: its worker asks now and then
whether it may run. The second one says that it was given another call after it was claimed."""


class Lock(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The unique key that a job holds.

    Attributes:
        key: the key.
        until: until when the job holds it: `ended`, `started`, or `within` for so long as `window_ms`.
        conflict: what becomes of a job whose key another one holds: see `aioq.jobs.unique.Unique`.
        window_ms: for how long it is held from the send on, in milliseconds; 0 for until something happens.
        due_ms: when a job is due that waits for the end of another one, in milliseconds since the Unix epoch; 0
            for at once; `ASKS` and `ASKS_FOR_CALL` are below 0.
        begun: 1 if a worker has begun the job's present call, else 0.
        wait_ms: of a debounced job, for how long there must be no further call, in milliseconds; `window_ms` is
            for how long there may be further ones then, and `due_ms` until when, 0 for no limit.
    """

    key: str
    until: str = "ended"
    conflict: str = "return"
    window_ms: int = 0
    due_ms: int = 0
    begun: int = 0
    wait_ms: int = 0

    @property
    def asks(self) -> bool:
        """Whether its worker is to ask before the job is run."""
        return self.due_ms < 0

    @property
    def is_debounced(self) -> bool:
        """Whether it holds the key as one of a series of calls."""
        return self.conflict == "debounce"


FAIR = "~fair"
"""The name in `LimitUse` of what is no limit: jobs are served in turn by their keys. No limit can be named so."""


class LimitUse(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One limit that a job is under. Its key and the limit's name are a group: of its jobs only so many may run.

    The numbers are those of the code that has sent the job; the store knows which are in force.

    Attributes:
        name: the limit's name.
        key: the job's key in it; empty where all jobs have the same one.
        concurrency: how many jobs of a key may run at once; 0 for no such limit.
        rate: how many permits there are in `per_us`; 0 for no such limit.
        per_us: see `rate`; in microseconds.
        burst: how many of these permits may be taken at once.
        cost: how many of them this job takes.
        on_limit: what becomes of a job that may not run at once: see `aioq.jobs.limits.Limit`.
        ordered: whether a job keeps its permit while it waits for its retry.
        declared_ms: when the code has declared these numbers, in milliseconds since the Unix epoch: the newest are
            in force.
        weight: how many jobs of a key are taken in a turn, where the name is `FAIR`; else 0.
        refusals: how often a rate has refused the job although it had all permits; only the stores write this.
    """

    name: str
    key: str = ""
    concurrency: int = 0
    rate: float = 0
    per_us: int = 0
    burst: float = 0
    cost: float = 1
    on_limit: str = "wait"
    ordered: bool = False
    declared_ms: int = 0
    weight: int = 0
    refusals: int = 0

    @property
    def group(self) -> str:
        """The group's name: no limit's name has a colon."""
        return f"{self.name}:{self.key}"


class Gather(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """With which other jobs a job may be run in one batch.

    Attributes:
        key: jobs of one key, and of one lane, share batches.
        size: the most jobs of a batch.
        wait_ms: how long a job waits for others, in milliseconds; `hurried` of that while it is to be run now.
        max_bytes: a batch is closed before its calls have more bytes than this.
    """

    key: str
    size: int
    wait_ms: int
    max_bytes: int

    @staticmethod
    def hurried(wait_ms: int) -> int:
        """The wait of a job that is to be run now, from which this makes the usual one again: a negative one."""
        return -1 - wait_ms


class FlowPlace(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where a job stands in a flow.

    Attributes:
        flow_id: the flow.
        index: the index of its node; `OWN_RECORD` for the record of the flow itself, which is no job to be run.
        departs: 1 while it is to go to another queue for the first time, else 0; only the stores write this.
    """

    flow_id: str
    index: int
    departs: int = 0


OWN_RECORD = -1
"""The index that the record of a flow itself has."""


class Duplicate(msgspec.Struct, frozen=True, gc=False):
    """The reply to a send that was not added because another job holds its unique key. It counts as false.

    Attributes:
        owner: that job.
    """

    owner: str

    def __bool__(self) -> bool:
        return False


class NodeOf(msgspec.Struct, frozen=True, gc=False):
    """The reply to a request to queue a dead job again: it is a node of a flow, so it was not. It counts as false.

    Attributes:
        flow_id: that flow, which can be run again as a whole.
    """

    flow_id: str

    def __bool__(self) -> bool:
        return False


_REPLACING = frozenset({"replace", "latest", "debounce"})

Added = bool | Duplicate
"""The reply to a send: whether its job was added, or which job holds its unique key."""

WAITING_STATES = frozenset({JobState.QUEUED, JobState.SCHEDULED, JobState.WAITING})
"""The states of the jobs that count for the `max_size` of their queue."""


def refused(error: QueueFullError) -> Added:
    """The reply to a send that is refused: the error itself, which the producer raises to the sender."""
    return cast("Added", error)


def queue_full(queue: str, ids: Sequence[str], size: int, max_size: int) -> QueueFullError:
    """The error about jobs with these ids for which their queue, or shard, has no room."""
    shown = ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")  # noqa: PLR2004
    return QueueFullError(
        f"queue {queue!r} is full: {counted(size, 'job')} of {max_size} (max_size) "
        f"{'is' if size == 1 else 'are'} there; {shown} {'was' if len(ids) == 1 else 'were'} not sent",
        tuple(ids),
        queue=queue_of_shard(queue),
        size=size,
        max_size=max_size,
    )


class Move(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where a job was moved to.

    Attributes:
        queue: that queue.
        entry: the entry of the outbox by which it goes there; empty once it has arrived.
        state: the state in which it was moved.
        due_ms: when it is due, in milliseconds since the Unix epoch; 0 for at once.
        at_ms: when it was moved.
    """

    queue: str
    entry: str
    state: str
    due_ms: int
    at_ms: int


class MovedJob(msgspec.Struct, frozen=True, gc=False):
    """A job that was moved to another queue and has not ended, as its old queue knows it.

    Attributes:
        job_id: the job.
        queue: the other queue.
        send: what tells it from another job that has its id; only the store reads it.
    """

    job_id: str
    queue: str
    send: str


class Extra(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Further data of a job. Its record holds it as a MessagePack map, which is never empty.

    Attributes:
        tags: the words with which its sender has marked it.
        expires: the time by which it must have been started; None for no such time.
        move: where it was moved to, if it is not in this queue any more; only the stores write this.
        origins: for a job that was moved to this queue: when its record may be deleted, in milliseconds since the
            Unix epoch (0 before its end), and the queues that must be notified of its end; only the stores
            write this.
        unique: the unique key that it holds or held.
        limits: the limits that it is under, in the order in which it asks for permits.
        waits: the group in which it waits, alone in a tuple; only the stores write this.
        batch: with which other jobs it may be run in one batch.
        flow: its place in a flow.
    """

    tags: tuple[str, ...] = ()
    expires: Expiry | None = None
    move: Move | None = None
    origins: tuple[int | str, ...] | None = None
    unique: Lock | None = None
    limits: tuple[LimitUse, ...] | None = None
    waits: tuple[str] | None = None
    batch: Gather | None = None
    flow: FlowPlace | None = None

    @property
    def key(self) -> str:
        """The job's unique key; empty for none."""
        return "" if self.unique is None else self.unique.key

    @property
    def wait_ms(self) -> int:
        """For how long there must be no further call of its series, in milliseconds; 0 if there is none."""
        return 0 if self.unique is None else self.unique.wait_ms

    @property
    def replaces(self) -> bool:
        """Whether the job's call may take the place of another job's."""
        return self.unique is not None and self.unique.conflict in _REPLACING

    @property
    def ends_jobs(self) -> bool:
        """Whether one of its limits may end the job at once, or another one for it."""
        return any(use.on_limit != "wait" for use in self.limits or ())


class Way(enum.StrEnum):
    """The way in which a job comes back to a lane, or is scheduled again.

    The first seven are settlements with the verb of that name. `recover` and `depart` give back the jobs of a dead
    and of a departing worker; `return` gives back those that were delivered to a worker but not claimed. `promote`
    queues a scheduled job that is due, `reschedule` moves a waiting job to another time, `let_next` queues a
    job that `overlap` held back, and `prioritize` moves a queued job to another lane. `move` is called in the
    queue to which a job was moved, when it arrives.
    """

    RETRY = "retry"
    SNOOZE = "snooze"
    INTERRUPT = "interrupt"
    CUT = "cut"
    CRASH = "crash"
    RELEASE = "release"
    PARK = "park"
    RECOVER = "recover"
    DEPART = "depart"
    RETURN = "return"
    PROMOTE = "promote"
    RESCHEDULE = "reschedule"
    LET_NEXT = "let_next"
    MOVE = "move"
    PRIORITIZE = "prioritize"


EXPIRED = encode_cancellation("", "expired")
"""The outcome of a job that was not started in time. It does not name the task, because the script that writes it
cannot read the call; so the call is kept."""

CALL_GONE = encode_failure(
    "",
    Failure("CallGone", "its call is gone from the server, evicted or deleted by hand: it cannot be run"),
)
"""The outcome of a job that cannot be started because its call was in a key of its own, and that key is gone."""

LOST_OUTCOME = encode_failure(
    "",
    Failure(
        "JobLost", "it was moved to another queue, and its record has vanished from there, evicted or deleted"
    ),
)
"""The outcome of a job that was moved to another queue and is not there any more, although it has no end."""
