"""Why a job has not ended yet, or how it has: what `handle.why()` returns."""

import enum
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

import msgspec

from aioq.jobs.job import UNKNOWN_TASK, WAITS, JobInfo, JobState
from aioq.jobs.shards import SEPARATOR, queue_of_shard
from aioq.public import public
from aioq.results.places import JobPlace
from aioq.results.wait_report import STUCK_MS, in_seconds, serving_workers
from aioq.store.contract import Store
from aioq.store.extra import FAIR
from aioq.store.leases import WorkerLease
from aioq.store.limiters import job_key
from aioq.store.limits import Blocked
from aioq.store.pauses import NO_PAUSES, PausePeriod, Pauses
from aioq.store.story import Counted
from aioq.util.plural import counted
from aioq.wire.messages import error_text

MOST_LIMITERS = 50
"""Of how many limiters it is asked whether a job was put off for them."""


@public
class WhyCode(enum.StrEnum):
    """What holds a job back, or what became of it."""

    NOT_DUE = "not_due"
    LIMITER = "limiter"
    RETRIED_LATER = "retried_later"
    UNKNOWN_TASK = "unknown_task"
    HELD_BACK = "held_back"
    LIMITED = "limited"
    GATHERING = "gathering"
    MOVING = "moving"
    QUEUE_PAUSED = "queue_paused"
    TASK_PAUSED = "task_paused"
    NO_WORKER = "no_worker"
    IN_LINE = "in_line"
    WORKERS_STUCK = "workers_stuck"
    FLOW = "flow"
    RUNNING = "running"
    CANCELLING = "cancelling"
    WORKER_LOST = "worker_lost"
    ENDED = "ended"


@public
class WhyReason(msgspec.Struct, frozen=True, kw_only=True):
    """One reason.

    Attributes:
        code: which one.
        text: the same for people, such as "12 jobs are before it".
        until: until when it holds, in UTC by the server's clock; None if that is not known.
        since: since when, likewise.
        job: the id of the job that it waits for; empty for none.
        limiter: the app-wide limiter that it waits for; empty for none.
        worker: the worker that runs it or ran it; empty for none.
        ahead: how many jobs workers take before it; None if it does not stand in line.
        exact: whether `ahead` was counted; else it is an estimate.
    """

    code: WhyCode
    text: str
    until: datetime | None = None
    since: datetime | None = None
    job: str = ""
    limiter: str = ""
    worker: str = ""
    ahead: int | None = None
    exact: bool = True


