"""The banner that a worker shows when it starts: a box on a terminal, plain lines in a log."""

import os
import socket
import sys
from collections.abc import Iterable, Mapping
from importlib import import_module
from types import MappingProxyType

from aioq.store.diagnosis import ServerInfo
from aioq.util.printable import printable

MAX_TASKS = 20
"""The most task names that are shown; of further ones only the number is."""


def show_banner(
    *,
    version: str,
    app: str,
    server: ServerInfo,
    queues: Iterable[str],
    concurrency: int,
    processes: int,
    tasks: Iterable[str],
    paused: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Print the banner to standard error, where the log goes too."""
    names = [printable(name) for name in sorted(tasks)]
    shown = names[:MAX_TASKS]
    if len(names) > MAX_TASKS:
        shown.append(f"... and {len(names) - MAX_TASKS} more")
    rows = {
        "app": app,
        "server": printable(f"{server.url} ({server.product} {server.version})"),
        "queues": ", ".join(queues),
        **({"paused": "\n".join(f"{queue}: {words}" for queue, words in paused.items())} if paused else {}),
        "concurrency": f"{concurrency}" + (f" x {processes} processes" if processes > 1 else ""),
        "tasks": "\n".join(shown) or "none",
        "host": printable(f"{socket.gethostname()}, pid {os.getpid()}"),
    }
    if sys.stderr.isatty():
        # To draw a box takes 4 MB of the worker's memory until it ends, so this is done on a terminal only.
        import_module("aioq.cli.worker.box").draw(f"aioq {version}", rows)
        return
    width = max(map(len, rows))
    lines = [f"│ {name:{width}} │ {value.replace(chr(10), ', ')}" for name, value in rows.items()]
    print(f"aioq {version}", *lines, sep="\n", file=sys.stderr, flush=True)
