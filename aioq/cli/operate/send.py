"""`aioq send`: sends a job."""

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import click

from aioq.app import internals_of
from aioq.cli.operate.output import print_json
from aioq.cli.targets import AppTarget, find_app
from aioq.errors import ConfigError, JobCancelledError, JobFailed
from aioq.results.handle import JobHandle
from aioq.util.printable import brief, printable
from aioq.util.suggestions import did_you_mean


def run(
    target: AppTarget,
    *,
    queue: str | None,
    delay: timedelta | None,
    eta: datetime | timedelta | None,
    wait: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Carry out the command."""
    app, (task, *rest) = find_app(target, "the TASK", "ARGUMENTS", least=1)
    args, kwargs = _call(rest[0] if rest else "[]")
    if target.name is None and task not in app.tasks:
        known = ", ".join(sorted(app.tasks)) or "none"
        raise ConfigError(f"there is no task {brief(task)}{did_you_mean(task, app.tasks)}; there are: {known}")
    if isinstance(eta, timedelta):
        delay, eta = eta, None
    given: dict[str, Any] = {"queue": queue, "delay": delay, "eta": eta, **options}
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None and value != ()}

    async def carry_out() -> int:
        async with app:
            called = app.by_name(task).options(**chosen)
            if queue is not None:  # no command would find a job in one that nobody knows
                await internals_of(app).check_queue("", queue)
            handle = await called.send(*args, **kwargs)
            _say(handle, as_json=as_json)
            return await _ended(handle, as_json=as_json) if wait else 0

    sys.exit(asyncio.run(carry_out()))


def _call(text: str) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """The arguments by position and by name."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"the arguments are no JSON: {error}; write '{{\"x\": 1}}' or '[1, 2]'") from None
    if isinstance(found, list):
        return found, {}  # pyright: ignore[reportUnknownVariableType] - the task checks them
    if isinstance(found, dict):
        return (), found  # pyright: ignore[reportUnknownVariableType] - likewise
    raise ConfigError(f"the arguments are {brief(found)}; write an object, '{{\"x\": 1}}', or a list, '[1, 2]'")


def _say(handle: JobHandle[Any], *, as_json: bool) -> None:
    if as_json:
        print_json([{"id": handle.id, "added": handle.added}])
        return
    click.echo(printable(handle.id))
    if handle.added is False:
        click.echo("a job of this id was there already; it was not changed", err=True)


async def _ended(handle: JobHandle[Any], *, as_json: bool) -> int:
    """Wait for its end and print it; the exit code."""
    try:
        result = await handle
    except (JobFailed, JobCancelledError) as error:
        click.echo(f"aioq: {printable(str(error))}", err=True)
        return 1
    if as_json:
        print_json([{"id": handle.id, "result": result}])
    elif result is not None:
        click.echo(printable(repr(result)))
    return 0
