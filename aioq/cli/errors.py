"""Errors of the commands: one line, exit code 2, no traceback."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import click

from aioq.errors import AioqError
from aioq.util.printable import printable, printable_lines


class CommandError(click.ClickException):
    """An error that ends the command with exit code 2 and one line.

    Args:
        error: the error that ended the command.
    """

    exit_code = 2

    def __init__(self, error: AioqError) -> None:
        super().__init__(str(error))
        self._log = error.log if isinstance(error, WorkerEndedError) else ""

    def show(self, file: Any = None) -> None:
        """Print it to standard error."""
        more = f"\n{printable_lines(self._log)}" if self._log else ""
        click.echo(f"aioq: {printable(self.message)}{more}", err=True, file=file)


class WorkerEndedError(AioqError):
    """The demo's worker has ended too early.

    Attributes:
        log: the end of its log.
    """

    def __init__(self, message: str, log: str) -> None:
        super().__init__(message)
        self.log = log


@contextmanager
def as_command_errors() -> Generator[None]:
    """Show aioq's own errors in one line."""
    try:
        yield
    except AioqError as error:
        raise CommandError(error) from None
