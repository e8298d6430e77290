"""What a bulk operation is to do, as its record has it, and what is shown of it. Pure."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from aioq.jobs.job import JobInfo, JobState
from aioq.operate.filters import Filters, Moment
from aioq.public import public
from aioq.store.operations import Act, Done, OperationState, StoredOperation

APPLIES_TO = {
    Act.RETRY: (JobState.FAILED,),
    Act.CANCEL: (JobState.WAITING, JobState.SCHEDULED, JobState.QUEUED, JobState.RUNNING),
    Act.DELETE: (JobState.WAITING, JobState.SCHEDULED, JobState.QUEUED, JobState.FAILED),
    Act.MOVE: (JobState.SCHEDULED, JobState.QUEUED),
    Act.RUN_NOW: (JobState.SCHEDULED,),
    Act.SET_PRIORITY: (JobState.WAITING, JobState.SCHEDULED, JobState.QUEUED, JobState.RUNNING),
    Act.PURGE: (JobState.WAITING, JobState.SCHEDULED, JobState.QUEUED, JobState.FAILED),
}
"""By act, the states of the jobs to which it can be done, in the order in which they are gone through: that in
which a job passes through them. Jobs that wait for another one come first, for the end of that queues them. Then
come scheduled ones, which become due and are queued, and at last those that run, to which claimed ones come."""

_ONCE = frozenset({Act.RETRY, Act.RUN_NOW})
"""What is done in one state only, to which a job does not come back as it was."""

_AGAIN = (JobState.SCHEDULED, JobState.QUEUED)
"""The states to which a job can come back: it is retried, given back or set aside, or its time is changed."""


def passes(act: Act, states: Sequence[JobState]) -> Sequence[JobState]:
    """The lists through which an operation goes, by their states.

    Those to which jobs can come back are gone through twice. So one is met the second time that has changed its
    place while it was not looked at. What the operation has acted on does not match then.

    Args:
        act: what it does.
        states: the states of the jobs, in the order of `APPLIES_TO`.
    """
    is_left_for_good = not {JobState.QUEUED, JobState.RUNNING} & {*states}
    return states if act in _ONCE or is_left_for_good else [*states, *(each for each in _AGAIN if each in states)]


class StoredFilters(msgspec.Struct, frozen=True, omit_defaults=True):
    """The filters of an operation; see `Filters`. Times are in milliseconds since the Unix epoch."""

    states: list[JobState]
    queues: list[str] | None = None
    tasks: list[str] | None = None
    tags: list[str] = []
    error: str | None = None
    worker: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    arguments: list[tuple[str | int, Any]] = []


class OperationPlan(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an operation is to do.

    Attributes:
        act: what it does to jobs.
        filters: which jobs.
        shards: the queues and shards that it goes through, each with the time there when it began, in
            milliseconds since the Unix epoch.
        by: who has begun it.
        target: the queue to which jobs are moved, or the priority that they get.
        reason: why jobs are cancelled, or purged.
        rate: the most jobs a second; 0 for no limit.
        ttl_ms: how long the outcomes of cancelled jobs are kept.
        total: about how many jobs matched at the begin.
        exact: whether these were counted.
        reminders: the queues and shards whose workers are reminded of it.
    """

    act: Act
    filters: StoredFilters
    shards: list[tuple[str, int]] = msgspec.field(name="places")
    by: str
    target: str = ""
    reason: str = ""
    rate: float = 0
    ttl_ms: int = 0
    total: int = 0
    exact: bool = True
    reminders: list[str] = []


_DECODER = msgspec.msgpack.Decoder(OperationPlan)


def encode_plan(plan: OperationPlan) -> bytes:
    """A plan as it is stored."""
    return msgspec.msgpack.encode(plan)


def decode_plan(definition: bytes) -> OperationPlan | None:
    """A plan that was stored; None for one that a newer version of aioq has stored in a way of its own."""
    try:
        return _DECODER.decode(definition)
    except (msgspec.DecodeError, ValueError):
        return None


