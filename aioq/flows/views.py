"""What a flow looks like at one moment: its nodes, what they wait for, and what has become of them."""

import enum
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aioq.errors import Failure
from aioq.flows import rules
from aioq.flows.graph import Kind
from aioq.flows.layout import Layout
from aioq.flows.memo import Memo
from aioq.jobs.job import JobInfo, JobState
from aioq.jobs.shards import queue_of_shard
from aioq.public import public


@public
class NodeState(enum.StrEnum):
    """The state of a node of a flow.

    WAITING: for other nodes. SCHEDULED, QUEUED, RUNNING: it is a job, in this state. SUCCEEDED, FAILED, CANCELLED:
    it has ended. DROPPED: it was not run, because of other nodes, or because the flow was cancelled. SKIPPED: it
    was not needed, as what was to be run after a failure.
    """

    WAITING = "waiting"
    SCHEDULED = "scheduled"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DROPPED = "dropped"
    SKIPPED = "skipped"

    @property
    def ended(self) -> bool:
        """Whether nothing will become of it any more."""
        return self in _ENDED


_ENDED = frozenset(
    {NodeState.SUCCEEDED, NodeState.FAILED, NodeState.CANCELLED, NodeState.DROPPED, NodeState.SKIPPED}
)

_STATES = {
    rules.WAITS: NodeState.WAITING,
    rules.RUNS: NodeState.QUEUED,
    rules.SUCCEEDED: NodeState.SUCCEEDED,
    rules.FAILED: NodeState.FAILED,
    rules.CANCELLED: NodeState.CANCELLED,
    rules.CASCADED: NodeState.DROPPED,
    rules.SKIPPED: NodeState.SKIPPED,
    rules.GRAFTED: NodeState.RUNNING,
    rules.EXPANDED: NodeState.RUNNING,
}
"""The states by their bytes, as far as these say; of a job its record says more."""


@public
@dataclass(frozen=True, slots=True, kw_only=True)
class GraphNode:
    """One node of a flow, at the moment when it was asked.

    Attributes:
        name: its name.
        kind: `job`, `group` (it only waits for others, and has the list of their results), or `map`.
        state: its state.
        task: the name of its task; empty for a group.
        waits_for: the names of the nodes that it waits for, or has waited for.
        job_id: the id of its job; None if it is none, or not yet.
        queue: the queue of its job; empty if it is none.
        started_at, ended_at: when its job's last run was started, and when it has ended; None if not yet.
        attempts: how many attempts its job has had.
        error: the error of its last failed attempt; None for none.
        children: of a map, how many of its children are in each state; empty for anything else.
    """

    name: str
    kind: str
    state: NodeState
    task: str = ""
    waits_for: tuple[str, ...] = ()
    job_id: str | None = None
    queue: str = ""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    attempts: int = 0
    error: Failure | None = None
    children: Mapping[NodeState, int] | None = None


@public
@dataclass(frozen=True, slots=True, kw_only=True)
class FlowGraph:
    """All nodes of a flow, at the moment when it was asked.

    Attributes:
        id: the flow's id.
        name: its name.
        state: its state.
        nodes: its nodes, in the order in which they were added; those that were added while it ran come last.
    """

    id: str
    name: str
    state: JobState
    nodes: tuple[GraphNode, ...]

    @property
    def edges(self) -> list[tuple[str, str]]:
        """Pairs of names: the second node of each waits for the first."""
        return [(before, node.name) for node in self.nodes for before in node.waits_for]

    def __getitem__(self, name: str) -> GraphNode:
        """A node by its name.

        Raises:
            KeyError: there is none.
        """
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)


@public
@dataclass(frozen=True, slots=True, kw_only=True)
class FlowProgress:
    """How far a flow is.

    Attributes:
        done: how many of its nodes have ended.
        total: how many it has by now; a map's children count once their number is known.
        failed: how many have failed.
        states: how many are in each state.
    """

    done: int
    total: int
    failed: int
    states: Mapping[NodeState, int]


def state_of(states: bytes, index: int) -> NodeState:
    """The state of a node, as far as its byte says."""
    return _STATES.get(states[index], NodeState.WAITING) if index < len(states) else NodeState.WAITING


def indexes_of(layout: Layout, memo: Memo) -> Iterator[int]:
    """The nodes of a flow, without the children of maps."""
    ranges = [(0, layout.head.static), *((graft.base, graft.count) for graft in memo.grafts)]
    for first, count in ranges:
        for index in range(first, first + count):
            if layout.owner(index) is None and layout.node(index).kind is not Kind.HOLE:
                yield index


def children_of(index: int, layout: Layout, memo: Memo) -> tuple[int, int]:
    """The first child of a map, and how many it has; none where it has not begun."""
    for children in memo.maps:
        if children.node == index:
            return children.first, children.count
    node = layout.node(index)
    return (layout.absolute(index, node.first), node.count) if node.over is None else (0, 0)


def counted_states(states: bytes, first: int, count: int) -> Mapping[NodeState, int]:
    """How many of some nodes are in each state."""
    found: Counter[NodeState] = Counter()
    for byte, number in Counter(states[first : first + count]).items():
        found[_STATES.get(byte, NodeState.WAITING)] += number
    return dict(found)


def progress_of(layout: Layout, memo: Memo, states: bytes) -> FlowProgress:
    """How far a flow is."""
    total: Counter[NodeState] = Counter()
    for index in indexes_of(layout, memo):
        total[state_of(states, index)] += 1
        if layout.node(index).kind is Kind.MAP:
            total.update(counted_states(states, *children_of(index, layout, memo)))
    done = sum(number for state, number in total.items() if state.ended)
    return FlowProgress(done=done, total=sum(total.values()), failed=total[NodeState.FAILED], states=dict(total))


def view_of(index: int, layout: Layout, memo: Memo, states: bytes, info: JobInfo | None) -> GraphNode:
    """One node of a graph; `info` is what its job's record says, None if there is none."""
    node = layout.node(index)
    state = state_of(states, index)
    more: dict[str, Any] = {}
    if node.kind is Kind.JOB and info is not None:
        more = {
            "job_id": info.id,
            "started_at": info.started_at,
            "ended_at": info.ended_at,
            "attempts": info.attempts,
            "error": info.error,
        }
        state = NodeState(str(info.state)) if state is NodeState.QUEUED else state
    if node.kind is Kind.MAP:
        more["children"] = counted_states(states, *children_of(index, layout, memo))
    return GraphNode(
        name=layout.name(index),
        kind="group" if node.kind is Kind.JOIN else node.kind.name.lower(),
        state=state,
        task=node.task,
        waits_for=tuple(layout.name(each) for each in layout.before(index)),
        queue=queue_of_shard(node.queue),
        **more,
    )
