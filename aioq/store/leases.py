"""Workers' leases: what the server knows of them, and how they are renewed. Part of the store contract."""

import contextlib
from collections.abc import Collection, Sequence
from typing import Literal, Protocol
from zlib import crc32

import msgspec

from aioq.errors import ServerError
from aioq.store.limiters import PermitLease
from aioq.store.pauses import Pause

RenewalMode = Literal["", "join", "sweep"]
"""What a renewal does besides: nothing, take a new lease, or clean up after workers that are gone."""


class Renewal(msgspec.Struct, frozen=True, gc=False):
    """The result of renewing a lease.

    Attributes:
        lost: another worker has begun to recover this one, so the lease was not renewed.
        next_due_ms: see `Claim`.
        expired: there is work for the recovery: another worker's lease has ended, or there are more dead jobs
            than the limit allows.
        outage: the server may have been away: this worker's own lease had ended, or its store could not be opened
            at first. Then other leases may have ended too, although their workers are about to renew them.
        cancelled: the ids of jobs that this worker runs and that somebody asked to cancel.
        next_tick_ms: see `Claim`.
        pause: see `Claim`.
        holds: the server has a held set for this worker. If the worker holds jobs and this is False, the set was
            evicted or deleted; a claim with `known` writes it again.
        asked: what this worker is asked for, see `aioq.store.control`; each comes again until it is answered.
    """

    lost: bool = False
    next_due_ms: int | None = None
    expired: bool = False
    outage: bool = False
    cancelled: Sequence[str] = ()
    next_tick_ms: int | None = None
    holds: bool = False
    asked: Sequence[str] = ()
    pause: Pause | None = None


class LeaseRequest(msgspec.Struct, frozen=True, gc=False):
    """One lease to be renewed or taken.

    Attributes:
        queue: the queue.
        worker: the worker's id there.
        fetched_ms: how long ago the server last answered the worker's fetcher, see `WorkerLease`.
        mode: `join` takes a new lease; `sweep` also cleans up after workers that are gone, which needs to be done
            only now and then.
        about: what the worker says of itself, encoded; empty if that has not changed.
        answers: requests (`Renewal.asked`), and the answer to each.
    """

    queue: str
    worker: str
    fetched_ms: int = 0
    mode: RenewalMode = ""
    about: bytes = b""
    answers: Sequence[tuple[str, bytes]] = ()


class WorkerLease(msgspec.Struct, frozen=True, gc=False):
    """A worker of a queue, as the server knows it.

    Attributes:
        worker: its id.
        lease_ms: how long its lease still lasts, in milliseconds; 0 if it has ended.
        fetched_ms: how long ago the server last answered its fetcher, in milliseconds; -1 if that is not known. A
            worker without a free slot counts as fetching, because it waits for its jobs and not for the server.
        about: what it has said of itself; empty for nothing.
        ended_ms: how long ago its lease has ended, in milliseconds; 0 if it has not, or if that is not known,
            because its jobs are given back just now.
    """

    worker: str
    lease_ms: int
    fetched_ms: int
    about: bytes = b""
    ended_ms: int = 0


MOST_TASKS = 1_000
"""Of how many tasks a worker says that it knows them, each in four bytes; of more it says nothing."""

_MARK = 4


def marks_of(tasks: Collection[str]) -> bytes | None:
    """What a worker says of the tasks that it knows: a checksum for each, joined; None for too many of them."""
    if len(tasks) > MOST_TASKS:
        return None
    return b"".join(sorted(map(_mark, tasks)))


def _mark(task: str) -> bytes:
    return crc32(task.encode(errors="surrogatepass")).to_bytes(_MARK)


class Serving(msgspec.Struct, frozen=True):
    """Of what a worker says of itself, what shows whether it takes a job; see `aioq/worker/about.py`.

    Attributes:
        queues: its queues, without their shards; None if it says nothing of them.
        paused: whether it takes no jobs.
        draining: whether it ends.
        tasks: the tasks that it knows, as `marks_of` returns them.
    """

    queues: tuple[str, ...] | None = None
    paused: bool = False
    draining: bool = False
    tasks: bytes | None = None

    def leaves(self, queue: str) -> bool:
        """Whether it takes no more jobs of a queue: it ends, or the queue was removed from its queues."""
        return self.draining or (self.queues is not None and queue not in self.queues)

    def knows(self, task: str) -> bool:
        """Whether it knows a task, as far as is known; two in four thousand million have the same mark."""
        return self.tasks is None or _mark(task) in {
            self.tasks[n : n + _MARK] for n in range(0, len(self.tasks), _MARK)
        }


_SERVING = msgspec.msgpack.Decoder(Serving)


def serving(lease: WorkerLease) -> Serving:
    """What a worker says of how it serves; that it serves, if it says nothing that can be read."""
    with contextlib.suppress(msgspec.MsgspecError):
        return _SERVING.decode(lease.about) if lease.about else Serving()
    return Serving()


class LeaseClient(Protocol):
    """A worker's leases on a connection of their own; called from one thread, never from an event loop.

    A lease client derives from this, and so has the calls for one queue.
    """

    def renew_all(self, requests: Sequence[LeaseRequest]) -> Sequence[Renewal | ServerError]:
        """Renew the leases of several queues, or take new ones: one result for each request, in their order.

        If another worker has begun to recover this one, its lease is reported as lost instead.

        This takes one round trip, not one for each queue. An error of one queue changes nothing for the others. A
        server that does not answer is waited for once.
        """
        ...

    def renew_permits(self, leases: Sequence[PermitLease]) -> Sequence[int | ServerError]:
        """Renew the leases of places of limiters: for each how many the process holds, 0 if it has none any more.

        Errors and round trips are as in `renew_all`.
        """
        ...

    def join(self, queue: str, worker: str) -> Renewal:
        """Take a new lease, and create what a worker needs to read the queue."""
        return self._renew_one(LeaseRequest(queue, worker, 0, "join"))

    def renew(self, queue: str, worker: str, *, fetched_ms: int = 0, sweep: bool = False) -> Renewal:
        """Renew the lease of one queue."""
        return self._renew_one(LeaseRequest(queue, worker, fetched_ms, "sweep" if sweep else ""))

    def _renew_one(self, request: LeaseRequest) -> Renewal:
        (result,) = self.renew_all((request,))
        if isinstance(result, ServerError):
            raise result
        return result

    @property
    def reconnects(self) -> int:
        """How often a connection had to be made again."""
        return 0

    def close(self) -> None:
        """Close the connection."""
        ...
