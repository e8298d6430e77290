"""Duty: takes steps in the flows of a queue (`aioq.flows.stepping`).

It does nothing until it is woken: by the promoter, when a step is due; or at once, when this worker has settled a
job of a flow. Then it goes on until there is nothing to do in that flow. All workers of a queue do so; a flow that
one of them has taken is left to it.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence

from aioq.errors import ServerError
from aioq.flows.stepping import Stepper
from aioq.store.contract import Store
from aioq.store.upkeep import Promotion
from aioq.util.aio import Backoff
from aioq.util.log import logger

log = logger("aioq.worker")

GATHER = 0.005
"""Seconds for which more ends are awaited in a flow after a step that has only noted some: where one job waits for
many others. Each step costs two calls. A guess."""

MOST_AT_ONCE = 100
"""The most flows of one round."""

MOST_PAUSE = 5.0
"""The longest pause after an error, in seconds."""


class FlowSteps:
    """Takes steps in the flows of one queue.

    Args:
        store: where they are.
        queue: the queue.
        relay: called with the queues to which jobs are to be relayed.
    """

    def __init__(self, store: Store, queue: str, *, relay: Callable[[Sequence[str]], None]) -> None:
        self._queue = queue
        self._stepper = Stepper(store, queue)
        self._relay = relay
        self._wanted: dict[str, None] = {}
        self._gathering: dict[str, bool] = {}  # flows in which ends are awaited, and whether there were any
        self._changed = asyncio.Event()
        self._lock = asyncio.Lock()
        self._backoff = Backoff(most=MOST_PAUSE)
        self._stepped = False

    def request(self, promotion: Promotion) -> None:
        """Take the steps that are due, as a promotion says."""
        for flow_id in promotion.flows:
            self.wake(flow_id)

    def wake(self, flow_id: str) -> None:
        """A job of a flow has ended, or a step is due in it."""
        if flow_id in self._gathering:
            self._gathering[flow_id] = True
        else:
            self._wanted[flow_id] = None
            self._changed.set()

    async def run(self) -> None:
        """Take steps until cancelled."""
        while True:
            await self._changed.wait()
            try:
                await self._go_on()
            except ServerError as error:
                log.warning("queue %s: could not take steps in its flows: %s", self._queue, error)
                await asyncio.sleep(self._backoff.next())
                self._changed.set()
            else:
                self._backoff = Backoff(most=MOST_PAUSE)

    async def drain(self) -> bool:
        """Take the steps that are due; returns whether any was taken since the last call: there may be jobs."""
        while self._wanted or any(self._gathering.values()) or self._lock.locked():
            try:
                await self._go_on()
            except ServerError as error:
                log.warning("queue %s: could not take steps in its flows: %s", self._queue, error)
                break
            if any(self._gathering.values()):
                await asyncio.sleep(GATHER)
        stepped, self._stepped = self._stepped, False
        return stepped

    async def _go_on(self) -> None:
        """Take steps in the flows that are wanted, until there is nothing to do in them."""
        async with self._lock:
            self._changed.clear()
            while self._wanted:
                self._stepped = True
                taken = [*self._wanted][:MOST_AT_ONCE]
                for flow_id in taken:
                    del self._wanted[flow_id]
                try:
                    done = await self._stepper.round(taken)
                except ServerError:
                    self._wanted.update(dict.fromkeys(taken))
                    raise
                if done.targets:
                    self._relay(done.targets)
                self._gather(done.noted)
                for flow_id in done.more:
                    self.wake(flow_id)

    def _gather(self, flow_ids: Iterable[str]) -> None:
        """Leave flows alone for a moment, so that many ends come together."""
        for flow_id in flow_ids:
            self._gathering[flow_id] = self._wanted.pop(flow_id, 0) is None
            asyncio.get_running_loop().call_later(GATHER, self._gathered, flow_id)

    def _gathered(self, flow_id: str) -> None:
        if self._gathering.pop(flow_id):
            self.wake(flow_id)
