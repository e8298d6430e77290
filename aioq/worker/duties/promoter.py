"""Duty: queues scheduled jobs when they are due, by the server's clock.

It sleeps until the time of the next due job that a reply of the server has named. A job that is scheduled before
all others wakes one worker, and the reply to that worker's claim names it.
"""

import asyncio
from collections.abc import Callable

from aioq.errors import ServerError
from aioq.store.contract import Store
from aioq.store.upkeep import Promotion
from aioq.util.aio import Backoff
from aioq.util.log import logger
from aioq.util.plural import counted

log = logger("aioq.worker")

LIMIT = 500
"""The most jobs of one step, so that one step never blocks the server for long."""


class Promoter:
    """Queues the due jobs of one queue.

    Args:
        store: where the jobs are.
        queue: the queue.
        on_outbox: called with a promotion after which something of the outbox is to be relayed.
        on_operations: called with one after which bulk operations are to be carried on.
        on_flows: called with one after which steps are to be taken in flows.
    """

    def __init__(
        self,
        store: Store,
        queue: str,
        *,
        on_outbox: Callable[[Promotion], None],
        on_operations: Callable[[Promotion], None],
        on_flows: Callable[[Promotion], None],
    ) -> None:
        self._store = store
        self._queue = queue
        self._on_outbox = on_outbox
        self._on_operations = on_operations
        self._on_flows = on_flows
        self._due_at: float | None = None
        self._changed = asyncio.Event()
        self._backoff = Backoff()

    def expect(self, next_due_ms: int | None) -> None:
        """Note a reply that says in how many ms the next job is due."""
        if next_due_ms is None:
            return
        due_at = asyncio.get_running_loop().time() + next_due_ms / 1000
        if self._due_at is None or due_at < self._due_at:
            self._due_at = due_at
            self._changed.set()

    async def run(self) -> None:
        """Promote until cancelled."""
        while True:
            await self._wait()
            await self._step()

    async def catch_up(self) -> None:
        """Promote once, if something is due."""
        if self._due_at is not None and self._due_at <= asyncio.get_running_loop().time():
            await self._step()

    async def _step(self) -> None:
        self._due_at = None
        try:
            promotion = await self._store.promote(self._queue, LIMIT)
        except ServerError as error:
            log.debug("queue %s: could not promote: %s", self._queue, error)
            self.expect(round(self._backoff.next() * 1000))
            return
        self._backoff = Backoff()
        if promotion.relays or promotion.moved:
            self._on_outbox(promotion)
        if promotion.operations:
            self._on_operations(promotion)
        if promotion.flows:
            self._on_flows(promotion)
        if promotion.expired:
            log.info(
                "queue %s: %s expired: not started in time",
                *(self._queue, counted(promotion.expired, "job")),
            )
        self.expect(promotion.next_due_ms)

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        while self._due_at is None or self._due_at > loop.time():
            self._changed.clear()
            try:
                async with asyncio.timeout_at(self._due_at):
                    await self._changed.wait()
            except TimeoutError:
                return
