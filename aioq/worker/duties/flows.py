"""Duty: takes steps in the flows of a queue (`aioq.flows.stepping`).

It does nothing until it is woken: by the promoter, when a step is due; or at once, when this worker has settled a
job of a flow. Then it goes on until no step is due. All workers of a queue do so; a flow that one of them has
taken is left to it.
"""

import asyncio
from collections.abc import Callable, Sequence

from aioq.errors import ServerError
from aioq.flows.stepping import Stepper
from aioq.store.contract import Store
from aioq.store.flows import MOST_TAKEN
from aioq.store.upkeep import Promotion
from aioq.util.aio import Backoff
from aioq.util.log import logger

log = logger("aioq.worker")

GATHER = 0.005
"""Seconds for which more ends are awaited after a round that has only noted some: at the end of many jobs that one
waits for. Each round costs two calls. A guess."""

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
        self._changed = asyncio.Event()
        self._lock = asyncio.Lock()
        self._backoff = Backoff(most=MOST_PAUSE)

    def request(self, promotion: Promotion) -> None:
        """Take the steps that are due, as a promotion says."""
        if promotion.flows:
            self._wanted.update(dict.fromkeys(promotion.flows))
            self._changed.set()

    def wake(self, flow_id: str) -> None:
        """A job of a flow has ended."""
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
                self._changed.set()
                await asyncio.sleep(self._backoff.next())
            else:
                self._backoff = Backoff(most=MOST_PAUSE)

    async def drain(self) -> bool:
        """Take the steps that are due; returns whether there were any: then there may be jobs."""
        if not self._changed.is_set() and not self._lock.locked():
            return False
        try:
            return await self._go_on()
        except ServerError as error:
            log.warning("queue %s: could not take steps in its flows: %s", self._queue, error)
            return False

    async def _go_on(self) -> bool:
        """Take steps in the flows that are wanted, and then until none is due."""
        found = False
        async with self._lock:
            while True:
                self._changed.clear()
                wanted = [*self._wanted][:MOST_TAKEN]
                done = await self._stepper.round(wanted)
                for flow_id in wanted:  # only now: after an error they are wanted still
                    self._wanted.pop(flow_id, None)
                if not done.taken and not wanted:
                    return found
                found = True
                if done.targets:
                    self._relay(done.targets)
                if not done.moved:
                    await asyncio.sleep(GATHER)
