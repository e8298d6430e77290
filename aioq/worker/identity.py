"""Who a worker is: the ids it is known by in its queues, one at a time in each, and whether its lease holds."""

import asyncio
import os
import socket
from itertools import count


def this_host() -> str:
    """This host as worker ids name it."""
    return socket.gethostname()[:64]


def incarnation_prefix(pid: int, word: str) -> str:
    """What the ids of one incarnation of a worker begin with: host, process, and a word that no other one has.

    Args:
        pid: the worker's process.
        word: the word. A host name and a process number alone can come twice (containers, a reboot).
    """
    return f"{this_host()}-{pid}-{word}-"


def host_of(worker: str) -> str:
    """The host that a worker id names; a host's name may have the id's own separator in it."""
    return worker.rsplit("-", 3)[0]


class Incarnation:
    """A worker from its start to its end, however often it has to take a new id.

    Args:
        word: what its ids have and no others do; a random one by default. A supervisor gives one to its child, so
            that it can tell which workers died with the child.
    """

    def __init__(self, word: str | None = None) -> None:
        self._prefix = incarnation_prefix(os.getpid(), word or os.urandom(4).hex())
        self._numbers = count(1)

    def new_id(self) -> str:
        """A worker id that was never used before."""
        return f"{self._prefix}{next(self._numbers)}"


class Membership:
    """A worker's membership of one queue.

    Written by the lease service on the event loop, read by the queue's other services.

    Args:
        queue: the queue.
        incarnation: gives the ids.

    Attributes:
        queue: the queue.
        worker: the id; a new one after each loss of the lease.
    """

    def __init__(self, queue: str, incarnation: Incarnation) -> None:
        self.queue = queue
        self._incarnation = incarnation
        self.worker = incarnation.new_id()
        self._joined = asyncio.Event()
        self._lost = asyncio.Event()

    @property
    def joined(self) -> bool:
        """Whether the server knows this id and its lease holds, as far as is known here."""
        return self._joined.is_set()

    async def ready(self) -> str:
        """Wait until the server knows the worker, and return its id."""
        await self._joined.wait()
        return self.worker

    async def ended(self, worker: str) -> None:
        """Wait until the lease of `worker` is lost; it may be already, and the present id another."""
        if worker == self.worker:
            await self._lost.wait()

    def confirm(self, worker: str) -> None:
        """The server has given `worker` a lease."""
        if worker == self.worker:
            self._lost.clear()
            self._joined.set()

    def lose(self, worker: str) -> bool:
        """The lease of `worker` is lost: take a new id. False where that is known already."""
        if worker != self.worker:
            return False
        self.worker = self._incarnation.new_id()
        self._joined.clear()
        self._lost.set()
        return True
