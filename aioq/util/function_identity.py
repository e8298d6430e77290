"""Compares two functions under one task name: either the module ran again, or it is a mistake.

Functions are compared by their globals, code, defaults and closures. File and line would not do, because all
functions that one decorator or one loop makes have the same. A function that differs replaces the other one if the
code that declares it has run again since: a reloaded module, an edited cell of a notebook.
"""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any, cast

from aioq.util.naming import real_module

_LAMBDA = "<lambda>"


@dataclass(frozen=True, slots=True)
class Execution:
    """One run of the code that declares something.

    Attributes:
        module: the module's real name.
        is_main: whether it runs as `__main__`, where one run may be a cell of a notebook or a line at a prompt.
        code: the module's code, or that of the cell; each import, reload and cell has an object of its own.
    """

    module: str
    is_main: bool
    code: CodeType

    def follows(self, other: "Execution") -> bool:
        """Whether this may be a later run of the code that the other one ran."""
        if self.code is other.code or self.module != other.module:
            return False
        return self.is_part_after(other) or _file(self.code) == _file(other.code)

    def is_part_after(self, other: "Execution") -> bool:
        """Whether both may be cells of one notebook: the same cell, or two."""
        return self.is_main and other.is_main


def execution() -> Execution | None:
    """The run of the innermost module that is being executed; None if there is none, as in a thread."""
    frame = inspect.currentframe()
    while frame is not None:
        name = frame.f_code.co_name
        if name == "<module>" or name.startswith("<cell line"):  # the name of a cell in some versions of IPython
            module = str(frame.f_globals.get("__name__"))
            return Execution(real_module(module), module == "__main__", frame.f_code)
        frame = frame.f_back
    return None


def replaces(
    name: str, new: Callable[..., Any], run: Execution | None, old: Callable[..., Any], old_run: Execution | None
) -> bool:
    """Whether `new` may replace `old`.

    Args:
        name: the task name of both.
        new: the function that is declared now.
        run: the run of its module in which that happens.
        old: the function that has the name so far.
        old_run: the run of its module in which that one was declared.
    """
    if same_function(new, old):
        return True
    if run is None or old_run is None or not run.follows(old_run):
        return _was_reloaded(new, old)
    if not run.is_part_after(old_run):
        return True  # a module that runs again declares all its tasks again
    # In an edited cell, the function and those its decorators wrap keep their names; lambdas have no name.
    return not name.endswith(_LAMBDA) and _names(new, ()) == _names(old, ())


def same_function(one: Any, other: Any) -> bool:
    """Whether two functions, partials or methods certainly do the same."""
    return _same(one, other, set())


def _was_reloaded(new: Any, old: Any) -> bool:
    """Whether the module of both was reloaded in between, and now has the new one under the old one's name."""
    code, old_code = getattr(new, "__code__", None), getattr(old, "__code__", None)
    if not isinstance(code, CodeType) or not isinstance(old_code, CodeType) or code is old_code:
        return False
    names = new.__globals__
    return names is old.__globals__ and new.__qualname__ == old.__qualname__ and names.get(new.__qualname__) is new


def _names(function: Any, seen: Sequence[object]) -> list[str]:
    """The qualified names of a function and of the functions that it wraps."""
    if isinstance(function, partial):
        return _names(cast("partial[Any]", function).func, seen)
    if any(function is each for each in seen):
        return []
    names = [str(getattr(function, "__qualname__", type(function).__qualname__))]
    if isinstance(function, MethodType):  # an inherited class method has the name of the base class
        names.append(str(getattr(function.__self__, "__qualname__", type(function.__self__).__qualname__)))
    for cell in getattr(function, "__closure__", None) or ():
        content = _content(cell)
        if callable(content) and not inspect.isclass(content):
            names += _names(content, (*seen, function))
    return names


def _same(one: Any, other: Any, seen: set[tuple[int, int]]) -> bool:
    if one is other or (id(one), id(other)) in seen:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, FunctionType):
        seen.add((id(one), id(other)))  # a function may be in its own closure
    for kind, parts in _PARTS.items():
        if isinstance(one, kind):
            mine, others = parts(one), parts(other)
            return len(mine) == len(others) and all(_same(a, b, seen) for a, b in zip(mine, others, strict=True))
    return _equal(one, other)


def _equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:
        return False  # such as arrays: their comparison gives an array, which is neither true nor false


def _parts_of_function(function: FunctionType) -> list[Any]:
    cells = [_content(cell) for cell in function.__closure__ or ()]
    code, scope = function.__code__, function.__globals__
    module = real_module(str(scope.get("__name__")))
    # A file may have run as a script and been imported too, so the file counts. Code without a file belongs to one
    # namespace, so that counts.
    place = id(scope) if code.co_filename.startswith("<") else _file(code)
    return [code, module, place, function.__defaults__, function.__kwdefaults__, cells, _annotations(function)]


def _annotations(function: FunctionType) -> Any:
    """A function's annotations as texts without its module: if the module ran twice, its classes are different."""
    try:
        kinds = function.__annotations__
    except Exception:
        return None  # on Python 3.14, where a name in them is not defined yet
    module = function.__module__
    return {
        name: kind if isinstance(kind, str) else inspect.formatannotation(kind, module).replace(f"{module}.", "")
        for name, kind in kinds.items()
    }


_PARTS: Mapping[type, Callable[[Any], Sequence[Any]]] = {
    FunctionType: _parts_of_function,
    MethodType: lambda method: [method.__func__, method.__self__],
    partial: lambda made: [made.func, made.args, made.keywords],
    staticmethod: lambda made: [made.__func__],
    tuple: list,
    list: list,
    dict: lambda table: [*table.keys(), *table.values()],
}
"""The parts by which values of these types are compared; values of other types are compared by ==."""


def _file(code: CodeType) -> str:
    return os.path.realpath(code.co_filename)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _EMPTY  # the variable has no value yet


_EMPTY = object()
