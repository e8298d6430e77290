"""What pyproject.toml says: the settings of `[tool.aioq]`, and the App that commands take where none is named."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from aioq.errors import ConfigError

DEFAULT_APP = "AIOQ_APP"
"""The environment variable that names the App of commands, as `module:app`."""

APP_KEY = "app"
"""The key of `[tool.aioq]` that does the same."""


def from_pyproject(start: Path | None = None) -> tuple[dict[str, object], str]:
    """Find the nearest pyproject.toml with a `[tool.aioq]`, in the directory `start` or above it.

    Its `app`, which is no setting of an App but the one that commands take, is left out.

    Args:
        start: the directory to begin with; default the current one.

    Returns:
        The `file` and the `file_source` for `load_settings`; an empty table and "" if there is none.

    Raises:
        ConfigError: a pyproject.toml on the way cannot be read, or its `tool.aioq` is not a table.
    """
    table, source = _table(start)
    return {name: value for name, value in table.items() if name != APP_KEY}, source


def default_app(environ: Mapping[str, str] | None = None, start: Path | None = None) -> str:
    """The App, as `module:app`, that commands take where none is named; "" if none is set.

    Args:
        environ: the environment; default `os.environ`.
        start: as for `from_pyproject`.

    Raises:
        ConfigError: as for `from_pyproject`, or `app` is no text.
    """
    target = (os.environ if environ is None else environ).get(DEFAULT_APP, "")
    if target:
        return target
    table, source = _table(start)
    value = table.get(APP_KEY, "")
    if not isinstance(value, str):
        raise ConfigError(f'{APP_KEY!r} from {source} must be a module and its App, such as "shop.tasks:app"')
    return value


def _table(start: Path | None) -> tuple[dict[str, object], str]:
    here = (start or Path.cwd()).absolute()
    for folder in (here, *here.parents):
        file = folder / "pyproject.toml"
        tool = _read_toml(file).get("tool")
        table = cast("dict[str, Any]", tool).get("aioq") if isinstance(tool, dict) else None
        if isinstance(table, dict):
            return cast("dict[str, object]", table), f"[tool.aioq] in {file}"
        if table is not None:
            raise ConfigError(f"tool.aioq in {file} must be a table, not {type(table).__name__}")
    return {}, ""


def _read_toml(file: Path) -> dict[str, Any]:
    """Parse a TOML file; a missing one counts as empty."""
    data = b""
    try:
        data = file.read_bytes()
        return tomllib.loads(data.decode())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return {}
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:  # of the decoder or of tomllib, which names the line unless it is the last
        line = data.count(b"\n", 0, getattr(error, "start", len(data))) + 1
        where = "" if "(at line" in str(error) else f" (at line {line})"
        raise ConfigError(f"{file} is not valid TOML: {error}{where}") from error
