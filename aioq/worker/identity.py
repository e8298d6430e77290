"""A worker's identity: its id in each queue, one at a time, and whether its lease there is valid."""

import asyncio
import os
import socket
from itertools import count


def this_host() -> str:
    """The name of this host in worker ids."""
    return socket.gethostname()[:64]


def incarnation_prefix(pid: int, word: str) -> str:
    """The beginning of all ids of one incarnation of a worker: host, process, and a unique word.

    Args:
        pid: the worker's process id.
        word: the word. It is needed because host name and process id can occur twice (containers, a reboot).
    """
    return f"{this_host()}-{pid}-{word}-"


def host_of(worker: str) -> str:
    """The host that a worker id names; the host's name may contain the id's separator."""
    return worker.rsplit("-", 3)[0]


class Incarnation:
    """A worker from its start to its end, even if it has to take new ids.

    Args:
        word: a unique word in its ids; random by default. A supervisor gives one to its child process, so that it
            can tell which worker ids died with that process.
    """

    def __init__(self, word: str | None = None) -> None:
        self._prefix = incarnation_prefix(os.getpid(), word or os.urandom(4).hex())
        self._numbers = count(1)

    def new_id(self) -> str:
        """A worker id that was never used before."""
        return f"{self._prefix}{next(self._numbers)}"


class Membership:
    """A worker's membership of one queue.

    The duty of the leases changes it, on the event loop; the queue's other duties read it.

    Args:
        queue: the queue.
        incarnation: gives the ids.

    Attributes:
        queue: the queue.
        worker: the worker's id; a new one after each loss of the lease.
    """

    def __init__(self, queue: str, incarnation: Incarnation) -> None:
        self.queue = queue
        self._incarnation = incarnation
        self.worker = incarnation.new_id()
        self._joined = asyncio.Event()
        self._lost = asyncio.Event()

    @property
    def joined(self) -> bool:
        """Whether the server knows this id and its lease is valid, as far as this process knows."""
        return self._joined.is_set()

    async def ready(self) -> str:
        """Wait until the server knows the worker, and return its id."""
        await self._joined.wait()
        return self.worker

    async def ended(self, worker: str) -> None:
        """Wait until the lease of `worker` is lost; return at once if the present id is another one."""
        if worker == self.worker:
            await self._lost.wait()

    def confirm(self, worker: str) -> None:
        """Note that the server has given `worker` a lease."""
        if worker == self.worker:
            self._lost.clear()
            self._joined.set()

    def lose(self, worker: str) -> bool:
        """Note that the lease of `worker` is lost, and take a new id; return False if that was known already."""
        if worker != self.worker:
            return False
        self.worker = self._incarnation.new_id()
        self._joined.clear()
        self._lost.set()
        return True
