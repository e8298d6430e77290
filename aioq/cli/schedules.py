"""`aioq schedules`: shows the schedules in the server, and changes them."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta, tzinfo
from typing import TypedDict, TypeVar, Unpack
from zoneinfo import ZoneInfo

import click
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aioq.app import App
from aioq.cli.errors import as_command_errors
from aioq.cli.operate.options import as_json, for_app
from aioq.cli.operate.output import print_json
from aioq.cli.targets import AppTarget, find_app
from aioq.schedules.info import Schedule, duration
from aioq.util.printable import printable
from aioq.util.timezones import zone_or_utc

T = TypeVar("T")

RUNS = 5
"""How many of the next runs are shown."""

NEXT_RUNS = "next runs"

LATE = timedelta(seconds=30)
"""If a tick is later than this, no worker is there: if one had died, another would have taken over by then."""

_LEAST = 8
"""The width to which a column may shrink before the table becomes wider than the terminal."""

_DATE = 14
"""The width of a day, `Mon 2026-11-30`, which is not broken even in a narrow table."""

_WIDE = 140
"""The terminal width from which day and time fit in one line."""

_FRAME = 16
"""The width of the frame lines of a table with five columns."""


@click.group()
def commands() -> None:
    """The group of the commands of `aioq schedules`; `main.py` has its help."""


class AppTargetArgs(TypedDict):
    """The arguments and options by which a command is given its App."""

    words: tuple[str, ...]
    url: str | None
    name: str | None


_for_one = for_app(metavar="[MODULE:APP] ID")


@commands.command("list")
@for_app(metavar="[MODULE:APP]")
@as_json
def list_(*, as_json: bool, **target: Unpack[AppTargetArgs]) -> None:
    """Show all schedules, the next to tick first.

    If the output is no terminal, one line for each: id, task, when, zone, next run and state, separated by tabs.
    """
    found = _with_all(target, lambda app: app.schedules.list())
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo("there are no schedules", err=True)  # on standard output, a pipe's reader would take it for one
    # The stream is asked, because rich takes a pipe for a terminal if FORCE_COLOR is set.
    print_list(_console(), found, plain=not sys.stdout.isatty())


@commands.command()
@_for_one
@as_json
def show(*, as_json: bool, **target: Unpack[AppTargetArgs]) -> None:
    """Show one schedule, with its next five runs in its own time zone."""
    found = _with_one(target, lambda app, schedule_id: app.schedules.get(schedule_id))
    if as_json:
        print_json([found])
    else:
        _show(found)


@commands.command()
@_for_one
def pause(**target: Unpack[AppTargetArgs]) -> None:
    """Pause a schedule; ticks that come due while it is paused are not made up for later."""
    _show(_with_one(target, lambda app, schedule_id: app.schedules.pause(schedule_id)))


@commands.command()
@_for_one
def resume(**target: Unpack[AppTargetArgs]) -> None:
    """Resume a paused schedule, with its next tick."""
    _show(_with_one(target, lambda app, schedule_id: app.schedules.resume(schedule_id)))


@commands.command()
@_for_one
def run(**target: Unpack[AppTargetArgs]) -> None:
    """Send a schedule's call now, in addition to its ticks, and print the job's id."""
    click.echo(printable(_with_one(target, lambda app, schedule_id: app.schedules.run_now(schedule_id)).id))


@commands.command()
@_for_one
def remove(**target: Unpack[AppTargetArgs]) -> None:
    """Remove a schedule; one that code declares comes back when its declaration changes."""

    async def change(app: App, schedule_id: str) -> tuple[str, bool]:
        declared = (await app.schedules.get(schedule_id)).in_code
        await app.schedules.remove(schedule_id)
        return schedule_id, declared

    schedule_id, declared = _with_one(target, change)
    more = "; code declares it, and it comes back when its declaration changes" if declared else ""
    click.echo(f"removed {printable(schedule_id)}{more}")


def _with_all(target: AppTargetArgs, call: Callable[[App], Awaitable[T]]) -> T:
    """Find the App, call something on it, and close it."""
    return _with_app(target, lambda app, _: call(app))


def _with_one(target: AppTargetArgs, call: Callable[[App, str], Awaitable[T]]) -> T:
    """The same, with the id of a schedule."""
    return _with_app(target, lambda app, words: call(app, words[0]), "the schedule's ID")


def _with_app(target: AppTargetArgs, call: Callable[[App, Sequence[str]], Awaitable[T]], *arguments: str) -> T:
    async def with_app(app: App, words: Sequence[str]) -> T:
        async with app:
            return await call(app, words)

    with as_command_errors():
        return asyncio.run(with_app(*find_app(AppTarget(**target), *arguments)))


def _console() -> Console:
    return Console(highlight=False)


def print_list(console: Console, schedules: Sequence[Schedule], *, plain: bool) -> None:
    """Print schedules: as a table, or plain, as one line for each with tabs between the fields."""
    if plain:
        for schedule in schedules:
            click.echo("\t".join(map(printable, _line(schedule))), file=console.file)
        return
    if not schedules:
        return
    table = Table(box=box.ROUNDED)
    # The id is never broken, because it is what the other commands take.
    table.add_column("id", no_wrap=True)
    table.add_column("task", overflow="fold", min_width=_LEAST)
    table.add_column("when", overflow="fold", min_width=_LEAST)
    table.add_column("next run", overflow="fold", width=_DATE if console.width < _WIDE else None)
    table.add_column("state", overflow="fold", min_width=_LEAST)
    for schedule in schedules:
        # The zone is shown only beside the time: twice would be too wide.
        cells = (schedule.id, schedule.task, schedule.description, _next(schedule), _state(schedule))
        table.add_row(*(Text(printable(cell)) for cell in cells))
    # If it does not fit although all columns are narrow, it is wider than the terminal, which breaks the lines
    # itself.
    least = max(cell_len(printable(schedule.id)) for schedule in schedules) + 3 * _LEAST + _DATE + _FRAME
    table.width = least if least > console.width else None
    console.print(table, crop=False, no_wrap=True, overflow="ignore")


def _line(schedule: Schedule) -> Sequence[str]:
    zone = zone_or_utc(schedule.tz)
    runs = schedule.next_runs(1)
    spec = "milliseconds" if runs and runs[0].microsecond else "seconds"
    run = runs[0].astimezone(zone).isoformat(timespec=spec) if runs else "-"
    return schedule.id, schedule.task, schedule.description, schedule.tz, run, _state(schedule)


def _show(schedule: Schedule) -> None:
    table = Table(box=box.ROUNDED, show_header=False, title=Text(printable(schedule.id)))
    for name, value in facts(schedule):
        # Each of the next runs has a line. Line breaks in text from outside are escaped.
        table.add_row(name, Text(value if name == NEXT_RUNS else printable(value)))
    _console().print(table)


def facts(schedule: Schedule) -> Sequence[tuple[str, str]]:
    """The facts that are shown about one schedule, as names and values; those without a value are left out."""
    zone = zone_or_utc(schedule.tz)
    policies = f"misfire {schedule.misfire.value}, overlap {schedule.overlap.value}"
    facts = [
        ("task", schedule.task),
        ("queue", schedule.queue),
        ("when", _when(schedule)),
        ("cron", schedule.cron or ""),
        ("from", _moment(schedule.start, zone)),
        ("until", _moment(schedule.end, zone)),
        ("jitter", f"up to {duration(schedule.jitter)}" if schedule.jitter else ""),
        ("policies", policies),
        ("runs", _runs(schedule)),
        ("last run", _last(schedule, zone)),
        (
            "due since",
            f"{_moment(schedule.next_at, zone)}: no worker makes its ticks" if _is_due(schedule) else "",
        ),
        (NEXT_RUNS, "\n".join(_moment(run, zone) for run in schedule.next_runs(RUNS))),
        ("state", _state(schedule)),
    ]
    return [(name, value) for name, value in facts if value]


def _when(schedule: Schedule) -> str:
    return f"{schedule.description} ({schedule.tz})" if schedule.cron else schedule.description


def _state(schedule: Schedule) -> str:
    state = "paused" if schedule.paused else "active" if schedule.next_at else "over"
    if _is_due(schedule):
        state = "due"
    if not schedule.in_code:
        return f"{state}, put at run time"
    return f"{state}, changed at run time" if schedule.changed else f"{state}, from code"


def _runs(schedule: Schedule) -> str:
    made = str(schedule.runs) if schedule.max_runs is None else f"{schedule.runs} of {schedule.max_runs}"
    return f"{made}, {schedule.skipped} skipped" if schedule.skipped else made


def _last(schedule: Schedule, zone: tzinfo) -> str:
    return "" if schedule.last_at is None else f"{_moment(schedule.last_at, zone)}, job {schedule.last_job}"


def _is_due(schedule: Schedule) -> bool:
    """Whether its next tick has been due for so long that no worker can be there."""
    next_at, now = schedule.next_at, schedule.asked_at
    return next_at is not None and now is not None and now - next_at > LATE


def _next(schedule: Schedule) -> str:
    runs = schedule.next_runs(1)
    return _moment(runs[0], zone_or_utc(schedule.tz)) if runs else "-"


def _moment(moment: datetime | None, zone: tzinfo) -> str:
    if moment is None:
        return ""
    local = moment.astimezone(zone)
    part = f".{local.microsecond // 1000:03}" if local.microsecond else ""
    # Both names: CST is the time of Shanghai and of Chicago, and the zone's name does not tell summer from winter.
    name = f"{zone}" if isinstance(zone, ZoneInfo) else "UTC"
    short = f"{local:%Z}"
    return f"{local:%a %Y-%m-%d %H:%M:%S}{part} {short}{f' ({name})' if name != short else ''}"
