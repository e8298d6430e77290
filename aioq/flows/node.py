"""The nodes of a flow that is being built, and the objects that stand for their results in arguments of others."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, NoReturn, TypeVar, cast

from aioq.errors import ArgumentError
from aioq.flows.graph import Kind
from aioq.producer.call import Call
from aioq.public import public
from aioq.wire.signature import ResultType

R_co = TypeVar("R_co", covariant=True)

Require = Literal["all", "any"] | int
"""How many of the nodes that a node waits for must succeed."""


@dataclass(slots=True)
class Planned:
    """A node of a flow before it is sent.

    Attributes:
        index: its place among the nodes of its flow.
        name: its name, which no other node of the flow has.
        kind: what it is.
        call: the call of its job; of a map, what the calls of its children have in common; None for a join.
        after: the nodes that must have ended before it.
        inputs: of a join, the nodes whose results are in its list.
        require: how many of those it waits for must succeed; of a map, how many of its children.
        ignore: what waits for it goes on if it fails. Of a map: if one of its children fails.
        always: it is run however those have ended which it waits for.
        when_failed: it is run if one of `after` has failed, and else not at all.
        is_callback: nobody waits for its result: it is no end of the flow.
        returns: the type of its result; None where it is not known.
        items: of a map, what its children are made of.
        star: whether an item is a tuple of several arguments.
        make: makes the call of an item.
        window: of a map, how many children may be under way at once; 0 for any number.
        scope: the flow whose nodes its arguments name, and at which index those of that flow begin here.
        timeout_ms: of the end of a nested flow, how long that may take, in milliseconds.
        first, count: the nodes of that flow.
    """

    index: int
    name: str
    kind: Kind
    call: Call[Any] | None = None
    after: Sequence[int] = ()
    inputs: Sequence[int] = ()
    require: Require = "all"
    ignore: bool = False
    always: bool = False
    when_failed: bool = False
    is_callback: bool = False
    returns: ResultType | None = None
    items: object = None
    make: "Callable[[Any], Call[Any]] | None" = None
    star: bool = False
    window: int = 0
    scope: tuple[object, int] = (None, 0)
    timeout_ms: int | None = None
    first: int = 0
    count: int = 0

    @property
    def is_given(self) -> bool:
        """Whether it is a map over items that are given with the flow."""
        return self.kind is Kind.MAP and not isinstance(self.items, NodeResult)


class ReadOnce:
    """An iterator over the items of a map, which gives them once only, while a flow can be sent several times.

    Args:
        iterator: what gives the items; also an asynchronous one.
    """

    def __init__(self, iterator: Iterator[Any] | AsyncIterator[Any]) -> None:
        self._iterator: Iterator[Any] | AsyncIterator[Any] | None = iterator

    def take(self, where: str) -> Iterator[Any] | AsyncIterator[Any]:
        """The iterator, the first time.

        Raises:
            ArgumentError: it was read before.
        """
        iterator, self._iterator = self._iterator, None
        if iterator is None:
            raise ArgumentError(
                f"{where}: its items are an iterator, which has been read by an earlier send: "
                "build the flow again, or give a list"
            )
        return iterator


def read_once(items: object) -> object:
    """Items of a map, of which an iterator is given once only."""
    return ReadOnce(cast("Iterator[Any]", items)) if isinstance(items, Iterator | AsyncIterator) else items


@public
class FlowNode(Generic[R_co]):
    """One node of a flow: a call that is run when all that it waits for has ended. `Flow.add` makes it.

    Attributes:
        name: its name within the flow.
    """

    __slots__ = ("_owner", "_planned", "name")

    instead_of_encoding = "in an argument write node.result, which stands for what the node's task returns"

    def __init__(self, owner: object, planned: Planned) -> None:
        self.name = planned.name
        self._owner = owner
        self._planned = planned

    def __repr__(self) -> str:
        return f"<FlowNode {self.name}>"

    @property
    def result(self) -> R_co:
        """What stands for the node's result in arguments of other nodes of its flow.

        It may be within lists, dicts, dataclasses and structs. For type checkers it is of the task's return type.
        """
        return cast("R_co", NodeResult(self))

    def __await__(self) -> NoReturn:
        raise ArgumentError(
            f"node {self.name!r} of a flow has not been sent: handle = await flow.send(), then "
            f"await handle[{self.name!r}]"
        )


def planned(node: FlowNode[Any]) -> Planned:
    """What is known of a node."""
    return node._planned  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - the one place that reads it


def owner_of(node: FlowNode[Any]) -> object:
    """What stands for the flow to which a node was added."""
    return node._owner  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - the one place that reads it


class NodeResult:
    """Stands for the result of a node, which is not known before the flow runs."""

    __slots__ = ("node",)

    instead_of_encoding = "it is the result of a flow's node: only calls that are added to that flow can use it"

    def __init__(self, node: FlowNode[Any]) -> None:
        self.node = node

    def __repr__(self) -> str:
        return f"<the result of node {self.node.name}>"

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{self._unknown()}; it has no attribute {name!r} yet")

    def _refuse(self, *_: object) -> NoReturn:
        raise ArgumentError(
            f"{self._unknown()}; give it to another node as an argument, or a part of one, or await the flow"
        )

    def _unknown(self) -> str:
        return f"the result of node {self.node.name!r} is not known before the flow runs"

    __await__ = __bool__ = __iter__ = __len__ = __getitem__ = __contains__ = __call__ = _refuse
    __int__ = __float__ = __index__ = __str__ = __bytes__ = __format__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __add__ = __sub__ = __mul__ = __truediv__ = __floordiv__ = __mod__ = __or__ = __and__ = _refuse
    __radd__ = __rsub__ = __rmul__ = __rtruediv__ = __neg__ = _refuse
    __hash__ = _refuse  # so it can be no key of a dict, which could not be replaced by the result
