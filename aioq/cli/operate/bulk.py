"""`aioq bulk`: does something to all jobs that match. `aioq operations`: shows what was begun, and steers it."""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from aioq.cli import INTERRUPTED
from aioq.cli.operate.jobs import COLUMNS as JOB_COLUMNS
from aioq.cli.operate.output import Column, moment, print_items, print_json
from aioq.cli.operate.questions import confirm
from aioq.cli.targets import AppTarget, find_app
from aioq.errors import ConfigError
from aioq.operate.operations import Operation
from aioq.operate.plan import OperationInfo
from aioq.store.operations import Act
from aioq.util.printable import brief, printable
from aioq.util.suggestions import did_you_mean

ACTIONS = {each.value.replace("_", "-"): each for each in Act if each is not Act.PURGE}
"""What can be done, as it is typed. `aioq queue --purge` begins the other one."""

DESTROYS = {Act.CANCEL, Act.DELETE}

POLL_INTERVAL = 0.3
"""Seconds between two looks at an operation, for the bar that shows how far it is."""


def run(
    target: AppTarget,
    *,
    filters: Mapping[str, Any],
    to: str | None,
    rate: float | None,
    by: str | None,
    reason: str,
    is_dry_run: bool,
    is_begun_only: bool,
    is_confirmed: bool,
    as_json: bool,
) -> None:
    """Carry out `aioq bulk`."""
    app, (word,) = find_app(target, "the ACTION")
    if word not in ACTIONS:
        raise ConfigError(f"no action {brief(word)}{did_you_mean(word, ACTIONS)}; there are: {', '.join(ACTIONS)}")
    act = ACTIONS[word]
    given = _given(act, to, reason)
    how, begun = {"rate": rate, "by": by}, list[Operation]()

    async def carry_out() -> int:
        async with app:
            begin = getattr(app.jobs(**filters), act.value)
            if act in DESTROYS and not is_dry_run:
                found = (await begin(**given, **how, dry_run=True)).info
                confirm(f"{word} {_total(found)} of {app.name}?", is_confirmed=is_confirmed)
            operation: Operation = await begin(**given, **how, dry_run=is_dry_run)
            if is_dry_run:
                return _show_dry_run(operation.info, as_json=as_json)
            begun.append(operation)
            if not is_begun_only:
                await _watch(operation)
            return _show([operation.info], as_json=as_json)

    sys.exit(_unless_interrupted(carry_out(), target, begun))


def _given(act: Act, to: str | None, reason: str) -> dict[str, Any]:
    """The arguments that only one action has."""
    if reason and act is not Act.CANCEL:
        raise click.UsageError("--reason is for cancel")
    if act not in {Act.MOVE, Act.SET_PRIORITY}:
        if to is not None:
            raise click.UsageError("--to is for move and set-priority")
        return {"reason": reason} if reason else {}
    if to is None:
        what = "which queue" if act is Act.MOVE else "which lane: high, normal or low"
        raise click.UsageError(f"--to says {what}")
    return {"queue": to} if act is Act.MOVE else {"priority": to}


def run_operations(target: AppTarget, *, verb: str | None, as_json: bool) -> None:
    """Carry out `aioq operations`."""
    app, words = find_app(target, "the operation's ID", least=0)
    begun = list[Operation]()
    if verb is not None and not words:
        raise click.UsageError("which operation? Give its ID")

    async def carry_out() -> int:
        async with app:
            if not words:
                return _show(await app.operations.list(), as_json=as_json)
            operation = await app.operations.get(words[0])
            if verb == "wait":
                begun.append(operation)
                await _watch(operation)
            elif verb is not None:
                is_over = operation.info.state.is_over
                await getattr(operation, verb)()
                if is_over:
                    _show([operation.info], as_json=as_json)
                    click.echo(f"aioq: the operation {operation.id} is over: {operation.info.state}", err=True)
                    return 1
            return _show([operation.info], as_json=as_json)

    sys.exit(_unless_interrupted(carry_out(), target, begun))


def _unless_interrupted(command: Any, target: AppTarget, begun: Sequence[Operation]) -> int:
    """Run a command; if it is interrupted, say what becomes of the operation that it has begun or waits for."""
    try:
        return asyncio.run(command)
    except KeyboardInterrupt:
        for operation in begun:
            words = " ".join(filter(None, ("aioq operations", target.shown(1), operation.id, "--wait")))
            click.echo(f"\naioq: it is not over: workers go on with it; where none runs: {words}", err=True)
        return INTERRUPTED


async def _watch(operation: Operation) -> None:
    """Wait for the end, with a bar on a terminal."""
    waiting = asyncio.ensure_future(operation.wait())
    console = Console(stderr=True, highlight=False)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(printable(operation.id), total=operation.info.total)
        while not (await asyncio.wait([waiting], timeout=POLL_INTERVAL))[0]:
            progress.update(bar, completed=operation.info.done, total=operation.info.total)
    await waiting


def _show_dry_run(found: OperationInfo, *, as_json: bool) -> int:
    if as_json:
        print_json([found])
        return 0
    print_items(found.sample, JOB_COLUMNS, as_json=False)
    more = f", and not on {found.skipped:,} more, whose calls are not kept any more" if found.skipped else ""
    click.echo(f"nothing was done; {_typed(found)} would act on {_total(found)}{more}", err=True)
    return 0


def _total(found: OperationInfo) -> str:
    """How many jobs an operation acts on, by its dry run."""
    about, number = "" if found.exact else "about ", max(0, found.total - found.skipped)
    return f"{about}{number:,} {'job' if number == 1 else 'jobs'}"


def _show(found: Sequence[OperationInfo], *, as_json: bool) -> int:
    print_items(found, COLUMNS, as_json=as_json)
    return 0


def _typed(info: OperationInfo) -> str:
    """What is done, as it is typed."""
    return info.action.replace("_", "-")


def _filters(info: OperationInfo) -> str:
    return ", ".join(f"{name}={_value(value)}" for name, value in info.filters.items())


def _value(value: Any) -> str:
    return " or ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)  # pyright: ignore[reportUnknownArgumentType] - filters are plain data


COLUMNS: Sequence[Column[OperationInfo]] = (
    Column("id", lambda info: info.id, whole=True),
    Column("action", lambda info: _typed(info) + (f" {info.target}" if info.target else "")),
    Column("filters", _filters),
    Column("state", lambda info: info.state.value, whole=True),
    Column("done", lambda info: f"{info.done}", is_number=True),
    Column("skipped", lambda info: f"{info.skipped}", is_number=True),
    Column("of", lambda info: f"{'' if info.exact else '~'}{info.total}", is_number=True),
    Column("by", lambda info: info.by),
    Column("began (UTC)", lambda info: moment(info.began_at), whole=True),
)
