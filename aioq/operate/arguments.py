"""The filter by arguments: compares those of a call with the wanted ones, as plain data."""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from aioq.errors import ArgumentError, ConfigError, WireError
from aioq.util.printable import brief
from aioq.wire.messages import UNREADABLE, decode_envelope
from aioq.wire.signature import Signature

Arguments = Sequence[tuple[str | int, Any]]
"""By name or position the wanted arguments, as plain data: as they are on the wire."""


def plain_arguments(where: str, given: object, encoder: msgspec.msgpack.Encoder) -> Arguments:
    """The wanted arguments as plain data.

    Raises:
        ConfigError: they are no mapping of names or positions, or one cannot be encoded.
    """
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where}={brief(given)}: expected a dict such as {{'user_id': 7}}")
    found: list[tuple[str | int, Any]] = []
    for name, value in given.items():  # pyright: ignore[reportUnknownVariableType] - anything may be given
        is_position = isinstance(name, int) and not isinstance(name, bool) and name >= 0
        if not (is_position or (isinstance(name, str) and name)):
            raise ConfigError(f"{where}: {brief(name)}: expected the name of a parameter, or a position from 0 on")  # pyright: ignore[reportUnknownArgumentType] - any object
        try:
            found.append((name, msgspec.msgpack.decode(encoder.encode(value))))  # pyright: ignore[reportUnknownArgumentType] - any object
        except Exception as error:
            raise ConfigError(f"{where}: {name}={brief(value)}: no argument can be this: {error}") from error  # pyright: ignore[reportUnknownArgumentType] - any object
    return tuple(found)


class Parameters:
    """Names the positional arguments of calls.

    Args:
        signature_of: the signature of a task; None for one that is not known here, whose positional arguments are
            then known by their position alone.
    """

    def __init__(self, signature_of: Callable[[str], Signature | None]) -> None:
        self._signature_of = signature_of

    def match(self, task: str, call: bytes, wanted: Arguments) -> bool:
        """Whether a call has the wanted arguments. One that is gone, or that cannot be read, has none."""
        with contextlib.suppress(WireError, *UNREADABLE):
            envelope = decode_envelope(call)
            args: list[object] = msgspec.msgpack.decode(envelope.args, type=list[object])
            kwargs: dict[str, object] = msgspec.msgpack.decode(envelope.kwargs, type=dict[str, object])
            there: dict[str | int, object] = {**dict(enumerate(args)), **kwargs}
            signature = self._signature_of(task)
            if signature is not None:
                there |= signature.named(args, kwargs)
            return all(name in there and _is_same(there[name], value) for name, value in wanted)
        return False

    def changed(
        self, task: str, call: bytes, changes: Iterable[tuple[str | int, Any]]
    ) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of a call, as plain data, with others in the place of some of them.

        Raises:
            ArgumentError: the call has no argument at such a position, or it cannot be read.
        """
        try:
            envelope = decode_envelope(call)
            args: list[Any] = msgspec.msgpack.decode(envelope.args, type=list[Any])
            kwargs: dict[str, Any] = msgspec.msgpack.decode(envelope.kwargs, type=dict[str, Any])
        except (WireError, *UNREADABLE) as error:
            raise ArgumentError(f"task {task!r}: the call cannot be read: {error}") from error
        signature = self._signature_of(task)
        names = [] if signature is None else [name for name, _ in signature.named(args, {})]
        for name, value in changes:
            if isinstance(name, str) and name not in names:
                if args and signature is None and name not in kwargs:
                    raise ArgumentError(
                        f"task {task!r} is not known here, and its call has {len(args)} arguments by position: "
                        f"give the position of {name!r}, from 0 on, in place of its name"
                    )
                kwargs[name] = value
                continue
            place = names.index(name) if isinstance(name, str) else name
            if place >= len(args):
                raise ArgumentError(
                    f"task {task!r}: the call has no argument at position {place}; it has {len(args)} by position"
                )
            args[place] = value
        return args, kwargs


def _is_same(one: object, other: object) -> bool:
    """Whether two plain values are the same; True is not 1."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)
