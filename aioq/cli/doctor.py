"""`aioq doctor`: checks the servers of an App, and says of each thing that is wrong what to do."""

import asyncio
from collections.abc import Iterator, Sequence

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aioq.app import App, internals_of
from aioq.cli.errors import as_command_errors
from aioq.cli.loader import load_app
from aioq.store.diagnosis import Diagnosis, Finding, ServerReport
from aioq.util.plural import counted
from aioq.util.printable import printable


def run_doctor(target: str) -> int:
    """Check, print the result, and return the exit code: 0 if nothing is wrong, else 1."""
    with as_command_errors():
        app = load_app(target)
        found = asyncio.run(_diagnose(app))
    Console(highlight=False).print(_table(app, found.servers))
    for line in report(found):
        click.echo(printable(line))
    return 1 if found.findings else 0


async def _diagnose(app: App) -> Diagnosis:
    internals = internals_of(app)
    queues = [*internals.queues(), *(internals.settings.routes or {}).values()]
    store = await internals.store()
    try:
        return await store.diagnose(tuple(dict.fromkeys(queues)))
    finally:
        await app.aclose()


def report(found: Diagnosis) -> Iterator[str]:
    """The lines below the table of the servers."""
    for finding in found.findings:
        yield f"{finding.check}: {finding.where} {finding.problem}"
        if finding.advice:
            yield f"  -> {finding.advice}"
    for note in found.notes:
        yield f"note: {note}"
    yield _summary(found.findings)


def _summary(findings: Sequence[Finding]) -> str:
    return counted(len(findings), "finding") if findings else "nothing is wrong"


def _table(app: App, servers: Sequence[ServerReport]) -> Table:
    table = Table(box=box.ROUNDED, title=Text(printable(f"servers of {app.name}")))
    for heading in ("server", "version", "clock", "queues"):
        table.add_column(heading, overflow="fold")
    for each in servers:
        clock = "-" if each.clock_ms is None else f"{each.clock_ms:+.1f} ms"
        table.add_row(
            Text(printable(each.info.url)),
            Text(printable(f"{each.info.product} {each.info.version}")),
            clock,
            Text(printable(", ".join(each.queues) or "-")),
        )
    return table
