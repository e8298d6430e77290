"""A fork of the worker that a task has made and not ended itself ends where the task's function does.

It would go on as a second worker otherwise: with `sys.exit()` where `os._exit()` was meant, which the worker takes
for the end of the job, or with an exception. It ends too where the function awaits, for what runs next on the
event loop are the worker's duties and other jobs. multiprocessing and subprocess end theirs.
"""

import asyncio
import contextlib
import gc
import os
import sys
import traceback
from collections import Counter, deque
from collections.abc import AsyncGenerator
from threading import get_ident
from typing import Any, NoReturn, cast

from aioq.util.introspect import is_a

_serving: Counter[tuple[int, asyncio.AbstractEventLoop]] = Counter()
"""Threads with the event loops that workers run on in them; how many workers each."""


@contextlib.asynccontextmanager
async def forks_end() -> AsyncGenerator[None]:
    """While this lasts, a fork that is made in this thread ends once it comes back to the event loop of it."""
    here = get_ident(), asyncio.get_running_loop()
    _serving[here] += 1
    try:
        yield
    finally:
        _serving[here] -= 1
        if not _serving[here]:
            del _serving[here]


def _forked() -> None:
    for thread, loop in _serving:
        if thread == get_ident():  # a fork has the one thread that made it
            _end_at_the_next_turn(loop)


def _end_at_the_next_turn(loop: asyncio.AbstractEventLoop) -> None:
    handle = loop.call_soon(_come_back)
    # Before what is ready already, steps of other jobs among it. That is no public part of asyncio's loops, and
    # uvloop hides its own; a loop that has none to be found does one step of each first.
    owned: list[Any] = [getattr(loop, "_ready", None), *gc.get_referents(loop)]
    for ready in owned:
        if type(ready) is deque:
            cast("deque[Any]", ready).appendleft(handle)


def _come_back() -> NoReturn:
    _end(RuntimeError("a fork has awaited something: the event loop is the worker's, and the fork ends"))


os.register_at_fork(after_in_child=_forked)


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
