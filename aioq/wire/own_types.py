"""Types that MessagePack does not have: pydantic models, paths, and those that an App registers.

A pydantic model is sent in its Python form, not in its JSON form, so that secrets and bytes keep their values.
On arrival pydantic's validation makes a model from it.
"""

import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, cast, get_origin

import msgspec

from aioq.errors import ConfigError
from aioq.util.function_identity import same_function
from aioq.util.printable import brief

_NATIVE = (dict, list, tuple, set, frozenset)
"""Classes that msgspec encodes itself, and their subclasses too: it calls no hook for them."""

_PLAIN = (type(None), bool, int, float, str, bytes)


@dataclass(frozen=True, slots=True)
class _Own:
    encode: Callable[[Any], object]
    decode: Callable[[Any], object]


class OwnTypes:
    """The types that one App has registered, and the encoder and decoders that know them.

    Attributes:
        encoder: encodes arguments and results.
        ordered: encodes values that are equal to equal bytes, whatever the order of their maps and sets.
    """

    def __init__(self) -> None:
        self._own: dict[type, _Own] = {}
        self.encoder = msgspec.msgpack.Encoder(enc_hook=self._encode)
        self.ordered = msgspec.msgpack.Encoder(enc_hook=self._encode, order="deterministic")

    def register(self, kind: Any, encode: Any, decode: Any) -> None:
        """Register a type; to register it again with the same functions changes nothing.

        Raises:
            ConfigError: the type can be sent without that, it is registered with other functions, or what is
                given is no function.
        """
        where = f"register_type({getattr(kind, '__qualname__', None) or brief(kind)})"
        if not isinstance(kind, type):
            raise ConfigError(f"{where}: expected a class, got {brief(kind)}")
        for name, function in (("encode", encode), ("decode", decode)):
            if not callable(function):
                raise ConfigError(f"{where}: {name}={brief(function)}: expected a function")
        if why := _known_already(kind):
            raise ConfigError(f"{where}: {why}")
        own, present = _Own(encode, decode), self._own.get(kind)
        if present is not None and not (
            same_function(present.encode, encode) and same_function(present.decode, decode)
        ):
            raise ConfigError(f"{where}: it is registered already, with other functions")
        self._own[kind] = own

    def __contains__(self, kind: type) -> bool:
        return kind in self._own

    def decoder(self, kind: Any) -> "msgspec.msgpack.Decoder[Any]":
        """A decoder that makes values of a type.

        Raises:
            TypeError: nothing can be decoded into that type.
        """
        return msgspec.msgpack.Decoder(kind, dec_hook=self._decode)

    def _encode(self, value: object) -> object:
        own = self._own.get(type(value))
        if own is None:
            return encode_hook(value)
        name = type(value).__qualname__
        try:
            plain = own.encode(value)
        except Exception as error:
            why = f"raised {type(error).__qualname__}: {error}"
            raise TypeError(f"the function that encodes {name} {why}") from error
        if (odd := _not_plain(plain)) is not None:
            raise TypeError(
                f"the function that encodes {name} returned a {type(odd).__qualname__}; it may return None, "
                "bool, int, float, str, bytes, and lists, tuples and dicts of them"
            )
        return plain

    def _decode(self, cls: type, value: object) -> object:
        kind: Any = get_origin(cls) or cls
        own = self._own.get(kind)
        if own is None:
            return decode_hook(cls, value)
        try:
            made = own.decode(value)
        except Exception as error:
            why = f"raised {type(error).__qualname__}: {error}"
            raise ValueError(f"The function that decodes {kind.__qualname__} {why}") from error
        if not isinstance(made, kind):
            raise ValueError(f"The function that decodes {kind.__qualname__} returned a {type(made).__qualname__}")  # noqa: TRY004 - msgspec adds the path to this one
        return made


def encode_hook(value: object) -> object:
    """Turn a pydantic model or a path into plain data; anything else msgspec does not know is refused.

    Where the class of the object has a text `instead_of_encoding`, the error ends with this advice.
    """
    if is_model(type(value)):
        # Encoded at once and with another hook: pydantic converts those field values that msgspec does not know.
        dumped = cast("Any", value).model_dump(mode="python", by_alias=False, round_trip=True, warnings=False)
        return msgspec.Raw(_MODELS.encode(dumped))
    if isinstance(value, PurePath):
        return str(value)
    awaits = "an await is missing in front of it" if issubclass(type(value), Coroutine) else ""
    instead = getattr(type(value), "instead_of_encoding", awaits)
    advice = f" ({instead})" if instead else ""
    raise NotImplementedError(f"objects of type {type(value).__qualname__} have no MessagePack form{advice}")


def decode_hook(cls: type, value: object) -> object:
    """Build a pydantic model or a path from plain data; other classes are left to msgspec's own check."""
    validate: Callable[..., object] | None = getattr(cls, "model_validate", None)
    if validate is None:
        return cls(value) if is_path(cls) and isinstance(value, str) else value
    if not hasattr(cls, "__pydantic_validator__"):
        return validate(value)
    # A model is sent with its fields' names, and in types that MessagePack has. Aliases and a strict mode of the
    # model must not change how values that a sender wrote are read.
    return validate(value, strict=False, by_name=True, by_alias=True)


def is_model(cls: type) -> bool:
    """Whether this is a pydantic model, or a class that can be dumped and validated like one."""
    return hasattr(cls, "model_dump") and hasattr(cls, "model_validate")


def is_path(cls: Any) -> bool:
    """Whether this is a class of paths."""
    return isinstance(cls, type) and issubclass(cls, PurePath)


def _encode_field(value: object) -> object:
    """Plain data for a field's value that msgspec does not know: a secret's own value, or what pydantic makes."""
    secret: Callable[[], object] | None = getattr(value, "get_secret_value", None)
    if secret is not None:
        return secret()
    if is_model(type(value)) or isinstance(value, PurePath):
        return encode_hook(value)
    core = cast("Any", sys.modules.get("pydantic_core"))  # imported already if the model is one of pydantic's
    return encode_hook(value) if core is None else core.to_jsonable_python(value)


_MODELS = msgspec.msgpack.Encoder(enc_hook=_encode_field)


def _known_already(kind: type) -> str:
    """Why a type needs no functions, or why msgspec would never call them; empty if it can be registered."""
    for native in _NATIVE:
        if issubclass(kind, native):
            name = native.__name__
            return f"a {name} and its subclasses are sent as a {name}; put it into a class of its own"
    if is_model(kind) or is_path(kind):
        return "it can be sent without that"
    try:
        info = msgspec.inspect.type_info(kind)
    except Exception as error:
        return f"functions cannot be registered for it: {error}"
    return "" if isinstance(info, msgspec.inspect.CustomType) else "it can be sent without that"


def _not_plain(value: Any) -> object:
    """The first value in there that is no plain data; None if there is none."""
    if type(value) in _PLAIN:
        return None
    if type(value) not in {list, tuple, dict}:
        return value
    held: Any = value
    parts: list[Any] = [*held.keys(), *held.values()] if type(value) is dict else list(held)
    return next((found for part in parts if (found := _not_plain(part)) is not None), None)


NO_OWN_TYPES = OwnTypes()
"""The registered types where there is no App: always empty."""
