"""Chains and groups: `call | task | task`, `group(call, call)`, and `group(...) | task`, known as a chord."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar, Unpack, cast, overload

from aioq.errors import ArgumentError
from aioq.flows.flow import Flow, FlowArgs, flow_of_calls
from aioq.flows.handle import FlowHandle
from aioq.flows.node import FlowNode
from aioq.flows.steps import Begun, Callee, Expression, Placement, Placing, Several, placed
from aioq.producer.call import Call
from aioq.public import public
from aioq.util.printable import brief

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Composite(Expression[R_co]):
    """A chain or a group that can be sent."""

    def flow(self, name: str = "", /, **options: Unpack[FlowArgs]) -> Flow:
        """A flow of these calls, with a name and with options; see `App.flow`.

        Raises:
            ConfigError: an option is wrong.
            ArgumentError: the calls were made by hand and belong to no App.
        """
        flow = flow_of_calls(self.calls(), name or self._name(), options)
        flow.add(self)
        return flow

    async def send(self) -> FlowHandle[R_co]:
        """Send it as a flow; see `Flow.send`."""
        return cast("FlowHandle[R_co]", await self.flow().send())

    def send_sync(self) -> FlowHandle[R_co]:
        """`send` for sync code, as `App.run_sync`."""
        return cast("FlowHandle[R_co]", self.flow().send_sync())

    def _name(self) -> str:
        return type(self).__name__.lower()


class Chain(Composite[R_co]):
    """`call | task`: the result of each is the first argument of the next one.

    Attributes:
        begin: what it begins with.
        then: what follows.
    """

    def __init__(self, begin: "Begun[Any]", then: "Callee[Any, R_co] | Link[Any, R_co]") -> None:
        self.begin = begin
        self.then = then

    def __repr__(self) -> str:
        return f"{self.begin!r} | {self.then!r}"

    def place(self, flow: Placing, where: Placement) -> FlowNode[R_co]:
        """Add its nodes to a flow, and return the last one."""
        before = placed(self.begin, flow, where.first())
        return linked(self.then, before, flow, where.last())

    def calls(self) -> Sequence[Call[Any]]:
        """The calls that it begins with."""
        return _calls(self.begin)


class Group(Several[R], Composite[list[R]]):
    """`group(call, call)`: calls that run side by side. The result is the list of theirs, in their order.

    Attributes:
        members: the calls, or chains or groups of them.
    """

    def __init__(self, members: "Sequence[Begun[R]]") -> None:
        self.members = members

    def __repr__(self) -> str:
        return f"group({', '.join(map(repr, self.members))})"

    def place(self, flow: Placing, where: Placement) -> FlowNode[list[R]]:
        """Add its nodes to a flow, and return the one that waits for all of them."""
        nodes = [placed(member, flow, where.member()) for member in self.members]
        return flow.join(nodes, where.last())

    def calls(self) -> Sequence[Call[Any]]:
        """The calls that it begins with."""
        return [call for member in self.members for call in _calls(member)]


class Link(Generic[T_contra, R_co]):
    """A part of a chain that needs the result of the one before: `task | task`, or a group of tasks.

    `call | group(resize, tag)` gives each of the two tasks the result of the call.
    """

    def __ror__(self, before: "Begun[T_contra]") -> Chain[R_co]:
        return chained(before, self)

    def link(self, before: FlowNode[T_contra], flow: Placing, where: Placement) -> FlowNode[R_co]:
        """Add its nodes to a flow, after the node whose result it gets."""
        raise NotImplementedError


class Pipe(Link[T_contra, R_co]):
    """`task | task`, to stand in a chain or in a group of tasks."""

    def __init__(self, first: "Next[T_contra, Any]", then: "Next[Any, R_co]") -> None:
        self.first = first
        self.then = then

    def __repr__(self) -> str:
        return f"{self.first!r} | {self.then!r}"

    def link(self, before: FlowNode[T_contra], flow: Placing, where: Placement) -> FlowNode[R_co]:
        """Add its nodes to a flow, after the node whose result it gets."""
        return linked(self.then, linked(self.first, before, flow, where.first()), flow, where.last())


class TaskGroup(Link[T_contra, list[R]]):
    """`group(task, task)` within a chain: each task gets the result of what is before it."""

    def __init__(self, members: "Sequence[Next[T_contra, R]]") -> None:
        self.members = members

    def __repr__(self) -> str:
        return f"group({', '.join(map(repr, self.members))})"

    def link(self, before: FlowNode[T_contra], flow: Placing, where: Placement) -> FlowNode[list[R]]:
        """Add its nodes to a flow, after the node whose result it gets."""
        nodes = [linked(member, before, flow, where.member()) for member in self.members]
        return flow.join(nodes, where.last())


Next = Callee[T_contra, R_co] | Link[T_contra, R_co]
"""What may follow in a chain: it gets the result of what is before it as its first argument."""


@overload
def group(*members: Call[R] | Expression[R]) -> Group[R]: ...
@overload
def group(members: Iterable[Call[R] | Expression[R]], /) -> Group[R]: ...
@overload
def group(*members: Callee[T, R] | Link[T, R]) -> TaskGroup[T, R]: ...
def group(*members: Any) -> Any:
    """Calls that run side by side; the result is the list of their results, in the order in which they are given.

    `await group(a.call(1), b.call(2)).send()` gives `[1, 2]`; `group(...) | total` passes the list on to `total`,
    once all have succeeded. Tasks instead of calls, as in `a.call(1) | group(b, c)`, get the result of what is
    before the group.

    Args:
        members: the calls, or chains and groups of calls, one after the other or as one list; or tasks.

    Raises:
        ArgumentError: there are none, or one of them is something else.
    """
    given: list[Any] = list(members)
    if len(given) == 1 and isinstance(given[0], Iterable) and not isinstance(given[0], str | bytes | Mapping):
        given = list(cast("Iterable[Any]", given[0]))
    if not given:
        raise ArgumentError("group() has no calls: group(task.call(1), task.call(2))")
    begun = [isinstance(each, Call | Expression) for each in given]
    for each, is_begun in zip(given, begun, strict=True):
        if not is_begun and not is_next(each):
            raise ArgumentError(f"group({brief(each)}): expected calls, task.call(...), or tasks within a chain")
    if all(begun):
        return Group[Any](given)
    if any(begun):
        raise ArgumentError(
            "group(): some members are calls, which have their arguments, and others are tasks, which get the "
            "result of what is before the group; write task.call(...) for these"
        )
    return TaskGroup[Any, Any](given)


def is_next(value: object) -> bool:
    """Whether it may follow in a chain: a task, also one with options, or a part of a chain."""
    return isinstance(value, Link) or callable(getattr(type(value), "call", None))


def chained(before: "Begun[Any]", then: "Next[Any, R]") -> Chain[R]:
    """`before | then`.

    Raises:
        ArgumentError: `before` has no result to pass on, or what follows is a call already.
    """
    if not isinstance(before, Call | Expression):  # pyright: ignore[reportUnnecessaryIsInstance] - types do not hold at run time
        raise ArgumentError(f"{brief(before)} | ...: a chain begins with a call: task.call(...) | other_task")
    return Chain(before, then)


def linked(step: "Next[T, R]", before: FlowNode[T], flow: Placing, where: Placement) -> FlowNode[R]:
    """Add what gets the result of a node."""
    if isinstance(step, Link):
        return step.link(before, flow, where)
    return flow.job(step.call(before.result), where)


def _calls(step: "Begun[Any]") -> Sequence[Call[Any]]:
    return step.calls() if isinstance(step, Expression) else [step]


public(Group)
public(Chain)
