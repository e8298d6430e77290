"""`--reload`: hear of changed Python files. The watching itself is the library watchfiles'."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from aioq.errors import ConfigError


def require_watcher() -> None:
    """See that watchfiles is there.

    Raises:
        ConfigError: it is not.
    """
    try:
        import watchfiles  # noqa: F401, PLC0415 - optional extra
    except ModuleNotFoundError:
        raise ConfigError("--reload needs the watchfiles package: pip install 'aioq[reload]'") from None


async def changes(folder: Path, stop: asyncio.Event) -> AsyncIterator[list[str]]:
    """Yield the paths of Python files below `folder` that changed, a list each time, until `stop` is set."""
    from watchfiles import PythonFilter, awatch  # noqa: PLC0415 - optional extra

    async for found in awatch(folder, watch_filter=PythonFilter(), stop_event=stop):
        yield sorted({path for _, path in found})
