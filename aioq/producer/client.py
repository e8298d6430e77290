"""The client of an App on one event loop: its store, its buffers and its waiters."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from aioq.limiters.pools import Pools
from aioq.producer.delivery import Buffers
from aioq.producer.shards import Shards, ShardTable
from aioq.results.waiters import Waiters
from aioq.store.contract import Store


@dataclass(slots=True)
class Client:
    """The parts of an App that belong to one event loop.

    Attributes:
        loop: the event loop.
        store: talks to the server.
        buffers: send jobs, by queue.
        waiters: wait for outcomes.
        shards: keeps the numbers of shards up to date.
        table: these numbers, by queue.
        pools: what is here of the App's limiters.
    """

    loop: asyncio.AbstractEventLoop
    store: Store
    buffers: Buffers
    waiters: Waiters
    shards: Shards
    table: ShardTable
    pools: Pools

    async def close(self) -> None:
        """Wait until all jobs that are being sent are confirmed or given up, then close every connection."""
        await self.buffers.drain()
        await self.pools.close()
        await self.shards.close()
        await self.waiters.close()
        await self.store.close()


class Clients:
    """The clients of an App, one for each event loop.

    Args:
        make: makes a client for the running loop.

    Attributes:
        recent: the client that was asked for last, of any loop.
    """

    def __init__(self, make: Callable[[], Awaitable[Client]]) -> None:
        self._make = make
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, Client] = WeakKeyDictionary()
        self._opening: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[Client]] = WeakKeyDictionary()
        self._guards: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncGenerator[None]] = WeakKeyDictionary()
        self.recent: Client | None = None

    def __len__(self) -> int:
        return len(self._clients)

    def all(self) -> list[Client]:
        """The clients of all loops."""
        return list(self._clients.values())

    def current(self) -> Client | None:
        """The client of the running loop; None if it is not open."""
        client = self.recent = self._clients.get(asyncio.get_running_loop())
        return client

    async def get(self) -> Client:
        """The client of the running loop; made on first use."""
        client = self.current()
        if client is not None:
            return client
        loop = asyncio.get_running_loop()
        opening = self._opening.get(loop)
        if opening is None:
            opening = loop.create_task(self._open(loop), name="aioq-open")
            self._opening[loop] = opening
        return await asyncio.shield(opening)  # all callers share one opening, even if one of them is cancelled

    async def close(self) -> None:
        """Close the client of the running loop."""
        loop = asyncio.get_running_loop()
        self.recent = None
        client = self._clients.pop(loop, None)
        guard = self._guards.pop(loop, None)
        if client is not None:
            await client.close()
        if guard is not None:
            await guard.aclose()

    async def _open(self, loop: asyncio.AbstractEventLoop) -> Client:
        try:
            client = await self._make()
            await self._close_with_loop(loop, client)
            self._clients[loop] = client
            return client
        finally:
            del self._opening[loop]

    async def _close_with_loop(self, loop: asyncio.AbstractEventLoop, client: Client) -> None:
        """Let the client be closed with its loop: `asyncio.run` closes the asynchronous generators of its loop."""

        async def guard() -> AsyncGenerator[None]:
            try:
                yield
            finally:
                self.recent = None
                if self._clients.pop(loop, None) is client:
                    await client.close()

        generator = guard()
        await anext(generator)
        self._guards[loop] = generator
