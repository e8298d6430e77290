"""A flow that is being built: its nodes, their names, and what each waits for."""

from collections import Counter
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

from aioq.errors import ArgumentError, ConfigError
from aioq.flows.checks import check_arguments
from aioq.flows.encoding import results_in
from aioq.flows.graph import Kind
from aioq.flows.node import FlowNode, NodeResult, Planned, Require, owner_of, planned, read_once
from aioq.flows.results import ListResult, ResultOrFailure
from aioq.flows.steps import Placement
from aioq.producer.call import Call
from aioq.util.printable import brief
from aioq.wire.signature import ANY_RESULT, ResultType

R = TypeVar("R")

MAX_NAME = 128
"""The longest name of a node, in characters."""

MAX_NODES = 10_000
"""The most nodes that are added one by one: all of them are read whenever the flow goes on. `map` has no limit."""


class _Token:
    """Stands for a flow in its nodes."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return repr(self.name)


class Plan:
    """The nodes of a flow before it is sent.

    Args:
        name: the flow's name, for errors.
        sender: what sends the calls of its App: calls of another App are refused. None: that of the first call.
        ignore: what waits for a node goes on if that fails, where `add` does not say otherwise.

    Attributes:
        name, sender, ignore: as given.
        nodes: its nodes, in the order in which they were added.
        token: what its nodes have as their owner; copies of it have the same.
    """

    def __init__(self, name: str, sender: object, *, ignore: bool = False, token: object = None) -> None:
        self.name = name
        self.sender = sender
        self.ignore = ignore
        self.token = token or _Token(name)
        self.nodes: list[Planned] = []
        self._handles: list[FlowNode[Any]] = []
        self._names: dict[str, int] = {}
        self._taken: Counter[str] = Counter()

    def __getitem__(self, name: str) -> FlowNode[Any]:
        """A node by its name.

        Raises:
            KeyError: there is none of that name.
        """
        return self._handles[self._names[name]]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def job(self, call: Call[R], where: Placement) -> FlowNode[R]:
        """Add a call.

        Raises:
            ArgumentError: it is no call, it uses results that it cannot use, or an argument cannot fit.
            ConfigError: an option is wrong, or the call is of another App.
        """
        self._check_call(call)
        node = self._planned(where, Kind.JOB, call.task.rpartition(".")[2])
        node.call, node.returns = call, call.signature.returns
        check_arguments(node.name, self.name, call, self)
        return self._add(node)

    def join(self, nodes: Sequence[FlowNode[R]], where: Placement) -> FlowNode[list[R]]:
        """Add a node that is no job: it waits for others, and its value is the list of their results."""
        mine = self._planned(where, Kind.JOIN, "group")
        mine.inputs = [planned(self.own(node, mine.name)).index for node in nodes]
        mine.returns = ListResult.of_each([self.nodes[at] for at in mine.inputs], ignore=where.require != "all")
        return self._add(mine)

    def mapped(
        self,
        make: Callable[[Any], Call[R]],
        bare: Call[R],
        items: object,
        where: Placement,
        window: int,
        *,
        star: bool,
    ) -> FlowNode[list[R]]:
        """Add a node that makes a call of each item of a list.

        Args:
            make: makes the call of an item.
            bare: the call without its arguments.
            items: what stands for a node's result, or an iterable, also an asynchronous one.
            where: how it is placed.
            window: how many children may be under way at once; 0 for any number.
            star: an item is a tuple of several arguments.

        Raises:
            ArgumentError: `items` is nothing of these.
            ConfigError: an option is wrong, or the task is of another App.
        """
        self._check_call(bare)
        if not isinstance(items, NodeResult | Iterable | AsyncIterable) or isinstance(
            items, str | bytes | Mapping
        ):
            raise ArgumentError(
                f"flow {self.name!r}: map over {brief(cast('object', items))}: expected the result of a node, or "
                "an iterable of items"
            )
        if isinstance(window, bool) or not isinstance(window, int) or window < 0:  # pyright: ignore[reportUnnecessaryIsInstance] - types do not hold at run time
            raise ConfigError(
                f"flow {self.name!r}: window={brief(window)}: expected a number of nodes; 0 for no bound"
            )
        node = self._planned(where, Kind.MAP, bare.task.rpartition(".")[2])
        node.call, node.make, node.items, node.star, node.window = (
            bare,
            make,
            read_once(cast("object", items)),
            star,
            window,
        )
        node.returns = ListResult.of_all(bare.signature.returns, ignore=node.ignore or where.require != "all")
        if isinstance(items, NodeResult):
            self.own(items.node, node.name)
        return self._add(node)

    def own(self, node: FlowNode[R], user: str) -> FlowNode[R]:
        """A node that another one uses, if both are of this flow.

        Raises:
            ArgumentError: it is no node, or one of another flow.
        """
        if not isinstance(node, FlowNode):  # pyright: ignore[reportUnnecessaryIsInstance] - types do not hold at run time
            raise ArgumentError(
                f"{self._where(user)}: {brief(node)} is no node of a flow; flow.add(...) returns one"
            )
        if owner_of(node) is not self.token:
            raise ArgumentError(
                f"{self._where(user)}: node {node.name!r} is of another flow, {owner_of(node)!r}; "
                "a flow can only use results of its own nodes, or be added to another one: flow.add(other)"
            )
        return node

    def index_of(self, node: FlowNode[Any], user: Planned) -> int:
        """The index of a node whose result stands in an argument of another one.

        Raises:
            ArgumentError: they are of different flows.
        """
        token, first = user.scope
        if owner_of(node) is not token:
            self.own(node, user.name)
        return planned(node).index + first

    def copy(self) -> "Plan":
        """Another plan with the same nodes, to which more can be added."""
        mine = Plan(self.name, self.sender, ignore=self.ignore, token=self.token)
        for node in self.nodes:
            mine._add(node)
        mine._taken = self._taken.copy()
        return mine

    def handle(self, node: Planned) -> FlowNode[Any]:
        """The node as users have it."""
        return self._handles[node.index]

    def ends(self) -> list[Planned]:
        """The nodes that end the flow: no other one waits for them but callbacks and those that always run."""
        mine = [node for node in self.nodes if not (node.is_callback or node.when_failed)]
        ordinary = [node for node in mine if not node.always] or mine
        waited = {at for node in ordinary for at in self.waits_for(node)}
        return [node for node in ordinary if node.index not in waited]

    def waits_for(self, node: Planned) -> set[int]:
        """The nodes that a node waits for."""
        used = (
            {self.index_of(each, node) for each in results_in(node.call)} if node.call is not None else set[int]()
        )
        over = (
            {planned(node.items.node).index + node.scope[1]} if isinstance(node.items, NodeResult) else set[int]()
        )
        return {*node.after, *node.inputs, *used, *over}

    def nest(self, other: "Plan", where: Placement, name: str, timeout_ms: int | None) -> FlowNode[Any]:
        """Add all nodes of another plan, whose names get this one in front, and return the one that ends it."""
        ends, start, waits = other.ends(), len(self.nodes), {}
        if where.after:
            waits = {node.index: other.waits_for(node) for node in other.nodes}
        after = [planned(self.own(node, name)).index for node in where.after]
        if not ends:
            raise ArgumentError(f"flow {other.name!r} has no nodes, and cannot be added to flow {self.name!r}")
        for node in other.nodes:
            mine = replace(
                node,
                index=node.index + start,
                name=self.free_name(None, f"{name}.{node.name}"),
                after=[at + start for at in node.after] or (after if not waits.get(node.index) else []),
                inputs=[at + start for at in node.inputs],
                always=node.always or (where.always and not waits.get(node.index)),
                scope=(node.scope[0], node.scope[1] + start),
                first=node.first + start,
            )
            self._add(mine)
        return self._end_of(where, [self.nodes[end.index + start] for end in ends], name, start, timeout_ms)

    def _end_of(
        self, where: Placement, ends: Sequence[Planned], name: str, start: int, timeout_ms: int | None
    ) -> FlowNode[Any]:
        """The node that stands for a nested flow: the only one that ends it, or one that waits for several."""
        count, only = len(self.nodes) - start, ends[0]
        if len(ends) == 1 and where.require == "all":
            del self._names[only.name]
            only.name, only.ignore = name, only.ignore or where.ignore
            self._names[name] = only.index
            node: FlowNode[Any] = FlowNode(self.token, only)
            self._handles[only.index] = node
            if timeout_ms is None:
                return node
            where = Placement(self.free_name(None, f"{name}.timeout"), is_callback=True)
        else:
            where = replace(where, name=name, after=(), always=False)
        joined = self.join([self.handle(end) for end in ends], where)
        mine = planned(joined)
        mine.timeout_ms, mine.first, mine.count = timeout_ms, start, count
        return self.handle(only) if where.is_callback else joined

    def free_name(self, given: str | None, default: str) -> str:
        """The name for a node: the one that is given, or one like the default that no other node has.

        Raises:
            ConfigError: the given name cannot be one, or another node has it.
        """
        return self._name(given, default)

    def _planned(self, where: Placement, kind: Kind, default: str) -> Planned:
        name = self._name(where.name, default)
        after = [self.own(node, name) for node in where.after]
        return Planned(
            len(self.nodes),
            name,
            kind,
            after=[planned(node).index for node in after],
            require=where.require,
            ignore=where.ignore,
            always=where.always,
            when_failed=where.when_failed,
            is_callback=where.is_callback,
            scope=(self.token, 0),
        )

    def _add(self, node: Planned) -> FlowNode[Any]:
        if node.index >= MAX_NODES:
            raise ConfigError(
                f"flow {self.name!r}: {MAX_NODES:,} nodes were added one by one, more cannot be; use flow.map(...)"
            )
        handle: FlowNode[Any] = FlowNode(self.token, node)
        self.nodes.append(node)
        self._handles.append(handle)
        self._names[node.name] = node.index
        return handle

    def _name(self, given: object, default: str) -> str:
        if given is None:
            name = default
            while name in self._names:
                self._taken[default] += 1
                name = f"{default}-{self._taken[default] + 1}"
            return name
        if not isinstance(given, str) or not 0 < len(given) <= MAX_NAME or not given.isprintable():
            raise ConfigError(
                f"flow {self.name!r}: a node's name is {brief(given)}: expected 1 to {MAX_NAME} printable "
                "characters"
            )
        if given in self._names:
            raise ConfigError(f"flow {self.name!r}: it has a node {given!r} already")
        return given

    def _check_call(self, call: object) -> None:
        if not isinstance(call, Call):
            raise ArgumentError(f"flow {self.name!r}: add({brief(call)}): {_instead(call)}")
        given = cast("Call[Any]", call)
        self.sender = given.sender if self.sender is None else self.sender
        where = f"flow {self.name!r}: task {given.task!r}"
        if given.sender is not None and given.sender is not self.sender:
            raise ConfigError(f"{where} is of another App; all tasks of a flow are of one App")
        if given.options.job_id is not None:
            raise ConfigError(
                f"{where}: job_id: a node's id is made of its flow's; give it a name: add(..., name=...)"
            )
        if given.options.debounce is not None:
            raise ConfigError(f"{where}: it is debounced: each node of a flow is run for itself; use options(...)")

    def _where(self, name: str) -> str:
        return f"flow {self.name!r}: node {name!r}"


def _instead(call: object) -> str:
    if hasattr(type(call), "__await__"):
        return "expected a call, not a send: task.call(...) in place of task.send(...)"
    if callable(getattr(type(call), "call", None)):
        return "it needs its arguments: task.call(...)"
    return "expected a call, task.call(...), a chain, a group or another flow"


def required(where: str, require: Require, there: int) -> int:
    """How many of the nodes that a node waits for must succeed; 0 for all.

    Raises:
        ConfigError: there are not so many.
    """
    if require == "all":
        return 0
    number = 1 if require == "any" else require
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:  # pyright: ignore[reportUnnecessaryIsInstance] - types do not hold at run time
        raise ConfigError(f'{where}: require={brief(require)}: expected "all", "any", or a number from 1 on')
    if number > there:
        raise ConfigError(f"{where}: require={number}, but it waits for {there} only")
    return number


def result_type_of(nodes: Sequence[Planned]) -> ResultType | None:
    """The type of what a flow ends with whose ends are these nodes."""
    if not nodes:
        return None
    if len(nodes) > 1:
        return ListResult.of_each(nodes)
    (node,) = nodes
    return ResultOrFailure(node.returns or ANY_RESULT) if node.ignore else node.returns
