"""The three standard streams of an aioq process: open, and quick to show what is printed."""

import io
import os
import sys
from typing import Any, cast

_MODES = ("r", "w", "w")


def open_standard_streams() -> None:
    """Open the null device in place of each standard stream that is closed; to be called before all else.

    A process that was started without one (`0<&-` in a shell, some supervisors) would give its number to the next
    file it opens: a connection or a lock becomes its standard output, and what it starts writes there.
    """
    for number, (name, mode) in enumerate(zip(("stdin", "stdout", "stderr"), _MODES, strict=True)):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number, as all below are taken
            if opened != number:  # another thread was quicker
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            # Never closed by Python: what is printed at the very end must not raise.
            setattr(sys, name, open(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False))  # noqa: SIM115


def print_at_once() -> None:
    """Have each line that is printed appear when it is, also where standard output is a file or a pipe."""
    stream = cast("object", sys.stdout)  # or a replacement
    if isinstance(stream, io.TextIOWrapper):
        cast("Any", stream).reconfigure(line_buffering=True)
