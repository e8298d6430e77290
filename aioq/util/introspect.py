"""Looks at what users' code has made, exceptions above all, without running into what that raises.

An exception of a class of one's own may have properties where every exception has plain attributes
(`__traceback__`, `__cause__`, `exceptions`), a `__class__` or a metaclass that raises, and a `__str__` that ends
the process. What becomes of a job must not depend on them, so these functions ask Python's own types, which look
at the object itself, and cannot fail.
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
    """As `isinstance`, but the value's `__class__` is not asked."""
    return issubclass(type(value), kind)


def bases_of(error: BaseException) -> tuple[type, ...]:
    """An exception's class, and all classes it derives from."""
    return _mro(type(error))


def traceback_of(error: BaseException) -> TracebackType | None:
    """Where it was raised, if it was."""
    return _traceback(error)


def cause_of(error: BaseException) -> BaseException | None:
    """What it was raised from, if anything."""
    return _cause(error)


def members_of(group: BaseException) -> tuple[BaseException, ...] | None:
    """The exceptions in a group; None for an error that is no group."""
    return _members(group) if is_a(group, cast("type[BaseException]", BaseExceptionGroup)) else None


def name_of(value: object) -> str:
    """The name of a value's class, without its module."""
    return _plain(_qualname(type(value)))


def full_name_of(kind: type) -> str:
    """A class's name with its module's before it, but for builtins."""
    module, name = _plain(_module(kind)), _plain(_qualname(kind))
    return name if module == "builtins" else f"{module}.{name}"


def text_of(say: Callable[[Any], str], value: object) -> tuple[str, BaseException | None]:
    """What `str` or `repr` says of a value, and what that has raised, if anything."""
    try:
        return _plain(say(value)), None
    except BaseException as fault:
        return "", fault


def _plain(text: object) -> str:
    """The text itself, of a `str` that may be of a class with methods of its own; "?" for what is no text."""
    return str.__str__(text) if is_a(text, str) else "?"
