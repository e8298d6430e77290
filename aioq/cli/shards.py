"""`aioq shards`: shows what is in the shards of a queue, and changes how many it has."""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import click

from aioq.app import App, internals_of
from aioq.cli.operate.output import Column, print_items, print_json
from aioq.cli.targets import AppTarget, find_app
from aioq.config.queues import MAX_SHARDS
from aioq.jobs.shards import in_words
from aioq.operate.queues import ShardInfo


@dataclass(frozen=True, slots=True)
class ShardsPlan:
    """The command line of `aioq shards`.

    Attributes:
        target: `module:app`, as it was given; empty where it was not.
        queue: the queue; None for all that have several shards.
        number: how many shards it is to have; None for no change.
        drop_drained: stop serving shards that are given up and empty.
    """

    target: str
    queue: str | None = None
    number: int | None = None
    drop_drained: bool = False


def run_shards(target: AppTarget, *, drop_drained: bool, as_json: bool) -> None:
    """Change what the command line says, and print what is in each shard."""
    app, words = find_app(target, "QUEUE", "NUMBER", least=0)
    plan = _plan(target, words, drop_drained=drop_drained)
    found = asyncio.run(_carry_out(app, plan))
    if as_json:
        print_json({"queue": queue, "shards": shards} for queue, shards in found.items())
        return
    for queue, shards in found.items():
        _show(plan, queue, shards)
    if not found:
        click.echo("no queue has several shards")


def _show(plan: ShardsPlan, queue: str, shards: Sequence[ShardInfo]) -> None:
    title = in_words(queue, sum(not each.draining for each in shards), len(shards))
    first: Column[ShardInfo] = Column("queue", lambda _: queue)  # of lines, which have no title
    columns = COLUMNS if sys.stdout.isatty() else (first, *COLUMNS)
    print_items(shards, columns, as_json=False, title=title)
    for line in advice(plan, queue, shards):
        click.echo(line)


def _plan(target: AppTarget, words: Sequence[str], *, drop_drained: bool) -> ShardsPlan:
    if drop_drained and not words:
        raise click.UsageError("--drop-drained needs the QUEUE")
    number = None if len(words) < 2 else click.IntRange(1, MAX_SHARDS)(words[1])  # noqa: PLR2004 - QUEUE and NUMBER
    return ShardsPlan(target.shown(len(words)), words[0] if words else None, number, drop_drained)


async def _carry_out(app: App, plan: ShardsPlan) -> dict[str, Sequence[ShardInfo]]:
    async with app:
        if plan.queue is None:
            table = (await internals_of(app).shards()).table
            queues = [queue for queue, each in sorted(table.items()) if len(each.names) > 1]
            return {queue: await app.queue(queue).shards() for queue in queues}
        handle = app.queue(plan.queue)
        found = await (handle.shards() if plan.number is None else handle.set_shards(plan.number))
        return {plan.queue: await handle.drop_drained() if plan.drop_drained else found}


def advice(plan: ShardsPlan, queue: str, shards: Sequence[ShardInfo]) -> list[str]:
    """What to do next, in lines below the table."""
    draining = [each for each in shards if each.draining]
    if not draining:
        return []
    if all(each.is_empty for each in draining):
        return [
            "The shards to drain are empty. A minute after the change, when all senders have noticed it: "
            + " ".join(["aioq shards", *filter(None, [plan.target]), queue, "--drop-drained"])
        ]
    return ["Workers run what is in the shards to drain; they get no new jobs."]


COLUMNS: Sequence[Column[ShardInfo]] = (
    Column("shard", lambda each: f"{each.shard}", is_number=True),
    Column("queued", lambda each: f"{each.queued}{'+' if each.more else ''}", is_number=True),
    Column("scheduled", lambda each: f"{each.scheduled}", is_number=True),
    Column("running", lambda each: f"{each.running}", is_number=True),
    Column("schedules", lambda each: f"{each.schedules}", is_number=True),
    Column("state", lambda each: "to drain" if each.draining else "in use"),
)
