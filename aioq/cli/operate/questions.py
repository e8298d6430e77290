"""Asks before something is destroyed."""

import signal
import sys

import click

from aioq.errors import ConfigError


def confirm(question: str, *, is_confirmed: bool) -> None:
    """Ask on a terminal whether to go on; Ctrl-C or "no" ends the command.

    Args:
        question: what is to be done.
        is_confirmed: whether `--yes` has answered it.

    Raises:
        ConfigError: there is no terminal to ask, and no `--yes`.
        click.Abort: the answer is no.
    """
    if is_confirmed:
        return
    if not sys.stdin.isatty():
        raise ConfigError(f"{question} There is no terminal to ask; give --yes")
    # An event loop's handler of Ctrl-C cancels the task that runs, which would have no effect before the answer.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        click.confirm(question, abort=True, err=True)
    finally:
        signal.signal(signal.SIGINT, before)
