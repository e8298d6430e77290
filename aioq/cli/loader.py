"""Finds the App that `module:app` names, or says in one line why it cannot be found."""

import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from pkgutil import iter_modules
from types import FunctionType, ModuleType

from aioq.app import App
from aioq.errors import AioqError, LoadError

USUAL = ("app", "main", "tasks", "worker")
"""The modules in which a package without an App of its own may have it; the first one with an App counts."""

FILES_READ = 500
"""The most files of a package that are searched for code that makes an App, where no App is found."""

_MAKES_APP = r"^(\w+)\s*(?::[^=\n]+)?=\s*(?:aioq\.)?App\("


def load_app(target: str) -> App:
    """The App that `target` names, with its `imports` loaded.

    Args:
        target: `module:attribute`, or `module` alone if the module has one App. For a package without an App of
            its own, it is the App of the first of its modules `USUAL` that has one.

    Raises:
        LoadError: there is none; the message says in one line what was looked for and what is there.
    """
    module_name, _, attribute = target.partition(":")
    if not module_name:
        raise LoadError(f"{target!r} names no module; expected module:app, such as shop.tasks:app")
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    _refuse_path(module_name, attribute)
    module = _import(module_name)
    app = _attribute(module, attribute) if attribute else _only_app(module)
    try:
        app.load()
    except AioqError as error:
        raise LoadError(str(error)) from error
    return app


def _refuse_path(name: str, attribute: str) -> None:
    """Raise an error for a path, with the name of its module. Under two names, a module would be loaded twice."""
    if not (os.sep in name or name.endswith(".py") or name.startswith(".")):
        return
    path = Path(os.path.relpath(name))
    parts = path.with_suffix("").parts if path.suffix == ".py" else path.parts
    if not path.exists() and not path.with_suffix(".py").exists():
        raise LoadError(f"there is no {name!r} in {os.getcwd()}; name a module, such as shop.tasks:app")
    what = "a directory" if path.is_dir() else "a file"
    if not parts or not all(part.isidentifier() for part in parts):
        raise LoadError(
            f"{name!r} is {what} and no module; run aioq where the package is, and name it: shop.tasks:app"
        )
    module = ".".join(part for part in parts if part != "__init__")
    raise LoadError(f"{name!r} is {what}; name the module: {module}{f':{attribute}' if attribute else ''}")


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise LoadError(_no_module(name, error.name)) from error
        hint = _where_is((error.name or "").partition(".")[0])
        raise LoadError(f"module {name!r} failed to import: {error} ({_place(error)}){hint}") from error
    except AioqError as error:
        raise LoadError(f"module {name!r}: {error}") from error
    except SyntaxError as error:
        raise LoadError(
            f"module {name!r} has a syntax error: {error.msg} ({error.filename}, line {error.lineno})"
        ) from error
    except SystemExit as error:
        raise LoadError(
            f"module {name!r} ended the program when it was imported: SystemExit({error.code!r}) ({_place(error)})"
        ) from error
    except Exception as error:
        raise LoadError(
            f"module {name!r} failed to import: {type(error).__name__}: {error} ({_place(error)})"
        ) from error


def _no_module(name: str, missing: str) -> str:
    parent = missing.rpartition(".")[0]
    package = sys.modules.get(parent)
    if package is not None and package.__file__ and hasattr(package, "__path__"):  # no mere directory
        inside = sorted(f"{parent}.{module.name}" for module in iter_modules(package.__path__))
        hint = _with_a_colon(name) or _alike(missing, inside)
        found = ", ".join(inside[:10]) or "no module"
        return f"no module {missing!r} in the package {parent!r}{hint}; it has: {found}"
    here = sorted(
        entry.name.removesuffix(".py")
        for entry in os.scandir(os.getcwd())
        if (entry.is_dir() and entry.name.isidentifier() and entry.name != "__pycache__")
        or entry.name.endswith(".py")
    )
    found = ", ".join(here[:10]) or "no module"
    what = repr(name) if name == missing else f"{name!r} (there is no {missing!r})"
    hint = _with_a_colon(name) or _where_is(missing.partition(".")[0]) or _alike(missing, here)
    return f"no module {what} in {os.getcwd()} or on sys.path{hint}; {os.getcwd()} has: {found}"


