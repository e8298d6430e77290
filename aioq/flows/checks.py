"""What is checked of a flow before it is sent: whether results fit parameters, and that there is no circle."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from msgspec import inspect as kinds

from aioq.errors import ArgumentError
from aioq.flows.node import FlowNode, NodeResult, planned
from aioq.producer.call import Call

_SHAPES: Mapping[type[kinds.Type], str] = {
    kinds.NoneType: "nil",
    kinds.BoolType: "bool",
    kinds.IntType: "number",
    kinds.FloatType: "number",
    kinds.StrType: "str",
    kinds.BytesType: "bytes",
    kinds.ListType: "list",
    kinds.VarTupleType: "list",
    kinds.TupleType: "list",
    kinds.SetType: "list",
    kinds.FrozenSetType: "list",
    kinds.DictType: "map",
    kinds.DataclassType: "map",
    kinds.TypedDictType: "map",
    kinds.NamedTupleType: "list",
}
"""What a value of a type is on the wire. A type that is missing here may be anything, and fits."""


class Owning(Protocol):
    """A flow that says which nodes are its own."""

    def own(self, node: FlowNode[Any], user: str) -> FlowNode[Any]:
        """The node, if it is one of this flow."""
        ...


def check_arguments(name: str, flow: str, call: Call[Any], owner: Owning) -> None:
    """Check the results that a call takes as arguments: of which flow they are, and whether they can fit.

    Args:
        name: the name of the call's node.
        flow: the flow's name.
        call: the call.
        owner: the flow.

    Raises:
        ArgumentError: one cannot be used there; the message names both nodes.
    """
    for parameter, kind, value in call.signature.typed(call.args, call.kwargs):
        if not isinstance(value, NodeResult):
            continue
        source = planned(owner.own(value.node, name))
        if source.returns is None or source.ignore or can_fit(source.returns.kind, kind):
            continue
        raise ArgumentError(
            f"flow {flow!r}: node {name!r}: argument {parameter} is the result of node {source.name!r}, "
            f"{shown(source.returns.kind)}, and cannot be {shown(kind)}"
        )


def can_fit(given: Any, wanted: Any) -> bool:
    """Whether a value of one type may be decoded as another one; only what can never be is false."""
    ours, theirs = _shapes(kinds.type_info(given)), _shapes(kinds.type_info(wanted))
    return ours is None or theirs is None or not ours.isdisjoint(theirs)


def _shapes(info: kinds.Type) -> frozenset[str] | None:
    """What values of a type may be on the wire; None for anything."""
    if isinstance(info, kinds.Metadata):
        return _shapes(info.type)
    if isinstance(info, kinds.UnionType):
        found = [_shapes(each) for each in info.types]
        known = [each for each in found if each is not None]
        return frozenset[str]().union(*known) if len(known) == len(found) else None
    if isinstance(info, kinds.StructType):
        return frozenset({"list" if info.array_like else "map"})
    shape = _SHAPES.get(type(info))
    return None if shape is None else frozenset({shape})


def shown(kind: Any) -> str:
    """A type, for people."""
    return kind.__qualname__ if isinstance(kind, type) and not getattr(kind, "__args__", ()) else str(kind)


def find_circle(waits: Sequence[Collection[int]]) -> list[int]:
    """The nodes of a circle, each of which waits for the next one and the last for the first; empty for none.

    Args:
        waits: for each node those that it waits for.
    """
    done = [False] * len(waits)
    for start in range(len(waits)):
        path: list[int] = []
        places: dict[int, int] = {}
        todo = [(start, iter(waits[start]))] if not done[start] else []
        if todo:
            path, places = [start], {start: 0}
        while todo:
            at, rest = todo[-1]
            following = next(rest, None)
            if following is None:
                todo.pop()
                done[at] = True
                places.pop(path.pop())
            elif following in places:
                return path[places[following] :]
            elif not done[following]:
                places[following] = len(path)
                path.append(following)
                todo.append((following, iter(waits[following])))
    return []
