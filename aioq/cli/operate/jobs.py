"""`aioq jobs`: finds jobs, and prints them or how many they are."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import click

from aioq.app import App
from aioq.cli.operate.output import Column, moment, print_items, print_json
from aioq.cli.targets import AppTarget, find_app
from aioq.jobs.job import JobInfo
from aioq.operate.jobs import JobCount, JobQuery

_PART = 500
"""How many lines a pipe gets at once."""


def run(
    target: AppTarget, *, filters: Mapping[str, Any], limit: int, is_unlimited: bool, is_count: bool, as_json: bool
) -> None:
    """Carry out the command."""
    app, _ = find_app(target)
    if is_count:
        count = asyncio.run(_count(app, filters))
        print_json([count]) if as_json else click.echo(str(count))
        return
    more = asyncio.run(_print(app, filters, None if is_unlimited else limit, as_json=as_json))
    if more:
        click.echo(f"the first {limit}; there are more: --limit, --all, or --count", err=True)


async def _count(app: App, filters: Mapping[str, Any]) -> JobCount:
    async with app:
        return await app.jobs(**filters).count()


async def _print(app: App, filters: Mapping[str, Any], limit: int | None, *, as_json: bool) -> bool:
    """Print the jobs, in parts; returns whether there are more than the limit."""
    printed = 0
    async with app:
        query = app.jobs(**filters)
        async with aclosing(_parts(query, limit)) as parts:
            async for part, is_more in parts:
                print_items(part, COLUMNS, as_json=as_json)
                printed += len(part)
                if is_more:
                    return True
    if not printed and not as_json:
        click.echo("no job matches", err=True)
    return False


async def _parts(query: JobQuery, limit: int | None) -> AsyncGenerator[tuple[Sequence[JobInfo], bool]]:
    """The jobs in parts, the last one with whether there are more than the limit."""
    part: list[JobInfo] = []
    left = limit
    async for each in query:
        if left == 0:
            yield part, True
            return
        part.append(each)
        left = None if left is None else left - 1
        if limit is None and len(part) == _PART:
            yield part, False
            part = []
    yield part, False


def _time(info: JobInfo) -> str:
    """The time by which its state is ordered."""
    return moment(info.ended_at or info.due_at or info.started_at or info.sent_at)


COLUMNS: Sequence[Column[JobInfo]] = (
    Column("id", lambda info: info.id, whole=True),
    Column("task", lambda info: info.task),
    Column("queue", lambda info: info.queue, whole=True),
    Column("state", lambda info: info.state.value, whole=True),
    Column("runs", lambda info: str(info.attempts), is_number=True),
    Column("time (UTC)", _time, whole=True),
    Column("error", lambda info: "" if info.error is None else str(info.error)),
)
