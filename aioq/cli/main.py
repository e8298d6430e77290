"""`aioq`: the commands, and how their errors are shown: one line, exit code 2, no traceback.

The code of a command is imported when it is called. So a worker does not load what only the demo needs, and
`--help` does not wait for either.
"""

import re
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from math import isnan
from typing import Any

import click

from aioq.cli import INTERRUPTED
from aioq.cli.errors import CommandError, as_command_errors
from aioq.cli.operate.commands import COMMANDS
from aioq.cli.operate.options import as_json, for_app
from aioq.cli.queue_slots import with_slots
from aioq.cli.worker.child_env import EXIT_REFUSED, ChildMark
from aioq.config.pyproject import DEFAULT_APP, default_app
from aioq.config.validators import MAX_COUNT
from aioq.errors import AioqError, ConfigError
from aioq.util.durations import MAX_DELAY
from aioq.util.migration import ApiPart, here
from aioq.util.printable import printable_lines

HELP = {"help_option_names": ["-h", "--help"]}

LEVELS = ("debug", "info", "warning", "error", "critical")


class ChildCommandError(CommandError):
    """An error of a supervisor's child; its exit code says that a restart would not help."""

    exit_code = EXIT_REFUSED


def _imported(name: str | None) -> Any:
    return import_module(f"aioq.cli.{name}")


class _Seconds(click.FloatRange):
    """A number of seconds, up to `aioq.util.durations.MAX_DELAY`; NaN is refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert the text to seconds."""
        number = super().convert(value, param, ctx)
        if isnan(number):
            self.fail(f"{value} is no number of seconds", param, ctx)
        return number


SECONDS = _Seconds(0, MAX_DELAY)
COUNT = click.IntRange(1, MAX_COUNT)


@click.group(context_settings=HELP)
@click.version_option(package_name="aioq", prog_name="aioq")
def cli() -> None:
    """Run and inspect aioq job queues."""


def _or_default(_: click.Context, __: click.Parameter, named: str | None) -> str:
    """The App that is named, or else the one that is set."""
    with as_command_errors():
        chosen = named or default_app()
    if not chosen:
        raise click.UsageError(
            f"which App? Name it, as in shop.tasks:app, or set {DEFAULT_APP} or [tool.aioq] app in pyproject.toml"
        )
    return chosen


target = click.argument("target", metavar="[MODULE:APP]", required=False, callback=_or_default)


def _one_by_one(_: click.Context, __: click.Parameter, queues: tuple[str, ...]) -> tuple[str, ...]:
    for queue in queues:
        if "," in queue:
            each = " ".join(f"-q {name.strip()}" for name in queue.split(",") if name.strip())
            raise click.BadParameter(f"{queue!r}: one queue at a time: {each}")
    try:
        with_slots(queues)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None
    return queues


@cli.command()
@target
@click.option(
    "-q",
    "--queue",
    "queues",
    multiple=True,
    callback=_one_by_one,
    metavar="NAME[=SLOTS]",
    help="A queue to serve, with so many slots at most; may be repeated. By default all of tasks and schedules.",
)
@click.option("-c", "--concurrency", type=COUNT, metavar="N", help="Jobs that run at once in one process.")
@click.option("-p", "--processes", type=COUNT, metavar="N", help="Worker processes; one that dies is replaced.")
@click.option("--burst", is_flag=True, help="Exit when the queues are empty.")
@click.option("--reload", is_flag=True, help="Restart when a Python file below the working directory changes.")
@click.option(
    "--shutdown-timeout",
    type=SECONDS,
    metavar="SECONDS",
    help="How long running jobs may take to end when the worker stops.",
)
@click.option(
    "--health-port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Answer health checks on this port: /live and /ready. 0 for any free port.",
)
@click.option(
    "-l",
    "--log-level",
    type=click.Choice(LEVELS, case_sensitive=False),
    help="warning turns off the lines about each job.",
)
@click.option(
    "--log-format",
    type=click.Choice(("text", "json"), case_sensitive=False),
    help="Lines for people or for machines.",
)
def worker(target: str, **options: Any) -> None:
    """Run the jobs of MODULE:APP, for example shop.tasks:app.

    MODULE alone is enough if it has one App, or if it is a package whose module app, main, tasks or worker has
    one. The first SIGTERM or Ctrl-C stops gracefully: running jobs have up to --shutdown-timeout seconds to end,
    then they are given back. The second one gives them back at once.
    """
    start = _imported("worker.command")
    plan = start.WorkerPlan(target=target, **options)
    child = ChildMark.read()
    try:
        code: int = start.start_worker(plan, child)
    except AioqError as error:
        if (plan.log_level or "").lower() == "debug":
            click.echo(printable_lines(traceback.format_exc().rstrip()), err=True)
        raise (CommandError if child is None else ChildCommandError)(error) from None
    sys.exit(code)