def stored_filters(filters: Filters, queues: Sequence[str], now_ms: int) -> StoredFilters:
    """The filters of an operation that begins now."""
    return StoredFilters(
        states=[*filters.states],
        queues=[*queues],
        tasks=None if filters.tasks is None else [*filters.tasks],
        tags=[*filters.tags],
        error=filters.error,
        worker=filters.worker,
        since_ms=filters.since and filters.since.resolved(now_ms),
        until_ms=filters.until and filters.until.resolved(now_ms),
        arguments=[*filters.arguments],
    )


def filters_of(stored: StoredFilters) -> Filters:
    """The filters by which jobs are matched."""
    return Filters(
        states=stored.states,
        tasks=stored.tasks,
        tags=stored.tags,
        error=stored.error,
        worker=stored.worker,
        since=None if stored.since_ms is None else Moment(at_ms=stored.since_ms),
        until=None if stored.until_ms is None else Moment(at_ms=stored.until_ms),
        arguments=stored.arguments,
        oldest=True,
    )


@public
class OperationInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a bulk operation; it is kept for 30 days after its last change.

    Attributes:
        id: its id.
        action: `retry`, `cancel`, `delete`, `move`, `run_now` or `set_priority`; or `purge`, that of a queue.
        state: `running`, `paused`, `aborted`, `ended`; or `dry_run`, which is not stored.
        by: who has begun it: the user and host of the process, or the name that it has given.
        filters: by name, which jobs it acts on.
        target: the queue to which jobs are moved, or the priority that they get; else None.
        rate: the most jobs a second; None for no limit.
        began_at: when it began; jobs that fail or arrive later are not its own.
        ended_at: when it ended, or was aborted.
        total: how many jobs matched when it began.
        exact: whether these were counted; else `total` is an estimate, and so is `skipped` of a dry run.
        looked_at: how many jobs it has looked at.
        done: how many it has acted on.
        skipped: how many matched, and had changed before it came to them, or could not be changed. Of the dry run
            of a retry, how many cannot be retried, because their calls are not kept any more (`dead_limit`).
        carried: whether a worker, or whoever waits for it, carries it on right now. Between two steps of a slow
            `rate` nobody does.
        sample: of a dry run, the first jobs that match; at most ten.
    """

    id: str
    action: str
    state: OperationState
    by: str
    filters: Mapping[str, Any]
    target: str | None = None
    rate: float | None = None
    began_at: datetime
    ended_at: datetime | None = None
    total: int = 0
    exact: bool = True
    looked_at: int = 0
    done: int = 0
    skipped: int = 0
    carried: bool = False
    sample: Sequence[JobInfo] = ()


def shown_operation(
    plan: OperationPlan, stored: StoredOperation, done: Done, sample: Sequence[JobInfo] = ()
) -> OperationInfo:
    """What is shown of an operation that has done so much; `sample` is that of a dry run."""
    return OperationInfo(
        id=stored.id,
        action=plan.act.value,
        state=stored.state,
        by=plan.by,
        filters=_shown_filters(plan.filters),
        target=plan.target or None,
        rate=plan.rate or None,
        began_at=_time(stored.began_ms),
        ended_at=_time(stored.ended_ms) if stored.ended_ms else None,
        total=plan.total,
        exact=plan.exact,
        looked_at=done.looked_at,
        done=done.done,
        skipped=done.skipped,
        carried=stored.carried,
        sample=sample,
    )


def _shown_filters(filters: StoredFilters) -> dict[str, Any]:
    found = {
        "queue": filters.queues,
        "state": [state.value for state in filters.states],
        "task": filters.tasks,
        "tag": filters.tags,
        "error": filters.error,
        "worker": filters.worker,
        "since": None if filters.since_ms is None else _time(filters.since_ms),
        "until": None if filters.until_ms is None else _time(filters.until_ms),
        "arguments": dict(filters.arguments),
    }
    return {name: value for name, value in found.items() if value}


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
