"""The handle of a node's job, which may not be there yet."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TypeVar

from aioq.errors import ConfigError, JobCancelledError, JobNotFoundError
from aioq.flows.ids import node_id
from aioq.flows.layout import Layout
from aioq.flows.reading import Seen
from aioq.flows.views import NodeState, state_of
from aioq.jobs.job import JobInfo, JobState
from aioq.jobs.shards import queue_of_shard
from aioq.results.handle import JobHandle
from aioq.results.waiters import not_found
from aioq.results.why import Why, WhyCode, WhyReason
from aioq.store.flows import FlowWork
from aioq.util.aio import Backoff
from aioq.util.durations import Duration, seconds
from aioq.wire.messages import WireOutcome

R_co = TypeVar("R_co", covariant=True)

FIRST_PAUSE = 0.02
"""Seconds until it is looked again whether a node was released that somebody waits for; later up to one second."""


class NodeHandle(JobHandle[R_co], eq=False):
    """The handle of a node's job, which may not have been released yet: then waiting for it waits for that too."""

    _read: Callable[[], Awaitable[Seen]] | None = None
    _index: int = 0

    async def _ended(self, timeout: Duration | None = None) -> WireOutcome:  # noqa: ASYNC109 - as in `JobHandle`
        span = None if timeout is None else seconds(timeout, "timeout")
        backoff = Backoff(FIRST_PAUSE)
        try:
            async with asyncio.timeout(span):
                while True:
                    try:
                        return await super()._ended()
                    except JobNotFoundError:
                        await self._check_waits()
                    await asyncio.sleep(backoff.next())
        except TimeoutError:
            if span is None:
                raise
            raise TimeoutError(f"job {self.id} has no outcome after {span:g} s; it goes on") from None

    async def _fetch_info(self, *, results: bool = False) -> JobInfo:
        try:
            return await super()._fetch_info(results=results)
        except JobNotFoundError:
            seen, state = await self._seen()
            if state not in {NodeState.WAITING, NodeState.DROPPED, NodeState.SKIPPED}:
                raise
            node = seen.layout.node(self._index)
            waits = JobState.WAITING if state is NodeState.WAITING else JobState.CANCELLED
            queue = queue_of_shard(node.queue)
            return JobInfo(id=self.id, queue=queue, task=node.task, state=waits, priority=node.priority)

    async def why(self) -> Why:
        """What holds the job back: also the nodes of its flow that it waits for."""
        try:
            return await super().why()
        except JobNotFoundError:
            seen, state = await self._seen()
            if state not in {NodeState.WAITING, NodeState.DROPPED, NodeState.SKIPPED}:
                raise
        return why_waits(self.id, self._index, seen.work, seen.layout, state)

    async def cancel(self, reason: str = "") -> bool:
        """Cancel the job; see `JobHandle.cancel`. One that has not been released is cancelled with its flow only.

        Raises:
            ConfigError: it has not been released yet.
        """
        try:
            return await super().cancel(reason)
        except JobNotFoundError:
            if (await self._seen())[1] is not NodeState.WAITING:
                raise
        raise ConfigError(f"job {self.id} waits for other nodes of its flow; cancel the flow: await flow.cancel()")

    async def _seen(self) -> tuple[Seen, NodeState]:
        assert self._read is not None
        seen = await self._read()
        return seen, state_of(seen.work.states, self._index)

    async def _check_waits(self) -> None:
        """Check that the job will be released.

        Raises:
            JobCancelledError: it will not, because of other nodes.
            JobNotFoundError: it was, and its record is gone.
        """
        seen, state = await self._seen()
        name = seen.layout.name(self._index)
        if state is NodeState.DROPPED:
            raise JobCancelledError(
                f"job {self.id} ({name}) was not run, because of other nodes of its flow", self.id
            )
        if state is NodeState.SKIPPED:
            raise JobCancelledError(f"job {self.id} ({name}) was not run, because it was not needed", self.id)
        run = seen.memo.run_of(self._index)
        self.id = node_id(seen.work.flow_id, self._index, run)
        if seen.work.over and state.ended:
            raise not_found(self.id, [self._queue or ""])


def why_waits(job_id: str, index: int, work: FlowWork, layout: Layout, state: NodeState) -> Why:
    """Why a node is no job yet, or never will be."""
    node = layout.node(index)
    if state is NodeState.WAITING:
        names = [layout.name(at) for at in layout.before(index) if not state_of(work.states, at).ended]
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")  # noqa: PLR2004
        what = f"node {shown}" if len(names) == 1 else f"nodes {shown}"
        text = (
            f"waits for {what} of flow {work.flow_id}" if names else f"flow {work.flow_id} is about to release it"
        )
        reason = WhyReason(code=WhyCode.FLOW, text=text)
    else:
        because = "because of other nodes" if state is NodeState.DROPPED else "because it was not needed"
        reason = WhyReason(code=WhyCode.ENDED, text=f"it was not run, {because}")
    return Why(
        id=job_id,
        queue=queue_of_shard(node.queue),
        task=node.task,
        state=JobState.WAITING if state is NodeState.WAITING else JobState.CANCELLED,
        reasons=(reason,),
        asked_at=datetime.fromtimestamp(work.now_ms / 1000, UTC),
    )
