"""The types of what groups, maps and flows end with: lists of results of tasks."""

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any

import msgspec

from aioq.errors import Failure, WireError
from aioq.flows.node import Planned
from aioq.wire.messages import UNREADABLE
from aioq.wire.signature import ANY_RESULT, ResultType

_LIST = msgspec.msgpack.Decoder(list[msgspec.Raw])
_FAILURE = msgspec.msgpack.Decoder(Failure)
_NIL = b"\xc0"


class ListResult(ResultType):
    """A list of which each item has a type of its own.

    Args:
        each: the type of each item, and whether a `Failure` may stand in its place; one for all, or one for each.
    """

    __slots__ = ("_each", "_is_one")

    def __init__(self, each: Sequence[tuple[ResultType, bool]], *, is_one: bool) -> None:
        super().__init__("the flow", list[Any])
        self._each = each
        self._is_one = is_one

    @staticmethod
    def of_each(nodes: Sequence[Planned], *, ignore: bool = False) -> "ListResult":
        """The list of the results of these nodes; `ignore`: any of them may have failed."""
        each = [(node.returns or ANY_RESULT, ignore or node.ignore) for node in nodes]
        return ListResult(each, is_one=False)

    @staticmethod
    def of_all(returns: ResultType, *, ignore: bool) -> "ListResult":
        """A list of any number of results of one task."""
        return ListResult([(returns, ignore)], is_one=True)

    def decode(self, data: msgspec.Raw | bytes) -> Any:
        """Decode a list into the types of its items; None for a group or a map that was not needed.

        Raises:
            WireError: the stored result is not of that type.
        """
        if is_nothing(data):
            return None
        try:
            items = _LIST.decode(data)
        except UNREADABLE as error:
            raise WireError(f"{self.where}: the stored result is no list: {error}") from error
        return [
            decoded(returns, item, ignore=ignore)
            for (returns, ignore), item in zip(self._types(len(items)), items, strict=False)
        ]

    def _types(self, number: int) -> "Iterator[tuple[ResultType, bool]]":
        if self._is_one or len(self._each) != number:  # a require of less than all leaves some out
            only = self._each[0] if self._is_one else (ANY_RESULT, True)
            return repeat(only, number)
        return iter(self._each)


class ResultOrFailure(ResultType):
    """What a node gives whose failure may be ignored.

    Args:
        returns: the type of its result.
    """

    __slots__ = ("_returns",)

    def __init__(self, returns: ResultType) -> None:
        super().__init__("the flow", Any)
        self._returns = returns

    def decode(self, data: msgspec.Raw | bytes) -> Any:
        """Decode a result, or a `Failure`.

        Raises:
            WireError: the stored result is neither.
        """
        return decoded(self._returns, data, ignore=True)


def is_nothing(value: msgspec.Raw | bytes) -> bool:
    """Whether this is the result of a node that was not needed."""
    return bytes(value) == _NIL


def decoded(returns: ResultType, value: msgspec.Raw | bytes, *, ignore: bool) -> Any:
    """The result of a node; where its failure may be ignored, also a `Failure`; None if it was not needed.

    Raises:
        WireError: the stored result is not of that type.
    """
    if is_nothing(value):
        return None
    if ignore:
        try:
            return _FAILURE.decode(value)
        except UNREADABLE:
            pass
    return returns.decode(value)
