"""The nodes of one flow, as far as they have been read, and which of them depend on which.

A layout is kept from one step to the next. What is added while the flow runs stands in its memo, so each
step begins with `bind`: it brings the layout to what the memo says, also if an earlier step was not applied.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from aioq.errors import WireError
from aioq.flows.graph import PART, Head, Kind, Node
from aioq.flows.memo import Children, Graft, Memo


class NeedsError(Exception):
    """A step cannot be decided before something else was read. It is no error for users.

    Attributes:
        parts: the numbers of parts.
        outcomes: ids of jobs whose outcomes are needed.
    """

    def __init__(self, parts: Iterable[int] = (), outcomes: Iterable[str] = ()) -> None:
        super().__init__("more has to be read")
        self.parts = frozenset(parts)
        self.outcomes = frozenset(outcomes)


class Range(NamedTuple):
    """The children of a map: from `first` to before `last`; `is_late` if they were added when the map began."""

    first: int
    last: int
    owner: int
    is_late: bool = False


class Layout:
    """The nodes of one flow.

    Args:
        head: the flow's head.

    Attributes:
        parts: the parts that have been read, by number.
        elements: by map, and by the job that has returned its list, the elements of that.
        hints: by node how many of its dependencies had ended when it was last looked at; only a hint.
        timed: the joins that have a time limit.
    """

    def __init__(self, head: Head) -> None:
        self.head = head
        self.parts: dict[int, list[Node]] = {}
        self.elements: dict[tuple[int, str], list[msgspec.Raw]] = {}
        self.hints: dict[int, int] = {}
        self.timed: list[tuple[int, int, int]] = []
        self._is_indexed = False
        self._after: dict[int, tuple[int, ...]] = {}
        self._dependents: defaultdict[int, list[int]] = defaultdict(list)
        self._grafts: list[Graft] = []
        self._by_node: defaultdict[int, list[Graft]] = defaultdict(list)
        self._bases: list[int] = []
        self._owned: list[Range] = []
        self._given: list[Range] = []
        self._late: list[Range] = []
        self._firsts: list[int] = []

    def add(self, number: int, nodes: list[Node]) -> None:
        """Add a part that was read."""
        self.parts[number] = nodes

    def bind(self, memo: Memo) -> None:
        """Bring the layout to what a memo says.

        Raises:
            NeedsError: parts have to be read before.
            WireError: the graph is malformed.
        """
        self._need(range(-(-self.head.static // PART)))
        if not self._is_indexed:
            self._index(range(self.head.static))
            self._is_indexed = True
        same = 0
        for ours, theirs in zip(self._grafts, memo.grafts, strict=False):
            if ours != theirs:
                break
            same += 1
        while len(self._grafts) > same:
            self._drop_graft()
        for graft in memo.grafts[same:]:
            self.add_graft(graft)
        self._late = [
            Range(each.first, each.first + each.count, each.node, True) for each in memo.maps if each.added
        ]
        self._own()

    def add_graft(self, graft: Graft) -> None:
        """Add nodes that were grafted; their parts have been read, or are needed."""
        self._need(parts_of(graft))
        self._grafts.append(graft)
        self._bases.append(graft.base)
        self._by_node[graft.node].append(graft)
        self._index(range(graft.base, graft.base + graft.count))

    def add_children(self, children: Children) -> None:
        """Add the children of a map whose list is known now."""
        if children.added:
            last = children.first + children.count
            self._late.append(Range(children.first, last, children.node, is_late=True))
            self._own()

    def node(self, index: int) -> Node:
        """A node; for a child that was added when its map began, that of the map.

        Raises:
            NeedsError: its part has to be read before.
        """
        if index < self.head.static:  # most of them, in fewer calls
            return self.parts[index // PART][index % PART]
        number, place = self._part_of(index)
        if number < 0:
            return self.node(place)
        self._need([number])
        nodes = self.parts[number]
        if place >= len(nodes):
            raise WireError(f"the flow has no node {index}")
        return nodes[place]

    def _part_of(self, index: int) -> tuple[int, int]:
        """The part in which a node is, and its place there; -1 and its map for one that is in no part."""
        graft = self.graft_of(index)
        if graft is not None:
            number, place = divmod(index - graft.base, PART)
            return number + graft.first, place
        owned = self.range_of(index)
        return (-1, owned.owner) if owned is not None and owned.is_late else divmod(index, PART)

    def need_nodes(self, indexes: Iterable[int]) -> None:
        """Make sure that nodes have been read.

        Raises:
            NeedsError: they have to be read before.
        """
        self._need({number for index in indexes if (number := self._part_of(index)[0]) >= 0})

    def forget_elements(self, index: int) -> None:
        """Forget the elements of a map's list: all children have ended."""
        for key in [key for key in self.elements if key[0] == index]:
            del self.elements[key]

    def absolute(self, index: int, given: int) -> int:
        """The index of a node that another one, `index`, names by a number."""
        graft = self.graft_of(index)
        return given if graft is None else graft.base + given if given >= 0 else -1 - given

    def before(self, index: int) -> tuple[int, ...]:
        """The nodes before a node, each once; without those whose graft it is in, which have succeeded."""
        found = self._after.get(index)
        return self._before(index) if found is None else found

    def inputs(self, index: int) -> tuple[int, ...]:
        """The nodes whose results a node uses."""
        return tuple(self.absolute(index, each) for each in self.node(index).inputs)

    def dependents(self, index: int) -> list[int]:
        """The nodes after a node; also the map that it is a child of, or the node that has grafted it."""
        owner = self.owner(index)
        if owner is not None:
            return [owner]
        found = self._dependents.get(index, [])
        graft = self.graft_of(index)
        return found if graft is None else [*found, graft.node]

    def owner(self, index: int) -> int | None:
        """The map that a node is a child of."""
        owned = self.range_of(index)
        return None if owned is None else owned.owner

    def given_children(self, index: int) -> range:
        """The children of a map whose list was known at once; none for any other node."""
        if self.owner(index) is not None or not self._is_given(index):
            return range(0)
        first = self.absolute(index, self.node(index).first)
        return range(first, first + self.node(index).count)

    def range_of(self, index: int) -> Range | None:
        """The children of a map among which a node is."""
        place = bisect_right(self._firsts, index) - 1
        if place < 0:
            return None
        owned = self._owned[place]
        return owned if index < owned.last else None

    def graft_of(self, index: int) -> Graft | None:
        """The graft that a node is in."""
        if not self._bases:
            return None
        place = bisect_right(self._bases, index) - 1
        if place < 0:
            return None
        graft = self._grafts[place]
        return graft if index < graft.base + graft.count else None

    def grafts_by(self, index: int) -> list[Graft]:
        """What a node has grafted."""
        return self._by_node.get(index, [])

    def chain(self, index: int) -> list[int]:
        """The nodes that wait for a node, because they have grafted it, or the node that has."""
        found = list[int]()
        graft = self.graft_of(index)
        while graft is not None:
            found.append(graft.node)
            graft = self.graft_of(self._top(graft.node))
        return found

    def top(self, index: int) -> int:
        """The node that was there when the flow began, because of which a node is there: often itself."""
        while True:
            owner, graft = self.owner(index), self.graft_of(index)
            if owner is None and graft is None:
                return index
            index = owner if owner is not None else graft.node if graft is not None else index

    def _top(self, index: int) -> int:
        """The node itself, or the map that it is a child of: that one stands in the graft."""
        owner = self.owner(index)
        return index if owner is None else owner

    def name(self, index: int) -> str:
        """A node's name, for people."""
        owned = self.range_of(index)
        if owned is not None:
            return f"{self.name(owned.owner)}[{index - owned.first}]"
        node = self.node(index)
        return node.name or node.task or str(index)

    def is_ignored(self, index: int) -> bool:
        """Whether what depends on a node goes on if it has not succeeded."""
        owner = self.owner(index)
        return self.node(index if owner is None else owner).ignore

    def is_exempt(self, index: int) -> bool:
        """Whether a node goes its way in a flow that was cancelled."""
        owner = self.owner(index)
        node = self.node(index if owner is None else owner)
        return node.always or node.when_failed

    def _own(self) -> None:
        self._owned = sorted(each for each in (*self._given, *self._late) if each.first < each.last)
        self._firsts = [each.first for each in self._owned]

    def _need(self, numbers: Iterable[int]) -> None:
        missing = [number for number in numbers if number not in self.parts]
        if missing:
            raise NeedsError(parts=missing)

    def _index(self, indexes: range) -> None:
        """Note which nodes depend on which."""
        given = [index for index in indexes if self._is_given(index)]
        for index in given:
            node = self.node(index)
            first = self.absolute(index, node.first)
            self._given.append(Range(first, first + node.count, index))
        self._own()
        for index in indexes:
            if self.owner(index) is not None:
                continue
            node = self.node(index)
            before = self._after[index] = self._before(index)
            for each in before:
                self._dependents[each].append(index)
            if node.kind is Kind.JOIN and node.timeout_ms is not None:
                first = self.absolute(index, node.first)
                self.timed.append((first, first + node.count, index))

    def _is_given(self, index: int) -> bool:
        node = self.node(index)
        return node.kind is Kind.MAP and node.over is None

    def _before(self, index: int) -> tuple[int, ...]:
        node = self.node(index)
        named = (*node.after, *node.inputs, *(() if node.over is None else (node.over,)))
        graft = self.graft_of(index)
        if graft is None:
            end = self.head.static
            if any(not 0 <= each < end for each in named):
                raise WireError(f"node {index} of the flow depends on one that is not there")
            return tuple(dict.fromkeys(named))
        chain = self.chain(index)
        found = dict.fromkeys(self.absolute(index, each) for each in named)
        if any(each < 0 or each >= graft.base + graft.count for each in found):
            raise WireError(f"node {index} of the flow depends on one that is not there")
        return tuple(each for each in found if each not in chain)

    def _drop_graft(self) -> None:
        graft = self._grafts.pop()
        self._bases.pop()
        self._by_node[graft.node].remove(graft)
        last = graft.base + graft.count
        self._given = [each for each in self._given if not graft.base <= each.owner < last]
        self.timed = [each for each in self.timed if not graft.base <= each[2] < last]
        for index in range(graft.base, last):
            for each in self._after.pop(index, ()):
                self._dependents[each].remove(index)
            self.hints.pop(index, None)


def parts_of(graft: Graft) -> range:
    """The numbers of the parts in which a graft is."""
    return range(graft.first, graft.first + -(-graft.count // PART))
