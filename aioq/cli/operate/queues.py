"""`aioq queues`: shows all queues, a line each."""

import asyncio
from collections.abc import Sequence

from aioq.app import App, internals_of
from aioq.cli.operate.output import Column, print_items, span
from aioq.cli.targets import Wanted, find_app
from aioq.operate.jobs import queues_of
from aioq.operate.statistics import QueueStats


def run(wanted: Wanted, *, as_json: bool) -> None:
    """Carry out the command."""
    app, _ = find_app(wanted)
    print_items(asyncio.run(_look(app)), COLUMNS, as_json=as_json)


async def _look(app: App) -> Sequence[QueueStats]:
    async with app:
        names = await queues_of(internals_of(app))
        return await asyncio.gather(*(app.queue(name).stats() for name in names))


COLUMNS: Sequence[Column[QueueStats]] = (
    Column("queue", lambda each: each.queue, whole=True),
    Column("queued", lambda each: f"{each.queued}", is_number=True),
    Column("scheduled", lambda each: f"{each.scheduled}", is_number=True),
    Column("waiting", lambda each: f"{each.waiting}", is_number=True),
    Column("running", lambda each: f"{each.running}", is_number=True),
    Column("dead", lambda each: f"{each.dead}", is_number=True),
    Column("oldest", lambda each: span(each.oldest), is_number=True),
    Column("in/s", lambda each: f"{each.minute.in_per_second:.1f}", is_number=True),
    Column("out/s", lambda each: f"{each.minute.out_per_second:.1f}", is_number=True),
)
