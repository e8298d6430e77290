"""A flow as a step finds it, and changes it: the nodes, their states, and what was noted of them."""

import re
from collections.abc import Iterator

from aioq.flows.graph import Kind
from aioq.flows.ids import node_id
from aioq.flows.inputs import BECAUSE_OF_OTHERS, CANCELLED_TYPE, LOST, Input
from aioq.flows.layout import Layout
from aioq.flows.memo import Children, Memo
from aioq.flows.rules import (
    BAD,
    CASCADED,
    ENDED,
    FAILED,
    SKIPPED,
    Before,
    Verdict,
    has_ended,
    judge,
)
from aioq.store.flows import FlowWork, node_item

MOST_ERRORS = 500
"""Of how many nodes the memo keeps an error that no outcome has; of further ones it is said that they are lost."""

_MANY = 64
"""States that are written together although up to so many between them have not changed."""

_BAD = re.compile(rb"[fcx]")


class FlowState:
    """A flow within one step.

    Args:
        work: what was read of it.
        layout: its nodes.
        memo: what was noted of it; it is changed.
    """

    def __init__(self, work: FlowWork, layout: Layout, memo: Memo) -> None:
        self.flow_id = work.flow_id
        self.now_ms = work.now_ms
        self.layout = layout
        self.memo = memo
        self.states = bytearray(work.states[: work.nodes].ljust(work.nodes, b"."))
        self._changed: set[int] = set()
        self._children = {each.node: each for each in memo.maps}

    def set(self, index: int, state: int) -> None:
        """Change the state of a node."""
        if self.states[index] != state:
            self.states[index] = state
            self._changed.add(index)

    def grow(self, count: int) -> int:
        """Add nodes that wait. Returns the index of the first one."""
        first = len(self.states)
        self.states += b"." * count
        self._changed.update((first, first + count - 1) if count else ())
        return first

    def set_range(self, first: int, count: int, state: int) -> None:
        """Change the states of nodes that follow each other."""
        for index in range(first, first + count):
            self.set(index, state)

    def changes(self) -> list[tuple[int, bytes]]:
        """The states that were changed: (index of the first node, a byte for each)."""
        found: list[tuple[int, int]] = []
        for index in sorted(self._changed):
            if found and index - found[-1][1] <= _MANY:
                found[-1] = found[-1][0], index
            else:
                found.append((index, index))
        return [(first, bytes(self.states[first : last + 1])) for first, last in found]

    def job_id(self, index: int) -> str:
        """The id of a node's job, in its present run."""
        return node_id(self.flow_id, index, self.memo.run_of(index))

    def item(self, index: int) -> str:
        """The item of work that says that its job may have ended."""
        return node_item(index, self.job_id(index))

    def set_back(self, index: int) -> None:
        """Give a node another run, and so another job."""
        runs = bytearray(self.memo.runs.ljust(index + 1, b"\0"))
        runs[index] += 1
        self.memo.runs = bytes(runs)
        self.memo.errors.pop(index, None)

    def job_ids(self, index: int) -> Iterator[str]:
        """The ids of all its jobs."""
        return (node_id(self.flow_id, index, run) for run in range(1, self.memo.run_of(index) + 1))

    # -- what becomes of a node -----------------------------------------------------------------------------------

    def verdict(self, index: int) -> Verdict | None:
        """What becomes of a node; None as long as a node before it has not ended."""
        before = self.layout.before(index)
        if not self._have_ended(index, before):
            return None
        node = self.layout.node(index)
        watched = {self.layout.absolute(index, each) for each in node.after} if node.when_failed else before
        found = [Before(self.states[each], self.layout.is_ignored(each), each in watched) for each in before]
        return judge(node, found, stopped=self.is_stopped(index))

    def _have_ended(self, index: int, before: tuple[int, ...]) -> bool:
        """Whether nodes have ended. It goes on where it stopped last time: a join may have 10,000 of them."""
        states, start = self.states, self.layout.hints.get(index, 0)
        for place in range(start, len(before)):
            if states[before[place]] not in ENDED:
                self.layout.hints[index] = place
                return False
        for place in range(min(start, len(before))):  # after a retry they may wait again
            if states[before[place]] not in ENDED:
                self.layout.hints[index] = place
                return False
        self.layout.hints[index] = len(before)
        return True

    def is_stopped(self, index: int) -> bool:
        """Whether a node is not to run any more, unless it goes its way in a flow that was cancelled."""
        if self.memo.cancel is not None:
            return True
        if not self.memo.stopped:
            return False
        top, stopped = self.layout.top(index), self.memo.stopped
        return any(
            join in stopped and any(first <= each < last for each in (index, top))
            for first, last, join in self.layout.timed
        )

    def released(self, index: int) -> None:
        """A node was released: the time limit of the joins that it belongs to begins."""
        for first, last, join in self.layout.timed:
            if join not in self.memo.deadlines and any(
                first <= each < last for each in (index, self.layout.top(index))
            ):
                self.memo.deadlines[join] = self.now_ms + (self.layout.node(join).timeout_ms or 0)

    def children(self, index: int) -> Children | None:
        """The children of a map; None before it has begun."""
        return self._children.get(index)

    def begin_map(self, children: Children) -> None:
        """Note the children of a map."""
        self.memo.maps.append(children)
        self._children[children.node] = children
        self.layout.add_children(children)

    def error(self, index: int, kind: str, message: str) -> None:
        """Note the error of a node that no outcome has."""
        if len(self.memo.errors) < MOST_ERRORS:
            self.memo.errors[index] = kind, message

    # -- which failures matter ------------------------------------------------------------------------------------

    def bad(self, first: int, last: int) -> Iterator[int]:
        """The nodes of a range that have ended without success."""
        return (match.start() for match in _BAD.finditer(self.states, first, last))

    def comes_to_an_end(self, index: int) -> bool:
        """Whether the failure of a bad node is the flow's: it is not ignored, and no node after it deals with it.

        Nodes that run in any case, or only after a failure, do not count.
        """
        layout = self.layout
        if layout.owner(index) is not None or layout.is_ignored(index):
            return False
        graft = layout.graft_of(index)
        return all(
            layout.is_exempt(each) for each in layout.dependents(index) if graft is None or each != graft.node
        )

    def fails_graft(self, index: int) -> bool:
        """Whether what a node has grafted has failed."""
        return any(
            self.comes_to_an_end(each)
            for graft in self.layout.grafts_by(index)
            for each in self.bad(graft.base, graft.base + graft.count)
        )

    def failures(self) -> list[int]:
        """The bad nodes whose failure is the flow's."""
        return [
            index
            for index in self.bad(0, len(self.states))
            if self.comes_to_an_end(index) and self.layout.graft_of(index) is None
        ]

    def cause(self, index: int, known: dict[int, int]) -> int:
        """The node with which the failure of a bad one began: one that has failed or was cancelled itself.

        `known` are the causes that were found before: of a long chain each is looked for once.
        """
        path: dict[int, None] = {}
        while index not in known and self.states[index] == CASCADED and index not in path:
            path[index] = None
            index = next(self._causes(index), index)
        found = known.get(index, index)
        known.update(dict.fromkeys(path, found))
        return found

    def _causes(self, index: int) -> Iterator[int]:
        """The bad nodes because of which a node was cancelled, the first one first."""
        children = self.children(index)
        if children is not None:
            yield from self.bad(children.first, children.first + children.count)
        for graft in self.layout.grafts_by(index):
            yield from (
                each for each in self.bad(graft.base, graft.base + graft.count) if self.comes_to_an_end(each)
            )
        if self.layout.owner(index) is None:
            yield from sorted(
                each
                for each in self.layout.before(index)
                if self.states[each] in BAD and not self.layout.is_ignored(each)
            )

    # -- values ---------------------------------------------------------------------------------------------------

    def input(self, index: int) -> Input:
        """How the value of a node is named (`aioq.flows.inputs`)."""
        state, layout = self.states[index], self.layout
        if state == SKIPPED:
            return None
        if state == FAILED and index in self.memo.errors:
            return [3, *self.memo.errors[index]]
        if state == CASCADED:
            return [3, CANCELLED_TYPE, BECAUSE_OF_OTHERS]
        kind = Kind.JOB if layout.owner(index) is not None else layout.node(index).kind
        if kind is Kind.JOIN:
            return [1, [self.input(each) for each in layout.inputs(index)]]
        return [0, index, self.memo.run_of(index)] if kind is Kind.JOB else self._input_of_map(index)

    def _input_of_map(self, index: int) -> Input:
        children = self._children.get(index)
        if children is None:
            return [3, *LOST]
        first, last = children.first, children.first + children.count
        runs, states = self.memo.runs[first:last], bytes(self.states[first:last])
        all_good = states.count(b"s") == len(states)
        return [2, first, children.count, runs if any(runs) else b"", b"" if all_good else states]

    def has_ended(self) -> bool:
        """Whether all nodes have ended."""
        return has_ended(self.states)
