"""The flows of queues on a Redis or Valkey server; `lua/lib/flows.lua` says how they are kept."""

from collections.abc import Sequence

from aioq.store.flows import HOLD_MS, MOST_TAKEN, FlowStart, FlowStep, FlowSummary, FlowWork
from aioq.store.outcomes import WaitReply


class RedisFlows:
    """The flows of the queues of an App."""

    async def write(self, home: str, flow_id: str, first: int, parts: Sequence[bytes]) -> None:
        """Write parts of a definition."""
        raise NotImplementedError

    async def begin(self, home: str, flow_id: str, start: FlowStart) -> bool:
        """Begin a flow; False if it had begun already."""
        raise NotImplementedError

    async def take(
        self, home: str, count: int = MOST_TAKEN, flow_ids: Sequence[str] = (), hold_ms: int = HOLD_MS
    ) -> list[FlowWork]:
        """Take flows in which a step is due."""
        raise NotImplementedError

    async def parts(self, home: str, flow_id: str, numbers: Sequence[int]) -> list[bytes | None]:
        """Parts of a definition."""
        raise NotImplementedError

    async def apply(self, home: str, steps: Sequence[FlowStep]) -> list[bool]:
        """Apply steps."""
        raise NotImplementedError

    async def outcomes(self, home: str, job_ids: Sequence[str]) -> list[WaitReply]:
        """The outcomes of nodes' jobs."""
        raise NotImplementedError

    async def request(self, home: str, flow_id: str, item: str) -> bool:
        """Add an item of work."""
        raise NotImplementedError

    async def read(self, home: str, flow_id: str) -> FlowWork | None:
        """Read a flow without taking it."""
        raise NotImplementedError

    async def listed(self, home: str, count: int, before: tuple[int, str] | None = None) -> list[FlowSummary]:
        """The newest flows of a queue."""
        raise NotImplementedError
