"""Checks that a value arrives as it was sent, compiled once for each type.

Plain scalars are not checked. A value of the declared class must be of exactly that class, because a subclass
would lose what it adds. A value of another class (a dict for a dataclass, a list for a set) is the input from
which the declared type is made.
"""

import dataclasses
import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, cast, get_origin
from uuid import UUID

from msgspec import inspect as kinds

from aioq.wire.annotations import parts_of
from aioq.wire.differences import difference, named_parts
from aioq.wire.own_types import OwnTypes, is_model, is_path

ValueCheck = Callable[[Any], None]
"""Checks a value; raises `ChangedError` if another one would arrive."""

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


_UNSET = object()


class ChangedError(ValueError):
    """A value would not arrive as it was sent; the message starts with the path to the part that would change."""


def check_of(kind: Any, own: OwnTypes) -> ValueCheck | None:
    """The check of the values of a type; None where nothing has to be checked."""
    return _Compiler(own).compile(kinds.type_info(kind))


def exact_classes(kind: Any, own: OwnTypes) -> frozenset[type]:
    """The classes whose direct instances fit a type without a check."""
    return _exact_classes(kinds.type_info(kind), own)


def _exact_classes(info: kinds.Type, own: OwnTypes) -> frozenset[type]:
    if isinstance(info, kinds.UnionType):
        return frozenset[type]().union(*(_exact_classes(each, own) for each in info.types))
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
    """`list` or `dict` for one without bounds whose items are Any; else None."""
    bounds = (info.min_length, info.max_length)
    if bounds != (None, None) or any(not isinstance(part, kinds.AnyType) for part in parts_of(info)):
        return None
    return list if isinstance(info, kinds.ListType) else dict


class _Compiler:
    def __init__(self, own: OwnTypes) -> None:
        self._own = own
        self._begun: dict[Any, list[ValueCheck]] = {}

    def compile(self, info: kinds.Type) -> ValueCheck | None:
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

    def _object(self, info: Any) -> ValueCheck:
        cls = get_origin(info.cls) or info.cls
        if info.cls in self._begun:  # a recursive type
            held = self._begun[info.cls]
            return lambda value: held[0](value)  # noqa: PLW0108 - the check is put in there later
        held = self._begun[info.cls] = []
        checks = [(field, self.compile(field.type)) for field in info.fields]
        fields = [(field.name, inner) for field, inner in checks if inner is not None]
        other = _made_of_other(info, {field.encode_name: inner for field, inner in checks})
        whole = _round_trip(cls, self._own) if _has_hook(cls) or _may_lack_fields(cls) else None

        def check(value: Any) -> None:
            if type(value) is not cls:
                _exactly(value, cls)
                return other(value)
            for name, inner in fields:
                if (held := getattr(value, name, _UNSET)) is _UNSET:
                    raise ChangedError(f".{name}: it has no value")
                _at(f".{name}", inner, held)
            if whole is not None:
                whole(value)
            return None

        held.append(check)
        return check

    def _mapping(self, info: kinds.DictType) -> ValueCheck:
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

    def _union(self, info: kinds.UnionType) -> ValueCheck | None:
        by_class: dict[type, ValueCheck] = {}
        checks: list[ValueCheck] = []
        for each in info.types:
            if (inner := self.compile(each)) is not None:
                checks.append(inner)
                by_class[get_origin(getattr(each, "cls", None)) or getattr(each, "cls", type(each))] = inner
        if not checks:
            return None

        def check(value: Any) -> None:
            for inner in [by_class[type(value)]] if type(value) in by_class else checks:
                inner(value)

        return check

    def _custom(self, info: kinds.CustomType) -> ValueCheck | None:
        cls: Any = get_origin(info.cls) or info.cls
        if is_path(cls) and cls not in self._own:
            return _path(cls)
        if not is_model(cls):
            return None
        whole = _round_trip(info.cls, self._own)

        def check(value: Any) -> None:
            if type(value) is not cls:
                _exactly(value, cls)
                return _same_fields(value, cls)
            return whole(value)

        return check

    def typed_dict(self, info: kinds.TypedDictType) -> ValueCheck:
        """The check of a TypedDict: keys that it does not declare would be left out."""
        fields = {field.name: self.compile(field.type) for field in info.fields}
        name = info.cls.__qualname__

        def check(value: Any) -> None:
            _exactly(value, dict)
            for key, held in (named_parts(value) or {}).items():
                if key not in fields:
                    raise ChangedError(f": {name} has no key {key!r}, which would not arrive")
                if (inner := fields[key]) is not None:
                    _at(f"[{key!r}]", inner, held)

        return check

    def tuple_of(self, info: kinds.TupleType) -> ValueCheck:
        """The check of a tuple with a fixed length, in which each item has its own type."""
        return _tuple(tuple, [("", self.compile(each)) for each in info.item_types])

    def named_tuple(self, info: kinds.NamedTupleType) -> ValueCheck:
        """The check of a named tuple."""
        return _tuple(info.cls, [(field.name, self.compile(field.type)) for field in info.fields])


_REST: Mapping[type[kinds.Type], Callable[[_Compiler, Any], ValueCheck | None]] = {
    kinds.TypedDictType: _Compiler.typed_dict,
    kinds.TupleType: _Compiler.tuple_of,
    kinds.NamedTupleType: _Compiler.named_tuple,
    kinds.Metadata: lambda compiler, info: compiler.compile(info.type),
    kinds.TimeType: lambda _compiler, _info: _time,
    kinds.DateType: lambda _compiler, _info: _date,
    kinds.MemoryViewType: lambda _compiler, _info: _view,
}


