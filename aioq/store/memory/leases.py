"""Workers' leases in memory, and the lease client that renews them from another thread."""

import time
from collections.abc import Callable

from aioq.store.leases import Renewal, WorkerLease

_RECOVERING = float("-inf")
"""The end of a lease whose worker is being recovered."""


class Leases:
    """The workers that have a lease, and until when.

    Leases are in real time, unlike all else here: the thread that renews them lives in real time, and a test
    that moves a `ManualClock` on by an hour means the jobs, not the death of its worker.

    Args:
        lease_ms: how long a lease lasts after each renewal.
    """

    def __init__(self, lease_ms: int) -> None:
        self._seconds = lease_ms / 1000
        self._ends: dict[str, float] = {}
        self._fetched: dict[str, float] = {}

    def take(self, worker: str, fetched_ms: int = 0) -> None:
        """Take or prolong a lease; `fetched_ms` is how long ago the worker last fetched."""
        now = time.monotonic()
        self._ends[worker] = now + self._seconds
        self._fetched[worker] = now - fetched_ms / 1000

    def all(self) -> list[WorkerLease]:
        """Every worker there is."""
        now = time.monotonic()
        return [
            WorkerLease(worker, round((end - now) * 1000) if end > now else 0, self._ago(worker, now))
            for worker, end in self._ends.items()
        ]

    def _ago(self, worker: str, now: float) -> int:
        fetched = self._fetched.get(worker)
        return -1 if fetched is None else round((now - fetched) * 1000)

    def lost(self, worker: str) -> bool:
        """Whether the worker's lease is no more: never taken, or its recovery has begun.

        A lease that has merely ended is still the worker's, as it is on a server; so is one that has vanished
        though the worker was not recovered, which ends with `forget`.
        """
        end = self._ends.get(worker)
        return worker not in self._fetched if end is None else end == _RECOVERING

    def enter_anew(self) -> None:
        """Give those a lease whose lease has vanished: they may live."""
        for worker in self._fetched.keys() - self._ends.keys():
            self._ends[worker] = time.monotonic() + self._seconds

    def has_ended(self, worker: str) -> bool:
        """Whether the worker has a lease that has ended."""
        return worker in self.ended()

    def knows(self, worker: str) -> bool:
        """Whether the worker has a lease, be it one that has ended."""
        return worker in self._ends

    def begin_recovery(self, worker: str) -> None:
        """Take an ended lease away for good."""
        self._ends[worker] = _RECOVERING

    def ended(self) -> list[str]:
        """The workers whose lease has ended, the longest dead first."""
        now = time.monotonic()
        return sorted((w for w, end in self._ends.items() if end < now), key=lambda w: (self._ends[w], w))

    def starting_with(self, prefix: str) -> list[str]:
        """The workers whose id begins so."""
        return sorted(worker for worker in self._ends if worker.startswith(prefix))

    def forget(self, worker: str) -> None:
        """Drop a worker's lease, if it has one."""
        self._ends.pop(worker, None)
        self._fetched.pop(worker, None)


class MemoryLeaseClient:
    """A worker's leases on a connection of their own; called from one thread, never from an event loop.

    Args:
        renew: the store's own `renew`, which may be called from any thread: queue, worker, how many ms ago it
            fetched, and `join`, `sweep` or nothing.
    """

    def __init__(self, renew: Callable[[str, str, int, str], Renewal]) -> None:
        self._renew = renew

    def join(self, queue: str, worker: str) -> Renewal:
        """Take a new lease."""
        return self._renew(queue, worker, 0, "join")

    def renew(self, queue: str, worker: str, *, fetched_ms: int = 0, sweep: bool = False) -> Renewal:
        """Renew the lease."""
        return self._renew(queue, worker, fetched_ms, "sweep" if sweep else "")

    def close(self) -> None:
        """Nothing to close."""
