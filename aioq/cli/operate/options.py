"""Options that several commands share: which App, which jobs, which form of output."""

import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, TypeVar

import click

from aioq.jobs.job import JobState

F = TypeVar("F", bound=Callable[..., Any])

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}

_SPAN = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>ms|s|m|min|h|d|w)")


FILTERS = ("queue", "state", "task", "tag", "error", "worker", "since", "until", "arguments", "order")
"""The filters that a command may have as options; they are those of `app.jobs(...)`."""

_STATES = ", ".join(JobState)


class SpanParam(click.ParamType):  # pyright: ignore[reportMissingTypeArgument] - older clicks have no generic one
    """A span of time: `30s`, `15m`, `2h`, `1d`, `1w`."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Convert the text."""
        found = _SPAN.fullmatch(value.strip()) if isinstance(value, str) else None
        if found is None:
            self.fail(f"{value!r} is no span of time; write 30s, 15m, 2h, 1d or 1w", param, ctx)
        try:
            return timedelta(seconds=float(found["number"]) * _UNITS[found["unit"]])
        except OverflowError:
            self.fail(f"{value!r} is too long", param, ctx)


class MomentParam(SpanParam):
    """A moment with its time zone, in the form of ISO 8601; or a span of time before or after now."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert the text: a datetime, or a timedelta."""
        if isinstance(value, str) and _SPAN.fullmatch(value.strip()):
            return super().convert(value, param, ctx)
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no time; write 2h, or 2026-11-30T09:00Z", param, ctx)
        if moment.tzinfo is None:
            self.fail(f"{value!r} has no time zone; write {value}Z for UTC, or {value}+01:00", param, ctx)
        return moment


class Argument(click.ParamType):  # pyright: ignore[reportMissingTypeArgument] - likewise
    """An argument of a call: `user_id=7`, the value as JSON, or as text where it is none."""

    name = "argument"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert the text to a pair of the parameter, by its name or position, and the value."""
        if not isinstance(value, str):
            return value
        name, equals, text = value.partition("=")
        if not equals or not name:
            self.fail(f"{value!r}: write NAME=VALUE, such as user_id=7", param, ctx)
        try:
            return (int(name) if name.isdecimal() else name), json.loads(text)
        except ValueError:
            return (int(name) if name.isdecimal() else name), text


def for_app(*, metavar: str) -> Callable[[F], F]:
    """The arguments of a command, of which the first may name the App, and the options instead of it.

    Args:
        metavar: how they are shown, such as `[MODULE:APP] ID`.
    """
    return _all(
        click.argument("words", nargs=-1, metavar=metavar),
        click.option("--url", metavar="URL", help="The server, where the code of the App is not here."),
        click.option("--name", metavar="NAME", help='The App\'s name, likewise: App("NAME").'),
    )


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON: one object a line.")
confirmed = click.option("-y", "--yes", "is_confirmed", is_flag=True, help="Do it without asking.")


_VERB = "verb_"


def verbs(**texts: str) -> Callable[[F], F]:
    """Flags that say what to do, by name, each with its help; `take_verb` gives the one that is given."""
    return _all(
        *(
            click.option(f"--{name.replace('_', '-')}", f"{_VERB}{name}", is_flag=True, help=text)
            for name, text in texts.items()
        )
    )


def take_verb(options: dict[str, Any], *others: str) -> None:
    """Take the flags of `verbs` out of a command's options, and put the one that is given there, as `verb`.

    Args:
        options: the options.
        others: further options that say what to do.

    Raises:
        click.UsageError: several are given.
    """
    verbs = [name.removeprefix(_VERB) for name in list(options) if name.startswith(_VERB) and options[name]]
    given = [*verbs, *(name for name in others if options[name] not in {None, False})]
    for name in [name for name in options if name.startswith(_VERB)]:
        del options[name]
    if len(given) > 1:
        flags = " and ".join(f"--{name.removeprefix('is_').replace('_', '-')}" for name in given)
        raise click.UsageError(f"one change at a time, and not {flags}")
    options["verb"] = next(iter(verbs), None)


def job_filters() -> Callable[[F], F]:
    """The filters of `app.jobs(...)`, as keyword arguments of their names; `given_filters` makes them fit."""
    return _all(
        click.option("-q", "--queue", multiple=True, metavar="NAME", help="Of this queue; may be repeated."),
        click.option(
            "-s", "--state", multiple=True, metavar="STATE", help=f"In this state ({_STATES}); may be repeated."
        ),
        click.option("-t", "--task", multiple=True, metavar="PATTERN", help="Of this task; may be repeated."),
        click.option("--tag", multiple=True, metavar="TAG", help="With this tag; with all, if repeated."),
        click.option("-e", "--error", metavar="PATTERN", help="Whose last error has such a type or message."),
        click.option("-w", "--worker", metavar="PATTERN", help="That such a worker runs, or ran last."),
        click.option(
            "--since", type=MomentParam(), metavar="TIME", help="From then on: 2h, or 2026-11-30T09:00Z."
        ),
        click.option("--until", type=MomentParam(), metavar="TIME", help="Until then, likewise."),
        click.option(
            "-a",
            "--argument",
            "arguments",
            type=Argument(),
            multiple=True,
            metavar="NAME=VALUE",
            help="Whose call has this argument, as JSON; may be repeated.",
        ),
    )


def given_filters(options: dict[str, Any]) -> dict[str, Any]:
    """Take the filters out of a command's options, in the form of `app.jobs(...)`, without those not given."""
    given: dict[str, Any] = {name: options.pop(name) for name in FILTERS if name in options}
    if given.get("arguments"):
        given["arguments"] = dict(given["arguments"])
    return {name: value for name, value in given.items() if value is not None and value != ()}


def _all(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate
