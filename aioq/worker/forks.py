"""Ends a fork of the worker that a task has made and has not ended itself, when the task's function ends.

Otherwise the fork would go on as a second worker, for example after an exception, or after `sys.exit()` where
`os._exit()` was meant: the worker takes that for the end of the job. The fork also ends where the function awaits,
because the next things to run on the event loop are the worker's duties and other jobs. multiprocessing and
subprocess end their own forks.
"""

import asyncio
import contextlib
import gc
import inspect
import os
import sys
import traceback
from collections import Counter, deque
from collections.abc import AsyncGenerator
from threading import get_ident
from types import FrameType
from typing import Any, NoReturn, cast

from aioq.util.introspect import is_a

_serving: Counter[tuple[int, asyncio.AbstractEventLoop]] = Counter()
"""The threads in which workers run, each with its event loop, and the number of workers."""


@contextlib.asynccontextmanager
async def forks_end() -> AsyncGenerator[None]:
    """While this lasts, a fork that is made in this thread ends when it returns to the thread's event loop."""
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
            task = asyncio.current_task(loop)
            frame = getattr(task and task.get_coro(), "cr_frame", None)
            if frame is not None:
                _end_when_it_awaits(frame)
            _end_at_next_turn(loop)


def _end_when_it_awaits(outermost: FrameType) -> None:
    """End this process when the task that has forked yields or returns, that is its outermost coroutine.

    A turn of the event loop later is too late: what starts tasks eagerly goes on with the next job at once, and
    uvloop looks at its sockets first, with an epoll instance that is the worker's too.
    """

    def left(frame: FrameType, event: str, _: object) -> None:
        if event == "return" and frame is outermost:
            _end_awaiting()

    def left_by(_: object, __: int, ___: object) -> None:
        here = inspect.currentframe()
        if here is not None and here.f_back is outermost:
            _end_awaiting()

    if sys.version_info < (3, 12):
        sys.setprofile(left)
        return
    monitoring = sys.monitoring
    tool = next((each for each in range(6) if monitoring.get_tool(each) is None), None)
    if tool is None:
        sys.setprofile(left)  # makes all functions of the fork slower
        return
    monitoring.use_tool_id(tool, "aioq")
    events = monitoring.events
    for event in (events.PY_YIELD, events.PY_RETURN):
        monitoring.register_callback(tool, event, left_by)
    monitoring.set_local_events(tool, outermost.f_code, events.PY_YIELD | events.PY_RETURN)


def _end_at_next_turn(loop: asyncio.AbstractEventLoop) -> None:
    """The same for a fork that a callback of the loop has made, and for a task that ends by an error."""
    handle = loop.call_soon(_end_awaiting)
    # It has to run before the callbacks that are ready already, such as steps of other jobs. Their queue is no
    # public part of asyncio's loops, and uvloop hides its own. If none is found, the loop runs those callbacks
    # once first.
    candidates: list[Any] = [getattr(loop, "_ready", None), *gc.get_referents(loop)]
    for ready in candidates:
        if type(ready) is deque:
            cast("deque[Any]", ready).appendleft(handle)


def _end_awaiting() -> NoReturn:
    _end(RuntimeError("a fork has awaited something: the event loop is the worker's, and the fork ends"))


os.register_at_fork(after_in_child=_forked)


def end_fork(pid: int, error: BaseException | None) -> None:
    """End this process if it is not the worker's.

    Args:
        pid: the worker's process id.
        error: the exception that the task's function has raised, if any.
    """
    if os.getpid() != pid:
        _end(error)


def _end(error: BaseException | None) -> NoReturn:
    """End as Python ends a program, but without running the exit handlers that the parent has registered."""
    code = 1
    try:
        code = _print_error(error)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    finally:
        os._exit(code)


def _print_error(error: BaseException | None) -> int:
    """Write an error, or the message of `sys.exit`, to standard error; return the exit code."""
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
