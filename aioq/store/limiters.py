"""App-wide limiters, as the store keeps them. Part of the store contract.

A limiter has a bucket of tokens (a rate) and a number of places (a concurrency), or one of the two. It is in a
cluster slot of its own. Processes take from it for those who wait in them, in one call for all of them, and some
tokens beyond that if they use many: so most permits cost no call.

The bucket is a level of tokens, which rises with time up to `burst` and may be negative after a debt. Beside it is
the level of the line, which is lower by what is promised to processes that wait. Who comes anew takes what is in
the line, or gets a promise: how many tokens it may take, and when. So processes are served in the order in which
they came, each calls again at its time, and a promise that nobody comes for costs others nothing: the line rises
with time as the bucket does.

Places are held under a lease of the process. Those that wait for one stand in a row, and are woken by a message.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Protocol

import msgspec

from aioq.store.pubsub import base_key

QUANTUM_MS = 100
"""For how long tokens and free places may stay in a process that does not use them, in milliseconds. A guess: a
process makes ten calls a second with it, and another one waits no longer for its share."""

MOST_NEEDS = 64
"""For how many that wait in a process one call takes at most."""

TURN_MS = 20
"""A process that has to wait for tokens waits for as many as come in so many milliseconds, if it needs so many: so
one call is for several of those that wait in it. A guess: nobody notices."""

SAME_WINDOW_MS = 1_000
"""Two times at which a service says that there is more are the same if they differ by no more than that."""

MOST_HOLDERS = 100
"""Of how many processes `LimiterVerbs.state` says about at most how many places they hold."""

STALE_MS = 2_000
"""A process that waits for a place and has not called for so long has died; it calls every `POLL_MS`."""

POLL_MS = 500
"""How often a process that waits for a place calls, in ms, in case the message that wakes it was lost."""

KEPT_MS = 30 * 86_400_000
"""For how long a limiter is kept after a process has declared it last."""


_PREFIX = "limiter:"


SNOOZED_MS = 3_600_000
"""For how long after its time it is noted that a job was put off, in milliseconds. It may wait for a slot then."""


@lru_cache(256)
def limiter_queue(name: str) -> str:
    """What stands in the place of a queue's name in a limiter's keys; no queue can be named so."""
    return f"{_PREFIX}{name}"


def is_limiter(queue: str) -> bool:
    """Whether what stands in the place of a queue's name in keys is that of a limiter."""
    return queue.startswith(_PREFIX)


def job_key(place: str, job_id: str) -> str:
    """What a job is called in a limiter.

    Args:
        place: its queue, or the shard of it.
        job_id: its id.
    """
    return f"{place} {job_id}"


def permit_channel(app: str, name: str, member: str) -> str:
    """The channel on which a process that waits for a place is woken."""
    return f"{base_key(app, limiter_queue(name))}:permit:{member}"


class LimiterRule(msgspec.Struct, frozen=True, gc=False):
    """The numbers of a limiter.

    Attributes:
        rate: how many tokens come in `per_ms`; 0 for no rate.
        per_ms: in how many milliseconds.
        burst: the most tokens at once; 0 without a rate.
        concurrency: the number of places; 0 for no limit.
    """

    rate: float = 0.0
    per_ms: int = 1_000
    burst: int = 0
    concurrency: int = 0

    def encode(self) -> str:
        """The numbers as they are stored."""
        return f"{self.rate!r}:{self.per_ms}:{self.burst}:{self.concurrency}"

    @classmethod
    def decode(cls, text: str) -> "LimiterRule":
        """The numbers that were stored."""
        rate, per_ms, burst, concurrency = text.split(":")
        return cls(float(rate), int(per_ms), int(burst), int(concurrency))

    def __str__(self) -> str:
        parts: list[str] = []
        if self.rate:
            parts.append(f"rate={self.rate:g} per {self.per_ms / 1000:g} s, burst={self.burst}")
        if self.concurrency:
            parts.append(f"concurrency={self.concurrency}")
        return ", ".join(parts)


class Promise(msgspec.Struct, frozen=True, gc=False):
    """Tokens that a process may take at some time; it gives this back with its call.

    Attributes:
        tokens: how many.
        due_ms: when, in milliseconds since the Unix epoch.
        debts: the sum of all debts of the limiter, less all refunds, when it was made. Later ones put it off, or
            bring it forward.
    """

    tokens: float
    due_ms: float
    debts: float

    @classmethod
    def decode(cls, text: str) -> "Promise":
        """The promise in a reply."""
        return cls(*map(float, text.split()))


class Observed(msgspec.Struct, frozen=True, gc=False):
    """What a service has said of its quota.

    Attributes:
        remaining: how many tokens are left.
        reset_ms: in how many milliseconds there are more; None if they come as the rate of the limiter says.
    """

    remaining: float
    reset_ms: int | None = None


