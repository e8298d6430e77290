"""Types that MessagePack does not have: pydantic models, paths, and those that an App registers.

A pydantic model goes in its own Python form and not in that of JSON, so that secrets and bytes stay what they are;
validation on arrival makes its types of it again.
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
"""What msgspec encodes with its subclasses, without asking."""

_PLAIN = (type(None), bool, int, float, str, bytes)


@dataclass(frozen=True, slots=True)
class _Own:
    encode: Callable[[Any], object]
    decode: Callable[[Any], object]


class OwnTypes:
    """The types that one App has registered, and how everything of it is encoded and decoded.

    Attributes:
        encoder: encodes arguments and results.
    """

    def __init__(self) -> None:
        self._own: dict[type, _Own] = {}
        self.encoder = msgspec.msgpack.Encoder(enc_hook=self._encode)

    def register(self, kind: Any, encode: Any, decode: Any) -> None:
        """Add a type; the same once more is nothing new.

        Raises:
            ConfigError: it is sent already without that, or registered otherwise, or what is given is no function.
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
        """A decoder into a type.

        Raises:
            TypeError: nothing can be decoded into it.
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

    The error says what to do in its place where the class of the object has it, as `instead_of_encoding`.
    """
    if is_model(type(value)):
        # Field by field and here, for what msgspec does not know of it is pydantic's to put into words.
        dumped = cast("Any", value).model_dump(mode="python", by_alias=False, round_trip=True, warnings=False)
        return msgspec.Raw(_MODELS.encode(dumped))
    if isinstance(value, PurePath):
        return str(value)
    awaits = "an await is missing before what made it" if issubclass(type(value), Coroutine) else ""
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
    # A model is sent under its fields' names, in the forms MessagePack has: an alias or strictness of its own must
    # not change what another model of the same class has written.
    return validate(value, strict=False, by_name=True, by_alias=True)


def is_model(cls: type) -> bool:
    """Whether this is a pydantic model, or a class that can be dumped and validated like one."""
    return hasattr(cls, "model_dump") and hasattr(cls, "model_validate")


def is_path(cls: Any) -> bool:
    """Whether this is a class of paths."""
    return isinstance(cls, type) and issubclass(cls, PurePath)


def _encode_field(value: object) -> object:
    """A value in a model that msgspec does not know: a secret as it is, other things as pydantic puts them."""
    secret: Callable[[], object] | None = getattr(value, "get_secret_value", None)
    if secret is not None:
        return secret()
    if is_model(type(value)) or isinstance(value, PurePath):
        return encode_hook(value)
    core = cast("Any", sys.modules.get("pydantic_core"))  # there, for there is a model, if it is one of pydantic's
    return encode_hook(value) if core is None else core.to_jsonable_python(value)


_MODELS = msgspec.msgpack.Encoder(enc_hook=_encode_field)


def _known_already(kind: type) -> str:
    """Why a type needs no functions, or would not be asked for them; empty where it can be registered."""
    for native in _NATIVE:
        if issubclass(kind, native):
            return f"a {native.__name__} is sent as one, and so are its subclasses; put a class around it"
    if is_model(kind) or is_path(kind):
        return "it is sent as it is already"
    try:
        info = msgspec.inspect.type_info(kind)
    except Exception as error:
        return f"it is no type that can have functions of its own: {error}"
    return "" if isinstance(info, msgspec.inspect.CustomType) else "it is sent as it is already"


def _not_plain(value: Any) -> object:
    """The first value in plain data that is not plain; None where all is."""
    if type(value) in _PLAIN:
        return None
    if type(value) not in {list, tuple, dict}:
        return value
    held: Any = value
    parts: list[Any] = [*held.keys(), *held.values()] if type(value) is dict else list(held)
    return next((found for part in parts if (found := _not_plain(part)) is not None), None)


NO_OWN_TYPES = OwnTypes()
"""The types of no App; nothing is ever registered with it."""
