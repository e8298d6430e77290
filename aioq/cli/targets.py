"""Which App a command works on: the one that is named first, the one that is set, or one without its code."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import click

from aioq.app import App
from aioq.cli.loader import load_app
from aioq.config.pyproject import DEFAULT_APP, default_app
from aioq.config.urls import mask_url
from aioq.errors import LoadError

_NAME = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
_TARGET = re.compile(f"{_NAME}:{_NAME}")


@dataclass(frozen=True, slots=True)
class AppTarget:
    """The part of a command line that says which App is meant.

    Attributes:
        words: the arguments of the command, of which the first may name the App.
        url: the server, where the App's code is not here.
        name: the App's name, likewise.
    """

    words: Sequence[str]
    url: str | None = None
    name: str | None = None

    def shown(self, others: int = 0) -> str:
        """What a command that is advised says of the App; `others` of the words say something else."""
        if self.name is None:
            return " ".join(self.words[: len(self.words) - others])
        at = [] if self.url is None else ["--url", mask_url(self.url)]
        return " ".join([*at, "--name", self.name])


def find_app(target: AppTarget, *arguments: str, least: int | None = None) -> tuple[App, list[str]]:
    """The App, with its tasks if its code is here, and the other arguments.

    Args:
        target: what the command line says.
        arguments: the names of the other arguments, for errors.
        least: how many of them must be given; by default all.

    Raises:
        click.UsageError: there are too few or too many arguments.
        LoadError: no App is named or set, or the one that is cannot be loaded.
        ConfigError: a setting is wrong.
    """
    words, most = list(target.words), len(arguments)
    least = most if least is None else least
    if target.url is not None or target.name is not None:
        if not target.name:
            raise LoadError('--url needs the App\'s name too: --name shop, for App("shop")')
        app = App(target.name, url=target.url)
    else:
        app = _loaded(_named(words, least, most), arguments)
    if not least <= len(words) <= most:
        raise click.UsageError(_counted(words, arguments, least))
    return app, words


def _named(words: list[str], least: int, most: int) -> str:
    """The App's module and name; taken from the words if it is there."""
    set_one = default_app()
    is_there = len(words) > most or (len(words) > least and _TARGET.fullmatch(words[0]) is not None)
    if words and (is_there or not set_one):
        return words.pop(0)
    if not set_one:
        raise LoadError(
            f"which App? Name it first (shop.tasks:app), set {DEFAULT_APP} or [tool.aioq] app in pyproject.toml, "
            "or, without its code here, give --name and --url"
        )
    return set_one


def _loaded(target: str, arguments: Sequence[str]) -> App:
    """The App of a target, which may be no target: one argument too many where the App is set."""
    try:
        return load_app(target)
    except LoadError as error:
        set_one = default_app()
        if not set_one or target == set_one or _TARGET.fullmatch(target):
            raise
        others = " and ".join(arguments) or "no argument"
        raise LoadError(
            f"{error}; the App is set already ({set_one}): this command needs {others} beside it"
        ) from None


def _counted(words: Sequence[str], arguments: Sequence[str], least: int) -> str:
    if len(words) < least:
        return f"missing {' and '.join(arguments[len(words) : least])}"
    return f"unexpected argument: {' '.join(words[len(arguments) :])}"