@cli.command()
@target
@click.option(
    "-q",
    "--queue",
    "queues",
    multiple=True,
    callback=_one_by_one,
    metavar="NAME",
    help="A queue that must be served; may be repeated. By default at least one of the App's.",
)
@click.option(
    "--max-age",
    type=SECONDS,
    default=15.0,
    show_default=True,
    metavar="SECONDS",
    help="The greatest age of a worker's last fetch; a worker beyond it counts as stuck.",
)
@click.option("--any-host", is_flag=True, help="Count the workers of all hosts, not only of this one.")
@click.option("--quiet", is_flag=True, help="Print problems only.")
def check(target: str, **options: Any) -> None:
    """Check whether the workers of MODULE:APP on this host do their work; exit code 1 if not.

    For the health check of a container, and for people: it shows each worker with its lease and its last fetch. A
    worker that runs but does not fetch is reported as a problem.
    """
    module = _imported("check")
    try:
        code: int = module.run_check(module.CheckPlan(target=target, **options))
    except AioqError as error:
        raise CommandError(error) from None
    sys.exit(code)


@cli.command()
@for_app(metavar="[MODULE:APP]")
@as_json
def doctor(words: tuple[str, ...], *, url: str | None, name: str | None, as_json: bool) -> None:
    """Check the servers of MODULE:APP, and say what to do about each thing that is wrong; exit code 1 if any is.

    It checks whether each server or node can be reached, its version, whether it may lose jobs, its clock, this
    user's permissions, how a cluster's queues are spread, and what is left over there. It changes nothing.
    """
    target = _imported("targets").AppTarget(words, url, name)
    sys.exit(_imported("doctor").run_doctor(target, as_json=as_json))


@cli.command()
@for_app(metavar="[MODULE:APP] [QUEUE] [NUMBER]")
@click.option(
    "--drop-drained",
    is_flag=True,
    help="Stop serving the shards that the queue has no more, if they are empty.",
)
@as_json
def shards(
    words: tuple[str, ...], *, url: str | None, name: str | None, drop_drained: bool, as_json: bool
) -> None:
    """Show what is in the shards of QUEUE, or of all queues with several shards; change how many it has.

    With NUMBER the queue has so many shards from now on. Workers and senders notice it without a restart. See
    docs/scaling.md.
    """
    with as_command_errors():
        target = _imported("targets").AppTarget(words, url, name)
        _imported("shards").run_shards(target, drop_drained=drop_drained, as_json=as_json)


@cli.command()
def demo() -> None:
    """Show aioq at work: an embedded server, a worker process and jobs of every kind; takes a few seconds."""
    try:
        code: int = _imported("demo.command").run_demo()
    except AioqError as error:
        raise CommandError(error) from None
    sys.exit(code)


class _Later(click.Group):
    """A group whose commands are imported when they are needed."""

    def _found(self) -> click.Group:
        return _imported(self.name).commands

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the commands."""
        return self._found().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name; None if there is none."""
        return self._found().get_command(ctx, cmd_name)


cli.add_command(
    _Later(
        "schedules",
        context_settings=HELP,
        help="Look at the schedules of an App, and change them.\n\n"
        "A change to a schedule that code declares stays until its declaration changes.",
    )
)


for command in COMMANDS.values():
    cli.add_command(command)

_NO_COMMAND = re.compile("No such command '([^']+)'")


def _explained(error: click.ClickException) -> click.ClickException:
    """The error; for an option or command of another library, one that says what it is called in aioq."""
    if not isinstance(error, click.UsageError):
        return error
    command = _NO_COMMAND.match(error.message)
    if isinstance(error, click.NoSuchOption):
        what, word = "option", error.option_name
    else:
        what, word = "command", "" if command is None else command[1]
    instead = here(ApiPart.COMMAND, word)
    return (
        error if instead is None else click.UsageError(f"No such {what} {word!r}; here it is {instead}", error.ctx)
    )


def main(args: Sequence[str] | None = None) -> None:
    """The entry point of the `aioq` script and of `python -m aioq`."""
    try:
        code = cli.main(args=None if args is None else list(args), prog_name="aioq", standalone_mode=False)
    except click.Abort:  # Ctrl-C; click itself would exit with code 1
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        _explained(error).show()
        sys.exit(error.exit_code)
    sys.exit(code)
