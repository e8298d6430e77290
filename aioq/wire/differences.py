"""The first difference between a value that is sent and the value that arrives."""

import dataclasses
import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any, cast

from msgspec import UNSET

from aioq.wire.own_types import decode_hook, is_model


def difference(sent: Any, arrived: Any) -> str | None:
    """The path to the first difference and what it is, as the end of an error message; None if there is none."""
    found = _difference(sent, arrived, _PARTS)
    if found is not None and is_model(cast("Any", type(sent))):
        found = _difference(sent, arrived, _PARTS_WITH_DEFAULTS)
    return found


def named_parts(value: Any) -> dict[Any, Any] | None:
    """The fields of an object or the keys of a dict, by the names that they are sent under; None for others."""
    if isinstance(value, dict):
        return cast("dict[Any, Any]", value)
    cls = cast("Any", type(value))
    if is_model(cls):
        parts = _parts_of_model(value) or {}
        return {path[1:]: held for path, held in parts.items()}
    if (names := getattr(cls, "__struct_fields__", None)) is not None:
        sent = zip(cls.__struct_encode_fields__, names, strict=True)
        return {key: held for key, name in sent if (held := getattr(value, name)) is not UNSET}
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else getattr(cls, "__attrs_attrs__", ())
    names = [field.name for field in fields]
    return {name: getattr(value, name) for name in names if hasattr(value, name)} if names else None


def _difference(sent: Any, arrived: Any, take_apart: "_TakeApart") -> str | None:
    if type(sent) is not type(arrived):
        return f": {type(sent).__qualname__} would arrive as {type(arrived).__qualname__}"
    for parts_in in take_apart:
        parts = parts_in(sent)
        if parts is not None:
            return _difference_in(parts, parts_in(arrived) or {}, take_apart)
    return None if _equal(sent, arrived) else f": another {type(sent).__qualname__} would arrive"


def _equal(sent: Any, arrived: Any) -> bool:
    try:
        if isinstance(sent, dt.datetime) and sent.tzinfo is not None:
            # In the hour that clocks repeat in autumn, Python finds times of two different zones never equal.
            return sent.astimezone(dt.UTC) == arrived.astimezone(dt.UTC)
        if isinstance(sent, dt.time) and sent.fold != arrived.fold:
            return False
        return bool(sent == arrived or sent != sent)  # noqa: PLR0124 - NaN, which equals nothing
    except Exception:
        return False


def _difference_in(sent: dict[str, Any], arrived: dict[str, Any], take_apart: "_TakeApart") -> str | None:
    for path, value in sent.items():
        if path not in arrived:
            return f"{path}: it would not arrive"
        if (inner := _difference(value, arrived[path], take_apart)) is not None:
            return f"{path}{inner}"
    missing = next((path for path in arrived if path not in sent), None)
    return None if missing is None else f"{missing}: it would arrive although it was not sent"


def _parts_of_model(value: Any) -> dict[str, Any] | None:
    cls = cast("Any", type(value))
    if not is_model(cls):
        return None
    # Only the fields: `vars` also has what the model has cached.
    names = cast("Any", getattr(cls, "model_fields", None) or vars(value))
    extra = cast("Any", getattr(value, "__pydantic_extra__", None) or {})
    return {f".{name}": getattr(value, name, None) for name in (*names, *extra)}


def _parts_with_defaults(value: Any) -> dict[str, Any] | None:
    """The fields of a model, with its defaults validated.

    A class may give a default of another type than its field has. Then what validation makes of it is compared.
    """
    parts = _parts_of_model(value)
    given = getattr(value, "model_fields_set", None)
    if parts is None or given is None or len(given) == len(parts):
        return parts
    dumped = value.model_dump(mode="python", by_alias=False, round_trip=True, warnings=False)
    made = _parts_of_model(decode_hook(cast("Any", type(value)), dumped)) or {}
    for path, default in parts.items():
        if path[1:] not in given and type(made.get(path)) is not type(default):
            parts[path] = made.get(path)
    return parts


def _parts_of_object(value: Any) -> dict[str, Any] | None:
    cls = cast("Any", type(value))
    names = getattr(cls, "__struct_fields__", None) or getattr(cls, "__dataclass_fields__", None)
    if names is None and hasattr(cls, "__attrs_attrs__"):
        names = [field.name for field in cls.__attrs_attrs__ if field.eq]  # the others do not count in comparisons
    return None if names is None else {f".{name}": getattr(value, name, None) for name in names}


def _parts_of_dict(value: Any) -> dict[str, Any] | None:
    if not isinstance(value, dict):
        return None
    return {f"[{key!r}]": held for key, held in cast("dict[Any, Any]", value).items()}


def _parts_of_list(value: Any) -> dict[str, Any] | None:
    if not isinstance(value, (list, tuple)):
        return None
    return {f"[{index}]": held for index, held in enumerate(cast("list[Any]", value))}


_TakeApart = Sequence[Callable[[Any], dict[str, Any] | None]]

_PARTS: _TakeApart = (_parts_of_model, _parts_of_object, _parts_of_dict, _parts_of_list)
_PARTS_WITH_DEFAULTS: _TakeApart = (_parts_with_defaults, *_PARTS[1:])
