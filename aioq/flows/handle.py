"""The handle of a flow: to wait for it, to look at it, to cancel it and to run it again."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from aioq.errors import AioqError, ArgumentError, ConfigError, Failure, FlowFailed, JobCancelledError
from aioq.flows.building import Plan
from aioq.flows.ends import read_flow_failed
from aioq.flows.graph import PART, Kind
from aioq.flows.ids import node_id
from aioq.flows.layout import Layout
from aioq.flows.memo import Memo
from aioq.flows.node import FlowNode, owner_of
from aioq.flows.node_handle import NodeHandle
from aioq.flows.plan import MOST_RETRIES
from aioq.flows.reading import Seen, read_flow
from aioq.flows.results import is_nothing
from aioq.flows.stepping import advance
from aioq.flows.views import FlowGraph, FlowProgress, indexes_of, progress_of, view_of
from aioq.jobs.job import JobInfo, JobState
from aioq.public import public
from aioq.results.handle import JobHandle
from aioq.results.wait_report import QUERY_TIMEOUT
from aioq.results.waiters import not_found
from aioq.store.flows import FlowWork
from aioq.util.aio import Backoff
from aioq.util.durations import Duration, seconds
from aioq.util.printable import brief
from aioq.wire.messages import WireOutcome, WireOutcomeKind, decode_failure, decode_reason
from aioq.wire.signature import ResultType

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class KnownNode:
    """What a handle knows of a node.

    Attributes:
        index: its index.
        kind: what it is.
        returns: the type of its result; None if that is not known here.
        run: in which run it is.
    """

    index: int
    kind: Kind
    returns: ResultType | None = None
    run: int = 1


@dataclass(frozen=True, slots=True)
class KnownFlow:
    """What a handle knows of a flow: its nodes by their names, and what stands for it in them."""

    nodes: Mapping[str, KnownNode]
    token: object = None


def known_nodes(flow: Plan) -> KnownFlow:
    """What a handle knows of a flow that this process has sent."""
    return KnownFlow(
        {node.name: KnownNode(node.index, node.kind, node.returns) for node in flow.nodes}, flow.token
    )


@public
class FlowHandle(JobHandle[R_co], eq=False):
    """A flow that was sent: await it for its result, the one of the node that ends it.

    It can be used as the handle of a job: in `gather`, with `result(timeout=...)`, `status()`, `info()` and so on.
    A handle of the same flow can be made in any process: `app.flow_handle(handle.id)`.

    Attributes:
        id: the flow's id.
    """

    _known: KnownFlow | None = None
    _layout: Layout | None = None

    def __repr__(self) -> str:
        return f"<FlowHandle {self.id}>"

    async def result(self, timeout: Duration | None = None) -> R_co:  # noqa: ASYNC109 - as in `JobHandle`
        """Wait for the flow and return its result.

        Args:
            timeout: the longest time to wait, in seconds or as a timedelta; None for no limit.

        Cancellation: the wait ends, the flow goes on.

        Raises:
            FlowFailed: the flow has failed; it names the node that has, its error, and what was cancelled for it.
            JobCancelledError: the flow was cancelled.
            TimeoutError: the time has passed; the flow goes on.
            JobNotFoundError: there is no such flow (any more).
        """
        outcome = await self._ended(timeout)
        if outcome.kind is WireOutcomeKind.FAILED:
            raise _failed(self.id, outcome)
        if outcome.kind is WireOutcomeKind.CANCELLED:
            reason = decode_reason(outcome)
            raise JobCancelledError(f"flow {self.id} was cancelled" + (f": {reason}" if reason else ""), self.id)
        value: Any = None if is_nothing(outcome.value) else self._decoded(outcome.task, outcome.value)
        return value

    async def _ended(self, timeout: Duration | None = None) -> WireOutcome:  # noqa: ASYNC109 - as in `JobHandle`
        try:
            return await super()._ended(timeout)
        except TimeoutError:
            if timeout is None:
                raise
            span, how_far = seconds(timeout, "timeout"), ""
            with suppress(AioqError, TimeoutError):
                async with asyncio.timeout(QUERY_TIMEOUT):
                    progress = await self.progress()
                    how_far = f": {progress.done} of {progress.total} nodes have ended"
            raise TimeoutError(f"flow {self.id} has no outcome after {span:g} s; it goes on{how_far}") from None

    async def status(self) -> JobState:
        """The flow's state: `running`, until it has `succeeded`, `failed` or was `cancelled`.

        Raises:
            JobNotFoundError: there is no such flow.
        """
        found = await super().status()
        return JobState.RUNNING if found is JobState.WAITING else found

    @overload
    def __getitem__(self, node: FlowNode[R]) -> JobHandle[R]: ...
    @overload
    def __getitem__(self, node: str) -> JobHandle[Any]: ...
    def __getitem__(self, node: FlowNode[Any] | str) -> JobHandle[Any]:
        """The handle of a node's job, by its name or by what `Flow.add` has returned: `await handle["parse"]`.

        In another process than the sender's the names are known after `await handle.graph()`.

        Raises:
            KeyError: the flow has no such node, or its nodes are not known here.
            ConfigError: the node is no job, but a group or a map.
        """
        known = self._known
        if known is None:
            raise KeyError(f"the nodes of flow {self.id} are not known here: await handle.graph() reads them")
        if isinstance(node, FlowNode) and owner_of(node) is not known.token:
            raise KeyError(f"node {node.name!r} is of another flow")
        name = node.name if isinstance(node, FlowNode) else node
        found = known.nodes.get(name)
        if found is None:
            raise KeyError(f"flow {self.id} has no node {brief(name)}; it has {', '.join(known.nodes)}")
        if found.kind is not Kind.JOB:
            raise ConfigError(
                f"node {name!r} of flow {self.id} is a {'group' if found.kind is Kind.JOIN else 'map'}, and has "
                "no job of its own: handle.graph() shows it"
            )
        job_id = node_id(self.id, found.index, found.run)
        return NodeHandle(self._source, job_id, self._queue, found.returns, _read=self._read, _index=found.index)

    async def graph(self) -> FlowGraph:
        """All nodes of the flow, with what they wait for and what has become of them.

        Raises:
            JobNotFoundError: there is no such flow (any more).
        """
        seen = await self._read()
        work, layout, memo = seen.work, seen.layout, seen.memo
        indexes = list(indexes_of(layout, memo))
        jobs = [at for at in indexes if layout.node(at).kind is Kind.JOB]
        store, home = await self._source.store(), await self._locate()
        infos: dict[int, JobInfo | None] = {}
        for start in range(0, len(jobs), PART):
            some = jobs[start : start + PART]
            ids = [node_id(self.id, at, memo.run_of(at)) for at in some]
            infos |= dict(zip(some, await store.info(home, ids), strict=True))
        views = tuple(view_of(at, layout, memo, work.states, infos.get(at)) for at in indexes)
        return FlowGraph(id=self.id, name=layout.head.name, state=_state(work), nodes=views)

    def graph_sync(self) -> FlowGraph:
        """`graph` for sync code, as `App.run_sync`."""
        return self._source.run_sync("await handle.graph()", self.graph)

    async def progress(self) -> FlowProgress:
        """How many nodes of the flow have ended, and how many there are by now.

        Raises:
            JobNotFoundError: there is no such flow (any more).
        """
        seen = await self._read()
        return progress_of(seen.layout, seen.memo, seen.work.states)

    def progress_sync(self) -> FlowProgress:
        """`progress` for sync code, as `App.run_sync`."""
        return self._source.run_sync("await handle.progress()", self.progress)

    async def cancel(self, reason: str = "") -> bool:
        """Cancel the flow: jobs of it that wait never run, those that run are cancelled, and no more are released.

        Nodes with `always=True` are run all the same, and those that are to be run after a failure by their rule.

        Args:
            reason: a text that the error of a waiting caller shows.

        Returns:
            False if the flow has ended already.

        Raises:
            ArgumentError: the reason is no string.
            JobNotFoundError: there is no such flow.
        """
        if not isinstance(reason, str):  # pyright: ignore[reportUnnecessaryIsInstance] - types do not hold at run time
            raise ArgumentError(f"cancel({brief(reason)}): the reason is a text")
        if (await self._read()).work.state not in {JobState.WAITING, JobState.RUNNING}:
            return False
        await self._request(cancel_item(reason))
        return True

    async def retry(self) -> bool:
        """Run the failed nodes of the flow again, and those that were cancelled because of them.

        What has succeeded stays as it is. The attempts of the failed nodes are counted anew.

        Returns:
            False if it was not set back: it has not failed, or was retried 200 times.

        Raises:
            JobNotFoundError: there is no such flow, or it has failed longer ago than it is kept (`flow_ttl`).
        """
        seen = await self._read()
        if seen.work.state is not JobState.FAILED or seen.memo.retries >= MOST_RETRIES:
            return False
        await self._request(RETRY)
        backoff = Backoff()
        with suppress(TimeoutError):  # then it is carried out later
            async with asyncio.timeout(RETRY_TIMEOUT):
                while (await self._read()).memo.retries == seen.memo.retries:
                    await asyncio.sleep(backoff.next())  # somebody has taken it, who notes its end
                    await self._request(RETRY)  # the last step drops what was asked for meanwhile
        self._outcome = None
        return True

    async def move(self, *, queue: str) -> bool:
        """A flow cannot be moved.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"flow {self.id} cannot be moved to queue {queue!r}; a job of it can: handle[name].move(...)"
        )

    async def copy(self, *_: Any, **__: Any) -> Any:
        """A flow cannot be copied.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"flow {self.id} cannot be copied; build it again and send that, or retry it")

    async def _request(self, item: str) -> None:
        store, home = await self._source.store(), await self._locate()
        if not await store.flows.request(home, self.id, item):
            raise not_found(self.id, [home])
        await advance(store, home, self.id)

    async def _read(self) -> Seen:
        """Read the flow, and note what its nodes are called."""
        store, home = await self._source.store(), await self._locate()
        seen = await read_flow(store.flows, home, self.id, self._layout)
        self._layout = seen.layout
        self._note(seen.layout, seen.memo)
        return seen

    def _note(self, layout: Layout, memo: Memo) -> None:
        before = self._known or KnownFlow({})
        nodes: dict[str, KnownNode] = {}
        for index in indexes_of(layout, memo):
            node, name = layout.node(index), layout.name(index)
            known = before.nodes.get(name)
            returns = known.returns if known is not None else self._source.result_type(node.task)
            nodes[name] = KnownNode(index, node.kind, returns, memo.run_of(index))
        self._known = KnownFlow(nodes, before.token)


def cancel_item(reason: str) -> str:
    """The item of work that cancels a flow."""
    return f"cancel {reason}".rstrip()


RETRY_TIMEOUT = 10.0
"""Seconds for which a retry is awaited, so that the flow does not show its old end: twice `HOLD_MS`."""

RETRY = "retry"
"""The item of work that runs the failed nodes of a flow again."""


def _state(work: FlowWork) -> JobState:
    """The state of a flow."""
    return JobState.RUNNING if work.state is None or not work.state.ended else work.state


def _failed(flow_id: str, outcome: WireOutcome) -> FlowFailed:
    found = read_flow_failed(outcome)
    failure = decode_failure(outcome)
    if found is None:
        return FlowFailed(flow_id, outcome.task, failure)
    error = Failure(found.type, found.message)
    return FlowFailed(
        flow_id, outcome.task, error, node=found.node, cancelled=tuple(found.cancelled), dropped=found.count
    )
