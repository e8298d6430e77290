"""Annotations in a form that msgspec enforces.

Constraints of other libraries, which msgspec would silently ignore, are translated into its own or refused.
"""

import dataclasses
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Never, NoReturn, Union, cast, get_args, get_origin, get_type_hints

import msgspec
from msgspec import inspect as kinds

from aioq.util.printable import brief
from aioq.wire.own_types import OwnTypes, is_model, is_path

_BOUNDS = {
    "Gt": "gt",
    "Ge": "ge",
    "Lt": "lt",
    "Le": "le",
    "MultipleOf": "multiple_of",
    "MinLen": "min_length",
    "MaxLen": "max_length",
}
"""The constraints of annotated_types (pydantic uses them too), each with its name in `msgspec.Meta`."""

_NOTES = {"DocInfo", "Unit"}
"""Notes in an `Annotated` that constrain nothing."""

_CHECKING = {"annotated_types", "pydantic", "pydantic_core"}
"""Libraries whose notes constrain values. Notes of classes that others derive from theirs do so too."""

_INJECTING = {"fastapi", "fast_depends", "taskiq_dependencies"}
"""Libraries whose notes and defaults stand for an object that their framework makes for each call."""

_PLAIN = (type(None), bool, int, float, str, bytes, list, dict)
"""The classes of the values that msgspec decodes where an annotation asks for no other class."""


class UnsupportedError(TypeError):
    """An annotation that would not be enforced; the message says what to use instead."""


def prepared(kind: Any) -> Any:
    """The annotation with all its constraints as `msgspec.Meta`.

    Raises:
        UnsupportedError: it has a constraint that would not be checked.
    """
    if any(kind is nothing for nothing in (None, NoReturn, Never)):
        return type(None)  # a function that never returns has no result
    if type(kind).__name__ == "TypeAliasType":
        return prepared(kind.__value__)
    if type(get_origin(kind)).__name__ == "TypeAliasType":
        return prepared(get_origin(kind).__value__[get_args(kind)])
    if get_origin(kind) is Annotated:
        inner, *notes = get_args(kind)
        metas = [meta for note in _flat(notes) if (meta := _meta(note)) is not None]
        return Annotated[(prepared(inner), *metas)] if metas else prepared(inner)
    _check_fields(kind, set())
    if get_origin(kind) is Literal or not get_args(kind):
        return kind
    return _rebuilt(kind, tuple(_prepared_argument(argument) for argument in get_args(kind)))


def unfilled(default: object) -> str:
    """The error about a default that only a framework would replace by a value; empty for any other default."""
    if _is_injected(default):
        return f"{default!r} is not called here; {_INSTEAD_OF_INJECTION}"
    if _derives(default, "FieldInfo") and _is_constraint(default):
        return f"its default is {default!r}, which would arrive as it is; write Annotated[..., Field(...)]"
    return ""


def unsendable(kind: Any, own: OwnTypes) -> type | None:
    """The first class in an annotation into which nothing can be decoded; None where there is none."""
    return next((cls for cls in _custom(kinds.type_info(kind), set()) if not _decodable(cls, own)), None)


def advice_on(cls: type) -> str:
    """Advice for somebody whose class cannot be sent, as the end of an error message."""
    instead = getattr(cls, "instead_of_encoding", "")
    if instead:
        return str(instead)
    for native in (dict, list, tuple, set, frozenset):
        if issubclass(cls, native):
            return f"declare a {native.__name__}, and make a {cls.__qualname__} of it in the task"
    return "use plain data or a dataclass, or call app.register_type(...) for it before this declaration"


def _prepared_argument(argument: Any) -> Any:
    is_of_callable = isinstance(argument, list) or argument is ...
    return cast("Any", argument) if is_of_callable else prepared(argument)


def _rebuilt(kind: Any, arguments: tuple[Any, ...]) -> Any:
    if arguments == get_args(kind):
        return kind
    origin = get_origin(kind)
    if origin is Union or origin is types.UnionType:
        return Union[arguments]  # noqa: UP007 - the number of arguments varies
    if hasattr(kind, "copy_with"):
        return kind.copy_with(arguments)
    return types.GenericAlias(cast("type", origin), arguments)


def _flat(notes: list[Any]) -> Iterator[Any]:
    """The notes one by one: a pydantic `Field`, an interval and `Len` each hold several constraints."""
    for note in notes:
        if not _is_constraint(note):
            yield note
        elif _derives(note, "FieldInfo"):
            yield from _flat(note.metadata)
        elif hasattr(note, "__iter__"):
            yield from _flat(list(note))
        else:
            yield note


