"""The command line. Commands are imported when they are called, so that Ctrl-C during the import ends quietly.

`main` has the commands, also those of `cli/top` and `cli/demo`; `check`, `doctor`, `shards` and `schedules` are
one each. `targets` finds which App is meant, and `loader` imports it; `queue_slots` reads the queues of a worker;
`errors` and `logging` are for all of them.

Imports `cli/operate`, `cli/worker`, `app`, `operate`, `worker`, `schedules`, `producer`, `store`, `jobs`,
`config`, `util` and `errors`.
"""

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
