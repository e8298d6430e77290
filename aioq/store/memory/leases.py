"""Workers' leases in memory, and the lease client that renews them from another thread."""

import time
from collections.abc import Callable, Sequence

from aioq.errors import ServerError
from aioq.store.leases import LeaseClient, LeaseRequest, Renewal, WorkerLease, serving
from aioq.store.limiters import PermitLease

_RECOVERING = float("-inf")
"""The end of a lease whose worker is being recovered."""


class Leases:
    """The workers that have a lease, and the end of each.

    Leases are in real time, unlike everything else here, because the thread that renews them is. If a test
    advances a `ManualClock` by an hour, it means the time of jobs; its worker should not die of that.

    Args:
        lease_ms: how long a lease lasts after each renewal.
    """

    def __init__(self, lease_ms: int) -> None:
        self._seconds = lease_ms / 1000
        self._ends: dict[str, float] = {}
        self._fetched: dict[str, float] = {}
        self._about: dict[str, bytes] = {}

    def take(self, worker: str, fetched_ms: int = 0, about: bytes = b"") -> None:
        """Take or renew a lease; `fetched_ms` is how long ago the worker last fetched."""
        if about:
            self._about[worker] = about
        now = time.monotonic()
        self._ends[worker] = now + self._seconds
        self._fetched[worker] = now - fetched_ms / 1000

    def says_paused(self, worker: str) -> bool:
        """Whether a worker has said that it is paused."""
        return serving(WorkerLease(worker, 0, -1, self._about.get(worker, b""))).paused

    def all(self) -> list[WorkerLease]:
        """All workers."""
        now = time.monotonic()
        return [
            WorkerLease(
                worker,
                round((end - now) * 1000) if end > now else 0,
                self._ago(worker, now),
                self._about.get(worker, b""),
                ended_ms=round((now - end) * 1000) if now > end > _RECOVERING else 0,
            )
            for worker, end in self._ends.items()
        ]

    def _ago(self, worker: str, now: float) -> int:
        fetched = self._fetched.get(worker)
        return -1 if fetched is None else round((now - fetched) * 1000)

    def is_lost(self, worker: str) -> bool:
        """Whether the worker has lost its lease: it has never taken one, or its recovery has begun.

        As on a server, a lease that has only ended is not lost. Nor is one that was deleted by hand although the
        worker was not recovered: a recovery ends with `forget`.
        """
        end = self._ends.get(worker)
        return worker not in self._fetched if end is None else end == _RECOVERING

    def restore_missing(self) -> None:
        """Give a new lease to the workers whose lease was deleted by hand: they may be alive."""
        for worker in self._fetched.keys() - self._ends.keys():
            self._ends[worker] = time.monotonic() + self._seconds

    def is_registered(self, worker: str) -> bool:
        """Whether the worker has a lease, and nobody recovers it."""
        return self._ends.get(worker, _RECOVERING) != _RECOVERING

    def has_ended(self, worker: str) -> bool:
        """Whether the worker has a lease that has ended."""
        return worker in self.ended()

    def knows(self, worker: str) -> bool:
        """Whether the worker has a lease, even one that has ended."""
        return worker in self._ends

    def begin_recovery(self, worker: str) -> None:
        """Take away an ended lease: the worker cannot renew it any more."""
        self._ends[worker] = _RECOVERING

    def ended(self) -> list[str]:
        """The workers whose lease has ended; the one that ended first comes first."""
        now = time.monotonic()
        return sorted((w for w, end in self._ends.items() if end < now), key=lambda w: (self._ends[w], w))

    def starting_with(self, prefix: str) -> list[str]:
        """The workers whose id begins with this prefix."""
        return sorted(worker for worker in self._ends if worker.startswith(prefix))

    def forget(self, worker: str) -> bool:
        """Deregister a worker; False if there was none, but only entries that were delivered to it later."""
        self._ends.pop(worker, None)
        self._about.pop(worker, None)
        return self._fetched.pop(worker, None) is not None


class MemoryLeaseClient(LeaseClient):
    """A worker's leases on a connection of their own; called from one thread, never from an event loop.

    Args:
        renew: the store's own `renew`, which may be called from any thread.
        renew_permits: likewise, for places of limiters.
    """

    def __init__(
        self, renew: Callable[[LeaseRequest], Renewal], renew_permits: Callable[[PermitLease], int]
    ) -> None:
        self._renew = renew
        self._renew_permits = renew_permits

    def renew_all(self, requests: Sequence[LeaseRequest]) -> Sequence[Renewal | ServerError]:
        """Renew the leases of several queues, or take new ones."""
        return [self._renew(each) for each in requests]

    def renew_permits(self, leases: Sequence[PermitLease]) -> Sequence[int | ServerError]:
        """Renew the leases of places of limiters."""
        return [self._renew_permits(each) for each in leases]

    def close(self) -> None:
        """Nothing to close."""
