"""Goes on from nodes that have ended: what comes after them runs, is cancelled, or is not needed.

It stops when a step has enough in it. What is left to do then stands in items of work for the next step.
"""

from collections.abc import Mapping, Sequence

import msgspec

from aioq.errors import WireError
from aioq.flows.graph import Kind, Node
from aioq.flows.inputs import Input, elements_of, value_of
from aioq.flows.layout import NeedsError
from aioq.flows.memo import Children
from aioq.flows.release import GIVEN, Given, Releases
from aioq.flows.rules import (
    CASCADED,
    EXPANDED,
    FAILED,
    GRAFTED,
    RUNS,
    SKIPPED,
    SUCCEEDED,
    WAITS,
    Verdict,
    has_ended,
    judge_children,
    unended,
)
from aioq.flows.state import FlowState
from aioq.store.flows import MOST_CHANGES, NodeJob
from aioq.store.outcomes import WaitReply

MOST_STATES = 5_000
"""After how many changes of states a step stops. A guess: it takes some 10 ms."""

MOST_CHILDREN = 1_000_000
"""The most children of a map."""


class Walk:
    """What is done in one step.

    Args:
        state: the flow.
        releases: makes jobs.
        outcomes: outcomes that were read for this step, by job.

    Attributes:
        jobs, cancelled: the jobs to create, and the ids of those to cancel.
        further: items for the next step.
        other: how many other changes of jobs there are.
    """

    def __init__(self, state: FlowState, releases: Releases, outcomes: Mapping[str, WaitReply]) -> None:
        self.jobs: list[NodeJob] = []
        self.cancelled: list[str] = []
        self.further: list[str] = []
        self.other = 0
        self._state = state
        self._layout = state.layout
        self._releases = releases
        self._outcomes = outcomes
        self._changes = 0
        self._ended: list[tuple[int, int]] = []
        self._maps: dict[int, None] = {}
        self._grafting: dict[int, None] = {}

    @property
    def room(self) -> int:
        """How many more jobs may be created or cancelled in this step."""
        if self._changes >= MOST_STATES:
            return 0
        return MOST_CHANGES - len(self.jobs) - len(self.cancelled) - self.other

    @property
    def is_still(self) -> bool:
        """Whether nothing is left to do."""
        return not (self._ended or self._maps or self._grafting or self.further)

    def end(self, index: int, state: int) -> None:
        """A node has ended; those after it are looked at. So have the children of a map that does not begin."""
        self._state.set(index, state)
        self._changes += 1
        self._ended.append((index, 0))
        if state in {CASCADED, SKIPPED}:
            for child in self._children_of(index):
                if self._state.states[child] == WAITS:
                    self.change(child, state)

    def drop(self, index: int) -> None:
        """Cancel a node that waits, because it is stopped."""
        node = self._layout.node(index)
        if node.kind is Kind.JOB:
            self._withdraw([index])
        elif node.kind is Kind.MAP:
            self._withdraw(self._children_of(index)[: node.window or None])
        self.end(index, CASCADED)

    def _withdraw(self, waiting: Sequence[int]) -> None:
        """Cancel jobs which a step may have created that was then refused half-way, so that the nodes still wait.

        There are seldom any: where there is no record, nothing is cancelled. Another run of a node gets another
        job, since this one has ended.
        """
        for index in waiting[: max(self.room, 0)]:
            self.cancelled.append(self._state.job_id(index))
            self._state.set_back(index)

    def _children_of(self, index: int) -> range:
        """The children of a map, as far as they are known."""
        children = self._state.children(index)
        if children is None:
            return self._layout.given_children(index)
        return range(children.first, children.first + children.count)

    def change(self, index: int, state: int) -> None:
        """Change the state of a node, and look at no other one."""
        self._state.set(index, state)
        self._changes += 1

    def fail(self, index: int, kind: str, message: str) -> None:
        """A node fails of which no job's outcome says why."""
        self._state.error(index, kind, message)
        self.end(index, FAILED)

    def go_on(self, index: int, start: int) -> None:
        """Look at the nodes after one that has ended, from the one with the number `start` on."""
        self._ended.append((index, start))

    def look(self, index: int) -> None:
        """Look at a node: has all ended that it waits for?"""
        state = self._state.states[index]
        if state == EXPANDED:
            self._maps[index] = None
        elif state == GRAFTED:
            self._grafting[index] = None
        elif state == WAITS and self._layout.owner(index) is None:
            verdict = self._state.verdict(index)
            if verdict is Verdict.RUN:
                self._start(index)
            elif verdict is Verdict.CASCADE and self._state.is_stopped(index):
                self.drop(index)
            elif verdict is not None:
                self.end(index, CASCADED if verdict is Verdict.CASCADE else SKIPPED)

    def settle(self) -> None:
        """Go on until nothing is left to do, or the step has enough in it."""
        while self.room > 0:
            if self._ended:
                self._look_after(*self._ended.pop())
            elif self._grafting:
                self._close(self._grafting.popitem()[0])
            elif self._maps:
                self._fill(self._maps.popitem()[0])
            else:
                return

    def leave(self) -> None:
        """Leave what is not done to the next step."""
        self.further += [f"on {index} {start}" for index, start in self._ended]
        self.further += [f"look {index}" for index in (*self._grafting, *self._maps)]
        self._ended, self._maps, self._grafting = [], {}, {}

    def _look_after(self, index: int, start: int) -> None:
        dependents = self._layout.dependents(index)
        for place in range(start, len(dependents)):
            if self.room <= 0:
                self._ended.append((index, place))
                return
            self.look(dependents[place])

    def _start(self, index: int) -> None:
        kind = self._layout.node(index).kind
        if kind is Kind.JOIN:
            self.end(index, SUCCEEDED)
        elif kind is Kind.MAP:
            self._state.set(index, EXPANDED)
            self._maps[index] = None
        elif kind is Kind.HOLE:
            self.end(index, SKIPPED)
        else:
            try:
                self._release(index, self._releases.job(index))
            except WireError as error:
                self.fail(index, "aioq.WireError", str(error))

    def _release(self, index: int, job: NodeJob) -> None:
        self.jobs.append(job)
        self._state.set(index, RUNS)
        self._state.released(index)

    # -- grafts ---------------------------------------------------------------------------------------------------

    def _close(self, index: int) -> None:
        """End a node if what it has grafted has ended."""
        states = self._state.states
        if all(has_ended(states[each.base : each.base + each.count]) for each in self._layout.grafts_by(index)):
            self.end(index, CASCADED if self._state.fails_graft(index) else SUCCEEDED)

    # -- maps -----------------------------------------------------------------------------------------------------

    def _fill(self, index: int) -> None:
        """Release children of a map, as many as its window and this step have room for; or end it."""
        node, state = self._layout.node(index), self._state
        children = state.children(index) or self._expand(index, node)
        if children is None:
            return
        if state.is_stopped(index) and not self._layout.is_exempt(index):
            self._stop_children(node, children)
        first, last = children.first, children.first + children.count
        waiting = state.states.count(b".", first, last)
        running = unended(state.states[first:last]) - waiting
        most = min((node.window or children.count) - running, waiting)
        count = max(0, min(most, self.room))
        if count and self._release_children(index, node, children, count):
            self._maps[index] = None  # one has failed at once
        elif count < most:
            self.further.append(f"look {index}")
        elif not running and not waiting:
            self._layout.forget_elements(index)
            states = bytes(state.states[first:last])
            self.end(index, SUCCEEDED if judge_children(node.require, node.ignore, states) else CASCADED)

    def _stop_children(self, node: Node, children: Children) -> None:
        """Those that were not released are not to be."""
        states, last = self._state.states, children.first + children.count
        waiting = [child for child in range(children.first + children.released, last) if states[child] == WAITS]
        self._withdraw(waiting[: node.window or None])
        for child in waiting:
            self._state.set(child, CASCADED)
        children.released = children.count

    def _release_children(self, index: int, node: Node, children: Children, count: int) -> bool:
        """Release the next children. Returns whether one of them has failed at once."""
        places: list[int] = []
        place = children.first + children.released
        while len(places) < count:
            place = self._state.states.index(b".", place) + 1
            places.append(place - 1 - children.first)
        failed = False
        for at, element in zip(places, self._elements(index, node, children, places), strict=True):
            child = children.first + at
            try:
                self._release(child, self._releases.child(child, index, at, element))
            except WireError as error:
                self._state.error(child, "aioq.WireError", f"element {at} of the list: {error}")
                self._state.set(child, FAILED)
                failed = True
        children.released = places[-1] + 1
        return failed

    def _expand(self, index: int, node: Node) -> Children | None:
        """Find out how many children a map has; None if it fails."""
        layout, state = self._layout, self._state
        if node.over is None:
            children = Children(index, layout.absolute(index, node.first), node.count)
        else:
            source = layout.absolute(index, node.over)
            what = f"node {layout.name(index)!r} maps over the result of node {layout.name(source)!r}, which"
            try:
                count = self._width(index, source)
            except WireError as error:
                self.fail(index, "TypeError", f"{what} is no list: {error}")
                return None
            if count is None or count > MOST_CHILDREN:
                text = "has failed" if count is None else f"has {count} elements, more than {MOST_CHILDREN}"
                self.fail(index, "ValueError", f"{what} {text}")
                return None
            children = Children(index, state.grow(count), count, added=True)
        state.begin_map(children)
        return children

    def _width(self, index: int, source: int) -> int | None:
        """How many elements the list of a map has; None if the node that was to give it has failed.

        Raises:
            WireError: it is no list.
        """
        state, layout = self._state, self._layout
        if state.states[source] not in {SUCCEEDED, GRAFTED}:
            return None
        kind = layout.node(source).kind
        if kind is Kind.JOIN:
            return len(layout.inputs(source))
        children = state.children(source)
        return len(self._list(index, source)) if kind is not Kind.MAP or children is None else children.count

    def _elements(
        self, index: int, node: Node, children: Children, places: list[int]
    ) -> "list[msgspec.Raw | Input | Given]":
        state, layout = self._state, self._layout
        if node.over is None:
            layout.need_nodes(children.first + place for place in places)
            return [GIVEN] * len(places)
        source = layout.absolute(index, node.over)
        kind, own = layout.node(source).kind, state.children(source)
        if kind is Kind.JOIN:
            inputs = layout.inputs(source)
            return [state.input(inputs[place]) for place in places]
        if kind is Kind.MAP and own is not None:
            return [state.input(own.first + place) for place in places]
        found = self._list(index, source)
        return [found[place] for place in places]

    def _list(self, index: int, source: int) -> list[msgspec.Raw]:
        """The elements of the result of a job.

        Raises:
            NeedsError: its outcome has to be read before.
            WireError: it is no list.
        """
        job_id = self._state.job_id(source)
        found = self._layout.elements.get((index, job_id))
        if found is None:
            outcome = self._releases.outcome(source) or self._outcomes.get(job_id)
            if outcome is None and job_id not in self._outcomes:
                raise NeedsError(outcomes=[job_id])
            if not isinstance(outcome, bytes):
                raise WireError("it is not there any more, evicted or deleted")
            found = self._layout.elements[index, job_id] = elements_of(value_of(outcome))
        return found
