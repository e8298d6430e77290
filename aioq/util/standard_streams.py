"""The three standard streams of an aioq process: kept open, and printed lines appear at once and whole."""

import io
import os
import sys
from typing import Any, cast

_MODES = ("r", "w", "w")


def open_standard_streams() -> None:
    """Open the null device in place of each closed standard stream; to be called before anything else.

    A process that is started without one of them (`0<&-` in a shell, some supervisors) gives its number to the
    next file it opens. So a connection or a lock would become its standard output, and programs that it starts
    would write there.
    """
    for number, (name, mode) in enumerate(zip(("stdin", "stdout", "stderr"), _MODES, strict=True)):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # gets this number: it is the lowest free one
            if opened != number:  # another thread was quicker
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            # Python never closes it, so that a print at the very end does not raise.
            setattr(sys, name, open(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False))  # noqa: SIM115


def print_at_once() -> None:
    """Make each printed line appear at once and whole, also where standard output is a file or a pipe.

    Under PYTHONUNBUFFERED, as in most images, `print("a", 1)` makes four writes. The processes of a worker share
    their output, so that lines of others would come in between.
    """
    for stream in (cast("object", sys.stdout), cast("object", sys.stderr)):  # or replacements
        if isinstance(stream, io.TextIOWrapper):
            cast("Any", stream).reconfigure(line_buffering=True, write_through=False)
