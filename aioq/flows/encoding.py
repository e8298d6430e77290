"""Encodes the calls of nodes: an extension type stands in their arguments for results of other nodes."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, cast

import msgspec

from aioq.errors import ArgumentError, PayloadTooLargeError
from aioq.flows.graph import ELEMENT, INPUT
from aioq.flows.node import FlowNode, NodeResult, Planned
from aioq.producer.call import Call
from aioq.producer.sender import Route
from aioq.wire.messages import ENCODER
from aioq.wire.own_types import OwnTypes
from aioq.wire.signature import Signature, unencodable

EMPTY_MAP = msgspec.Raw(b"\x80")


class Encoded(NamedTuple):
    """The encoded arguments of a call.

    Attributes:
        args, kwargs: the arguments.
        inputs: the nodes whose results they use, in the order of the numbers in them.
    """

    args: msgspec.Raw
    kwargs: msgspec.Raw
    inputs: tuple[int, ...]


class Element:
    """Stands for the item of a list of which a map makes a call each, where the list is not known yet."""

    instead_of_encoding = "it is an item of a list that is not known before the flow runs"


class NodeEncoder:
    """Encodes the calls of one flow.

    Args:
        own: the types that the App has registered.
        index: the number by which a node is stored that is used by another one; it raises if they are of
            different flows.
    """

    def __init__(self, own: OwnTypes, index: Callable[[FlowNode[Any], Planned], int]) -> None:
        self._encoder = msgspec.msgpack.Encoder(enc_hook=self._encode)
        self._others = cast("Callable[[object], object]", own.encoder.enc_hook)
        self._index = index
        self._user: Planned | None = None
        self._inputs: dict[int, int] = {}
        self._stands = False

    def encode(
        self, flow: str, user: Planned, route: Route, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Encoded:
        """Encode a call.

        Args:
            flow: the flow's name, for errors.
            user: the node.
            route: the route of the call.
            args: its positional arguments.
            kwargs: its keyword arguments.

        Raises:
            ArgumentError: an argument has no MessagePack form, would arrive changed, or is the result of a node of
                another flow.
            PayloadTooLargeError: the call is larger than `max_payload`.
        """
        self._user, self._inputs, self._stands = user, {}, False
        where = f"flow {flow!r}: node {user.name!r}"
        try:
            given, named = self._raw(args), self._raw(kwargs) if kwargs else EMPTY_MAP
        except ArgumentError:
            raise
        except Exception as error:
            raise unencodable(where, route.signature.named(args, kwargs), error, self._encoder) from error
        encoded = Encoded(given, named, tuple(self._inputs))
        if route.checked:
            self._verify(route.signature, args, kwargs)
        size = len(bytes(given)) + len(bytes(named)) + len(route.envelope((), {}))
        if size > route.max_payload:
            raise PayloadTooLargeError(
                f"{where}: the encoded call has {size} bytes, at most {route.max_payload} are sent (max_payload); "
                "store it elsewhere and send where it is"
            )
        return encoded

    def _verify(self, signature: Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Check that arguments arrive unchanged, except those that hold what is not known yet."""
        if not self._stands:
            signature.verify(args, kwargs)
            return
        known = {name: value for name, value in signature.named(args, kwargs) if not self._holds_result(value)}
        signature.verify((), known)

    def _holds_result(self, value: object) -> bool:
        self._stands = False
        self._encoder.encode(value)
        return self._stands

    def _raw(self, value: object) -> msgspec.Raw:
        return msgspec.Raw(self._encoder.encode(value))

    def _encode(self, value: object) -> object:
        if type(value) is NodeResult and self._user is not None:
            self._stands = True
            index = self._index(value.node, self._user)
            return msgspec.msgpack.Ext(INPUT, ENCODER.encode(self._inputs.setdefault(index, len(self._inputs))))
        if type(value) is Element:
            self._stands = True
            return msgspec.msgpack.Ext(INPUT, ENCODER.encode(ELEMENT))
        return self._others(value)


def results_in(call: Call[Any]) -> list[FlowNode[Any]]:
    """The nodes whose results a call uses, anywhere in its arguments."""
    found: dict[str, FlowNode[Any]] = {}

    def note(value: object) -> None:
        if type(value) is NodeResult:
            found[value.node.name] = value.node

    # What cannot be encoded is found out when the flow is sent; here it only must not be in the way.
    encoder = msgspec.msgpack.Encoder(enc_hook=note)
    for value in (*call.args, *call.kwargs.values()):
        with suppress(Exception):
            encoder.encode(value)
    return list(found.values())
