"""Bulk operations, as the store keeps them. Part of the store contract.

An operation acts on many jobs, in bounded steps, each of which any worker may do. It goes through its shards
(a queue that has only one is that shard) one after the other. Its record belongs to the App: what it is to do,
whether it is paused, who carries it on now, what its rate allows. What it has done in a shard is noted in that
shard, in the same step as what is done to the jobs there: so it is done once, whoever carries it on.

    read the note of the shard ──► list some jobs ──► permit ──► step ──┐
               ▲                                                        │
               └────────────────────────────────────────────────────────┘
"""

import enum
from collections.abc import Sequence
from typing import Protocol

import msgspec

from aioq.jobs.job import JobState
from aioq.public import public

LEASE_MS = 5_000
"""For how long a permit gives an operation to one carrier, in milliseconds: far longer than a step takes."""

KEPT_MS = 30 * 86_400_000
"""For how long the record of an operation is kept after its last change, in milliseconds."""

MOST_OPERATIONS = 1_000
"""The most operations of an App that are kept."""

SMALL_STEP, LARGE_STEP = 100, 200
"""The most jobs of a step: of one that ends jobs, each of which may have 64 waiting processes to notify, or that
moves them; and of another one."""


class Act(enum.StrEnum):
    """What an operation does to jobs."""

    RETRY = "retry"
    CANCEL = "cancel"
    DELETE = "delete"
    MOVE = "move"
    RUN_NOW = "run_now"
    SET_PRIORITY = "set_priority"
    PURGE = "purge"


@public
class OperationState(enum.StrEnum):
    """The state of an operation; `dry_run` is none of the store's."""

    RUNNING = "running"
    PAUSED = "paused"
    ABORTED = "aborted"
    ENDED = "ended"
    DRY_RUN = "dry_run"

    @property
    def is_over(self) -> bool:
        """Whether nothing more will be done."""
        return self not in {OperationState.RUNNING, OperationState.PAUSED}


class Done(msgspec.Struct, frozen=True, gc=False):
    """How much was done.

    Attributes:
        looked_at: the jobs that were looked at.
        done: those that were acted on.
        skipped: those that matched, and had changed before they were reached, or could not be changed.
    """

    looked_at: int = 0
    done: int = 0
    skipped: int = 0

    def __add__(self, other: "Done") -> "Done":
        return Done(self.looked_at + other.looked_at, self.done + other.done, self.skipped + other.skipped)


NOTHING_DONE = Done()


class StoredOperation(msgspec.Struct, frozen=True):
    """The record of an operation.

    Attributes:
        id: its id.
        definition: what it is to do; the store does not read it.
        state: its state.
        at: how many of its shards are done.
        began_ms: when it was stored, in milliseconds since the Unix epoch.
        ended_ms: when it ended or was aborted, likewise; 0 if it has not.
        carried: whether somebody carries it on now.
        done: what was done in the shards that are done.
    """

    id: str
    definition: bytes
    state: OperationState
    at: int = 0
    began_ms: int = 0
    ended_ms: int = 0
    carried: bool = False
    done: Done = NOTHING_DONE


class Permit(msgspec.Struct, frozen=True, gc=False):
    """The reply to a change of an operation.

    Attributes:
        state: its state.
        at: how many of its shards are done.
        is_mine: whether the caller carries it on.
        allowed: how many jobs its rate allows now.
        wait_ms: in how many milliseconds more are allowed, if there are too few now.
        carried: whether anybody carries it on.
    """

    state: OperationState
    at: int
    is_mine: bool = False
    allowed: int = 0
    wait_ms: int = 0
    carried: bool = False


class OperationProgress(msgspec.Struct, frozen=True, gc=False):
    """The note of an operation in a shard.

    Attributes:
        steps: how many steps were made there.
        position: up to where they have looked; the store does not read it.
        done: what they have done.
    """

    steps: int = 0
    position: bytes = b""
    done: Done = NOTHING_DONE


class Verdict(enum.StrEnum):
    """What became of a step: it was made, or refused because another one was made before, or it came too early."""

    DONE = "done"
    STALE = "stale"
    EARLY = "early"


class OperationStep(msgspec.Struct, frozen=True):
    """One step of an operation.

    Attributes:
        steps: how many were made before it.
        act: what to do.
        state: the state in which the jobs were listed; one that is in another state by now is left alone.
        begun_ms: when the operation began here: jobs that were sent or have ended since are left alone.
        position: up to where the jobs were looked at.
        looked_at: how many jobs were looked at for it.
        jobs: the ids of those that match, each with what belongs to it: the outcome of one that is cancelled,
            deleted or purged, the queue to which one is moved, the lane of one whose priority is set.
        ttl_ms: how long an outcome is kept.
    """

    steps: int
    act: Act
    state: JobState
    begun_ms: int
    position: bytes
    looked_at: int
    jobs: Sequence[tuple[str, bytes]] = ()
    ttl_ms: int = 0


class OperationVerbs(Protocol):
    """The verbs for bulk operations; errors and repeated calls are as in `OperatorVerbs`."""

    async def write(self, operation_id: str, definition: bytes, rate: float) -> bool:
        """Store a new operation; False if there are too many that have not ended.

        Args:
            operation_id: its id.
            definition: what it is to do.
            rate: the most jobs a second; 0 for no limit.
        """
        ...

    async def read(self, operation_ids: Sequence[str]) -> list[StoredOperation]:
        """Those of these operations that there are."""
        ...

    async def newest(self, limit: int) -> list[StoredOperation]:
        """The newest operations."""
        ...

    async def change(self, operation_id: str, what: str) -> Permit | None:
        """`pause`, `resume` or `abort` an operation, if its state permits that. None if there is none."""
        ...

    async def permit(self, operation_id: str, carrier: str, jobs: int) -> Permit | None:
        """Take an operation for `LEASE_MS`, unless somebody else has it, to act on so many jobs.

        If the rate allows too few of them, it is not taken. None if there is no such operation.
        """
        ...

    async def release(self, operation_id: str, carrier: str) -> None:
        """Give up an operation."""
        ...

    async def finish_shard(self, operation_id: str, at: int, shards: int, done: Done) -> Permit | None:
        """Note that a shard is done, the one after `at` others. The operation ends with the last of `shards`."""
        ...

    async def progress(self, queue: str, operation_id: str) -> OperationProgress:
        """The note of an operation in a shard."""
        ...

    async def step(self, queue: str, operation_id: str, step: OperationStep) -> tuple[Verdict, OperationProgress]:
        """Act on some jobs, and note that; each step is made once. Returns the note as it is now too."""
        ...

    async def remind(self, queue: str, operation_id: str, delay_ms: int | None, *, wakes: bool = True) -> None:
        """Have a worker of a queue carry on an operation in so many milliseconds; None for never.

        `Store.promote` then names it to one of them, every few seconds until the next call of this. A worker is
        woken that learns of it now, or else one learns of it with its next claim or renewal.
        """
        ...
