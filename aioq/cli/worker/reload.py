"""`--reload`: watches for changed Python files, by the library watchfiles."""

import asyncio
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path

from aioq.errors import ConfigError


def require_watcher() -> None:
    """Check that watchfiles is installed.

    Raises:
        ConfigError: it is not.
    """
    if find_spec("watchfiles") is None:
        raise ConfigError("--reload needs the watchfiles package: pip install 'aioq[reload]'")


async def changes(folder: Path, stop: asyncio.Event) -> AsyncIterator[list[str]]:
    """Yield lists of paths of Python files below `folder` that have changed, until `stop` is set."""
    from watchfiles import (  # optional extra  # noqa: PLC0415
        PythonFilter,
        awatch,  # pyright: ignore[reportUnknownVariableType] - watchfiles is partly typed
    )

    async for found in awatch(folder, watch_filter=PythonFilter(), stop_event=stop):
        yield sorted({path for _, path in found})
