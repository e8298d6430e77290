"""The command line. Commands are imported when they are called, so that Ctrl-C during the import ends quietly."""

import sys
from importlib import import_module

from aioq.util.standard_streams import open_standard_streams

INTERRUPTED = 130
"""The exit code of a command that was ended by Ctrl-C, by the convention of shells."""


def main() -> None:
    """The entry point of the `aioq` script and of `python -m aioq`."""
    open_standard_streams()
    try:
        commands = import_module("aioq.cli.main")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    commands.main()
