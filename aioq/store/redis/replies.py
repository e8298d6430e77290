"""Turns the replies of scripts into the store's records. Pure functions, each for the reply of one Lua file."""

import contextlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from aioq.errors import WireError
from aioq.jobs.job import WAITS, JobInfo, JobState, Priority, Progress, put_off
from aioq.store.contract import Claim, Claimed
from aioq.store.control import ASKED
from aioq.store.extra import Added, Duplicate, MovedJob, NodeOf, queue_full, refused
from aioq.store.history import AttemptNote, failed_attempt
from aioq.store.leases import Renewal, WorkerLease
from aioq.store.operating import Reopened
from aioq.store.outcomes import LATER, MISSING, WaitReply
from aioq.store.pauses import Pause, PausePeriod, Pauses
from aioq.store.redis.history import rows_at
from aioq.store.upkeep import Backlog, Promotion, RecoveryStep
from aioq.wire.heads import task_in_head
from aioq.wire.messages import describe

LEASE_LOST = -2
"""The first item of the reply of `claim` and `renew` to a worker that has lost its lease."""

NAMED_LIMIT = 512
"""The most jobs that one entry may name; the same as in `lib/entries.lua`."""

_DUE = 2
_PAUSED_QUEUE, _PAUSED_TASK = "queue", "task "

_CLAIM_HEADER = 3
_CLAIM_WIDTH = 4
_MORE = 2
_FIRST_CLAIM: tuple[Any, ...] = (1, 0, 0, 0)
_FIRST_OF_UNIQUE, _FIRST_OF_LIMITED = 1, 2
_UNIQUE, _LIMITED, _BATCH, _FLOW = 2, 3, 4, 5
_WORKER_WIDTH = 4
_RECOVERY_HEADER = 4
_PROMOTION = 4
_SETTLE_HEADER = 10
_SETTLE_ROWS, _SETTLE_COUNTS = 8, 9
_SETTLE_WIDTH = 4

_MARK = "\t"
_TOKENS = msgspec.msgpack.Decoder(tuple[str, ...])
_PROGRESS = msgspec.msgpack.Decoder(Progress)
_LOG = msgspec.msgpack.Decoder(list[AttemptNote])


def due(ms: int) -> int | None:
    """The time until the next scheduled job or tick; None if the script reports that there is none."""
    return None if ms < 0 else ms


def parse_pause(reply: Sequence[int]) -> Pause | None:
    """The first item of the reply of `claim.lua` or `renew.lua`: what it says of pauses."""
    if len(reply) == _DUE:
        return None
    whole, tasks, ends, left = reply[_DUE:]
    return Pause(bool(whole), tasks, ends, left) if whole or tasks else None


def parse_pauses(reply: Sequence[Any]) -> Pauses:
    """The result of `pauses.lua`: what is paused at its time."""
    now, *fields = reply
    whole: PausePeriod | None = None
    tasks: dict[str, PausePeriod] = {}
    for raw_name, raw_value in zip(fields[::2], fields[1::2], strict=True):
        name, value = raw_name.decode(errors="backslashreplace"), raw_value.split()
        if len(value) != _DUE or not all(each.isdigit() for each in value):
            continue
        since, until = map(int, value)
        if until and until <= now:
            continue
        if name == _PAUSED_QUEUE:
            whole = PausePeriod(since, until or None)
        elif name.startswith(_PAUSED_TASK):
            tasks[name.removeprefix(_PAUSED_TASK)] = PausePeriod(since, until or None)
    return Pauses(whole, tasks)


