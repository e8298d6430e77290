"""Whether a value arrives as it was sent: what a type's values are looked at for, worked out once.

Plain scalars are not looked at. A value that is one of what is declared has to be that exactly, for a subclass
would arrive as less than it was. A value that is something else (a dict for a dataclass, a list for a set) is what
the declared type is to be made of.
"""

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast, get_origin
from uuid import UUID

from msgspec import inspect as kinds

from aioq.annotations import parts_of
from aioq.own_types import OwnTypes, decode_hook, is_model

Check = Callable[[Any], None]
"""Looks at a value; raises `ChangedError` where it would arrive as another one."""

_COLLECTIONS: Mapping[type[kinds.Type], type] = {
    kinds.ListType: list,
    kinds.VarTupleType: tuple,
    kinds.SetType: set,
    kinds.FrozenSetType: frozenset,
}
_WALKED = (list, tuple, set, frozenset)
_OBJECTS = (kinds.DataclassType, kinds.StructType)
_EXACT: Mapping[type[kinds.Type], type] = {
    kinds.NoneType: type(None),
    kinds.BoolType: bool,
    kinds.IntType: int,
    kinds.FloatType: float,
    kinds.StrType: str,
    kinds.BytesType: bytes,
    kinds.DateTimeType: dt.datetime,
    kinds.DateType: dt.date,
    kinds.TimeDeltaType: dt.timedelta,
    kinds.UUIDType: UUID,
}


class ChangedError(ValueError):
    """A value would not arrive as it was sent; the message starts with the path to where."""


def check_of(kind: Any, own: OwnTypes) -> Check | None:
    """What values of a type are to be looked at by; None where there is nothing to look at."""
    return _Compiler(own).compile(kinds.type_info(kind))


def surely(kind: Any, own: OwnTypes) -> frozenset[type]:
    """The classes whose very instances are of a type without a look at them."""
    return _surely(kinds.type_info(kind), own)


def _surely(info: kinds.Type, own: OwnTypes) -> frozenset[type]:
    if isinstance(info, kinds.UnionType):
        return frozenset[type]().union(*(_surely(each, own) for each in info.types))
    if isinstance(info, kinds.CustomType):
        return frozenset({info.cls}) if info.cls in own else frozenset()
    if isinstance(info, kinds.EnumType):
        return frozenset({info.cls})
    exact = _EXACT.get(type(info))
    if isinstance(info, (kinds.ListType, kinds.DictType)):
        exact = _bare(info)
        return frozenset() if exact is None else frozenset({exact})
    constraints = (getattr(info, name) for name in info.__struct_fields__)
    return frozenset() if exact is None or any(each is not None for each in constraints) else frozenset({exact})


def _bare(info: kinds.ListType | kinds.DictType) -> type | None:
    """A list or dict, where it may hold anything."""
    bounds = (info.min_length, info.max_length)
    if bounds != (None, None) or any(not isinstance(part, kinds.AnyType) for part in parts_of(info)):
        return None
    return list if isinstance(info, kinds.ListType) else dict


class _Compiler:
    def __init__(self, own: OwnTypes) -> None:
        self._own = own
        self._begun: dict[Any, list[Check]] = {}

    def compile(self, info: kinds.Type) -> Check | None:
        if isinstance(info, _OBJECTS):
            return self._object(info)
        if isinstance(info, kinds.DictType):
            return self._mapping(info)
        if type(info) in _COLLECTIONS:
            return _collection(_COLLECTIONS[type(info)], self.compile(cast("Any", info).item_type))
        if isinstance(info, kinds.UnionType):
            return self._union(info)
        if isinstance(info, kinds.CustomType):
            return self._custom(info)
        rest = _REST.get(type(info))
        return rest(self, info) if rest is not None else None

    def _object(self, info: Any) -> Check:
        cls = get_origin(info.cls) or info.cls
        if info.cls in self._begun:  # a type that holds itself
            held = self._begun[info.cls]
            return lambda value: held[0](value)  # noqa: PLW0108 - it is not there yet
        held = self._begun[info.cls] = []
        fields = [(field.name, look) for field in info.fields if (look := self.compile(field.type)) is not None]
        whole = _round_trip(cls, self._own) if _has_hook(cls) else None

        def check(value: Any) -> None:
            if type(value) is not cls:
                return _exactly(value, cls)
            for name, look in fields:
                _at(f".{name}", look, getattr(value, name))
            if whole is not None:
                whole(value)
            return None

        held.append(check)
        return check

    def _mapping(self, info: kinds.DictType) -> Check:
        keys, values = self.compile(info.key_type), self.compile(info.value_type)

        def check(value: Any) -> None:
            _exactly(value, dict)
            if not isinstance(value, dict):
                return
            for key, held in cast("dict[Any, Any]", value).items():
                if keys is not None:
                    _at(f"[{key!r}]", keys, key)
                if values is not None:
                    _at(f"[{key!r}]", values, held)

        return check if keys or values else lambda value: _exactly(value, dict)

    def _union(self, info: kinds.UnionType) -> Check | None:
        by_class: dict[type, Check] = {}
        checks: list[Check] = []
        for each in info.types:
            if (look := self.compile(each)) is not None:
                checks.append(look)
                by_class[get_origin(getattr(each, "cls", None)) or getattr(each, "cls", type(each))] = look
        if not checks:
            return None

        def check(value: Any) -> None:
            for look in [by_class[type(value)]] if type(value) in by_class else checks:
                look(value)

        return check

    def _custom(self, info: kinds.CustomType) -> Check | None:
        cls: Any = get_origin(info.cls) or info.cls
        if not is_model(cls):
            return None
        whole = _round_trip(info.cls, self._own)

        def check(value: Any) -> None:
            if type(value) is not cls:
                return _exactly(value, cls)
            return whole(value)

        return check

    def typed_dict(self, info: kinds.TypedDictType) -> Check:
        """A dict with its keys: others would be left out."""
        fields = {field.name: self.compile(field.type) for field in info.fields}
        name = info.cls.__qualname__

        def check(value: Any) -> None:
            _exactly(value, dict)
            if not isinstance(value, dict):
                return
            for key, held in cast("dict[Any, Any]", value).items():
                if key not in fields:
                    raise ChangedError(f": {name} has no key {key!r}, which would not arrive")
                if (look := fields[key]) is not None:
                    _at(f"[{key!r}]", look, held)

        return check

    def tuple_of(self, info: kinds.TupleType) -> Check:
        """A tuple of so many, each of its own type."""
        return _tuple(tuple, [("", self.compile(each)) for each in info.item_types])

    def named_tuple(self, info: kinds.NamedTupleType) -> Check:
        """A named tuple."""
        return _tuple(info.cls, [(field.name, self.compile(field.type)) for field in info.fields])


