"""`aioq top`: starts the full-screen view, where there is a terminal and the library for it."""

import asyncio
import os
import sys
from importlib import import_module
from importlib.util import find_spec

from aioq.app import App, internals_of
from aioq.cli.targets import AppTarget, find_app
from aioq.errors import ConfigError

LEAST_INTERVAL, MOST_INTERVAL = 0.2, 3600.0
"""Seconds between two refreshes. Below that the eye sees no more, and the server only has more to do."""


def run(target: AppTarget, *, interval: float) -> None:
    """Carry out the command."""
    if find_spec("textual") is None:
        raise ConfigError("aioq top needs the textual package: pip install 'aioq[top]'")
    if not LEAST_INTERVAL <= interval <= MOST_INTERVAL:
        raise ConfigError(f"--interval {interval:g}: expected {LEAST_INTERVAL} to {MOST_INTERVAL:g} seconds")
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM", "dumb") in {"", "dumb"}:
        raise ConfigError(
            "aioq top needs a terminal; elsewhere: aioq queues, aioq jobs, aioq workers, with --json"
        )
    app, _ = find_app(target)
    sys.exit(asyncio.run(_watch(app, interval)))


async def _watch(app: App, interval: float) -> int:
    """Show the screen until it is left; the exit code."""
    async with app:
        # So a server that cannot be reached, or refuses the password, is the same error as for other commands.
        server = await (await internals_of(app).store()).open()
        screen = import_module("aioq.cli.top.ui").Top(app, server.url, interval)
        await screen.run_async()
        return screen.return_code or 0
