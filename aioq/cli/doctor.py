"""`aioq doctor`: checks the servers of an App, and says of each thing that is wrong what to do."""

import asyncio
import contextlib
from collections.abc import Iterator, Mapping, Sequence

import click

from aioq.app import App, internals_of
from aioq.cli.errors import as_command_errors
from aioq.cli.operate.output import Column, print_items, print_json
from aioq.cli.targets import AppTarget, find_app
from aioq.errors import ServerError
from aioq.jobs.shards import by_queue
from aioq.operate.known import queues_of
from aioq.producer.shards import Shards
from aioq.store.diagnosis import Check, Diagnosis, Finding, ServerReport
from aioq.util.plural import counted
from aioq.util.printable import printable


def run_doctor(target: AppTarget, *, as_json: bool) -> int:
    """Check, print the result, and return the exit code: 0 if nothing is wrong, else 1."""
    with as_command_errors():
        app, _ = find_app(target)
        found = asyncio.run(_diagnose(app, target.shown()))
    if as_json:
        print_json([found])
        return 1 if found.findings else 0
    print_items(found.servers, _columns(found.servers), as_json=False, title=f"servers of {app.name}")
    for line in report(found):
        click.echo(printable(line))
    return 1 if found.findings else 0


async def _diagnose(app: App, target: str) -> Diagnosis:
    internals = internals_of(app)
    store, shards, queues = await internals.store(), await internals.shards(), internals.known_queues()
    try:
        with contextlib.suppress(ServerError):  # the diagnosis says what is wrong
            await shards.read()
            queues = await queues_of(internals, store=store)
        names = [name for queue in queues for name in shards.table[queue].names]
        found = await store.diagnose(names)
        if not shards.table.known or not found.servers:
            return found
        findings, notes = check_shards(shards, found.servers[0].info.url, target)
        return Diagnosis(found.servers, [*found.findings, *findings], [*found.notes, *notes])
    finally:
        await app.aclose()


def check_shards(shards: Shards, where: str, target: str) -> tuple[list[Finding], list[str]]:
    """What is wrong with the numbers of shards, and notes about shards that are being drained.

    Args:
        shards: the numbers of the server and of the App.
        where: the server.
        target: the App, as it was named; empty where it was not.
    """
    command = " ".join(["aioq shards", *filter(None, [target])])
    table, declared = shards.table, shards.declared()
    findings = [
        Finding(
            Check.SHARDS,
            where,
            f"has {table[queue].number} shards of queue {queue}, and the App declares {number}",
            f"declare {table[queue].number}, or change the server's number: {command} {queue} {number}",
        )
        for queue, number in declared.items()
        if number != table[queue].number
    ]
    draining = [each for each in table.values() if len(each.names) > each.number]
    return findings, [f"{where} has {each.in_words()}: {command} {each.queue}" for each in draining]


def shards_in_words(names: Sequence[str], every: Mapping[str, int]) -> list[str]:
    """The queues of these shards: `mail (3 of 8 shards)`.

    Args:
        names: the queues and shards that a server serves.
        every: how many shards each queue has, at all servers together.
    """
    shown: list[str] = []
    for queue, mine in by_queue(names).items():
        total = every[queue]
        count = f"{total}" if len(mine) == total else f"{len(mine)} of {total}"
        shown.append(queue if total == 1 else f"{queue} ({count} shards)")
    return shown


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


def _columns(servers: Sequence[ServerReport]) -> Sequence[Column[ServerReport]]:
    every = {queue: len(names) for queue, names in by_queue([n for s in servers for n in s.queues]).items()}
    return (
        Column("server", lambda each: each.info.url),
        Column("version", lambda each: f"{each.info.product} {each.info.version}"),
        Column("clock", lambda each: "" if each.clock_ms is None else f"{each.clock_ms:+.1f} ms"),
        Column("queues", lambda each: ", ".join(shards_in_words(each.queues, every))),
    )
