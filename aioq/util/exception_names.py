"""The names by which a retry rule knows exception classes, also those of other processes.

A rule is sent as text, so it knows a class by its name only. A person may write an alias of that name (`IOError`,
`socket.timeout`, `requests.ConnectionError`). So names are looked up twice: where they are written, and where an
error is compared with them, because by then the module that raised the error is imported.
"""

import builtins
import difflib
import sys
import warnings
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, cast

from aioq.errors import ConfigError
from aioq.util.introspect import bases_of, full_name_of, members_of
from aioq.util.naming import real_module
from aioq.util.printable import brief


def class_name(cls: type) -> str:
    """The qualified name of a class; that of a builtin has no module."""
    return full_name_of(cls)


def class_names(error: BaseException) -> tuple[str, ...]:
    """The names of an error's class and of all its base classes."""
    return tuple(rule_name(base) for base in bases_of(error))


def rule_name(cls: type) -> str:
    """The name of a class in a rule: with its real module, also where that runs as a script."""
    name = full_name_of(cls)
    return f"{real_module('__main__')}.{name.removeprefix('__main__.')}" if name.startswith("__main__.") else name


def leaves_of(error: BaseException) -> list[BaseException]:
    """The errors in an exception group and in all groups within it; empty for an error that is no group."""
    if members_of(error) is None:
        return []
    found: list[BaseException] = []
    left = [error]
    while left:
        each = left.pop()
        members = members_of(each)
        if members is None:
            found.append(each)
        else:
            left += reversed(members)
    return found


def leaf_names(error: BaseException) -> tuple[tuple[str, ...], ...]:
    """The `class_names` of each kind of error in a group; empty for an error that is no group."""
    kinds = {type(leaf): leaf for leaf in leaves_of(error)}
    return tuple(class_names(leaf) for leaf in kinds.values())


def known_names(names: Iterable[str]) -> frozenset[str]:
    """The names as they are written and, for aliases whose modules are imported, the names they stand for."""
    found = {name: _imported(name) for name in names}
    return frozenset(found) | {rule_name(cls) for cls in found.values() if isinstance(cls, type)}


def checked_name(where: str, given: object) -> str:
    """The name that a rule keeps for an exception class, which is given as a class or by its name.

    Args:
        where: the option it is given for, in errors: `Retry(on=...)`.
        given: a class, or its name with the module before it; a builtin's name needs no module.

    Raises:
        ConfigError: it is no exception class, or a name that no exception class can have.
    """
    if isinstance(given, type) and issubclass(given, BaseException):
        return rule_name(given)
    if not isinstance(given, str):
        raise ConfigError(f"{where}: {brief(cast('object', given))} is not an exception class")
    name = given.removeprefix("builtins.")
    if not all(part.isidentifier() for part in name.replace(".<locals>", "").split(".")):
        raise ConfigError(f"{where}: {brief(given)} is not the name of an exception class")
    return _builtin(where, name) if "." not in name else _dotted(where, name)


def _builtin(where: str, name: str) -> str:
    found = getattr(builtins, name, None)
    if found is None:
        every = [each for each, value in vars(builtins).items() if _is_exception(value)]
        near = difflib.get_close_matches(name, every, n=1, cutoff=0.8)
        hint = f"did you mean {near[0]!r}?" if near else "others need their module: 'shop.errors.Late'"
        raise ConfigError(f"{where}: there is no builtin exception {name!r}; {hint}")
    return _exception(where, name, found)


def _dotted(where: str, name: str) -> str:
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names:
        _import_stdlib(name)  # only the standard library: to name a class must not import the user's modules
    found = _imported(name)
    if found is not None:
        return _exception(where, name, found)
    if top not in sys.modules and top not in sys.stdlib_module_names and not _exists(top):
        # A process that only sends may lack what its workers have, so this is no error.
        warnings.warn(f"{where}: there is no module {top!r} here, so {name!r} is not checked", stacklevel=5)
    elif (module := _whole_module(name)) is not None:
        missing = name.removeprefix(f"{module}.").partition(".")[0]
        every = [each for each, value in vars(sys.modules[module]).items() if _is_exception(value)]
        near = difflib.get_close_matches(missing, every, n=1)
        hint = f"; did you mean '{module}.{near[0]}'?" if near else ""
        raise ConfigError(f"{where}: there is no {name!r}: module {module!r} has no {missing!r}{hint}")
    return name


def _exception(where: str, name: str, found: object) -> str:
    if not _is_exception(found):
        raise ConfigError(f"{where}: {name!r} is not an exception class, but {brief(found)}")
    return rule_name(cast("type[BaseException]", found))


def _is_exception(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


def _imported(name: str) -> Any:
    """The object that a name stands for; None where its module is not imported."""
    if "." not in name:
        return getattr(builtins, name, None)
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):
        found: Any = sys.modules.get(".".join(parts[:count]))
        if found is None:
            continue
        try:
            for part in parts[count:]:
                found = getattr(found, part, None)
        except Exception:  # a module's own __getattr__
            return None
        return found
    return None


def _whole_module(name: str) -> str | None:
    """The module that should have the name, if its import is complete and no submodule could have it instead."""
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):
        path = ".".join(parts[:count])
        module = sys.modules.get(path)
        if module is None:
            continue
        loading = getattr(getattr(module, "__spec__", None), "_initializing", False)
        is_package = hasattr(module, "__path__") and count < len(parts) - 1 and _exists(f"{path}.{parts[count]}")
        # A module that is still being imported may define the name later; so may a function when it runs.
        return None if loading or is_package or path == "__main__" or "<locals>" in name else path
    return None


def _import_stdlib(name: str) -> None:
    parts = name.split(".")
    for count in range(1, len(parts)):
        try:
            import_module(".".join(parts[:count]))
        except ImportError:
            return


def _exists(module: str) -> bool:
    """Whether there is such a module. If it is in a package, this imports the package."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False