def _with_a_colon(name: str) -> str:
    """A hint for `shop.tasks.app`, if `shop.tasks` is a module that has the App `app`."""
    parent, _, last = name.rpartition(".")
    module = sys.modules.get(parent)
    return f"; did you mean {parent}:{last}?" if isinstance(getattr(module, last, None), App) else ""


def _where_is(package: str) -> str:
    """A hint for a command that was started in the wrong directory: the one that has the package."""
    here = Path.cwd()
    for folder in (here.parent, here.parent.parent, *sorted(each for each in here.iterdir() if each.is_dir())):
        if package.isidentifier() and ((folder / package).is_dir() or (folder / f"{package}.py").is_file()):
            return f"; but {folder} has it: run aioq there"
    return ""


def _alike(name: str, there: list[str]) -> str:
    near = get_close_matches(name, there, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _apps(module: ModuleType) -> dict[str, App]:
    return {name: value for name, value in vars(module).items() if isinstance(value, App)}


def _inner(module: ModuleType) -> Iterator[ModuleType]:
    """The usual modules that a package has; each is imported only when it is asked for."""
    for name in USUAL if hasattr(module, "__path__") else ():
        full = f"{module.__name__}.{name}"
        if importlib.util.find_spec(full) is not None:
            yield _import(full)


def _written(package: ModuleType) -> list[str]:
    """Places where a package's sources seem to make an App. They are only read: imports could do anything."""
    found: list[str] = []
    for folder in getattr(package, "__path__", ()):
        for file in sorted(Path(folder).rglob("*.py"))[:FILES_READ]:
            parts = [package.__name__, *file.relative_to(folder).with_suffix("").parts]
            module = ".".join(part for part in parts if part != "__init__")
            names = re.findall(_MAKES_APP, file.read_text(errors="replace"), re.MULTILINE)
            found += [f"{module}:{name}" for name in names]
    return found[:10]


def _attribute(module: ModuleType, attribute: str) -> App:
    value = _value(module, attribute)
    if isinstance(value, App):
        return value
    elsewhere: list[str] = []
    if value is None or isinstance(value, ModuleType):
        for inner in _inner(module):
            found = _value(inner, attribute)
            if isinstance(found, App):
                return found
            elsewhere += [f"{inner.__name__}:{name}" for name in _apps(inner)]
    apps = ", ".join(_apps(module)) or "none"
    what = "has no" if value is None else f"has a {type(value).__name__} named"
    wanted = f"{attribute!r}" if value is None else f"{attribute!r}, which is no App"
    elsewhere = elsewhere or ([] if _apps(module) else _written(module))
    hint = f"; there is {' and '.join(elsewhere)}" if elsewhere else ""
    if isinstance(value, FunctionType):
        hint = f"; aioq calls no function: write app = {attribute}() in the module"
    raise LoadError(f"module {module.__name__!r} {what} {wanted}; Apps in it: {apps}{hint}")


def _value(module: ModuleType, attribute: str) -> object:
    value: object = module
    for part in attribute.split("."):
        value = getattr(value, part, None)
    return value


def _only_app(module: ModuleType) -> App:
    looked = ""
    holder, apps = module, _apps(module)
    for inner in () if apps else _inner(module):
        if apps := _apps(inner):
            holder = inner
            break
        looked += f", nor has {inner.__name__!r}"
    different = {id(app): name for name, app in apps.items()}
    if len(different) == 1:
        return next(iter(apps.values()))
    if not apps:
        written = _written(module)
        hint = f"there is {' and '.join(written)}" if written else f"make one: app = App({module.__name__!r})"
        raise LoadError(f"module {module.__name__!r} has no App{looked}; {hint}")
    raise LoadError(
        f"module {holder.__name__!r} has {len(different)} Apps; say which: "
        + " or ".join(f"{holder.__name__}:{name}" for name in apps)
    )


def _place(error: BaseException) -> str:
    """`file, line` of the user's code that raised."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    return f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else "no place known"
