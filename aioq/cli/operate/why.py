"""`aioq why`: says what holds a job back."""

import asyncio

import click

from aioq.cli.operate.handles import handle_of
from aioq.cli.operate.output import print_json
from aioq.cli.targets import AppTarget, find_app
from aioq.results.why import Why
from aioq.util.printable import printable


def run(target: AppTarget, *, as_json: bool) -> None:
    """Carry out the command."""
    app, (job_id,) = find_app(target, "the job's ID")

    async def ask() -> Why:
        async with app:
            return await (await handle_of(app, job_id)).why()

    found = asyncio.run(ask())
    if as_json:
        print_json([found])
    else:
        click.echo(printable(str(found)))
