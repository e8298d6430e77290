"""How the errors of a command are shown: one line, exit code 2, no traceback."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import click

from aioq.errors import AioqError


class CommandError(click.ClickException):
    """An error that ends the command with exit code 2 and one line."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        """Print it to standard error."""
        click.echo(f"aioq: {self.message}", err=True, file=file)


@contextmanager
def as_command_errors() -> Generator[None]:
    """Show aioq's own errors in one line."""
    try:
        yield
    except AioqError as error:
        raise CommandError(str(error)) from None
