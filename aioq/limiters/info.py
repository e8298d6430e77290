"""What is shown of an app-wide limiter."""

from collections.abc import Mapping

import msgspec

from aioq.public import public
from aioq.store.limiters import LimiterState


@public
class LimiterInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An app-wide limiter, as the server knows it.

    Attributes:
        name: its name.
        rate: how many tokens come in `per`; None for no rate.
        per: this time, in seconds.
        burst: the most tokens at once.
        concurrency: how many permits may be held at once; None for any number.
        available: how many tokens there are; negative where they are owed; None without a rate.
        held: how many places processes hold, those included that they keep for a tenth of a second.
        holders: by process, how many of them; of about the first 100.
        waiting: how many processes wait for a place.
        blocked: for how many more seconds a service has asked for a pause; None for none.
    """

    name: str
    rate: float | None = None
    per: float | None = None
    burst: int | None = None
    concurrency: int | None = None
    available: float | None = None
    held: int = 0
    holders: Mapping[str, int] = {}
    waiting: int = 0
    blocked: float | None = None


def info_of(state: LimiterState) -> LimiterInfo:
    """What is shown of what the store knows."""
    rule = state.rule
    return LimiterInfo(
        name=state.name,
        rate=rule.rate or None,
        per=rule.per_ms / 1000 if rule.rate else None,
        burst=rule.burst if rule.rate else None,
        concurrency=rule.concurrency or None,
        available=state.available if rule.rate else None,
        held=state.used,
        holders=state.holders,
        waiting=state.waiting,
        blocked=state.blocked_ms / 1000 if state.blocked_ms else None,
    )
