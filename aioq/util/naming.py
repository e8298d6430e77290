"""Task names: a function's name under its real module, even where that module runs as `__main__`.

`python tasks.py` and a worker that imports `tasks` must agree on the name of the same function. So `__main__` is
replaced by the name that the module would have if it were imported.
"""

import contextlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
"""The allowed names of Apps and queues: they become part of the server's keys."""


def task_name(function: Callable[..., Any]) -> str:
    """The default name of a task: `module.function`."""
    return f"{real_module(function.__module__)}.{function.__qualname__}"


def real_module(name: str) -> str:
    """The name that a module has when it is imported.

    For `python -m package.module` it is in the module's spec. For `python package/module.py` it is made from the
    name of the file and of the folders above it that have an `__init__.py`. An interactive session has no other
    name.
    """
    if name != "__main__":
        return name
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name:
        return str(spec.name).removesuffix(".__main__")
    file = getattr(main, "__file__", None)
    if not file:
        return name
    path = Path(file).resolve()
    parts = [] if path.stem in {"__init__", "__main__"} else [path.stem]
    folder = path.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    return ".".join(parts) or name


def whereabouts(function: Callable[..., Any]) -> str:
    """`file:line` of a function, for errors."""
    code = getattr(function, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else repr(function)


def described(function: Callable[..., Any]) -> str:
    """`file:line` of a function and, if it is a decorator's wrapper, of the function inside, for errors."""
    places = [whereabouts(function)]
    for cell in getattr(function, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # the variable has no value yet
            inner = cell.cell_contents
            if isinstance(inner, FunctionType) and inner is not function:
                places.append(f"{inner.__qualname__}, {whereabouts(inner)}")
    return places[0] if len(places) == 1 else f"{places[0]} (around {'; '.join(places[1:])})"
