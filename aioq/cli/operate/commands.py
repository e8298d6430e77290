"""The commands that operate queues: their arguments, options and help. What they do is in the other modules."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

from aioq.cli.errors import as_command_errors
from aioq.cli.operate.options import (
    Argument,
    MomentParam,
    SpanParam,
    as_json,
    confirmed,
    for_app,
    given_filters,
    job_filters,
    take_verb,
    verbs,
)
from aioq.jobs.job import Priority

HELP = {"help_option_names": ["-h", "--help"]}
COUNT = click.IntRange(1)
PRIORITY = click.Choice([each.value for each in Priority])


def _run(module: str, words: tuple[str, ...], options: dict[str, Any], function: str = "run") -> None:
    """Run a function of a command's own module, named from here; the App's part of the line goes along as one."""
    with as_command_errors():
        targets = import_module("aioq.cli.targets")
        target = targets.AppTarget(words, options.pop("url"), options.pop("name"))
        getattr(import_module(f".{module}", __package__), function)(target, **options)


@click.command(context_settings=HELP)
@for_app(metavar="[MODULE:APP]")
@job_filters()
@click.option("--order", type=click.Choice(("newest", "oldest")), default="newest", show_default=True)
@click.option(
    "-n", "--limit", type=COUNT, default=50, show_default=True, metavar="N", help="Print at most so many."
)
@click.option("--all", "is_unlimited", is_flag=True, help="Print all that match.")
@click.option("--count", "is_count", is_flag=True, help="Print only how many match.")
@as_json
def jobs(words: tuple[str, ...], **options: Any) -> None:
    """Find jobs.

    All options choose: a job must match all that are given. In a PATTERN `*`, `?` and `[...]` stand for other
    characters, as in file names.
    """
    _run("jobs", words, {"filters": given_filters(options), **options})


@click.command(context_settings=HELP)
@for_app(metavar="[MODULE:APP] ID")
@verbs(
    retry="Queue it again; for a job that has failed.",
    cancel="Cancel it.",
    run_now="Queue it now; for one that waits for its time.",
    delete="Delete it; one that waits is cancelled first.",
)
@click.option("--priority", type=PRIORITY, help="Move it to that lane.")
@click.option("--move", metavar="QUEUE", help="Move it to another queue; for one that has not been started.")
@click.option("--copy", "is_copy", is_flag=True, help="Send the same call again, and print the id of the new job.")
@click.option(
    "-a",
    "--argument",
    "arguments",
    type=Argument(),
    multiple=True,
    metavar="NAME=VALUE",
    help="With --copy: an argument that differs, as JSON; may be repeated.",
)
@click.option(
    "--reason", default="", metavar="TEXT", help="With --cancel: why; whoever waits for the job sees it."
)
@confirmed
@as_json
def job(words: tuple[str, ...], **options: Any) -> None:
    """Show a job, with its result and what has happened to it; or change it.

    Exit code 1: the job's state does not permit the change.
    """
    take_verb(options, "priority", "move", "is_copy")
    if options["arguments"] and not options["is_copy"]:
        raise click.UsageError("--argument is for --copy")
    if options["reason"] and options["verb"] != "cancel":
        raise click.UsageError("--reason is for --cancel")
    _run("job", words, options)


@click.command(context_settings=HELP)
@for_app(metavar="[MODULE:APP]")
@as_json
def queues(words: tuple[str, ...], **options: Any) -> None:
    """Show all queues: how many jobs they have, how old the oldest one is, how many come and end a second."""
    _run("queues", words, options)


@click.command(context_settings=HELP)
@for_app(metavar="[MODULE:APP] QUEUE")
@verbs(
    pause="Let workers take no jobs of it, or of --task only.",
    resume="End the pause of it, or of --task.",
    purge="Delete the jobs that wait to be run.",
)
@click.option(
    "-t", "--task", multiple=True, metavar="NAME", help="With --pause and --resume: this task; repeatable."
)
@click.option(
    "--until", type=MomentParam(), metavar="TIME", help="With --pause: until then: 2h, or 2026-11-30T09:00Z."
)
@click.option(
    "-s", "--state", multiple=True, metavar="STATE", help="With --purge: jobs in this state; repeatable."
)
@confirmed
@as_json
def queue(words: tuple[str, ...], **options: Any) -> None:
    """Show a queue: its jobs, and how its tasks ended, ran and waited over a minute, hour and day; or pause it."""
    take_verb(options)
    given = options["verb"]
    if options["task"] and given not in {"pause", "resume"}:
        raise click.UsageError("--task is for --pause and --resume")
    if options["until"] and given != "pause":
        raise click.UsageError("--until is for --pause")
    if options["state"] and given != "purge":
        raise click.UsageError("--state is for --purge")
    _run("queue", words, options)


@click.command(context_settings=HELP)
@for_app(metavar="[MODULE:APP] [NAME]")
@verbs(
    pause="Start no more of its jobs, or of those of --key.",
    resume="End that.",
    reset="Let the numbers of the code count again.",
)
@click.option("-q", "--queue", metavar="NAME", help="Of this queue.")
@click.option("-k", "--key", metavar="KEY", help="This key of it.")
@click.option(
    "--for", "retry_after", type=SpanParam(), metavar="TIME", help="With --pause: for so long: 30s, 15m."
)
@click.option("--concurrency", type=COUNT, metavar="N", help="Let so many jobs of a key run at once.")
@click.option("--rate", type=float, metavar="N", help="Let so many start in the time of --per.")
@click.option("--per", type=SpanParam(), metavar="TIME", help="With --rate: 1s, 1m.")
@click.option("--burst", type=float, metavar="N", help="Let so many start at once after a pause.")
@as_json
def limits(words: tuple[str, ...], **options: Any) -> None:
    """Show the limits of jobs, or one with its keys that have waiting jobs; or change it.

    What is changed stays until the limit's declaration in code changes.
    """
    take_verb(options)
    given = options["verb"]
    if options["retry_after"] is not None and given != "pause":
        raise click.UsageError("--for is for --pause")
    if given and any(options[name] is not None for name in ("concurrency", "rate", "per", "burst")):
        raise click.UsageError(f"one change at a time, and not --{given} and other numbers")
    _run("limits", words, options)


@click.command(context_settings=HELP)
@for_app(metavar="[MODULE:APP] TASK [ARGUMENTS]")
@click.option("-q", "--queue", metavar="NAME", help="To this queue, instead of the task's own.")
@click.option("--priority", type=PRIORITY, help="To that lane.")
@click.option("--delay", type=SpanParam(), metavar="TIME", help="To be run after that time: 30s, 15m, 2h, 1d.")
@click.option("--at", "eta", type=MomentParam(), metavar="TIME", help="To be run then: 2026-11-30T09:00Z, or 2h.")
@click.option(
    "--id", "job_id", metavar="ID", help="An id of your own; a job that has it already is not sent again."
)
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="A tag; may be repeated.")
@click.option("--wait", is_flag=True, help="Wait until it has ended, and print what it returned.")
@as_json
def send(words: tuple[str, ...], **options: Any) -> None:
    """Send a job, and print its id.

    ARGUMENTS are JSON: an object for arguments by name, a list for arguments by position.

    Exit code 1, with --wait: the job has failed or was cancelled.
    """
    if options["delay"] is not None and options["eta"] is not None:
        raise click.UsageError("give --delay or --at, and not both")
    _run("send", words, options)


@click.command(context_settings=HELP)
@for_app(metavar="[MODULE:APP] ID")
@as_json
def why(words: tuple[str, ...], **options: Any) -> None:
    """Say what holds a job back, or how it has ended."""
    _run("why", words, options)


@click.command(context_settings=HELP)
@for_app(metavar="[MODULE:APP] [ID or PATTERN]")
@click.option("-q", "--queue", multiple=True, metavar="NAME", help="That serve this queue; may be repeated.")
@verbs(
    stacks="Print the live stacks of its tasks and threads.",
    refresh="Ask for fresh figures.",
    pause="Let it take no more jobs.",
    resume="Let it take jobs again.",
    stop="Stop it gracefully, as SIGTERM does.",
)
@click.option(
    "--resize",
    metavar="[NAME=]SLOTS",
    help="Change how many jobs it runs at once, or how many of this queue at most.",
)
@click.option(
    "--add-queue", metavar="NAME[=SLOTS]", help="Let it serve this queue too, with so many slots at most."
)
@click.option("--remove-queue", metavar="NAME", help="Let it serve this queue no more.")
@confirmed
@as_json
def workers(words: tuple[str, ...], **options: Any) -> None:
    """Show workers, with what they do; or ask something of one, or of all whose ids fit a PATTERN.

    What is changed ends with the worker's process: the next one begins with its command line again.

    Exit code 1: one of the workers did not do it, or did not answer in time.
    """
    take_verb(options, "resize", "add_queue", "remove_queue")
    _run("workers", words, options)


@click.command(context_settings=HELP)
@for_app(metavar="[MODULE:APP] ACTION")
@job_filters()
@click.option("--to", metavar="QUEUE or LANE", help="With move: to which queue. With set-priority: to which lane.")
@click.option("--reason", default="", metavar="TEXT", help="With cancel: why; whoever waits for a job sees it.")
@click.option(
    "--rate", type=click.FloatRange(0, min_open=True), metavar="N", help="At most so many jobs a second."
)
@click.option("--by", metavar="NAME", help="Who begins it, for the record; by default this user and host.")
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Do nothing; say how many jobs match, and show ten.")
@click.option("--no-wait", "is_begun_only", is_flag=True, help="Do not wait for its end.")
@confirmed
@as_json
def bulk(words: tuple[str, ...], **options: Any) -> None:
    """Do something to all jobs that match: retry, cancel, delete, move, run-now or set-priority.

    It acts on the jobs that match when it begins. Workers carry it on, also when this command has ended; where no
    worker serves the queues, this command does it. `aioq operations` shows it, pauses it and aborts it.
    """
    _run("bulk", words, {"filters": given_filters(options), **options})


@click.command(context_settings=HELP)
@for_app(metavar="[MODULE:APP] [ID]")
@verbs(
    wait="Wait for its end.",
    pause="Let it do nothing more, until it is resumed.",
    resume="Let it go on.",
    abort="End it; what it has done stays done.",
)
@as_json
def operations(words: tuple[str, ...], **options: Any) -> None:
    """Show what `aioq bulk` has begun in the last 30 days, and by whom; or steer one of them."""
    take_verb(options)
    _run("bulk", words, options, function="run_operations")


@click.command(context_settings=HELP)
@for_app(metavar="[MODULE:APP]")
@click.option("-q", "--queue", metavar="NAME", help="That are stored in this queue.")
@click.option(
    "-s", "--state", type=click.Choice(("running", "succeeded", "failed", "cancelled")), help="In this state."
)
@click.option("-f", "--flow", metavar="PATTERN", help="With this name; `*`, `?` and `[...]` as in file names.")
@click.option(
    "-n", "--limit", type=COUNT, default=50, show_default=True, metavar="N", help="Print at most so many."
)
@as_json
def flows(words: tuple[str, ...], **options: Any) -> None:
    """Find flows, the newest first."""
    given = {"queue": options.pop("queue"), "state": options.pop("state"), "name": options.pop("flow")}
    _run("flows", words, {"filters": {name: each for name, each in given.items() if each}, **options})


@click.command(context_settings=HELP)
@for_app(metavar="[MODULE:APP] ID")
@verbs(
    cancel="Cancel it: what runs is cancelled, and nothing more is begun.",
    retry="Run its failed nodes again, and those that were not run because of them.",
)
@click.option(
    "--reason", default="", metavar="TEXT", help="With --cancel: why; whoever waits for the flow sees it."
)
@confirmed
@as_json
def flow(words: tuple[str, ...], **options: Any) -> None:
    """Draw a flow: its nodes, what they wait for, and what has become of them; or change it.

    Exit code 1: the flow's state does not permit the change.
    """
    take_verb(options)
    if options["reason"] and options["verb"] != "cancel":
        raise click.UsageError("--reason is for --cancel")
    _run("flows", words, options, function="run_one")


@click.command(context_settings=HELP)
@for_app(metavar="[MODULE:APP]")
@click.option("-q", "--queue", multiple=True, metavar="NAME", help="Of this queue; may be repeated.")
@click.option("-t", "--task", multiple=True, metavar="PATTERN", help="Of this task; may be repeated.")
@click.option("-k", "--kind", multiple=True, metavar="KIND", help="Of this kind, such as failed; may be repeated.")
@click.option("--cursor", metavar="CURSOR", help="Go on where an earlier command has ended.")
@click.option("-n", "--limit", type=COUNT, metavar="N", help="End after so many.")
@as_json
def events(words: tuple[str, ...], **options: Any) -> None:
    """Print what happens to jobs and workers, as it happens, until Ctrl-C.

    The last line, on standard error, is the cursor with which another command goes on after the last event.
    """
    given = {"queue": options.pop("queue"), "task": options.pop("task"), "kinds": options.pop("kind")}
    _run("events", words, {"filters": {name: list(each) for name, each in given.items() if each}, **options})


@click.command(context_settings=HELP)
@for_app(metavar="[MODULE:APP] ID")
@as_json
def tail(words: tuple[str, ...], **options: Any) -> None:
    """Print what has happened to a job, and then what happens to it and what it logs, until it has ended.

    Exit code 1: it has failed, or was cancelled.
    """
    _run("events", words, options, function="run_tail")


@click.command(context_settings=HELP)
@for_app(metavar="[MODULE:APP]")
@click.option(
    "-i",
    "--interval",
    type=float,
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Read again after so many seconds.",
)
def top(words: tuple[str, ...], **options: Any) -> None:
    """Watch queues, jobs and workers on the whole screen, and change them by keys: `?` shows them, `q` ends it.

    It needs a terminal, of 80 columns and 24 lines at least, and the textual package: pip install 'aioq[top]'.
    """
    _run(".top.command", words, options)


_ALL = (jobs, job, flows, flow, why, tail, events, bulk, operations, queues, queue, limits, workers, send, top)

COMMANDS: Mapping[str, click.Command] = {each.name or "": each for each in _ALL}
"""All of them, by name."""
