"""The duties that a worker has for one queue, or shard."""

from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from aioq.worker.duties.cancellation import Canceller
from aioq.worker.duties.dispatch import Receiver
from aioq.worker.duties.fetcher import Fetcher
from aioq.worker.duties.flows import FlowSteps
from aioq.worker.duties.operations import OperationRunner
from aioq.worker.duties.pauses import PauseLog
from aioq.worker.duties.promoter import Promoter
from aioq.worker.duties.recovery import Recovery
from aioq.worker.duties.relays import Relays
from aioq.worker.duties.ticker import Ticker
from aioq.worker.held_jobs import HeldJobs
from aioq.worker.identity import Membership


@dataclass(slots=True)
class QueueDuties:
    """The duties of one queue."""

    membership: Membership
    held: HeldJobs
    fetcher: Fetcher
    promoter: Promoter
    relays: Relays
    operations: OperationRunner
    flows: FlowSteps
    recovery: Recovery
    canceller: Canceller
    receiver: Receiver
    ticker: Ticker
    pauses: PauseLog

    async def catch_up(self) -> bool:
        """Do what is due now; returns whether there was anything that may have queued jobs."""
        await self.promoter.catch_up()
        more = await self.operations.drain()
        more = await self.flows.drain() or more
        return await self.relays.drain() or more

    def beside_fetching(self) -> list[Coroutine[Any, Any, None]]:
        """What runs for the queue beside its fetcher."""
        others = self.recovery, self.canceller, self.receiver, self.ticker, self.pauses
        return [each.run() for each in (self.promoter, self.relays, self.operations, self.flows, *others)]