def _collection(base: type, inner: ValueCheck | None) -> ValueCheck:
    def check(value: Any) -> None:
        _exactly(value, base)
        if inner is not None and isinstance(value, _WALKED):
            for index, each in enumerate(cast("list[Any]", value)):
                _at(f"[{index}]", inner, each)

    return check


def _tuple(cls: Any, parts: list[tuple[str, ValueCheck | None]]) -> ValueCheck:
    cls = get_origin(cls) or cls

    def check(value: Any) -> None:
        _exactly(value, cls)
        if isinstance(value, (tuple, list)):
            for index, (each, (name, inner)) in enumerate(zip(cast("list[Any]", value), parts, strict=False)):
                if inner is not None:
                    _at(f".{name}" if name else f"[{index}]", inner, each)

    return check


def _exactly(value: Any, cls: Any) -> None:
    """Refuse a value of a subclass."""
    if isinstance(value, cls) and type(value) is not cls:
        name, declared = type(value).__qualname__, cls.__qualname__
        raise ChangedError(f": {name} would arrive as {declared}; declare {name}, or send {declared}")


def _made_of_other(info: Any, fields: Mapping[str, ValueCheck | None]) -> ValueCheck:
    """The check of an object of another class from which one of this class is made: its fields must exist here."""
    name, tag, tag_field = info.cls.__qualname__, getattr(info, "tag", None), getattr(info, "tag_field", None)
    if getattr(info, "array_like", False):
        return _made_of_array(name, [*([None] if tag_field else []), *fields.values()])

    def check(value: Any) -> None:
        parts = named_parts(value)
        if parts is None or (tag_field is not None and parts.get(tag_field, tag) != tag):
            return  # it is for another class of the union
        for key, held in parts.items():
            if key not in fields and key != tag_field:
                raise ChangedError(f": {name} has no field {key!r}, which would not arrive")
            if (inner := fields.get(key)) is not None:
                _at(f".{key}", inner, held)

    return check


def _made_of_array(name: str, checks: Sequence[ValueCheck | None]) -> ValueCheck:
    """The same check for a class that is sent as an array."""

    def check(value: Any) -> None:
        held = cast("list[Any]", value) if isinstance(value, (list, tuple)) else []
        if len(held) > len(checks):
            raise ChangedError(f": {name} is sent as {len(checks)} values, so not all of {len(held)} would arrive")
        for index, (each, inner) in enumerate(zip(held, checks, strict=False)):
            if inner is not None:
                _at(f"[{index}]", inner, each)

    return check


def _same_fields(value: Any, cls: Any) -> None:
    """Check that an object from which a model is made has no fields that the model lacks.

    A dict is not checked here: the model's own setting `extra` decides.
    """
    fields = getattr(cls, "model_fields", None)
    if fields is None or isinstance(value, dict) or cls.model_config.get("extra") == "allow":
        return
    missing = next((key for key in named_parts(value) or () if key not in fields), None)
    if missing is not None:
        raise ChangedError(f": {cls.__qualname__} has no field {missing!r}, which would not arrive")


def _path(cls: Any) -> ValueCheck:
    def check(value: Any) -> None:
        if isinstance(value, PurePath) and value != (made := cls(str(value))):
            raise ChangedError(f": {type(value).__qualname__} would arrive as {type(made).__qualname__}")

    return check


def _time(value: Any) -> None:
    if not isinstance(value, dt.time):
        return
    if value.fold:
        raise ChangedError(": fold=1 would not arrive; send a datetime with a zone")
    if value.tzinfo is None:
        return
    if (offset := value.utcoffset()) is None:
        raise ChangedError(f": the zone {value.tzinfo} would not arrive, for its offset depends on the day")
    if offset % _MINUTE:
        raise ChangedError(f": its offset of {offset} would arrive without the seconds")


_MINUTE = dt.timedelta(minutes=1)


def _view(value: Any) -> None:
    if isinstance(value, memoryview) and (value.format, value.ndim) != ("B", 1):
        raise ChangedError(f": a memoryview of {value.format!r} would arrive as one of bytes; send its .tobytes()")


def _date(value: Any) -> None:
    if isinstance(value, dt.datetime):
        raise ChangedError(": a datetime is no date; send its .date(), or declare a datetime")


def _at(path: str, inner: ValueCheck, value: Any) -> None:
    try:
        inner(value)
    except ChangedError as error:
        raise ChangedError(f"{path}{error}") from None


def _has_hook(cls: type) -> bool:
    """Whether the class has code that runs whenever an object is made."""
    return hasattr(cls, "__post_init__") or hasattr(cls, "__attrs_post_init__")


def _may_lack_fields(cls: Any) -> bool:
    """Whether objects can have a field without a value, or private attrs fields, which msgspec does not send."""
    if not dataclasses.is_dataclass(cls):
        return any(field.name.startswith("_") for field in getattr(cls, "__attrs_attrs__", ()))
    missing = dataclasses.MISSING
    return any(
        not field.init and field.default is missing and field.default_factory is missing
        for field in dataclasses.fields(cls)
    )


def _round_trip(cls: Any, own: OwnTypes) -> ValueCheck:
    """The check that encodes a value, decodes it and compares: for classes whose own code runs in between."""
    decoder = own.decoder(cls)

    def check(value: Any) -> None:
        try:
            arrived = decoder.decode(own.encoder.encode(value))
        except Exception as error:
            raise ChangedError(f": it cannot be read again: {error}") from None
        if (found := difference(value, arrived)) is not None:
            raise ChangedError(found)

    return check
