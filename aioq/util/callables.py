"""The callables that can be tasks (functions, partials, methods, callable objects), and facts about them."""

import asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args, get_origin, get_type_hints

from aioq.util.naming import real_module

_MARK = getattr(asyncio.coroutines, "_is_coroutine", object())
"""The mark by which asyncio knows coroutine functions of compilers and libraries; Python 3.14 has it no more."""


def called_by(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function or method inside partials, wrappers and callable objects; it has the annotations."""
    while isinstance(function, partial) or (
        hasattr(function, "__wrapped__") and not hasattr(function, "__annotations__")
    ):
        function = (
            cast("Any", function).func if isinstance(function, partial) else cast("Any", function).__wrapped__
        )
    if inspect.isroutine(function) or "__annotations__" in getattr(function, "__dict__", ()):
        return function
    return function.__call__


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function by name, resolved.

    Raises:
        NameError: one names something that is not defined (yet).
        TypeError: one cannot be evaluated; the message names the parameter.
    """
    called = called_by(function)
    if not isinstance(getattr(called, "__annotations__", None), Mapping):
        return {}  # such as a builtin's or a mock's
    try:
        return get_type_hints(called, include_extras=True)
    except NameError as error:
        raise NameError(f"{error} (an import under TYPE_CHECKING alone does not define it)") from error
    except Exception as error:
        if isinstance(error, AttributeError) and "partially initialized module" in str(error):
            raise NameError(str(error)) from error  # a circular import: the name will be defined later
        raise TypeError(f"{_culprit(called)}: {type(error).__qualname__}: {error}") from error


def _culprit(called: Callable[..., Any]) -> str:
    """The annotation that cannot be evaluated, for an error."""
    scope = getattr(inspect.unwrap(called), "__globals__", {})
    for name, hint in called.__annotations__.items():
        try:
            get_type_hints(SimpleNamespace(__annotations__={name: hint}), scope)
        except Exception:
            what = "the return annotation" if name == "return" else f"the annotation of parameter {name!r}"
            return f"{what}, {hint if isinstance(hint, str) else repr(hint)}"
    return "an annotation"


def is_async(function: Callable[..., Any]) -> bool:
    """Whether the function certainly returns an awaitable: it is a coroutine function, or annotated so."""
    called = called_by(function)
    if inspect.iscoroutinefunction(called) or getattr(called, "_is_coroutine", None) is _MARK:
        return True
    try:
        return awaited_type(hints_of(function).get("return")) is not None
    except Exception:
        return False  # the error shows where the annotations are compiled


def awaited_type(kind: Any) -> Any:
    """The type that awaiting a value of this type gives: int for `Awaitable[int]`. None if it is not awaitable."""
    origin = get_origin(kind) or kind
    if not inspect.isclass(origin) or not issubclass(origin, Awaitable):
        return None
    given = get_args(kind)
    return given[-1] if given else Any


def not_importable(function: Callable[..., Any]) -> str:
    """Why another process cannot import the function by its name, with advice; empty if it can."""
    name = getattr(function, "__qualname__", None)
    if name is None or inspect.ismethod(function) or not getattr(function, "__module__", None):
        return (
            f"a {type(function).__qualname__} cannot be imported by name; write a function around it in a module"
        )
    if name.endswith("<lambda>"):
        return "a lambda cannot be imported by name; write it as a function (def) at the top of a module"
    if "<locals>" in name:
        return _not_importable_local(function)
    if function.__module__ != "__main__":
        return ""
    main = sys.modules["__main__"]
    if real_module("__main__") == "__main__" or Path(getattr(main, "__file__", None) or "").stem == "__main__":
        return "nothing can be imported from __main__; write the task in a module of its own, and import that here"
    return ""


def _not_importable_local(function: Callable[..., Any]) -> str:
    cells = getattr(function, "__closure__", None) or ()
    for cell in cells:
        try:
            inner = cell.cell_contents
        except ValueError:  # not filled yet
            continue
        if inspect.isfunction(inner):
            return (
                f"{function.__qualname__} cannot be imported by name; if it is a decorator's around "
                f"{inner.__qualname__}, put @functools.wraps on it, which keeps the name"
            )
    return (
        f"{function.__qualname__} is made inside a function, where nothing can be imported from; write it at the "
        "top of a module, and make the App there too"
    )
