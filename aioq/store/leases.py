"""Workers' leases, as the store knows and renews them; part of the store contract."""

from collections.abc import Sequence
from typing import Protocol

import msgspec


class Renewal(msgspec.Struct, frozen=True, gc=False):
    """What a renewal of a lease brought.

    Attributes:
        lost: the lease had ended already.
        next_due_ms: see `Claim`.
        expired: some other worker's lease has ended, or there are more dead jobs than may be: recovery has work.
        outage: other leases may have ended for want of a server, and their workers be about to renew them: this
            worker's own had ended, or it joins after its store could not be opened at first.
        cancelled: ids of jobs this worker runs whose cancellation was asked for.
        next_tick_ms: see `Claim`.
        holds: the server has a note of jobs that this worker holds. Where it should have, and has none, that has
            vanished; a claim with known jobs puts it back.
    """

    lost: bool = False
    next_due_ms: int | None = None
    expired: bool = False
    outage: bool = False
    cancelled: Sequence[str] = ()
    next_tick_ms: int | None = None
    holds: bool = False


class WorkerLease(msgspec.Struct, frozen=True, gc=False):
    """A worker of a queue, as the server knows it.

    Attributes:
        worker: its id.
        lease_ms: how long its lease lasts from now on, in milliseconds; 0 where it has ended.
        fetched_ms: how long ago it last got an answer to its fetching, in milliseconds; -1 where that is not
            known. A worker that has no free slot counts as fetching: it waits for its jobs, not for the server.
    """

    worker: str
    lease_ms: int
    fetched_ms: int


class LeaseClient(Protocol):
    """A worker's leases on a connection of their own; called from one thread, never from an event loop."""

    def join(self, queue: str, worker: str) -> Renewal:
        """Take a new lease and make the queue ready to be read."""
        ...

    def renew(self, queue: str, worker: str, *, fetched_ms: int = 0, sweep: bool = False) -> Renewal:
        """Prolong the lease; one that another worker has begun to recover is not prolonged but reported as lost.

        `fetched_ms` is how long ago the worker last got an answer to its fetching, see `WorkerLease`. `sweep`
        also looks after what was delivered to workers that are gone; now and then will do.
        """
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...
