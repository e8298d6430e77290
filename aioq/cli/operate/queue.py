"""`aioq queue`: shows one queue."""

import asyncio
from collections.abc import Iterator, Sequence

from aioq.app import App, internals_of
from aioq.cli.operate.output import Column, print_facts, print_items, print_json, span
from aioq.cli.targets import Wanted, find_app
from aioq.operate.jobs import queues_of
from aioq.operate.statistics import Percentiles, QueueActivity, QueueStats


def run(wanted: Wanted, *, as_json: bool) -> None:
    """Carry out the command."""
    app, (name,) = find_app(wanted, "the QUEUE")
    found = asyncio.run(_look(app, name))
    if as_json:
        print_json([found])
        return
    print_facts(found.queue, facts(found))
    print_items([*rows(found)], COLUMNS, as_json=False)


async def _look(app: App, name: str) -> QueueStats:
    async with app:
        await queues_of(internals_of(app), [name], where="")
        return await app.queue(name).stats()


def facts(found: QueueStats) -> Iterator[tuple[str, str]]:
    """How many jobs there are."""
    yield "queue", found.queue
    yield "queued", f"{found.queued}"
    yield "scheduled", f"{found.scheduled}"
    yield "waiting", f"{found.waiting}"
    yield "running", f"{found.running}"
    yield "dead", f"{found.dead}"
    yield "oldest", span(found.oldest)


Row = tuple[str, str, QueueActivity]
"""A span of time, a task or all, and what happened."""


def rows(found: QueueStats) -> Iterator[Row]:
    """What happened in each span of time, and to each task in the longest one."""
    yield "minute", "all", found.minute
    yield "hour", "all", found.hour
    yield "day", "all", found.day
    for task, each in found.day.tasks.items():
        yield "day", task, each


def _times(found: Percentiles) -> str:
    values = found.p50, found.p95, found.p99
    return "" if None in values else " / ".join(map(span, values))


COLUMNS: Sequence[Column[Row]] = (
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