def parse_claim(reply: Sequence[Any]) -> Claim:
    """The result of `claim.lua`."""
    if reply[0] == LEASE_LOST:
        return Claim(lost=True)
    number = reply[1]
    now = number // 1000
    jobs: list[Claimed] = []
    batches: dict[bytes, list[Claimed]] = {}
    for i in range(_CLAIM_HEADER, len(reply), _CLAIM_WIDTH):
        job_id, envelope, sent, past = reply[i : i + _CLAIM_WIDTH]
        if past == _FIRST_OF_UNIQUE:
            jobs.append(Claimed(job_id.decode(), envelope, number, 0, 0, 0, sent, now, is_unique=True))
            continue
        if past == _FIRST_OF_LIMITED:
            jobs.append(Claimed(job_id.decode(), envelope, number, 0, 0, 0, sent, now, is_limited=True))
            continue
        claims, attempts, crashes, interruptions, *more = past or _FIRST_CLAIM
        job = Claimed(job_id.decode(), envelope, number, attempts, crashes, interruptions, sent, now, claims)
        into = jobs
        if more:
            tags = _tags(more[1] if len(more) > 1 else ())
            is_unique, is_limited = any(more[_UNIQUE:_LIMITED]), any(more[_LIMITED:_BATCH])
            changes = {"ready_ms": more[0], "tags": tags, "is_unique": is_unique, "is_limited": is_limited}
            if len(more) > _FLOW:
                changes["flow"] = more[_FLOW].decode()
            job = msgspec.structs.replace(job, **changes)
            if len(more) > _BATCH and more[_BATCH]:
                into = batches.setdefault(more[_BATCH], [])
        into.append(job)
    is_cut = bool(reply[2] and reply[2][_MORE])
    pause = parse_pause(reply[0])
    of_batches = tuple(batches.values())
    times = reply[0]
    return Claim(jobs, due(times[0]), next_tick_ms=due(times[1]), more=is_cut, pause=pause, batches=of_batches)


def skipped_by_claim(reply: Sequence[Any]) -> tuple[str, str]:
    """Two things that a claim has skipped: an entry that names no job, and a job with an unreadable record.

    Each is "" for none.
    """
    if reply[0] == LEASE_LOST or not reply[2]:
        return "", ""
    return reply[2][0].decode(), reply[2][1].decode(errors="backslashreplace")


def parse_added(reply: int) -> list[Added]:
    """The result of `enqueue_one.lua`."""
    return [reply == 1]


def parse_enqueued(count: int, reply: Sequence[Any]) -> list[Added]:
    """The result of `enqueue.lua` for so many jobs."""
    added: list[Added] = [True] * count
    for each in reply:
        if isinstance(each, int):
            added[each - 1] = False
        else:
            added[each[0] - 1] = Duplicate(each[1].decode())
    return added


def parse_bounded(queue: str, ids: Sequence[str], max_size: int, reply: Sequence[Any]) -> list[Added]:
    """The result of `enqueue.lua` for jobs with these ids, where their queue has a bound."""
    full = {each[0]: each[1] for each in reply if not isinstance(each, int) and isinstance(each[1], int)}
    others = [each for each in reply if isinstance(each, int) or each[0] not in full]
    added = parse_enqueued(len(ids), others)
    for position, size in full.items():
        added[position - 1] = refused(queue_full(queue, ids[position - 1 : position], size, max_size))
    return added


def parse_dispatched(message: bytes) -> Claimed:
    """The job in a message by which it is dispatched to a worker directly (`lib/dispatch.lua`)."""
    claim, size, rest = message.split(b" ", 2)
    number, end = int(claim), int(size)
    at = number // 1000
    is_unique = claim[:1] == b"+"
    return Claimed(rest[:end].decode(), rest[end:], number, 0, 0, 0, at, at, is_unique=is_unique)


def named_by(fields: Sequence[bytes]) -> tuple[str, ...] | None:
    """The ids of the jobs that an entry names: none for a wake-up, and None for an entry that is not aioq's.

    `lib/entries.lua` does the same in Lua.
    """
    named = dict(zip(fields[::2], fields[1::2], strict=False))
    with contextlib.suppress(UnicodeDecodeError):
        if b"job" in named:
            job_id = named[b"job"].decode()
            return (job_id,) if job_id else ()
    if b"tokens" in named:
        with contextlib.suppress(msgspec.MsgspecError):  # also for text that is not UTF-8
            tokens = _TOKENS.decode(named[b"tokens"])
            if 0 < len(tokens) <= NAMED_LIMIT and all(each.startswith(_MARK) for each in tokens):
                return tokens
        return None
    with contextlib.suppress(UnicodeDecodeError, KeyError, ValueError):
        prefix, width, ids = named[b"prefix"].decode(), int(named[b"width"]), named[b"ids"].decode()
        if width > 0 and len(ids) % width == 0 and len(ids) <= width * NAMED_LIMIT:
            return tuple(prefix + ids[start : start + width] for start in range(0, len(ids), width))
    return None


