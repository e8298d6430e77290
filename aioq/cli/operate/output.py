"""What the commands print: tables for people, lines with tabs for pipes, and JSON for programs."""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

import click
import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aioq.util.printable import printable

T = TypeVar("T")

NO_VALUE = "-"
"""What a cell without a value shows, so that the fields of a line can be kept apart."""


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """A column of a table.

    Attributes:
        heading: its heading.
        text: the cell of an item; empty for no value.
        is_number: whether it is printed flush right.
        whole: whether it is never broken: because other commands take it, or because it is short.
    """

    heading: str
    text: Callable[[T], str]
    is_number: bool = False
    whole: bool = False


def print_items(items: Sequence[T], columns: Sequence[Column[T]], *, as_json: bool, title: str = "") -> None:
    """Print items: a JSON object a line; or else a table on a terminal, and lines with tabs anywhere else."""
    if as_json:
        print_json(items)
    elif (
        sys.stdout.isatty()
    ):  # the stream is asked, because rich takes a pipe for a terminal if FORCE_COLOR is set
        if items:
            Console(highlight=False).print(table_of(items, columns, title))
    else:
        for item in items:
            click.echo("\t".join(printable(column.text(item)) or NO_VALUE for column in columns))


def print_json(items: Iterable[Any]) -> None:
    """Print each item as a JSON object in one line: its attributes, times as in RFC 3339."""
    for item in items:
        click.echo(msgspec.json.encode(item, enc_hook=_plain).decode())


def print_facts(title: str, facts: Iterable[tuple[str, str]]) -> None:
    """Print what is known of one thing: a table of names and values, or lines with tabs; without empty values."""
    shown = [(name, value) for name, value in facts if value]
    if not sys.stdout.isatty():
        for name, value in shown:
            click.echo(f"{name}\t{printable(value)}")
        return
    table = Table(box=box.ROUNDED, show_header=False, title=Text(printable(title)))
    for name, value in shown:
        table.add_row(name, Text(printable(value), overflow="fold"))
    Console(highlight=False).print(table)


def table_of(items: Sequence[T], columns: Sequence[Column[T]], title: str = "") -> Table:
    """The table of items."""
    table = Table(box=box.ROUNDED, title=Text(printable(title)) if title else None)
    for column in columns:
        justify = "right" if column.is_number else "left"
        table.add_column(column.heading, justify=justify, no_wrap=column.whole, overflow="fold")
    for item in items:
        table.add_row(*(Text(printable(column.text(item)) or NO_VALUE) for column in columns))
    return table


def moment(at: datetime | None) -> str:
    """A moment in UTC, to the second; empty for none."""
    return "" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def span(seconds: float | None) -> str:
    """A span of time in one or two units: `850 ms`, `12 s`, `3 min 20 s`, `2 d 3 h`; empty for none."""
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    whole = round(seconds)
    for size, unit, smaller, part in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {part}" if rest else "")
    return f"{whole} s"


def _plain(value: Any) -> Any:
    """JSON of what has none of its own, such as a type that the App has registered: what it prints as."""
    return value.total_seconds() if isinstance(value, timedelta) else repr(value)
