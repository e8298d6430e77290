"""What a worker shows when it starts."""

import os
import socket
from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aioq.store import ServerInfo

MAX_TASKS = 20
"""Task names shown; more are counted."""


def show_banner(
    *,
    version: str,
    app: str,
    server: ServerInfo,
    queues: Iterable[str],
    concurrency: int,
    processes: int,
    tasks: Iterable[str],
) -> None:
    """Print the banner to standard error, where the log goes too."""
    table = Table(box=box.ROUNDED, show_header=False, title=f"aioq {version}", title_style="bold")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    names = sorted(tasks)
    shown = names[:MAX_TASKS]
    if len(names) > MAX_TASKS:
        shown.append(f"... and {len(names) - MAX_TASKS} more")
    rows = {
        "app": app,
        "server": f"{server.url} ({server.product} {server.version})",
        "queues": ", ".join(queues),
        "concurrency": f"{concurrency}" + (f" x {processes} processes" if processes > 1 else ""),
        "tasks": "\n".join(shown) or "none",
        "host": f"{socket.gethostname()}, pid {os.getpid()}",
    }
    for name, value in rows.items():
        table.add_row(name, Text(value))
    Console(stderr=True, highlight=False).print(table)
