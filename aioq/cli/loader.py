"""Finding the App that `module:app` names, and saying in one line why it cannot be found."""

import importlib
import os
import sys
import traceback
from types import ModuleType

from aioq.app import App
from aioq.errors import AioqError, LoadError


def load_app(target: str) -> App:
    """The App `target` names, with its `imports` loaded.

    Args:
        target: `module:attribute`, or `module` alone where the module has one App.

    Raises:
        LoadError: saying in one line what was looked for and what is there.
    """
    module_name, _, attribute = target.partition(":")
    if not module_name:
        raise LoadError(f"{target!r} names no module; expected module:app, such as shop.tasks:app")
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    module = _import(module_name)
    app = _attribute(module, attribute) if attribute else _only_app(module)
    try:
        app.load()
    except AioqError as error:
        raise LoadError(str(error)) from error
    return app


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise LoadError(_no_module(name, error.name)) from error
        raise LoadError(f"module {name!r} failed to import: {error} ({_place(error)})") from error
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
    here = sorted(
        entry.name.removesuffix(".py")
        for entry in os.scandir(os.getcwd())
        if (entry.is_dir() and entry.name.isidentifier()) or entry.name.endswith(".py")
    )
    found = ", ".join(here[:10]) or "no module"
    what = repr(name) if name == missing else f"{name!r} (there is no {missing!r})"
    return f"no module {what} in {os.getcwd()} or on sys.path; {os.getcwd()} has: {found}"


def _apps(module: ModuleType) -> dict[str, App]:
    return {name: value for name, value in vars(module).items() if isinstance(value, App)}


def _attribute(module: ModuleType, attribute: str) -> App:
    value: object = module
    for part in attribute.split("."):
        value = getattr(value, part, None)
    if isinstance(value, App):
        return value
    apps = ", ".join(_apps(module)) or "none"
    what = "has no" if value is None else f"has a {type(value).__name__} named"
    wanted = f"{attribute!r}" if value is None else f"{attribute!r}, which is no App"
    raise LoadError(f"module {module.__name__!r} {what} {wanted}; Apps in it: {apps}")


def _only_app(module: ModuleType) -> App:
    apps = _apps(module)
    different = {id(app): name for name, app in apps.items()}
    if len(different) == 1:
        return next(iter(apps.values()))
    if not apps:
        raise LoadError(f"module {module.__name__!r} has no App; make one: app = App({module.__name__!r})")
    raise LoadError(
        f"module {module.__name__!r} has {len(different)} Apps; say which: "
        + " or ".join(f"{module.__name__}:{name}" for name in apps)
    )


def _place(error: BaseException) -> str:
    """`file, line` of the user's code that raised."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    return f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else "no place known"