def parse_renewal(reply: Sequence[Any]) -> Renewal:
    """The result of `renew.lua`."""
    if reply[0] == LEASE_LOST:
        return Renewal(lost=True)
    # A request is among the ids with a line break in front.
    ids = [job_id.decode() for job_id in reply[4:]]
    return Renewal(
        next_due_ms=due(reply[0][0]),
        expired=bool(reply[1]),
        outage=bool(reply[2]),
        holds=bool(reply[3]),
        cancelled=[each for each in ids if each[:1] != ASKED],
        asked=tuple(each[1:] for each in ids if each[:1] == ASKED),
        next_tick_ms=due(reply[0][1]),
        pause=parse_pause(reply[0]),
    )


_LONG_AGO = 20 * 365 * 86_400_000
"""What ended so many ms ago has the mark of a recovery (`Leases.RECOVERING`) instead of a time."""


def parse_workers(reply: Sequence[Any]) -> tuple[bytes, list[WorkerLease]]:
    """The result of `workers.lua`: where the next call continues, and the workers of this one."""
    workers = [
        WorkerLease(
            reply[i].decode(),
            max(reply[i + 1], 0),
            *reply[i + 2 : i + 4],
            ended_ms=-reply[i + 1] if -_LONG_AGO < reply[i + 1] < 0 else 0,
        )
        for i in range(1, len(reply), _WORKER_WIDTH)
    ]
    return reply[0], workers


def parse_backlog(reply: Any) -> Backlog:
    """The `Backlog` that backlog.lua has counted."""
    queued, more, *others = map(int, reply)
    return Backlog(queued, bool(more), *others)


def parse_promotion(reply: Sequence[Any]) -> Promotion:
    """The result of `promote.lua`."""
    if len(reply) == _PROMOTION:
        return Promotion(reply[0], due(reply[1][0]), reply[3])
    relays, looks, operations, flows = ([each.decode() for each in texts] for texts in reply[_PROMOTION])
    moved = [MovedJob(*facts) for facts in zip(looks[::3], looks[1::3], looks[2::3], strict=True)]
    return Promotion(reply[0], due(reply[1][0]), reply[3], relays, moved, operations, flows)


def parse_recovery(reply: Sequence[Any]) -> RecoveryStep:
    """The result of `recover.lua`."""
    return RecoveryStep(
        worker=reply[0].decode() or None,
        returned=reply[1],
        more=bool(reply[2]),
        buried=[job_id.decode() for job_id in reply[_RECOVERY_HEADER:]],
    )


def not_in(count: int, positions: Sequence[int]) -> list[bool]:
    """For each of `count` items, False if its position, counted from 1, is among those that a script has named."""
    if not positions:
        return [True] * count
    named = set(positions)
    return [position not in named for position in range(1, count + 1)]


class Rest(msgspec.Struct, frozen=True, gc=False):
    """Takes the place of a result: the script has left a part of the call for another call.

    Attributes:
        args: the arguments of that call.
        read: converts its reply into the result of both, or into another `Rest`.
    """

    args: Sequence[Any]
    read: Callable[[Any], Any]


def parse_settled(args: Sequence[Any], positions: Sequence[int]) -> list[bool] | Rest:
    """The result of `settle.lua`, which was called with these arguments."""
    count = (len(args) - _SETTLE_HEADER) // _SETTLE_WIDTH
    if not positions or min(positions) > 0:
        return not_in(count, positions)
    left = sorted(-position for position in positions if position < 0)
    return _settle_rest(args, not_in(count, positions), left, count - len(left))


def _settle_rest(args: Sequence[Any], accepted: list[bool], left: list[int], most: int) -> Rest:
    """A call for the positions that are left, `most` at once: a call reads the records of all that it is given."""
    now, later = left[:most], left[most:]
    rest = [*args[:_SETTLE_HEADER]]
    if rows := args[_SETTLE_ROWS]:
        rest[_SETTLE_ROWS] = rows_at(rows, len(accepted), now)
        rest[_SETTLE_COUNTS] = b""  # they are those of all jobs of the first call
    for position in now:
        end = _SETTLE_HEADER + _SETTLE_WIDTH * position
        rest += args[end - _SETTLE_WIDTH : end]

    def read(positions: Sequence[int]) -> list[bool] | Rest:
        for position in positions:
            if position > 0:
                accepted[now[position - 1] - 1] = False
        again = [now[-position - 1] for position in sorted(positions, reverse=True) if position < 0]
        return _settle_rest(args, accepted, again + later, most) if again or later else accepted

    return Rest(rest, read)