class Take(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a process says and asks for in one call.

    Attributes:
        member: the process.
        rule: the numbers that it declares; None if it has done so.
        revision: the numbers that it knows, by the number of their declaration; 0 for none.
        held: how many places it holds.
        idle: how many of them are free.
        needs: the tokens that are asked for by each of those who wait in it for a permit, in their order.
        spare: how many tokens it would like to have beyond that; they lapse after `QUANTUM_MS`.
        promise: what it was promised.
        debt: tokens that were used beyond those that were taken.
        refunds: tokens that were taken and not used, each with `Taken.stamp` of when they were taken.
        observed: what a service has said.
        job: the job that waits, if it is to come back later rather than wait long: `needs` are those of it alone.
        snooze_ms: what is a long wait, in milliseconds. Where it would be longer it is noted that the job comes
            back, and what it is promised for then is kept for it. Negative: it comes back after that time anyway.
        evicts: whether leases that have ended are given up. A process that has just had an outage says no: others
            may have had it too, and are about to renew theirs.
    """

    member: str
    rule: LimiterRule | None = None
    revision: int = 0
    held: int = 0
    idle: int = 0
    needs: Sequence[float] = ()
    spare: int = 0
    promise: Promise | None = None
    debt: float = 0.0
    refunds: Sequence[tuple[float, float]] = ()
    observed: Observed | None = None
    job: str = ""
    snooze_ms: int = 0
    evicts: bool = True


class Taken(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The reply.

    Attributes:
        revision: the declaration of its present numbers.
        rule: these numbers, if they are others than the caller knows.
        held: how many places the process holds now. If its lease had ended, that may be fewer than it has in use.
        granted: how many of the needs are met, from the first on.
        spare: how many tokens it got beyond that.
        wait_ms: in how many milliseconds it should call again for the rest; None where nothing is left.
        promise: what it is promised for then.
        stamp: how many tokens were ever taken.
        is_contended: whether other processes wait for a place.
        is_snoozed: whether the job is to come back after `wait_ms`.
        is_closing: whether a service has said how much is left, which the store counts until then.
    """

    revision: int
    rule: LimiterRule | None = None
    held: int = 0
    granted: int = 0
    spare: int = 0
    wait_ms: float | None = None
    promise: Promise | None = None
    stamp: float = 0.0
    is_contended: bool = False
    is_closing: bool = False
    is_snoozed: bool = False


class LimiterState(msgspec.Struct, frozen=True, kw_only=True):
    """A limiter, as the store knows it.

    Attributes:
        name: its name.
        rule: its numbers.
        available: how many tokens there are, negative for a debt; 0 without a rate.
        used: how many places are held.
        holders: by process, how many of them it holds; of at most about `MOST_HOLDERS`.
        waiting: how many processes wait for a place.
        blocked_ms: for how many more milliseconds a service has asked for a pause; 0 for none.
    """

    name: str
    rule: LimiterRule
    available: float = 0.0
    used: int = 0
    holders: dict[str, int] = {}
    waiting: int = 0
    blocked_ms: int = 0


class PermitLease(msgspec.Struct, frozen=True, gc=False):
    """A lease to be renewed: of the places of a limiter that a process holds.

    Attributes:
        name: the limiter.
        member: the process.
    """

    name: str
    member: str

    @property
    def queue(self) -> str:
        """What stands in the place of a queue's name."""
        return limiter_queue(self.name)


class LimiterVerbs(Protocol):
    """The verbs for limiters. Errors and cancellation are as in `aioq.store.contract.Store`."""

    @property
    def wakes_all(self) -> bool:
        """Whether those that wait for tokens are woken too, because the time does not pass by itself."""
        ...

    async def take(self, name: str, take: Take) -> Taken | None:
        """Take tokens and places, and give back; None if nobody has declared the limiter, nor does the caller.

        The store does not repeat it: if the reply is lost, tokens may have been taken that nobody uses. Places are
        not lost then, because the next call says how many the process holds.
        """
        ...

    async def note(self, name: str) -> None:
        """Note that there is a limiter of this name, for `names`."""
        ...

    async def names(self) -> list[str]:
        """The limiters of the App, sorted."""
        ...

    async def state(self, name: str) -> LimiterState | None:
        """What the store knows of a limiter; None if there is none."""
        ...

    async def snoozed(self, name: str, job: str) -> int | None:
        """When a job comes back that was put off, in milliseconds since the Unix epoch; None if it was not."""
        ...

    async def listen(self, name: str, member: str, on_wake: Callable[[], None]) -> None:
        """Call `on_wake` when the process may get a place, from now on, until `leave`."""
        ...

    async def leave(self, name: str, member: str) -> None:
        """Listen no more."""
        ...


class HasLimiters(Protocol):
    """A store that has limiters."""

    @property
    def limiters(self) -> LimiterVerbs:
        """The app-wide limiters."""
        ...
