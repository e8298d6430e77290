"""A task's signature, compiled: arguments are checked at `send` and decoded straight into their annotated types.

Each number of positional arguments has one compiled decoder for the whole array, so the usual call costs one
decode. The path in an error names the function's parameter: `$.y: expected int, got str`.
"""

import inspect
import re
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec

from aioq.errors import ArgumentError, ConfigError, ResultError, WireError
from aioq.jobs.batches import Batch
from aioq.util.callables import awaited_type, called_by, hints_of
from aioq.wire.annotations import advice_on, prepared, unfilled, unsendable
from aioq.wire.fidelity import ChangedError, ValueCheck, check_of, exact_classes
from aioq.wire.messages import EMPTY_MAP, ENCODER, UNREADABLE, decode_outcome
from aioq.wire.own_types import NO_OWN_TYPES, OwnTypes

_EMPTY = inspect.Parameter.empty
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)

_LOCATED = re.compile(r"(?P<text>.*?)(?: - at `\$(?P<path>.*)`)?", re.DOTALL)
_INDEX = re.compile(r"\[(\d+)\](.*)", re.DOTALL)


class BadArgumentsError(WireError):
    """A call that arrived does not fit the task's signature; the message starts with the path to the argument."""


class Signature:
    """The parameters and the return type of a task, as far as they are annotated.

    Args:
        where: the task, for errors: `task 'shop.add'`.
        function: the function whose annotations are read; a missing one means Any.
        own: the types its App has registered.

    Attributes:
        fitting: the counts of positional arguments with which a call is valid if it has no keyword arguments.
        checked: whether `verify` has anything to check.
        returns: the type of its results.
        batch: how the jobs of a batch task are gathered; None for any other task.

    Raises:
        ConfigError: nothing can be decoded into an annotation; the message names the parameter.
        NameError: an annotation names something that is not defined (yet).
    """

    batch: Batch | None = None

    def __init__(self, where: str, function: Callable[..., object], own: OwnTypes = NO_OWN_TYPES) -> None:
        self.where = where
        self._own = own
        try:
            self._signature = inspect.signature(function)
        except ValueError as error:
            raise ConfigError(
                f"{where}: {error}; write a function around it, whose parameters can be seen"
            ) from None
        self._shown = _with_hint(self._signature)
        try:
            hints = hints_of(function)
        except TypeError as error:
            raise ConfigError(f"{where}: {error}") from error
        parameters = self._signature.parameters.values()
        positional = [p for p in parameters if p.kind in _POSITIONAL]
        self._names = tuple(p.name for p in positional)
        self._required = sum(p.default is _EMPTY for p in positional)
        self._keyword_only = frozenset(
            p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY and p.default is _EMPTY
        )
        self.fitting = (
            frozenset[int]() if self._keyword_only else frozenset(range(self._required, len(self._names) + 1))
        )
        self._types: dict[str, Any] = {p.name: self._prepared(p, hints.get(p.name, Any)) for p in parameters}
        self._keywords = frozenset(p.name for p in parameters if p.kind in _KEYWORD)
        self._defaults = {p.name: p.default for p in parameters}
        self._rest = next((p.name for p in parameters if p.kind is inspect.Parameter.VAR_POSITIONAL), None)
        self._extra = next((p.name for p in parameters if p.kind is inspect.Parameter.VAR_KEYWORD), None)
        self._by_arity: dict[int, msgspec.msgpack.Decoder[tuple[Any, ...]]] = {}
        self._by_name = {name: own.decoder(kind) for name, kind in self._types.items()}
        checks = {name: check_of(kind, own) for name, kind in self._types.items()}
        self._checks = {name: check for name, check in checks.items() if check is not None}
        self.checked = bool(self._checks)
        returns = hints.get("return", Any)
        if not inspect.iscoroutinefunction(called_by(function)):
            returns = awaited_type(returns) or returns  # a plain function that makes a coroutine
        self.returns = ResultType(where, returns, own)

    def check(self, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
        """Check that the function can be called with these arguments.

        Raises:
            ArgumentError: it cannot; the message names the task and the parameter.
        """
        if not kwargs and len(args) in self.fitting:
            return
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            unknown = _AS_KEYWORDS if {"args", "kwargs"} & (kwargs.keys() - self._keywords) else ""
            raise ArgumentError(f"{self.where}: {error}; it takes {self._shown}{unknown}") from None

    def verify(self, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
        """Check that arguments, which are known to be encodable, arrive unchanged.

        Raises:
            ArgumentError: one would change; the message names the task, the parameter and what would be lost.
        """
        for index, value in enumerate(args):
            name = self._names[index] if index < len(self._names) else self._rest
            self._verify(self._checks.get(str(name)), self._name_of(index), value)
        for name, value in kwargs.items():
            self._verify(self._checks.get(name if name in self._keywords else str(self._extra)), name, value)

    def _verify(self, check: ValueCheck | None, name: str, value: object) -> None:
        try:
            if check is not None:
                check(value)
        except ChangedError as error:
            raise ArgumentError(f"{self.where}: argument {name}{error}") from None

    def bound(self, args: Sequence[object], kwargs: Mapping[str, object]) -> Mapping[str, object]:
        """The arguments of a checked call by the names of their parameters, with the defaults."""
        if kwargs or self._rest is not None or self._extra is not None:
            bound = self._signature.bind(*args, **kwargs)
            bound.apply_defaults()
            return bound.arguments
        names = self._defaults  # the same without the machinery, which takes ten times as long
        if len(args) == len(names):
            return dict(zip(names, args, strict=True))
        return {**names, **dict(zip(names, args, strict=False))}

    def positions(self, names: Sequence[str]) -> Sequence[int] | None:
        """At which positions these parameters may be given; None if one may not."""
        found = self._names
        return [found.index(name) for name in names] if {*names} <= {*found} else None

    @property
    def parameters(self) -> Collection[str]:
        """The names of the parameters."""
        return self._signature.parameters.keys()

    def named(self, args: Sequence[object], kwargs: Mapping[str, object]) -> list[tuple[str, object]]:
        """The arguments of a call, each with the name of its parameter."""
        return [(self._name_of(index), value) for index, value in enumerate(args)] + list(kwargs.items())

    def typed(self, args: Sequence[object], kwargs: Mapping[str, object]) -> list[tuple[str, Any, object]]:
        """The arguments of a call, each with the name and the type of its parameter."""
        places = [*self._names, *[self._rest or ""] * (len(args) - len(self._names))][: len(args)]
        places += [name if name in self._keywords else self._extra or "" for name in kwargs]
        named = zip(places, self.named(args, kwargs), strict=True)
        return [(name, self._types.get(place, Any), value) for place, (name, value) in named]

    def decode(
        self, args: msgspec.Raw | bytes, kwargs: msgspec.Raw | bytes
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Decode a call's arguments into the annotated types.

        Raises:
            BadArgumentsError: one does not fit; the message starts with the path to it.
        """
        count = _array_length(args)
        decoder = self._by_arity.get(count) or self._positional_decoder(count)
        try:
            values = decoder.decode(args)
        except UNREADABLE as error:
            raise BadArgumentsError(self._located(error)) from None
        named = {} if bytes(kwargs) == EMPTY_MAP else self._decode_named(kwargs)
        if named or self._keyword_only or not self._required <= count:
            self._bind(values, named)
        return values, named

    def _bind(self, values: tuple[Any, ...], named: dict[str, Any]) -> None:
        try:
            self._signature.bind(*values, **named)
        except TypeError as error:
            raise BadArgumentsError(f"$: {error}; the task takes {self._shown}") from None

    def _positional_decoder(self, count: int) -> "msgspec.msgpack.Decoder[tuple[Any, ...]]":
        if count > len(self._names) and self._rest is None:
            raise BadArgumentsError(
                f"$: expected at most {len(self._names)} positional arguments, got {count}; "
                f"the task takes {self._shown}"
            )
        kinds = [self._types[name] for name in self._names[:count]]
        if self._rest is not None:
            kinds += [self._types[self._rest]] * (count - len(kinds))
        decoder = self._own.decoder(types.GenericAlias(tuple, tuple(kinds)))
        if len(self._by_arity) < 64:  # noqa: PLR2004 - a task with *args must not collect decoders without end
            self._by_arity[count] = decoder
        return decoder

    def _decode_named(self, kwargs: msgspec.Raw | bytes) -> dict[str, Any]:
        try:
            raw = msgspec.msgpack.decode(kwargs, type=dict[str, msgspec.Raw])
        except UNREADABLE as error:
            raise BadArgumentsError(f"$: {error}") from None
        named: dict[str, Any] = {}
        for name, value in raw.items():
            known = name if name in self._keywords else self._extra
            if known is None:
                raise BadArgumentsError(f"$.{name}: no such parameter; the task takes {self._shown}")
            try:
                named[name] = self._by_name[known].decode(value)
            except UNREADABLE as error:
                raise BadArgumentsError(_relocate(error, f"$.{name}")) from None
        return named

    def _prepared(self, parameter: inspect.Parameter, kind: Any) -> Any:
        what = f"{self.where}: parameter {parameter.name!r}"
        if wrong := unfilled(parameter.default):
            raise ConfigError(f"{what}: {wrong}")
        optional = parameter.default is not _EMPTY or parameter.kind in _VARIABLE
        return _compiled(what, kind, self._own, optional=optional)

    def _name_of(self, index: int) -> str:
        if index < len(self._names):
            return self._names[index]
        return f"{self._rest or 'args'}[{index - len(self._names)}]"

    def _located(self, error: Exception) -> str:
        match = _LOCATED.fullmatch(str(error))
        path = (match and match["path"]) or ""
        inner = _INDEX.fullmatch(path)
        if inner is None:
            return _relocate(error, "$")
        return _relocate(error, f"$.{self._name_of(int(inner[1]))}", skip=len(inner[1]) + 2)


class ResultType:
    """A task's return annotation, compiled.

    Args:
        where: the task, for errors.
        kind: the annotation.
        own: the types its App has registered.

    Attributes:
        kind: the type of the results.
        exact_classes: the classes whose direct instances fit that type without a check; None for all classes.
        encoder: encodes results.

    Raises:
        ConfigError: nothing can be decoded into it.
    """

    __slots__ = ("_check", "_decoder", "_shown", "encoder", "exact_classes", "kind", "where")

    def __init__(self, where: str, kind: Any, own: OwnTypes = NO_OWN_TYPES) -> None:
        self.where = where
        self.kind = _compiled(f"{where}: the return annotation", kind, own, optional=False)
        self.encoder = own.encoder
        self._shown = "None" if kind is type(None) else inspect.formatannotation(kind)
        self._decoder = own.decoder(self.kind)
        self._check = check_of(self.kind, own)
        self.exact_classes = None if self.kind is Any else exact_classes(self.kind, own)

    def verify(self, result: object, encoded: msgspec.Raw | bytes) -> None:
        """Check that a result is of this type, and that it arrives as it was returned.

        Args:
            result: what the task returned.
            encoded: the same, encoded.

        Raises:
            ResultError: it is not; the message names the annotation and the type of the result.
        """
        try:
            self._decoder.decode(encoded)
            if self._check is not None:
                self._check(result)
        except ChangedError as error:
            raise ResultError(f"{self.where}: the result, annotated {self._shown}{error}") from None
        except (*UNREADABLE, TypeError) as error:
            raise ResultError(
                f"{self.where}: the result does not fit its annotation {self._shown}: {_relocate(error, '$')}; "
                f"got {type(result).__qualname__}"
            ) from None

    def verify_outcome(self, result: object, outcome: bytes) -> None:
        """The same as `verify`, for a result that is encoded in an outcome."""
        self.verify(result, decode_outcome(outcome).value)

    def decode(self, data: msgspec.Raw | bytes) -> Any:
        """Decode a result into the annotated type.

        Raises:
            WireError: the stored result is not of that type.
        """
        try:
            return self._decoder.decode(data)
        except (*UNREADABLE, TypeError) as error:
            raise WireError(f"{self.where}: the stored result does not fit its annotation: {error}") from error


def _compiled(what: str, kind: Any, own: OwnTypes, *, optional: bool) -> Any:
    """The annotation `kind` in msgspec's form; it is certain that values can be decoded into it.

    An optional value, which a call may leave out, may have an annotation with a class that cannot be sent.

    Raises:
        ConfigError: nothing can be decoded into it.
        NameError: it names something that is not defined (yet).
    """
    try:
        kind = prepared(kind)
        own.decoder(kind)
        unknown = None if optional else unsendable(kind, own)
    except NameError:
        raise
    except Exception as error:  # of msgspec, or of annotations of a class's fields that cannot be evaluated
        raise ConfigError(f"{what} cannot be decoded: {_explained(str(error))}") from error
    if unknown is not None:
        name = f"{unknown.__module__}.{unknown.__qualname__}".removeprefix("builtins.")
        raise ConfigError(f"{what} cannot be decoded: no {name} can be made from plain data; {advice_on(unknown)}")
    return kind


_AS_KEYWORDS = "; arguments are given as in a call of the function, send(1, 2, key=3), not by args= and kwargs="

_CONTEXTS = frozenset({"self", "ctx"})
"""Names of the first argument in which other libraries pass the job to a task."""


def _with_hint(signature: inspect.Signature) -> str:
    """The signature as errors show it; where its first argument seems to be the job, with how to get that."""
    first = next(iter(signature.parameters), "")
    hint = f"; {first!r} is an argument like any other, for the job is current_job()" if first in _CONTEXTS else ""
    return f"{signature}{hint}"


_UNION = (
    "; the value that arrives must show which of them it is: declare one class with a field for each, a pydantic "
    "model with the union in a field, or msgspec.Struct classes with tags"
)


def _explained(text: str) -> str:
    """An error of msgspec's about an annotation, in the words of the docs; about a union, with advice."""
    text = text.replace("custom type", "pydantic model or type of register_type")
    return f"{text}{_UNION}" if text.startswith("Type unions") else text


ANY_RESULT = ResultType("the task", Any)
"""The result type of tasks that this process does not know: any."""


def _anything(*args: Any, **kwargs: Any) -> Any:
    """The function of a task that is known by name only."""


ANYTHING = Signature("the task", _anything)
"""The signature of a task that is known by name only: any arguments, any result."""


def unencodable(
    where: str,
    named: Sequence[tuple[str, object]],
    error: Exception,
    encoder: msgspec.msgpack.Encoder = ENCODER,
) -> ArgumentError:
    """The error for arguments that have no MessagePack form, naming the first one that has none."""
    for name, value in named:
        try:
            encoder.encode(value)
        except Exception as cause:
            return ArgumentError(
                f"{where}: argument {name!r} cannot be encoded: {cause}; got {type(value).__qualname__}"
            )
    return ArgumentError(f"{where}: the arguments cannot be encoded: {error}")


def _relocate(error: Exception, prefix: str, *, skip: int = 0) -> str:
    match = _LOCATED.fullmatch(str(error))
    text = match["text"] if match else str(error)
    path = ((match and match["path"]) or "")[skip:]
    plain = text.replace("`", "")
    return f"{prefix}{path}: {plain[:1].lower()}{plain[1:]}"


def _array_length(raw: msgspec.Raw | bytes) -> int:
    """The number of elements of an encoded array, read from its header."""
    head = memoryview(raw)[:5]
    first = head[0] if len(head) else 0
    if first & 0xF0 == 0x90:  # noqa: PLR2004 - MessagePack's fixarray
        return first & 0x0F
    if first == 0xDC:  # noqa: PLR2004 - array 16
        return int.from_bytes(head[1:3])
    if first == 0xDD:  # noqa: PLR2004 - array 32
        return int.from_bytes(head[1:5])
    raise BadArgumentsError("$: the positional arguments are no array")
