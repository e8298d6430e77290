"""What can be added to a flow: a call, or an expression of several, in which some use the results of others."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

from aioq.flows.node import FlowNode, Require
from aioq.producer.call import Call

R_co = TypeVar("R_co", covariant=True)
T_contra = TypeVar("T_contra", contravariant=True)
R = TypeVar("R")


class Callee(Protocol[T_contra, R_co]):
    """A task that can be called with one argument, maybe with options: what `task.options(...)` returns."""

    def call(self, argument: T_contra, /) -> Call[R_co]:
        """A call with this argument."""
        ...


@dataclass(frozen=True, slots=True)
class Placement:
    """The options with which a call or an expression is added to a flow.

    Attributes:
        name: the name of its last node; None for one that is made of its task's name.
        after: the nodes for which its first nodes wait.
        require: how many of those its last node waits for must succeed.
        ignore: what waits for its result goes on if it fails.
        always: its first nodes are run however those have ended which they wait for.
        when_failed: they are run only if one of those has failed.
        is_callback: nothing waits for it.
    """

    name: str | None = None
    after: Sequence[FlowNode[Any]] = ()
    require: Require = "all"
    ignore: bool = False
    always: bool = False
    when_failed: bool = False
    is_callback: bool = False

    def first(self) -> "Placement":
        """What of it is about the first nodes of an expression of several."""
        return replace(self, name=None, require="all", ignore=False)

    def last(self) -> "Placement":
        """What of it is about the last node."""
        return Placement(self.name, (), self.require, self.ignore, is_callback=self.is_callback)

    def member(self) -> "Placement":
        """What of it is about each member of a group."""
        return replace(self, name=None, require="all")


class Placing(Protocol):
    """A flow that an expression is added to."""

    def job(self, call: Call[R], where: Placement) -> FlowNode[R]:
        """Add a call."""
        ...

    def join(self, nodes: Sequence[FlowNode[R]], where: Placement) -> FlowNode[list[R]]:
        """Add the end of a group: its value is the list of their results."""
        ...


class Expression(ABC, Generic[R_co]):
    """Calls of which some use the results of others: a chain, or a group."""

    @abstractmethod
    def place(self, flow: Placing, where: Placement) -> FlowNode[R_co]:
        """Add its nodes to a flow, and return the last one, whose result is that of the whole."""

    @abstractmethod
    def calls(self) -> Sequence[Call[Any]]:
        """The calls that it begins with."""


class Several(Expression[list[R]]):
    """Calls that run side by side, and whose results are a list."""


Begun = Call[R] | Expression[R]
"""What has all its arguments: a call, or an expression that begins with calls."""


def placed(step: Begun[R], flow: Placing, where: Placement) -> FlowNode[R]:
    """Add a call or an expression to a flow."""
    return step.place(flow, where) if isinstance(step, Expression) else flow.job(step, where)
