"""`aioq schedules`: look at the schedules in the server, and change them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, tzinfo
from typing import TypeVar

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aioq.app import App
from aioq.cli.errors import as_command_errors
from aioq.cli.loader import load_app
from aioq.schedules import Schedule, duration
from aioq.timing import zone_or_utc

T = TypeVar("T")

RUNS = 5
"""How many of the next runs are shown."""


@click.group()
def commands() -> None:
    """What `aioq schedules` can do; `main.py` shows the help."""


_target = click.argument("target", metavar="MODULE:APP")
_id = click.argument("schedule_id", metavar="ID")


@commands.command("list")
@_target
def list_(target: str) -> None:
    """Show all schedules, the next to tick first."""
    found = _with_app(target, lambda app: app.schedules.list())
    if not found:
        click.echo("there are no schedules")
        return
    table = Table(box=box.ROUNDED)
    table.add_column("id", overflow="fold")  # whole, for it is what the other commands take
    table.add_column("task", overflow="fold")
    table.add_column("when")
    table.add_column("next run", no_wrap=True)
    table.add_column("state")
    for schedule in found:
        table.add_row(
            Text(schedule.id), Text(schedule.task), Text(_when(schedule)), _next(schedule), Text(_state(schedule))
        )
    _console().print(table)


@commands.command()
@_target
@_id
def show(target: str, schedule_id: str) -> None:
    """Show one schedule, with its next five runs in its own time zone."""
    _show(_with_app(target, lambda app: app.schedules.get(schedule_id)))


@commands.command()
@_target
@_id
def pause(target: str, schedule_id: str) -> None:
    """Let a schedule rest; its ticks pass, and are not made good later."""
    _show(_with_app(target, lambda app: app.schedules.pause(schedule_id)))


@commands.command()
@_target
@_id
def resume(target: str, schedule_id: str) -> None:
    """Let a paused schedule go on, from its next tick on."""
    _show(_with_app(target, lambda app: app.schedules.resume(schedule_id)))


@commands.command()
@_target
@_id
def run(target: str, schedule_id: str) -> None:
    """Send a schedule's call now, besides its ticks, and print the job's id."""
    click.echo(_with_app(target, lambda app: app.schedules.run_now(schedule_id)).id)


@commands.command()
@_target
@_id
def remove(target: str, schedule_id: str) -> None:
    """Remove a schedule; one that code declares comes back when its declaration changes."""

    async def change(app: App) -> bool:
        declared = (await app.schedules.get(schedule_id)).in_code
        await app.schedules.remove(schedule_id)
        return declared

    if _with_app(target, change):
        click.echo(f"removed {schedule_id}; code declares it, and it comes back when its declaration changes")
    else:
        click.echo(f"removed {schedule_id}")


def _with_app(target: str, call: Callable[[App], Awaitable[T]]) -> T:
    """Load an App, call something on it, and close it."""

    async def with_app(app: App) -> T:
        async with app:
            return await call(app)

    with as_command_errors():
        return asyncio.run(with_app(load_app(target)))


def _console() -> Console:
    return Console(highlight=False)


def _show(schedule: Schedule) -> None:
    table = Table(box=box.ROUNDED, show_header=False, title=Text(schedule.id))
    for name, value in _facts(schedule):
        table.add_row(Text(name), Text(value))
    _console().print(table)


def _facts(schedule: Schedule) -> Sequence[tuple[str, str]]:
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
        ("next runs", "\n".join(_moment(run, zone) for run in schedule.next_runs(RUNS))),
        ("state", _state(schedule)),
    ]
    return [(name, value) for name, value in facts if value]


def _when(schedule: Schedule) -> str:
    return f"{schedule.description} ({schedule.tz})" if schedule.cron else schedule.description


def _state(schedule: Schedule) -> str:
    state = "paused" if schedule.paused else "active" if schedule.next_at else "over"
    if not schedule.in_code:
        return f"{state}, put at run time"
    return f"{state}, changed at run time" if schedule.changed else f"{state}, from code"


def _runs(schedule: Schedule) -> str:
    made = str(schedule.runs) if schedule.max_runs is None else f"{schedule.runs} of {schedule.max_runs}"
    return f"{made}, {schedule.skipped} skipped" if schedule.skipped else made


def _last(schedule: Schedule, zone: tzinfo) -> str:
    return "" if schedule.last_at is None else f"{_moment(schedule.last_at, zone)}, job {schedule.last_job}"


def _next(schedule: Schedule) -> str:
    return _moment(schedule.next_at, zone_or_utc(schedule.tz)) or "-"


def _moment(moment: datetime | None, zone: tzinfo) -> str:
    if moment is None:
        return ""
    local = moment.astimezone(zone)
    part = f".{local.microsecond // 1000:03}" if local.microsecond else ""
    return f"{local:%a %Y-%m-%d %H:%M:%S}{part} {local:%Z}"
