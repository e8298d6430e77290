"""An App in memory: the same way from send to handle, with no server and a clock that is moved by hand."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Self

from aioq.clock import ManualClock
from aioq.connect import Connector, limits_of
from aioq.memory_store import MemoryStore
from aioq.store import Limits
from aioq.worker import Host, Worker

_NEVER_MS = 10**12
"""A lease that no move of the clock ends: the one worker is in this very process."""


class MemorySession:
    """What `app.test()` returns: while it is entered, the App works in memory and a worker runs its jobs.

    A job that is due runs at once, in the background; `await handle` waits for it as always. A job with a
    delay, or a retry with a backoff, runs once the clock has been moved there: by `advance`, or by `drain`.

    Attributes:
        clock: the time the store goes by; it stands still unless it is moved.
    """

    def __init__(
        self,
        host: Host,
        connector: Connector,
        queues: Callable[[], Sequence[str]],
        close_client: Callable[[], Awaitable[None]],
    ) -> None:
        self.clock = ManualClock()
        self._host = host
        self._connector = connector
        self._queues = queues
        self._close_client = close_client
        self._stack: contextlib.AsyncExitStack = contextlib.AsyncExitStack()
        self._worker: Worker | None = None
        self._running: asyncio.Task[None] | None = None
        limits = limits_of(host.settings)
        self._limits = Limits(limits.dead_ttl_ms, limits.dead_limit, limits.max_crashes, _NEVER_MS)
        self._store = MemoryStore(host.name, clock=self.clock, limits=self._limits)

    async def __aenter__(self) -> Self:
        await self._close_client()
        self._stack.enter_context(self._connector.replaced(lambda: self._store))
        self._stack.push_async_callback(self._close_client)
        self._worker = Worker(self._host, queues=self._queues())
        self._running = asyncio.create_task(self._worker.run(), name="aioq-test-worker")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._worker is not None
        assert self._running is not None
        self._worker.stop()
        self._worker.stop()  # what still runs is given back at once
        try:
            await self._running
        finally:
            await self._stack.aclose()

    async def advance(self, seconds: float) -> None:
        """Move the clock on, and let everything run that has become due; returns when the worker is idle.

        Args:
            seconds: how far, at least 0; 0 only waits until the worker is idle.

        Raises:
            ValueError: `seconds` is negative.
        """
        self.clock.advance(seconds)
        await self._settle()

    async def drain(self) -> None:
        """Run everything there is: wait until the worker is idle, move the clock to the next job, and so on.

        A job that puts itself off for ever keeps this from ending.
        """
        while (due := await self._settle()) is not None:
            self.clock.advance(max(due, 1) / 1000)

    async def _settle(self) -> int | None:
        """Run what is due; the time in ms to the next scheduled job."""
        due: int | None = None
        for queue in self._queues():
            while (promotion := await self._store.promote(queue, 1000)).count:
                pass
            if promotion.next_due_ms is not None:
                due = promotion.next_due_ms if due is None else min(due, promotion.next_due_ms)
        await self._idle()
        for queue in self._queues():  # what ran may have put jobs off
            later = (await self._store.promote(queue, 0)).next_due_ms
            if later is not None:
                due = later if due is None else min(due, later)
        return due

    async def _idle(self) -> None:
        assert self._worker is not None
        assert self._running is not None
        idle = asyncio.create_task(self._worker.wait_empty())
        await asyncio.wait([idle, self._running], return_when=asyncio.FIRST_COMPLETED)
        if idle.done():
            return
        idle.cancel()
        self._running.result()  # the worker has failed: say why
