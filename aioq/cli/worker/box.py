"""A small table in a box on the terminal."""

from collections.abc import Mapping

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


def draw(title: str, rows: Mapping[str, str]) -> None:
    """Print names and values to standard error, where the log goes too."""
    table = Table(box=box.ROUNDED, show_header=False, title=title, title_style="bold")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(value))
    Console(stderr=True, highlight=False).print(table)
