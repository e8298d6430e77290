"""`aioq queue`: shows one queue, pauses it, or purges it."""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

import click

from aioq.app import App
from aioq.cli.operate.output import Column, print_facts, print_items, print_json, span
from aioq.cli.operate.questions import confirm
from aioq.cli.operate.queues import COUNTED_STATES, QueueShown, look, paused
from aioq.cli.targets import AppTarget, find_app
from aioq.operate.purge import purged_states
from aioq.operate.statistics import Percentiles, QueueActivity, QueueStats
from aioq.util.plural import counted
from aioq.util.printable import printable


def run(
    target: AppTarget,
    *,
    verb: str | None,
    task: Sequence[str],
    until: datetime | timedelta | None,
    state: Sequence[str],
    is_confirmed: bool,
    as_json: bool,
) -> None:
    """Carry out the command."""
    app, (name,) = find_app(target, "the QUEUE")

    async def carry_out() -> QueueShown:
        async with app:
            queue, tasks = app.queue(name), list(task) or None
            if verb == "pause":
                await queue.pause(tasks=tasks, until=until)
            elif verb == "resume":
                await queue.resume(tasks=tasks)
            elif verb == "purge":
                await _purge(app, name, state, is_confirmed=is_confirmed)
            return await look(app, name)

    found = asyncio.run(carry_out())
    if as_json:
        print_json([found])
        return
    print_facts(found.info.queue, facts(found))
    if found.stats is not None and verb is None:
        print_items([*rows(found.stats)], COLUMNS, as_json=False)


async def _purge(app: App, name: str, state: Sequence[str], *, is_confirmed: bool) -> None:
    states = purged_states(f"queue {name}: purge", list(state) or None)
    before = (await look(app, name)).counts
    what = ", ".join(f"{before[word]} {each}" for word, each in COUNTED_STATES.items() if each in states)
    confirm(f"delete the jobs of {printable(name)} ({what})?", is_confirmed=is_confirmed)
    deleted = await app.queue(name).purge(states=list(state) or None)
    click.echo(f"{counted(deleted, 'job')} deleted", err=True)


def facts(found: QueueShown) -> Iterator[tuple[str, str]]:
    """How many jobs there are, and what is paused."""
    for word, number in found.counts.items():
        yield word, f"{number}"
    if found.stats is not None:
        yield "oldest", span(found.stats.oldest)
    yield "max size", f"{found.max_size or ''}"
    yield "shards", f"{found.info.shards}" if found.info.shards > 1 else ""
    yield "state", paused(found.info.paused) or "open"
    yield "uneven", _uneven(found.info.uneven)
    yield "tasks", ", ".join(f"{task} {paused(pause)}" for task, pause in found.info.tasks.items())


def _uneven(shards: Sequence[int]) -> str:
    numbers = ", ".join(map(str, shards))
    return (
        f"shard {numbers}: other than shard 0; workers soon change that, or pause or resume again"
        if shards
        else ""
    )


ActivityRow = tuple[str, str, QueueActivity]
"""A span of time, a task or all, and what happened."""


def rows(found: QueueStats) -> Iterator[ActivityRow]:
    """What happened in each span of time, and to each task in the longest one."""
    yield "minute", "all", found.minute
    yield "hour", "all", found.hour
    yield "day", "all", found.day
    for task, each in found.day.tasks.items():
        yield "day", task, each


def _times(found: Percentiles) -> str:
    values = found.p50, found.p95, found.p99
    return "" if None in values else " / ".join(map(span, values))


COLUMNS: Sequence[Column[ActivityRow]] = (
    Column("last", lambda row: row[0]),
    Column("task", lambda row: row[1]),
    Column("sent", lambda row: f"{row[2].sent}" if row[1] == "all" else "", is_number=True),
    Column("succeeded", lambda row: f"{row[2].succeeded}", is_number=True),
    Column("failed", lambda row: f"{row[2].failed}", is_number=True),
    Column("cancelled", lambda row: f"{row[2].cancelled}", is_number=True),
    Column("retried", lambda row: f"{row[2].retried}", is_number=True),
    Column("crashed", lambda row: f"{row[2].crashed}", is_number=True),
    Column("run p50 / p95 / p99", lambda row: _times(row[2].run_time), is_number=True),
    Column("wait p50 / p95 / p99", lambda row: _times(row[2].wait_time), is_number=True),
)
