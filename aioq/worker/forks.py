"""A fork of the worker that a task has made and not ended itself ends where the task's function does.

It would go on as a second worker on the connections of the first otherwise: with `sys.exit()` where `os._exit()`
was meant, which the worker takes for the end of the job, or with an exception. multiprocessing and subprocess end
theirs.
"""

import os
import sys
import traceback
from typing import NoReturn

from aioq.util.introspect import is_a


def end_fork(pid: int, error: BaseException | None) -> None:
    """End this process if it is another one than that of the worker.

    Args:
        pid: the worker's.
        error: what the task's function has raised, if it has.
    """
    if os.getpid() != pid:
        _end(error)


def _end(error: BaseException | None) -> NoReturn:
    """End as Python does at the end of a program, but for what the parent has registered to be done then."""
    code = 1
    try:
        code = _said(error)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    finally:
        os._exit(code)


def _said(error: BaseException | None) -> int:
    """The exit code; an error, and what `sys.exit` was given to be said, is written to standard error."""
    if error is None:
        return 0
    if not is_a(error, SystemExit):
        traceback.print_exception(error)
        return 1
    if isinstance(error.code, int):
        return error.code & 0xFF
    if error.code is not None:
        sys.stderr.write(f"{error.code}\n")
    return int(error.code is not None)
