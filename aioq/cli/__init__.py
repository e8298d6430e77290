"""The command line."""

from aioq.cli.main import main

__all__ = ["main"]