@public
class Why(msgspec.Struct, frozen=True, kw_only=True):
    """What `await handle.why()` returns. `str(why)` is a text for people.

    Attributes:
        id: the job's id.
        queue: its queue.
        task: its task's name.
        state: its state.
        reasons: what holds it back, the decisive reason first; there is at least one.
        asked_at: the server's time when it was asked.
    """

    id: str
    queue: str
    task: str
    state: JobState
    reasons: tuple[WhyReason, ...]
    asked_at: datetime

    @property
    def text(self) -> str:
        """All reasons in one line."""
        return "; ".join(reason.text for reason in self.reasons)

    def __str__(self) -> str:
        return f"job {self.id} is {self.state}: {self.text}"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the server knows, for the reasons.

    Attributes:
        info: the job.
        now: the server's time.
        workers: the workers of its queue.
        ahead: how many jobs come before it; None if it does not stand in line.
        held_by: the job that it is held back for; empty if that is not known.
        holds_key: whether that job holds its unique key.
        blocked: the limit for which it waits; None for none.
        cancellation: the outcome with which it is to end, if it runs and its cancellation was asked for.
        pauses: what is paused in its queue.
        limiter: the app-wide limiter for which it was put off; empty for none.
        is_on_its_way: whether it has left its queue and has not arrived in the other one.
    """

    info: JobInfo
    now: datetime
    workers: Sequence[WorkerLease] = ()
    ahead: Counted | None = None
    held_by: str = ""
    holds_key: bool = False
    blocked: Blocked | None = None
    cancellation: bytes | None = None
    pauses: Pauses = NO_PAUSES
    limiter: str = ""
    is_on_its_way: bool = False


async def why(store: Store, place: JobPlace) -> Why:
    """Ask a store why a job has not ended: some calls, each bounded, however many jobs there are."""
    facts = await _facts(store, place)
    info = facts.info
    return Why(
        id=info.id,
        queue=queue_of_shard(info.queue),
        task=info.task,
        state=info.state,
        reasons=tuple(reasons_of(facts)),
        asked_at=facts.now,
    )


async def _facts(store: Store, place: JobPlace) -> Facts:
    info, queue = place.info, place.queue
    now = datetime.fromtimestamp(await store.operating.now_ms(queue) / 1000, UTC)
    if info.state.ended or place.is_on_its_way:
        return Facts(info=info, now=now, is_on_its_way=place.is_on_its_way)
    workers, story = await store.workers(queue), store.operating.story
    if info.state is JobState.RUNNING:
        cancellation = await story.cancellation(queue, info.id)
        return Facts(info=info, now=now, workers=workers, cancellation=cancellation)
    pauses, ahead = await store.operating.pauses.read(queue), None
    if info.state is JobState.QUEUED and info.task not in pauses.tasks:  # else it may be set aside
        ahead = await story.ahead(queue, info)
    blocked = await story.blocked(queue, info.id) if info.state is JobState.WAITING else None
    held_by, holds_key = ("", False) if blocked else await _held_by(store, queue, info)
    limiter = await _limiter_of(store, queue, info) if info.state is JobState.SCHEDULED else ""
    return Facts(
        info=info,
        now=now,
        workers=workers,
        ahead=ahead,
        held_by=held_by,
        holds_key=holds_key,
        blocked=blocked,
        pauses=pauses,
        limiter=limiter,
    )


async def _limiter_of(store: Store, queue: str, info: JobInfo) -> str:
    """The limiter for which a job was put off."""
    for name in (await store.limiters.names())[:MOST_LIMITERS]:
        if await store.limiters.snoozed(name, job_key(queue, info.id)) is not None:
            return name
    return ""


async def _held_by(store: Store, queue: str, info: JobInfo) -> tuple[str, bool]:
    """The job that a waiting job is held back for, and whether that is for its unique key."""
    if info.state is not JobState.WAITING:
        return "", False
    if info.unique_key is not None:
        owner = await store.operating.unique_owner(queue, info.unique_key)
        if owner is not None and owner != info.id:
            return owner, True
    return await store.operating.story.held_by(queue, info.id), False


def reasons_of(facts: Facts) -> Iterator[WhyReason]:
    """The reasons, the decisive one first."""
    info = facts.info
    if info.state.ended:
        yield _ended(info)
    elif facts.is_on_its_way:
        text = f"it is on its way to queue {queue_of_shard(info.queue)!r}"
        yield WhyReason(code=WhyCode.MOVING, text=text)
    elif info.state is JobState.RUNNING:
        yield from _running(facts)
    elif facts.blocked is not None:
        yield _limited(facts.blocked, facts.now)
        yield from _unserved(facts)
    elif info.state is JobState.WAITING:
        yield _held_back(facts)
    elif info.state is JobState.SCHEDULED and info.due_at is not None and info.due_at > facts.now:
        yield _put_off(facts) if facts.limiter else _not_due(info, facts.now)
        yield from _paused(facts)
    else:
        yield from _in_line(facts)


def _held_back(facts: Facts) -> WhyReason:
    if not facts.held_by and "@" not in facts.info.id:  # which is in the id of a tick's job
        text = "it waits for others for its batch, until there are enough or the first has waited for long enough"
        return WhyReason(code=WhyCode.GATHERING, text=text)
    which = f"job {facts.held_by}" if facts.held_by else "the job of its schedule's earlier tick"
    text = f'{which} has not ended (overlap="one")'
    if facts.holds_key:
        text = f"{which} has not ended, and holds its unique key"
    return WhyReason(code=WhyCode.HELD_BACK, text=text, job=facts.held_by)


def _ended(info: JobInfo) -> WhyReason:
    how = {JobState.SUCCEEDED: "has succeeded", JobState.FAILED: "has failed"}.get(info.state, "was cancelled")
    text = f"it {how}"
    if info.ended_at is not None:
        text += f" at {_clock(info.ended_at)}"
    if info.worker:
        text += f" on worker {info.worker}"
    if info.error is not None:
        text += f": {info.error.summary}"
    elif info.reason:
        text += f": {info.reason}"
    return WhyReason(code=WhyCode.ENDED, text=text, since=info.ended_at, worker=info.worker or "")


def _running(facts: Facts) -> Iterator[WhyReason]:
    info, worker = facts.info, facts.info.worker or ""
    again = f", in attempt {info.attempts}" if info.attempts > 1 else ""
    ran = "" if info.started_at is None else f" for {in_seconds((facts.now - info.started_at).total_seconds())}"
    text = f"worker {worker} has run it{ran}{again}"
    if info.progress is not None:
        text += f" ({info.progress.done:g}" + (f" of {info.progress.total:g}" if info.progress.total else "") + ")"
    running = WhyReason(code=WhyCode.RUNNING, text=text, since=info.started_at, worker=worker)
    is_alive = any(each.worker == worker and each.lease_ms > 0 for each in facts.workers)
    if is_alive and facts.cancellation is not None:
        yield _cancelling(facts.cancellation, worker)
    if is_alive:
        yield running
        return
    lost = f"worker {worker} has not renewed its lease: it has died, or the server was away"
    does = "queue it again" if facts.cancellation is None else "end it as cancelled"
    alive = any(each.lease_ms > 0 for each in facts.workers)
    then = f"another worker is about to {does}" if alive else f"no worker is there that would {does}"
    yield WhyReason(code=WhyCode.WORKER_LOST, text=f"{lost}; {then}", worker=worker)
    yield running


def _cancelling(outcome: bytes, worker: str) -> WhyReason:
    reason = error_text(outcome)
    text = "its cancellation was asked for" + (f" ({reason})" if reason else "")
    return WhyReason(code=WhyCode.CANCELLING, text=f"{text}; its function has not ended yet", worker=worker)


def _put_off(facts: Facts) -> WhyReason:
    until = facts.info.due_at
    assert until is not None
    left = f"{_clock(until)}, in {in_seconds((until - facts.now).total_seconds())}"
    text = f"it comes back to the limiter {facts.limiter!r} at {left}"
    return WhyReason(code=WhyCode.LIMITER, text=text, limiter=facts.limiter, until=until)


def _not_due(info: JobInfo, now: datetime) -> WhyReason:
    assert info.due_at is not None
    left = f"{_clock(info.due_at)}, in {in_seconds((info.due_at - now).total_seconds())}"
    if info.error is None:
        return WhyReason(code=WhyCode.NOT_DUE, text=f"it is not due before {left}", until=info.due_at)
    if info.error.type == UNKNOWN_TASK:
        text = f"{info.error.message}; it is tried again at {left}"
        return WhyReason(code=WhyCode.UNKNOWN_TASK, text=text, until=info.due_at)
    text = f"attempt {info.attempts} failed with {info.error.summary}; the next one is at {left}"
    return WhyReason(code=WhyCode.RETRIED_LATER, text=text, until=info.due_at, worker=info.worker or "")


def _paused(facts: Facts) -> Iterator[WhyReason]:
    """The pauses of its queue and of its task."""
    info, pauses = facts.info, facts.pauses
    if pauses.whole is not None:
        yield _pause(WhyCode.QUEUE_PAUSED, f"queue {queue_of_shard(info.queue)!r}", pauses.whole)
    if info.task in pauses.tasks:
        yield _pause(WhyCode.TASK_PAUSED, f"task {info.task!r}", pauses.tasks[info.task])


def _pause(code: WhyCode, what: str, span: PausePeriod) -> WhyReason:
    since = datetime.fromtimestamp(span.since_ms / 1000, UTC)
    until = None if span.until_ms is None else datetime.fromtimestamp(span.until_ms / 1000, UTC)
    text = f"{what} is paused since {_clock(since)}" + ("" if until is None else f", until {_clock(until)}")
    return WhyReason(code=code, text=text, since=since, until=until)


def _limited(blocked: Blocked, now: datetime) -> WhyReason:
    """The limit for which it waits, and what is in its way there."""
    key = f", key {blocked.key!r}" if blocked.key else ""
    what = f"limit {blocked.name!r}{key}" if blocked.name != FAIR else f"jobs are taken in turn by their keys{key}"
    until = None if blocked.at_ms is None else datetime.fromtimestamp(blocked.at_ms / 1000, UTC)
    if blocked.reason == "full":
        held = ", ".join(f"job {each}" for each in blocked.holders)
        text = f"{what}: its permits are held ({held})"
    elif blocked.reason == "rate" and until is not None:
        left = in_seconds(max(0.0, (until - now).total_seconds()))
        text = f"{what}: its rate lets the next job start at {_clock(until)}, in {left}"
    elif blocked.reason == "paused":
        text = f"{what} is paused" + ("" if until is None else f" until {_clock(until)}")
    else:
        text = f"{what}: it may run, and waits for a worker" if blocked.name != FAIR else what
    jobs = "1 job is" if blocked.ahead == 1 else f"{blocked.ahead:,} jobs are"
    text += f"; {jobs} before it there" if blocked.ahead else ""
    first = next(iter(blocked.holders), "") if blocked.reason == "full" else ""
    return WhyReason(code=WhyCode.LIMITED, text=text, until=until, job=first, ahead=blocked.ahead)


def _in_line(facts: Facts) -> Iterator[WhyReason]:
    yield from _unserved(facts)
    yield from _place(facts)


def _unserved(facts: Facts) -> Iterator[WhyReason]:
    """What is paused, and what the workers are not up to."""
    info, queue = facts.info, queue_of_shard(facts.info.queue)
    takers, others = serving_workers(facts.workers, queue)
    alive = [lease for lease, _ in takers]
    yield from _paused(facts)
    if not alive:
        text = f"no worker serves {_named(info.queue)}" + (f": {others}" if others else "")
        yield WhyReason(code=WhyCode.NO_WORKER, text=text)
    elif info.task and not any(says.knows(info.task) for _, says in takers):
        text = f"no worker of {_named(info.queue)} knows the task {info.task!r}"
        yield WhyReason(code=WhyCode.UNKNOWN_TASK, text=text)
    elif info.error is not None and info.error.type == UNKNOWN_TASK:
        text = f"it was put off before: {info.error.message}"
        yield WhyReason(code=WhyCode.UNKNOWN_TASK, text=text)
    stuck = _stuck(alive)
    if stuck is not None:
        yield stuck


def _place(facts: Facts) -> Iterator[WhyReason]:
    info, queue = facts.info, queue_of_shard(facts.info.queue)
    takers, others = serving_workers(facts.workers, queue)
    alive = [lease for lease, _ in takers]
    if info.state is JobState.QUEUED and facts.ahead is None:
        return
    served = f"; {counted(len(alive), 'worker', 'serves/serve')} queue {queue!r}" if alive else ""
    served += f", {others}" if served and others else ""
    ahead = facts.ahead or Counted(0)
    yield WhyReason(
        code=WhyCode.IN_LINE,
        text=_place_of(facts) + served,
        ahead=None if facts.ahead is None else ahead.count,
        exact=ahead.exact,
    )


def _place_of(facts: Facts) -> str:
    where = f"in {_named(facts.info.queue)}, priority {facts.info.priority}"
    if facts.info.state not in WAITS or facts.ahead is None:
        return f"it is due, and about to be queued {where}"
    count, about = facts.ahead.count, "" if facts.ahead.exact else "about "
    if not count and facts.ahead.exact:
        return f"it is the next {where}"
    jobs = "1 job is" if count == 1 else f"{count:,} jobs are"
    return f"{about}{jobs} before it {where}"


def _stuck(alive: Iterable[WorkerLease]) -> WhyReason | None:
    """The reason that no worker has fetched for a long time, if that is so."""
    fetched = [each.fetched_ms for each in alive if each.fetched_ms >= 0]
    if not fetched or min(fetched) <= STUCK_MS:
        return None
    text = f"no worker has fetched for {in_seconds(min(fetched) / 1000)}"
    return WhyReason(code=WhyCode.WORKERS_STUCK, text=text)


def _named(name: str) -> str:
    """A queue, or a shard of one."""
    shard = name.partition(SEPARATOR)[2]
    return f"queue {queue_of_shard(name)!r}" + (f", shard {shard}" if shard else "")


def _clock(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
