"""Goes through all nodes of a flow, in as many steps as it takes: each leaves an item that says where it is."""

import re
from collections.abc import Iterator

from aioq.flows.graph import Kind
from aioq.flows.layout import Layout
from aioq.flows.rules import (
    CANCELLED,
    CASCADED,
    ENDED,
    EXPANDED,
    FAILED,
    GRAFTED,
    RUNS,
    SKIPPED,
    SUCCEEDED,
    WAITS,
)
from aioq.flows.state import FlowState
from aioq.flows.walk import Walk
from aioq.store.flows import MOST_CHANGES

_UNENDED = re.compile(rb"[.>gm]")
_RUNS = re.compile(rb">")


class Passes:
    """The passes of one step.

    Args:
        state: the flow.
        walk: what is done in the step.

    Attributes:
        forgotten, kept: ids of jobs whose records are to be kept for a time only, and until later again.
    """

    def __init__(self, state: FlowState, walk: Walk) -> None:
        self.forgotten: list[str] = []
        self.kept: list[str] = []
        self._state = state
        self._layout: Layout = state.layout
        self._walk = walk

    def scan(self, start: int) -> None:
        """Look at all nodes that have not ended."""
        for index in self._unended(start, len(self._state.states)):
            if self._walk.room <= 0:
                self._walk.further.append(f"scan {index}")
                return
            self._walk.look(index)

    def stop(self, start: int) -> None:
        """Cancel what has not ended and is stopped: all of it, or what the time limit of a join is about."""
        for index in self._unended(start, len(self._state.states)):
            if self._walk.room <= 0:
                self._walk.further.append(f"stop {index}")
                return
            if self._state.is_stopped(index):
                self._stop(index)

    def _stop(self, index: int) -> None:
        state = self._state.states[index]
        if state in {EXPANDED, GRAFTED}:
            self._walk.look(index)
        elif not self._layout.is_exempt(index):
            if state == RUNS:
                self._walk.cancelled.append(self._state.job_id(index))
            else:
                self._walk.drop(index)

    def again(self, start: int) -> bool:
        """Set back what has failed or was cancelled, for another run. Returns whether all nodes are done."""
        state, walk = self._state, self._walk
        for index in range(start, len(state.states)):
            if walk.room <= 0:
                walk.further.append(f"again {index}")
                return False
            letter = state.states[index]
            if letter == SUCCEEDED and self._has_job(index):
                self.kept.append(state.job_id(index))
                walk.other += 1
            elif letter in ENDED and (letter != SUCCEEDED or self._is_join(index)):
                self._set_back(index, letter)
        return True

    def _is_join(self, index: int) -> bool:
        """Whether a node is a join: its value depends on what is run again, and it costs nothing."""
        return self._layout.owner(index) is None and self._layout.node(index).kind is Kind.JOIN

    def _set_back(self, index: int, letter: int) -> None:
        state, owner, graft = self._state, self._layout.owner(index), self._layout.graft_of(index)
        whole = owner if owner is not None else graft and graft.node
        if whole is not None and state.states[whole] in ENDED:
            return  # what it is a part of has gone on without it
        children = None if owner is None else state.children(owner)
        if children is not None:
            children.released = min(children.released, index - children.first)
        if letter == CASCADED and self._layout.grafts_by(index):
            self.kept.append(state.job_id(index))
            self._walk.change(index, GRAFTED)
        else:
            if letter in {FAILED, CANCELLED}:
                state.set_back(index)
            self._walk.change(index, WAITS)

    def forget(self, start: int) -> bool:
        """Let the records of all jobs expire. Returns whether all nodes are done."""
        state = self._state
        for index in range(start, len(state.states)):
            if not self._has_job(index):
                continue
            job_ids = [*state.job_ids(index)]
            if self.forgotten and len(self.forgotten) + len(job_ids) > MOST_CHANGES:
                self._walk.further.append(f"forget {index}")
                return False
            self.forgotten += job_ids
        return True

    def sweep(self, start: int) -> None:
        """Look at the record of each job that is under way: has it vanished?"""
        for found, match in enumerate(_RUNS.finditer(self._state.states, start)):
            if found >= MOST_CHANGES:
                self._walk.further.append(f"sweep {match.start()}")
                return
            self._walk.further.append(self._state.item(match.start()))

    def _has_job(self, index: int) -> bool:
        """Whether there may be a record of a node's job."""
        letter, layout = self._state.states[index], self._layout
        if letter in {CASCADED, SKIPPED} and self._state.memo.run_of(index) == 1 and not layout.grafts_by(index):
            return False
        return layout.owner(index) is not None or layout.node(index).kind is Kind.JOB

    def _unended(self, start: int, end: int) -> Iterator[int]:
        """The nodes that have not ended; without children of maps that were not released."""
        place = start
        while (match := _UNENDED.search(self._state.states, place, end)) is not None:
            index = place = match.start()
            if self._state.states[index] == WAITS and self._layout.owner(index) is not None:
                place = self._next(index)
                continue
            yield index
            place += 1

    def _next(self, index: int) -> int:
        """The first node after a child of a map that is no child that waits."""
        children = self._layout.range_of(index)
        assert children is not None
        while index < children.last and self._state.states[index] == WAITS:
            index += 1
        return index
