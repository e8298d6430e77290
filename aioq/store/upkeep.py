"""The verbs by which workers maintain a queue: to promote what is due, and to recover dead workers."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from aioq.store.extra import MovedJob


class Promotion(msgspec.Struct, frozen=True, gc=False):
    """The result of one step of promoting what is due.

    Attributes:
        count: how many jobs and timers were handled; 0 if nothing was due.
        next_due_ms: how long until the next job or timer is due, in milliseconds; None if there is none.
        expired: how many jobs ended because they had not been started in time.
        relays: the queues to which the caller is to relay what is in the outbox (`aioq.store.relay`).
        moved: jobs that were moved to another queue: the caller is to look whether they are there.
        operations: the ids of bulk operations that the caller is to carry on.
        flows: the ids of flows in which the caller is to take a step (`aioq.store.flows`).
    """

    count: int
    next_due_ms: int | None
    expired: int = 0
    relays: Sequence[str] = ()
    moved: Sequence[MovedJob] = ()
    operations: Sequence[str] = ()
    flows: Sequence[str] = ()


class RecoveryStep(msgspec.Struct, frozen=True, gc=False):
    """The result of one bounded step of a recovery.

    Attributes:
        worker: the worker that is recovered, or None when no lease has ended.
        returned: jobs that went back to the front of their lane.
        buried: ids of jobs that had crashed too often and were dead-lettered.
        more: there is more to do; call again.
    """

    worker: str | None = None
    returned: int = 0
    buried: Sequence[str] = ()
    more: bool = False


class Upkeep(Protocol):
    """What workers do for a queue."""

    async def promote(self, queue: str, limit: int) -> Promotion:
        """Queue up to `limit` scheduled jobs that are due, and end up to `limit` jobs that have expired."""
        ...

    async def recover(self, queue: str, crash_outcome: bytes, limit: int, *, dead: str = "") -> RecoveryStep:
        """Do one step of recovering a dead worker: give back its jobs. Or drop dead jobs over the limit.

        The worker is one whose lease has ended. With `dead` it is one whose id begins with that text: such a
        worker is known to have died, whether or not its lease has ended.
        """
        ...


class Backlog(msgspec.Struct, frozen=True, gc=False):
    """What is in a queue.

    Attributes:
        queued: jobs in its lanes; those that were cancelled there may count for a while.
        more: whether there are more of them: not all entries were looked at.
        scheduled: jobs that wait for their time.
        held: jobs that workers hold: usually they run.
        schedules: its schedules, also those that are paused.
        timers: what else is to be done: jobs that expire, what is to be sent to other queues, and jobs that were
            moved to others and have not ended.
    """

    queued: int = 0
    more: bool = False
    scheduled: int = 0
    held: int = 0
    schedules: int = 0
    timers: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing is there."""
        return not (self.queued or self.scheduled or self.held or self.schedules or self.timers)
