"""The arguments of the scripts that enqueue and settle; each Lua file explains its own."""

from collections.abc import Mapping, Sequence

import msgspec

from aioq.jobs.job import OWN_LETTERS, Priority
from aioq.store.columns import NewJobs
from aioq.store.contract import Limits, NewJob, Settlement, Verb
from aioq.store.extra import Extra
from aioq.store.redis.history import about_arg, report_args
from aioq.store.redis.net.connection import Arg

_encode = msgspec.msgpack.encode
_SUCCEEDED = Verb.SUCCEEDED  # looked up once, as in aioq/worker/run/settlements.py

BODY_LIMIT = 1024
"""The largest envelope that is kept in the job's record, in bytes; the same as in `lib/record_text_write.lua`."""


def enqueue_one_args(jobs: NewJobs, *, marks: str = "") -> list[Arg] | None:
    """The arguments of `enqueue_one.lua` for a first attempt; None if that script cannot enqueue these jobs."""
    if len(jobs.ids) != 1 or len(jobs.envelopes[0]) > BODY_LIMIT:
        return None
    job_id, envelope, waiter = jobs.ids[0], jobs.envelopes[0], ""
    if jobs.special:
        job = jobs.special[0]
        waiter = job.waiter
        # The first comparison is cheap, and usually decides.
        if job != NewJob(job_id, envelope, waiter=waiter) and (job.nonce or job.extra or any(lane_due(job))):
            return None
    return [job_id, envelope, waiter, marks]


def enqueue_args(
    jobs: NewJobs, limits: Limits, *, again: bool, marks: str = "", max_size: int | None = None
) -> list[Arg]:
    """The arguments of `enqueue.lua`.

    Args:
        jobs: what to enqueue.
        limits: how long the server keeps things.
        again: an earlier call may have added these jobs.
        marks: which events of them are written.
        max_size: how many jobs may be in the queue; None for any number.
    """
    ids, envelopes, special = jobs.ids, jobs.envelopes, jobs.special.values()
    sizes = _encode([*map(len, envelopes)])
    named = len(set(ids)) < len(ids) or any(job.nonce for job in special)
    nonces = _encode([job.nonce for job in jobs]) if named else b""
    waiter = next((job.waiter for job in special if job.waiter), "")
    placed = any(job.extra or any(lane_due(job)) for job in special)
    locks = _locks(jobs) if placed and not (named or again or max_size is not None) else None
    if locks is not None:
        places, may_replace, may_end = _encode(locks), not _REPLACING.isdisjoint(locks), False
    else:
        each_place = (each for job in jobs for each in (*lane_due(job), job.extra or False))
        places = _encode([*each_place]) if placed else b""
        may_replace = placed and any(job.extra and job.extra.replaces for job in special)
        may_end = placed and any(job.extra and job.extra.ends_jobs for job in special)
    repeated: Arg = ("again" if again else "") + (str(limits.tombstone_ms) if may_replace or may_end else "")
    if max_size is not None:
        repeated = f"{repeated} {max_size}"
        if (place := jobs.place) is not None:
            repeated = f"{repeated} {place.name}:{place.behind}"
    if may_end:
        repeated = f"{repeated}\n{limits.result_ttl_ms} ".encode() + about_arg(limits)
    first = [repeated, nonces, places, waiter, b"".join(envelopes), sizes]
    return [*first, *_packed(ids), marks]


def settle_args(worker: str, settlements: Sequence[Settlement], limits: Limits, *, idle: bool) -> list[Arg]:
    """The arguments of `settle.lua`; see `aioq.store.contract.Store.settle`."""
    usual_ttl = next((s.ttl_ms for s in settlements if s.verb is _SUCCEEDED), 0)
    args: list[Arg] = [worker, limits.dead_ttl_ms, limits.dead_limit, limits.tombstone_ms, limits.result_ttl_ms]
    args += (usual_ttl, "idle" if idle else "", *report_args(settlements, limits))
    for s in settlements:
        usual = s.verb is _SUCCEEDED and s.ttl_ms == usual_ttl
        args += (s.job_id, s.claim, s.outcome, "" if usual else f"{s.verb.value} {_number(s, limits)} {s.ttl_ms}")
    return args


def _number(settlement: Settlement, limits: Limits) -> int:
    """The number that belongs to a verb, besides its ttl."""
    return limits.max_crashes if settlement.verb in {Verb.CUT, Verb.CRASH} else settlement.delay_ms


def due_arg(delay_ms: int | None, eta_ms: int | None) -> str:
    """The time at which a job is to run: `+N` for N ms from now, ms since the epoch, or "" for at once."""
    if delay_ms:
        return f"+{delay_ms}"
    return "" if eta_ms is None else str(eta_ms)


def lane_due(job: NewJob) -> tuple[str, str]:
    """A job's lane and due time for `enqueue.lua`."""
    return "" if job.priority is Priority.NORMAL else job.priority.value, due_arg(job.delay_ms, job.eta_ms)


_TILL: Mapping[tuple[str, str], str] = {
    (until, conflict): f"{until} {conflict}"
    for until in ("ended", "started")
    for conflict in ("return", "raise", "replace", "latest")
}
"""Until when a unique key is held, and what becomes of a conflict: both in one text for `enqueue.lua`."""


_REPLACING = frozenset(till for (_, conflict), till in _TILL.items() if conflict in {"replace", "latest"})


def _locks(jobs: NewJobs) -> list[str] | None:
    """The unique key of each job, and how it is held; None if two have the same, or one has anything else."""
    locks: list[str] = []
    keys: set[str] = set()
    for at in range(len(jobs.ids)):
        job = jobs.special.get(at)
        lock, till = ("", "") if job is None else _lock_of(job)
        if lock in keys or till is None:
            return None
        if lock:
            keys.add(lock)
        locks += (lock, till)
    return locks


def _lock_of(job: NewJob) -> tuple[str, str | None]:
    """A job's unique key, and how it is held: empty for no key, None if the job has anything else."""
    if job.delay_ms or job.eta_ms is not None or job.priority is not Priority.NORMAL:
        return "", None
    extra = job.extra
    if not extra:
        return "", ""
    lock = extra.unique
    if lock is None or lock.window_ms or lock.due_ms or lock.begun or lock.wait_ms:
        return "", None
    if extra != Extra(unique=lock):
        return "", None
    if extra.flow or type(extra) is not Extra:
        return "", None
    return lock.key, _TILL.get((lock.until, lock.conflict))


def _packed(ids: list[str]) -> tuple[str, int, str | bytes]:
    """The ids as `enqueue.lua` takes them: their common prefix, the length of each rest, and the rests joined.

    If the ids have no equal lengths, the prefix is empty, the length 0, and the ids are a MessagePack array.
    """
    if not ids:
        return "", 0, _encode(ids)
    first, last, own = ids[0], ids[-1], ids
    prefix = first[:-OWN_LETTERS] if first != last and first[:-OWN_LETTERS] == last[:-OWN_LETTERS] else ""
    if prefix:
        own = [job_id[len(prefix) :] for job_id in ids if job_id.startswith(prefix)]
    widths, joined = set(map(len, own)), "".join(own)
    if len(widths) == 1 and len(own) == len(ids) and joined.isascii() and prefix.isascii():
        return prefix, widths.pop(), joined
    return "", 0, _encode(ids)
