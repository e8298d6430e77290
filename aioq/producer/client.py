"""What one process holds for one event loop: the store, and the producer and waiters over it."""

import asyncio
from dataclasses import dataclass

from aioq.producer.delivery import Producer
from aioq.results.waiters import Waiters
from aioq.store.contract import Store


@dataclass(slots=True)
class Client:
    """The running parts of an App on one event loop.

    Attributes:
        loop: the loop they belong to.
        store: the way to the server.
        producer: sends jobs.
        waiters: await outcomes.
    """

    loop: asyncio.AbstractEventLoop
    store: Store
    producer: Producer
    waiters: Waiters

    async def close(self) -> None:
        """Let what is on its way arrive, then close every connection."""
        await self.producer.drain()
        await self.waiters.close()
        await self.store.close()
