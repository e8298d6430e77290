"""Duty: write outcomes, in batches, until the server has them.

What finishes while the event loop is busy, or while a write is in flight, goes out with the next one. While the
server is gone the outcomes wait; they are few, because no slot is filled again without a server, nor while
`MAX_WAITING` of them wait.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial

from aioq.backoff import Backoff
from aioq.batch import Batcher
from aioq.errors import ServerError, ServerUnavailableError
from aioq.store import Settlement, Store

log = logging.getLogger("aioq.worker")

MAX_BATCH = 500
"""The most jobs of one write: what Lua's `unpack` carries with ease."""

MAX_BYTES = 1_048_576
"""A write is closed at this many bytes of outcomes, so that it arrives in time over a slow link too."""

MAX_WAITING = 5_000
"""Outcomes that may wait to be written before no further job is fetched: what a server that is slow to confirm
(durability) may fall behind, in a few megabytes."""

Fate = tuple[str, Settlement]
"""A worker id and what became of a job that was claimed under it."""


class Settler:
    """See the module.

    Args:
        store: where to.
        on_written: told of each settlement the server has heard of: queue, settlement.
        on_refused: told of each settlement that the fence refused: queue, worker, settlement.
    """

    def __init__(
        self,
        store: Store,
        *,
        on_written: Callable[[str, Settlement], None],
        on_refused: Callable[[str, str, Settlement], None],
    ) -> None:
        self._store = store
        self._on_written = on_written
        self._on_refused = on_refused
        self._batchers: dict[str, Batcher[Fate, bool]] = {}
        self.refused = 0

    def put(self, queue: str, worker: str, settlement: Settlement) -> None:
        """Write an outcome with the next batch; returns at once."""
        batcher = self._batchers.get(queue)
        if batcher is None:
            batcher = Batcher(
                partial(self._flush, queue),
                max_items=MAX_BATCH,
                max_weight=MAX_BYTES,
                capacity=MAX_WAITING,
                in_flight=self._store.in_flight,
            )
            self._batchers[queue] = batcher
        batcher.put((worker, settlement), weight=len(settlement.outcome))

    async def space(self, queue: str) -> None:
        """Return while fewer outcomes wait than `MAX_WAITING`: more jobs are not run meanwhile."""
        batcher = self._batchers.get(queue)
        if batcher is not None:
            await batcher.wait_for_space()

    async def drain(self) -> None:
        """Wait until everything is written. Cancellation: what is not written yet is lost to the recovery."""
        while any(batcher.held for batcher in self._batchers.values()):
            for batcher in tuple(self._batchers.values()):
                await batcher.drain()

    async def _flush(self, queue: str, batch: list[Fate]) -> list[bool]:
        accepted: list[bool] = []
        # All of one worker id as a rule; a lease that was lost in between makes it two.
        start = 0
        while start < len(batch):
            worker = batch[start][0]
            end = start
            while end < len(batch) and batch[end][0] == worker:
                end += 1
            settlements = [settlement for _, settlement in batch[start:end]]
            accepted += await self._write(queue, worker, settlements)
            start = end
        return accepted

    async def _write(self, queue: str, worker: str, settlements: Sequence[Settlement]) -> list[bool]:
        backoff = Backoff()
        repeated = False  # then a refusal may only mean that the attempt whose reply got lost has done it
        while True:
            try:
                accepted = await self._store.settle(queue, worker, settlements)
            except ServerError as error:
                pause = backoff.next()
                expected = repeated or isinstance(error, ServerUnavailableError)
                level = logging.DEBUG if expected else logging.WARNING  # one that is answered is said once
                log.log(level, "queue %s: %d outcomes wait: %s", queue, len(settlements), error)
                await asyncio.sleep(pause)
                repeated = True
                continue
            for settlement, taken in zip(settlements, accepted, strict=True):
                self._on_written(queue, settlement)
                if not taken and not repeated:
                    self.refused += 1
                    self._on_refused(queue, worker, settlement)
            return accepted
