"""`aioq`: the commands, and how their errors are shown: one line, exit code 2, no traceback."""

import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import click

from aioq.cli.check import CheckPlan, run_check
from aioq.cli.child import REFUSED, ChildMark
from aioq.cli.demo import run_demo
from aioq.cli.errors import CommandError
from aioq.cli.schedules import schedules
from aioq.cli.start import WorkerPlan, start_worker
from aioq.errors import AioqError

LEVELS = ("debug", "info", "warning", "error", "critical")


class ChildError(CommandError):
    """The same of a supervisor's child, which tells the supervisor that a restart will not mend it."""

    exit_code = REFUSED


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("aioq"), prog_name="aioq")
def cli() -> None:
    """Run and inspect aioq job queues."""


@cli.command()
@click.argument("target", metavar="MODULE:APP")
@click.option(
    "-q",
    "--queue",
    "queues",
    multiple=True,
    metavar="NAME",
    help="A queue to serve; may be repeated. All that the tasks name, if not given.",
)
@click.option(
    "-c", "--concurrency", type=click.IntRange(1), metavar="N", help="Jobs that run at once in one process."
)
@click.option(
    "-p",
    "--processes",
    type=click.IntRange(1),
    metavar="N",
    help="Worker processes; one that dies is replaced.",
)
@click.option("--burst", is_flag=True, help="Exit when the queues are empty.")
@click.option("--reload", is_flag=True, help="Restart when a Python file below the working directory changes.")
@click.option(
    "--shutdown-timeout",
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="How long running jobs may take to end at a stop.",
)
@click.option(
    "--health-port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Answer health checks there: /live and /ready. 0 for any free port.",
)
@click.option(
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

    MODULE alone will do where it has one App. The first SIGTERM or Ctrl-C stops gracefully: running jobs are
    finished for up to --shutdown-timeout seconds, then given back; the second gives them back at once.
    """
    plan = WorkerPlan(target=target, **options)
    debug = (plan.log_level or "").lower() == "debug"
    child = ChildMark.read()
    try:
        code = start_worker(plan, child)
    except AioqError as error:
        if debug:
            traceback.print_exc()
        raise (CommandError if child is None else ChildError)(str(error)) from None
    sys.exit(code)


@cli.command()
@click.argument("target", metavar="MODULE:APP")
@click.option(
    "-q",
    "--queue",
    "queues",
    multiple=True,
    metavar="NAME",
    help="A queue that must be served; may be repeated. Any of the App's, if not given.",
)
@click.option(
    "--max-age",
    type=click.FloatRange(0),
    default=15.0,
    show_default=True,
    metavar="SECONDS",
    help="The oldest last fetch of a worker that does its work.",
)
@click.option("--any-host", is_flag=True, help="Count the workers of all hosts, not only of this one.")
@click.option("--quiet", is_flag=True, help="Print only what is wrong.")
def check(target: str, **options: Any) -> None:
    """See whether the workers of MODULE:APP on this host do their work; exit code 1 if not.

    For the health check of a container, and for people: it shows each worker with its lease and its last fetch. A
    worker that runs but does not fetch is not well.
    """
    try:
        code = run_check(CheckPlan(target=target, **options))
    except AioqError as error:
        raise CommandError(str(error)) from None
    sys.exit(code)


@cli.command()
def demo() -> None:
    """Show aioq at work: an embedded server, a worker process and jobs of every kind; takes a few seconds."""
    try:
        code = run_demo()
    except AioqError as error:
        raise CommandError(str(error)) from None
    sys.exit(code)


cli.add_command(schedules)


def main(args: Sequence[str] | None = None) -> None:
    """The entry point of the `aioq` script and of `python -m aioq`."""
    cli(args=None if args is None else list(args), prog_name="aioq")
