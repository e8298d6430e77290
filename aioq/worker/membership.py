"""A worker's membership of one queue: the id it is known by there, and whether its lease holds."""

import asyncio
import os
import socket


def new_worker_id() -> str:
    """A worker id: host, process and a random part, so that no id is ever used twice."""
    return f"{socket.gethostname()[:64]}-{os.getpid()}-{os.urandom(4).hex()}"


class Membership:
    """See the module. Written by the lease service on the event loop, read by the queue's other services.

    Args:
        queue: the queue.

    Attributes:
        queue: the queue.
        worker: the id; a new one after each loss of the lease.
    """

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.worker = new_worker_id()
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

    async def ended(self) -> None:
        """Wait until the lease of the present id is lost."""
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
        self.worker = new_worker_id()
        self._joined.clear()
        self._lost.set()
        return True
