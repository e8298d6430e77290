"""Whether two functions under one task name are one and the same: a module that ran again, or a mistake.

Two functions are compared by what they are (globals, code, defaults, closure) and not by file and line, which
all functions that one decorator or one loop makes have in common. One that differs takes the other's place where
the code that declares it has run again since: a reloaded module, an edited cell of a notebook.
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
        """Whether both may be cells of one notebook, the same or two."""
        return self.is_main and other.is_main


def execution() -> Execution | None:
    """The run of the innermost module that is being executed; None outside any, as in a thread."""
    frame = inspect.currentframe()
    while frame is not None:
        name = frame.f_code.co_name
        if name == "<module>" or name.startswith("<cell line"):  # some versions of IPython call a cell so
            module = str(frame.f_globals.get("__name__"))
            return Execution(real_module(module), module == "__main__", frame.f_code)
        frame = frame.f_back
    return None


def replaces(
    name: str, new: Callable[..., Any], run: Execution | None, old: Callable[..., Any], old_run: Execution | None
) -> bool:
    """Whether `new` may take the place of `old`.

    Args:
        name: the task name of both.
        new: a function.
        run: in which run of its module it is declared.
        old: the function that has the name.
        old_run: where that one was declared.
    """
    if same_function(new, old):
        return True
    if run is None or old_run is None or not run.follows(old_run):
        return _outlived(new, old)
    if not run.is_part_after(old_run):
        return True  # a module that runs again declares all its tasks again
    # An edited cell still has the function of the same name, below its decorators too; lambdas have none.
    return not name.endswith(_LAMBDA) and _names(new, ()) == _names(old, ())


def same_function(one: Any, other: Any) -> bool:
    """Whether two functions, partials or methods do the same for certain."""
    return _same(one, other, set())


def _outlived(new: Any, old: Any) -> bool:
    """Whether the module both are from has the new one in the old one's place: it was reloaded in between."""
    code, old_code = getattr(new, "__code__", None), getattr(old, "__code__", None)
    if not isinstance(code, CodeType) or not isinstance(old_code, CodeType) or code is old_code:
        return False
    names = new.__globals__
    return names is old.__globals__ and new.__qualname__ == old.__qualname__ and names.get(new.__qualname__) is new


def _names(function: Any, seen: Sequence[object]) -> list[str]:
    """The qualified names of a function and of those it is around of."""
    if isinstance(function, partial):
        return _names(cast("partial[Any]", function).func, seen)
    if any(function is each for each in seen):
        return []
    names = [str(getattr(function, "__qualname__", type(function).__qualname__))]
    if isinstance(function, MethodType):  # a class method of a class below has the name of that above
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
        return False  # such as arrays, which compare to arrays


def _parts_of_function(function: FunctionType) -> list[Any]:
    cells = [_content(cell) for cell in function.__closure__ or ()]
    code, scope = function.__code__, function.__globals__
    module = real_module(str(scope.get("__name__")))
    # The same file may have run as a script and been imported; code of no file is made for its namespace alone.
    place = id(scope) if code.co_filename.startswith("<") else _file(code)
    return [code, module, place, function.__defaults__, function.__kwdefaults__, cells, _annotations(function)]


def _annotations(function: FunctionType) -> Any:
    """A function's annotations as texts without its module, for classes are others where that has run twice."""
    try:
        kinds = function.__annotations__
    except Exception:
        return None  # a name in them is not defined yet, on Python 3.14
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
"""What makes things of these types the same; others are where they are equal."""


def _file(code: CodeType) -> str:
    return os.path.realpath(code.co_filename)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _EMPTY  # not filled yet


_EMPTY = object()