def _is_constraint(note: Any) -> bool:
    """Whether a note comes from a library that enforces it; all others are comments for readers."""
    cls = cast("Any", type(note))
    if issubclass(cls, type) or is_model(cls) or _derives(note, *_NOTES):
        return False
    return any(_library(base) in _CHECKING for base in cls.__mro__)


def _is_injected(note: object) -> bool:
    """Whether a framework would replace this note or default by an object that it makes itself."""
    return _library(type(note)) in _INJECTING and not _is_constraint(note)


_INSTEAD_OF_INJECTION = "open what tasks share in @app.lifespan, and take it from current_job().state"


def _derives(note: object, *names: str) -> bool:
    return any(base.__name__ in names for base in type(note).__mro__)


def _library(cls: type) -> str:
    return cls.__module__.partition(".")[0]


def _meta(note: Any) -> Any:
    """The note as a `msgspec.Meta`; None for one that constrains nothing."""
    if _is_injected(note):
        raise UnsupportedError(f"{brief(note)} is not called here; {_INSTEAD_OF_INJECTION}")
    if not _is_constraint(note):
        return note
    if _derives(note, "Strict") and note.strict:
        return None  # everything is strict here
    word = next((_BOUNDS[base.__name__] for base in type(note).__mro__ if base.__name__ in _BOUNDS), None)
    if word is not None:
        return msgspec.Meta(**{word: getattr(note, word)})
    said = {key: value for key, value in getattr(note, "__dict__", {}).items() if value is not None}
    if said.keys() == {"pattern"}:
        return msgspec.Meta(pattern=str(said["pattern"]))
    raise UnsupportedError(
        f"{brief(note)} would not be checked; use msgspec.Meta, a bound of annotated_types, or a pydantic model"
    )


def _check_fields(kind: Any, seen: set[Any]) -> None:
    """Refuse classes whose fields have constraints of other libraries.

    msgspec reads the annotations of fields itself, so these constraints cannot be translated for it.
    """
    cls = get_origin(kind) or kind
    if not isinstance(cls, type) or cls in seen or is_model(cls) or not _has_fields(cls):
        return
    seen.add(cls)
    # Of a pydantic dataclass: `int = Field(gt=0)`.
    declared = cast("dict[str, Any]", getattr(cls, "__pydantic_fields__", None) or {})
    for name, hint in get_type_hints(cls, include_extras=True).items():
        parts = list(_parts(hint))
        for note in _flat([*parts, declared.get(name)]):
            if _is_constraint(note) and _meta_or_none(note) is not None:
                raise UnsupportedError(
                    f"field {cls.__qualname__}.{name}: {brief(note)} would not be checked; use msgspec.Meta, or "
                    f"make {cls.__qualname__} a pydantic model"
                )
        for part in parts:
            _check_fields(part, seen)


def _meta_or_none(note: Any) -> Any:
    """The note as a `msgspec.Meta`, or as it is where it cannot be translated; None if it constrains nothing."""
    try:
        return _meta(note)
    except UnsupportedError:
        return note


def _has_fields(cls: Any) -> bool:
    return (
        dataclasses.is_dataclass(cls)
        or issubclass(cls, msgspec.Struct)
        or hasattr(cls, "__attrs_attrs__")
        or hasattr(cls, "__total__")
        or hasattr(cls, "_fields")
    )


def _parts(hint: Any) -> Iterator[Any]:
    yield hint
    for argument in () if get_origin(hint) is Literal else get_args(hint):
        yield from _parts(argument)


def _custom(info: Any, seen: set[int]) -> Iterator[type]:
    """The classes in a type that msgspec does not know and leaves to aioq's hooks."""
    if isinstance(info, kinds.CustomType):
        yield cast("type", get_origin(info.cls) or info.cls)
    elif isinstance(info, kinds.Type) and id(info) not in seen:
        seen.add(id(info))
        for part in parts_of(info):
            yield from _custom(part, seen)


def parts_of(info: kinds.Type) -> list[kinds.Type]:
    """The types that a type is made of."""
    found = cast("Any", info)
    single = [getattr(found, name, None) for name in ("type", "item_type", "key_type", "value_type")]
    several = [*getattr(found, "item_types", ()), *getattr(found, "types", ())]
    fields = [field.type for field in getattr(found, "fields", ())]
    return [part for part in (*single, *several, *fields) if isinstance(part, kinds.Type)]


def _decodable(cls: type, own: OwnTypes) -> bool:
    if cls in own or is_model(cls) or hasattr(cls, "model_validate") or is_path(cls):
        return True
    return any(issubclass(plain, cls) for plain in _PLAIN)  # such as object, Hashable
