"""Safe inspection of objects of users' classes, above all exceptions: these functions run no code of the class.

A user's exception class may have properties in place of plain attributes (`__traceback__`, `__cause__`,
`exceptions`), a `__class__` or a metaclass that raises, and a `__str__` that ends the process. The outcome of a
job must not depend on them. So these functions use the descriptors of Python's own types, which read the object
itself and cannot fail.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeGuard, TypeVar, cast

T = TypeVar("T")

_qualname: Callable[[type], Any] = type.__dict__["__qualname__"].__get__
_module: Callable[[type], Any] = type.__dict__["__module__"].__get__
_mro: Callable[[type], tuple[type, ...]] = type.__dict__["__mro__"].__get__
_traceback: Callable[[BaseException], TracebackType | None] = BaseException.__dict__["__traceback__"].__get__
_cause: Callable[[BaseException], BaseException | None] = BaseException.__dict__["__cause__"].__get__
_members: Callable[[Any], tuple[BaseException, ...]] = BaseExceptionGroup.__dict__["exceptions"].__get__


def is_a(value: object, kind: type[T]) -> TypeGuard[T]:
    """Like `isinstance`, but without reading the value's `__class__`."""
    return issubclass(type(value), kind)


def bases_of(error: BaseException) -> tuple[type, ...]:
    """An exception's class and all its base classes."""
    return _mro(type(error))


def traceback_of(error: BaseException) -> TracebackType | None:
    """The traceback of an exception; None if it was not raised."""
    return _traceback(error)


def cause_of(error: BaseException) -> BaseException | None:
    """The exception from which it was raised, or None."""
    return _cause(error)


def members_of(group: BaseException) -> tuple[BaseException, ...] | None:
    """The exceptions in a group; None for an error that is no group."""
    return _members(group) if is_a(group, cast("type[BaseException]", BaseExceptionGroup)) else None


def name_of(value: object) -> str:
    """The name of a value's class, without its module."""
    return _plain(_qualname(type(value)))


def full_name_of(kind: type) -> str:
    """The name of a class with its module; that of a builtin has no module."""
    module, name = _plain(_module(kind)), _plain(_qualname(kind))
    return name if module == "builtins" else f"{module}.{name}"


def text_of(say: Callable[[Any], str], value: object) -> tuple[str, BaseException | None]:
    """The `str` or `repr` of a value, and the exception that this raised, or None."""
    try:
        return _plain(say(value)), None
    except BaseException as fault:
        return "", fault


def _plain(text: object) -> str:
    """A plain `str` from one that may be of a subclass with methods of its own; "?" for anything else."""
    return str.__str__(text) if is_a(text, str) else "?"