_REST: Mapping[type[kinds.Type], Callable[[_Compiler, Any], Check | None]] = {
    kinds.TypedDictType: _Compiler.typed_dict,
    kinds.TupleType: _Compiler.tuple_of,
    kinds.NamedTupleType: _Compiler.named_tuple,
    kinds.Metadata: lambda compiler, info: compiler.compile(info.type),
    kinds.TimeType: lambda _compiler, _info: _time,
    kinds.DateType: lambda _compiler, _info: _date,
}


def _collection(base: type, look: Check | None) -> Check:
    def check(value: Any) -> None:
        _exactly(value, base)
        if look is not None and isinstance(value, _WALKED):
            for index, each in enumerate(cast("list[Any]", value)):
                _at(f"[{index}]", look, each)

    return check


def _tuple(cls: Any, parts: list[tuple[str, Check | None]]) -> Check:
    cls = get_origin(cls) or cls

    def check(value: Any) -> None:
        _exactly(value, cls)
        if isinstance(value, (tuple, list)):
            for index, (each, (name, look)) in enumerate(zip(cast("list[Any]", value), parts, strict=False)):
                if look is not None:
                    _at(f".{name}" if name else f"[{index}]", look, each)

    return check


def _exactly(value: Any, cls: Any) -> None:
    """Refuse a value of a subclass."""
    if isinstance(value, cls) and type(value) is not cls:
        name, declared = type(value).__qualname__, cls.__qualname__
        raise ChangedError(f": {name} would arrive as {declared}; declare {name}, or send {declared}")


def _time(value: Any) -> None:
    if isinstance(value, dt.time) and value.tzinfo is not None and value.utcoffset() is None:
        raise ChangedError(f": the zone {value.tzinfo} would not arrive, for its offset depends on the day")


def _date(value: Any) -> None:
    if isinstance(value, dt.datetime):
        raise ChangedError(": a datetime is no date; send its .date(), or declare a datetime")


def _at(path: str, look: Check, value: Any) -> None:
    try:
        look(value)
    except ChangedError as error:
        raise ChangedError(f"{path}{error}") from None


def _has_hook(cls: type) -> bool:
    """Whether code of the class runs when a value is made of what arrives."""
    return hasattr(cls, "__post_init__") or hasattr(cls, "__attrs_post_init__")


def _round_trip(cls: Any, own: OwnTypes) -> Check:
    """Encode a value, decode it, and compare: for classes with code of their own between the two."""
    decoder = own.decoder(cls)

    def check(value: Any) -> None:
        try:
            arrived = decoder.decode(own.encoder.encode(value))
        except Exception as error:
            raise ChangedError(f": it cannot be read again: {error}") from None
        difference = _difference(value, arrived, _PARTS)
        if difference is not None and is_model(cls):
            difference = _difference(value, arrived, _PARTS_WITH_DEFAULTS)
        if difference is not None:
            raise ChangedError(difference)

    return check


def _difference(sent: Any, arrived: Any, take_apart: "_TakeApart") -> str | None:
    """Where two values differ, and how; None where they do not."""
    if type(sent) is not type(arrived):
        return f": {type(sent).__qualname__} would arrive as {type(arrived).__qualname__}"
    for parts_in in take_apart:
        parts = parts_in(sent)
        if parts is not None:
            return _difference_in(parts, parts_in(arrived) or {}, take_apart)
    return None if _equal(sent, arrived) else f": it would arrive as another {type(sent).__qualname__}"


def _equal(sent: Any, arrived: Any) -> bool:
    try:
        return bool(sent == arrived or sent != sent)  # noqa: PLR0124 - not a number, which equals nothing
    except Exception:
        return False


def _difference_in(sent: dict[str, Any], arrived: dict[str, Any], take_apart: "_TakeApart") -> str | None:
    for path, value in sent.items():
        if path not in arrived:
            return f"{path}: it would not arrive"
        if (inner := _difference(value, arrived[path], take_apart)) is not None:
            return f"{path}{inner}"
    missing = next((path for path in arrived if path not in sent), None)
    return None if missing is None else f"{missing}: it was not there, and would arrive"


def _parts_of_model(value: Any) -> dict[str, Any] | None:
    cls = cast("Any", type(value))
    if not is_model(cls):
        return None
    names = cast(
        "Any", getattr(cls, "model_fields", None) or vars(value)
    )  # beside them it holds what it has cached
    extra = cast("Any", getattr(value, "__pydantic_extra__", None) or {})
    return {f".{name}": getattr(value, name, None) for name in (*names, *extra)}


def _parts_with_defaults(value: Any) -> dict[str, Any] | None:
    """The same; a default that the class gives in a form of another type counts as what validation makes of it."""
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
