"""Annotations as they are declared: what msgspec would pass over in silence is translated for it, or refused."""

import dataclasses
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Never, NoReturn, Union, cast, get_args, get_origin, get_type_hints

import msgspec
from msgspec import inspect as kinds

from aioq.own_types import OwnTypes, is_model, is_path

_BOUNDS = {
    "Gt": "gt",
    "Ge": "ge",
    "Lt": "lt",
    "Le": "le",
    "MultipleOf": "multiple_of",
    "MinLen": "min_length",
    "MaxLen": "max_length",
}
"""What the constraints of annotated_types, which pydantic uses too, are called in `msgspec.Meta`."""

_NOTES = {"DocInfo", "Unit"}
"""What constrains nothing."""

_PLAIN = (type(None), bool, int, float, str, bytes, list, dict)
"""What arrives where nothing else is asked for."""


class UnsupportedError(TypeError):
    """An annotation cannot be kept to; the message says what does."""


def prepared(kind: Any) -> Any:
    """An annotation with all its constraints in words that msgspec knows.

    Raises:
        UnsupportedError: it has one that would not be checked.
    """
    if any(kind is nothing for nothing in (None, NoReturn, Never)):
        return type(None)  # what never returns has no result
    if type(kind).__name__ == "TypeAliasType":
        return prepared(kind.__value__)
    if get_origin(kind) is Annotated:
        inner, *notes = get_args(kind)
        metas = [meta for note in _flat(notes) if (meta := _meta(note)) is not None]
        return Annotated[(prepared(inner), *metas)] if metas else prepared(inner)
    _see_fields(kind, set())
    if get_origin(kind) is Literal or not get_args(kind):
        return kind
    return _rebuilt(kind, tuple(_prepared_argument(argument) for argument in get_args(kind)))


def unsendable(kind: Any, own: OwnTypes) -> type | None:
    """The first class in an annotation that nothing can be decoded into; None where there is none."""
    return next((cls for cls in _custom(kinds.type_info(kind), set()) if not _decodable(cls, own)), None)


def advice_on(cls: type) -> str:
    """What to do about a class that cannot be sent."""
    instead = getattr(cls, "instead_of_encoding", "")
    if instead:
        return str(instead)
    for native in (dict, list, tuple, set, frozenset):
        if issubclass(cls, native):
            return f"declare a {native.__name__}, and make a {cls.__qualname__} of it in the task"
    return "use plain data or a dataclass, or before this declaration app.register_type(...) with its functions"


def _prepared_argument(argument: Any) -> Any:
    is_of_callable = isinstance(argument, list) or argument is ...
    return cast("Any", argument) if is_of_callable else prepared(argument)


def _rebuilt(kind: Any, arguments: tuple[Any, ...]) -> Any:
    if arguments == get_args(kind):
        return kind
    origin = get_origin(kind)
    if origin is Union or origin is types.UnionType:
        return Union[arguments]  # noqa: UP007 - of as many as there are
    if hasattr(kind, "copy_with"):
        return kind.copy_with(arguments)
    return types.GenericAlias(cast("type", origin), arguments)


def _flat(notes: list[Any]) -> Iterator[Any]:
    """The single constraints: those of a pydantic `Field`, of an interval, of `Len`."""
    for note in notes:
        if not _is_constraint(note):
            yield note
        elif type(note).__name__ == "FieldInfo":
            yield from _flat(note.metadata)
        elif hasattr(note, "__iter__"):
            yield from _flat(list(note))
        else:
            yield note


def _is_constraint(note: Any) -> bool:
    """Whether a note comes from a library that checks what it says; others are notes for whoever reads them."""
    if isinstance(note, type) or type(note).__name__ in _NOTES:
        return False
    return type(note).__module__.partition(".")[0] in {"annotated_types", "pydantic", "pydantic_core"}


def _meta(note: Any) -> Any:
    """A note in words that msgspec knows; None for one that constrains nothing."""
    name = type(note).__name__
    if not _is_constraint(note):
        return note
    if name == "Strict" and note.strict:
        return None  # as everything here
    if name in _BOUNDS:
        word = _BOUNDS[name]
        return msgspec.Meta(**{word: getattr(note, word)})
    said = {key: value for key, value in getattr(note, "__dict__", {}).items() if value is not None}
    if said.keys() == {"pattern"}:
        return msgspec.Meta(pattern=str(said["pattern"]))
    raise UnsupportedError(
        f"{note!r} would not be checked; use msgspec.Meta, a bound of annotated_types, or a pydantic model"
    )


def _see_fields(kind: Any, seen: set[Any]) -> None:
    """See that no class in an annotation has a constraint that msgspec does not know: it reads fields itself."""
    cls = get_origin(kind) or kind
    if not isinstance(cls, type) or cls in seen or is_model(cls) or not _has_fields(cls):
        return
    seen.add(cls)
    for name, hint in get_type_hints(cls, include_extras=True).items():
        for part in _parts(hint):
            if _is_constraint(part):
                raise UnsupportedError(
                    f"field {cls.__qualname__}.{name}: {part!r} would not be checked; use msgspec.Meta, or make "
                    f"{cls.__qualname__} a pydantic model"
                )
            _see_fields(part, seen)


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
    """The classes in a type that msgspec leaves to us."""
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
