"""The limits of a queue, for those who operate it: which there are, who holds permits, who waits.

Part of the store contract. The jobs that use one key of a limit are a group. A job that may not run yet is
`waiting` in the group of the limit that refuses it, behind those which came before it.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from aioq.store.extra import LimitUse
from aioq.wire.messages import encode_cancellation

MOST_HOLDERS = 100
"""How many holders of a key `LimitVerbs.look` names."""

MOST_NAMED = 10
"""How many holders of a key `Blocked` names."""


class Numbers(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The numbers of a limit.

    Attributes:
        concurrency: how many jobs of a key may run at once; 0 for any number.
        rate: how many tokens a key gets in `per_us`; 0 for no rate.
        per_us: this time, in microseconds.
        burst: how many tokens it has at the most.
    """

    concurrency: int = 0
    rate: float = 0.0
    per_us: int = 1_000_000
    burst: float = 1.0


def limit_outcome(name: str) -> bytes:
    """The outcome of a job that a limit has ended (`drop`, `cancel_oldest`, `cancel_newest`)."""
    return encode_cancellation("", f"limit {name!r}")


def numbers_of(use: LimitUse) -> Numbers:
    """The numbers with which a job's limit is declared."""
    return Numbers(use.concurrency, use.rate, use.per_us, use.burst)


class LimitState(msgspec.Struct, frozen=True, gc=False):
    """One limit, as the server has it.

    Attributes:
        name: its name.
        declared: the numbers of the newest declaration in code.
        declared_ms: when that was made, in milliseconds since the Unix epoch.
        override: the numbers that an operator has put in their place; None for none.
        paused_until: until when all its keys are paused, likewise in ms; 0 until they are resumed; None for not.
        waiting_keys: how many keys have jobs that wait.
        paused_keys: the keys that are paused by themselves, and until when.
    """

    name: str
    declared: Numbers
    declared_ms: int = 0
    override: Numbers | None = None
    paused_until: int | None = None
    waiting_keys: int = 0
    paused_keys: tuple[tuple[str, int], ...] = ()

    @property
    def in_force(self) -> Numbers:
        """The numbers that count."""
        return self.override or self.declared


class LimitKeyState(msgspec.Struct, frozen=True, gc=False):
    """One key of a limit.

    Attributes:
        key: the key.
        holders: the jobs that have permits, the oldest first, and since when in ms; not all if there are many.
        held: how many have one.
        waiting: how many wait.
        next_ms: when its rate lets the next job start, in milliseconds since the Unix epoch; None for at once.
        paused_until: until when the key is paused; 0 until it is resumed; None for not.
    """

    key: str
    holders: tuple[tuple[str, int], ...] = ()
    held: int = 0
    waiting: int = 0
    next_ms: int | None = None
    paused_until: int | None = None


class Blocked(msgspec.Struct, frozen=True, gc=False):
    """What holds back a job that waits in a group.

    Attributes:
        name: the limit, or `FAIR`.
        key: its key.
        reason: `paused`, `full`, `rate`, or `turn` if it only has to wait for its turn.
        ahead: how many jobs of the key come before it.
        holders: some of the jobs that have permits.
        at_ms: when the pause ends, or when the rate lets the next job start; None if that is not known.
    """

    name: str
    key: str
    reason: str
    ahead: int = 0
    holders: tuple[str, ...] = ()
    at_ms: int | None = None


class LimitVerbs(Protocol):
    """The verbs for limits.

    Every verb may raise `ServerUnavailableError` or `ServerRejectedError`.
    """

    async def put(self, queue: str, name: str, numbers: Numbers) -> None:
        """Put other numbers in the place of those that code declares, until it declares others.

        When it returns, all jobs that may run now are on their way to the workers.
        """
        ...

    async def remove(self, queue: str, name: str) -> bool:
        """Let the numbers of the code count again; returns whether others did."""
        ...

    async def pause(self, queue: str, name: str, key: str | None, until_ms: int) -> None:
        """Start no job of a key, or of all keys if it is None; until a time in ms, 0 until they are resumed."""
        ...

    async def resume(self, queue: str, name: str, key: str | None) -> bool:
        """End such a pause; returns whether there was one."""
        ...

    async def look(self, queue: str, name: str, key: str) -> LimitKeyState:
        """One key of a limit."""
        ...

    async def keys(self, queue: str, name: str, position: str) -> tuple[list[LimitKeyState], str]:
        """Some keys of a limit that have waiting jobs, and where the next ones begin; empty at the end."""
        ...

    async def hold(self, queue: str, worker: str, job_id: str, claim: int, uses: Sequence[LimitUse]) -> bool:
        """Let a job that runs, and whose sender did not know its limits, use these from now on.

        Returns:
            Whether it may go on. If not, it waits in a group now, and is this worker's no more; or it was not
            this worker's before.
        """
        ...

    async def list(self, queue: str) -> list[LimitState]:
        """The limits that jobs of a queue have used; sorted by name."""
        ...
