"""What is shown of the limits of jobs."""

from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from aioq.jobs.limits import Limit
from aioq.public import public
from aioq.store.limits import LimitKeyState, LimitState, Numbers


@public
class LimitInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A limit of a queue, as it counts now.

    Attributes:
        name: its name.
        queue: its queue.
        concurrency: how many jobs of a key may run at once; None for any number.
        rate: how many tokens a key gets in `per`; None for no rate.
        per: this time, in seconds.
        burst: how many tokens a key has at the most.
        changed: whether these numbers were put at run time, in the place of those of the code.
        paused: whether all its keys are paused.
        paused_until: when that ends by itself; None if it does not.
        paused_keys: the keys that are paused by themselves, and when that ends.
        waiting_keys: how many keys have jobs that wait.
    """

    name: str
    queue: str
    concurrency: int | None = None
    rate: float | None = None
    per: float | None = None
    burst: float | None = None
    changed: bool = False
    paused: bool = False
    paused_until: datetime | None = None
    paused_keys: Mapping[str, datetime | None] = {}
    waiting_keys: int = 0


@public
class LimitKey(msgspec.Struct, frozen=True, kw_only=True):
    """One key of a limit.

    Attributes:
        name: the limit's name.
        queue: its queue.
        key: the key; empty for a limit without `by`.
        held: how many jobs have a permit.
        waiting: how many wait for one.
        holders: those that have one, by id, and since when; the first 100, and none in a list of keys.
        next_at: when the rate lets the next job start; None if it may at once.
        paused: whether the key, or the whole limit, is paused.
        paused_until: when that ends by itself; None if it does not.
    """

    name: str
    queue: str
    key: str
    held: int = 0
    waiting: int = 0
    holders: Mapping[str, datetime] = {}
    next_at: datetime | None = None
    paused: bool = False
    paused_until: datetime | None = None


def joined(one: LimitState, other: LimitState) -> LimitState:
    """A limit in two shards."""
    newer = one if one.declared_ms >= other.declared_ms else other
    return msgspec.structs.replace(
        newer,
        override=one.override or other.override,
        paused_until=one.paused_until if one.paused_until is not None else other.paused_until,
        waiting_keys=one.waiting_keys + other.waiting_keys,
        paused_keys=tuple({**dict(other.paused_keys), **dict(one.paused_keys)}.items()),
    )


def numbers(limit: Limit) -> Numbers:
    """The numbers that a limit declares."""
    rate = float(limit.rate or 0)
    per_us = round(limit.per_s * 1_000_000) if rate else 0
    return Numbers(limit.concurrency or 0, rate, per_us, limit.most if rate else 0)


def declared(limit: Limit, state: LimitState | None) -> LimitState:
    """A limit that the code declares: as the server has it or, until a job has used it, as the code says."""
    if state is None:
        return LimitState(limit.name, numbers(limit))
    return state if state.declared_ms else msgspec.structs.replace(state, declared=numbers(limit))


def info_of(queue: str, state: LimitState) -> LimitInfo:
    """What is shown of a limit."""
    numbers, until = state.in_force, state.paused_until
    return LimitInfo(
        name=state.name,
        queue=queue,
        concurrency=numbers.concurrency or None,
        rate=numbers.rate or None,
        per=numbers.per_us / 1_000_000 if numbers.rate else None,
        burst=numbers.burst if numbers.rate else None,
        changed=state.override is not None,
        paused=until is not None,
        paused_until=_moment(until),
        paused_keys={key: _moment(each) for key, each in state.paused_keys},
        waiting_keys=state.waiting_keys,
    )


def key_of(queue: str, name: str, state: LimitKeyState) -> LimitKey:
    """What is shown of a key."""
    return LimitKey(
        name=name,
        queue=queue,
        key=state.key,
        held=state.held,
        waiting=state.waiting,
        holders={job_id: datetime.fromtimestamp(since / 1000, UTC) for job_id, since in state.holders},
        next_at=_moment(state.next_ms),
        paused=state.paused_until is not None,
        paused_until=_moment(state.paused_until),
    )


def _moment(ms: int | None) -> datetime | None:
    return datetime.fromtimestamp(ms / 1000, UTC) if ms else None