def parse_wait(reply: Sequence[bytes | int | None]) -> list[WaitReply]:
    """The result of `wait.lua`."""
    return [(LATER if item else MISSING) if isinstance(item, int) else item for item in reply]


def parse_states(reply: Sequence[bytes]) -> list[JobState | None]:
    """The result of `cancel.lua`, `reschedule.lua`, `delete.lua` and `prioritize.lua`."""
    return [JobState(state.decode()) if state else None for state in reply]


HELD = b"held "
"""What `reopen.lua` says, before an id, of a job whose unique key the job of this id holds."""

OF_FLOW = b"flow "
"""What it says, before the id of a flow, of a job of that flow."""


def parse_reopened(reply: Sequence[bytes]) -> list[Reopened]:
    """The result of `reopen.lua`."""
    return [_reopened(state) for state in reply]


def _reopened(state: bytes) -> Reopened:
    if state.startswith(HELD):
        return Duplicate(state.removeprefix(HELD).decode())
    if state.startswith(OF_FLOW):
        return NodeOf(state.removeprefix(OF_FLOW).decode())
    return JobState(state.decode()) if state else None


def parse_info(queue: str, job_id: str, fields: Sequence[Any], *, results: bool = False) -> JobInfo | None:
    """The result of `info.lua` or `list_records.lua` for one job; None for a record that is not aioq's.

    If the job was moved, it has the name of the other queue.
    """
    record = {name.decode(): value for name, value in zip(fields[::2], fields[1::2], strict=True)}
    try:
        return _info(queue, job_id, record, results=results)
    except (ValueError, OverflowError, OSError, WireError, msgspec.DecodeError):  # of text, times, encoded values
        return None


def _info(queue: str, job_id: str, record: dict[str, Any], *, results: bool) -> JobInfo | None:
    if "sent" not in record:
        return None
    state = JobState(record.get("state", b"queued").decode())
    description = describe(record.get("job", b""), record.get("outcome"))
    task = description.task or task_in_head(record.get("call_head", b""), record.get("outcome_head", b""))
    ran = state in (JobState.RUNNING, JobState.SUCCEEDED)
    return JobInfo(
        id=job_id,
        queue=record["queue"].decode() if "queue" in record else queue,
        task=task,
        state=state,
        priority=Priority(record.get("lane", b"normal").decode()),
        attempts=int(record.get("attempts", 0)) + ran,
        crashes=int(record.get("crashes", 0)),
        interruptions=int(record.get("interruptions", 0)),
        sent_at=_time(record.get("sent")),
        due_at=_time(record.get("due")),
        started_at=_started(record.get("started")),
        ended_at=_time(record.get("ended")),
        worker=record["worker"].decode() if "worker" in record else None,
        progress=_PROGRESS.decode(record["progress"]) if "progress" in record else None,
        error=put_off(task) if state in WAITS and "parked" in record else description.error,
        reason=description.reason,
        headers=description.headers,
        tags=_tags(record.get("tags", ())),
        expires_at=_time(record.get("expires") or None),
        unique_key=record["unique"].decode(errors="backslashreplace") if "unique" in record else None,
        failed_attempts=tuple(map(failed_attempt, _LOG.decode(record["log"]))) if "log" in record else (),
        result=description.value if results else None,
    )


def _tags(tags: Sequence[bytes]) -> tuple[str, ...]:
    # A malformed tag, put there by hand, must not stop other jobs.
    return tuple(tag.decode(errors="backslashreplace") for tag in tags)


def _started(claim: int | None) -> datetime | None:
    return None if claim is None else _time(claim // 1000)


def _time(ms: bytes | int | None) -> datetime | None:
    return None if ms is None else datetime.fromtimestamp(float(ms) / 1000, UTC)
