"""Errors in an App's lifespan, which stop the worker: they are shown as errors of the user's own code."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any

from aioq.util.log import logger
from aioq.worker.failures import message_of

log = logger("aioq.worker")


class LifespanError(Exception):
    """The set-up or the tear-down of a lifespan has raised `__cause__`."""


@asynccontextmanager
async def guarded(app: str, lifespan: Callable[[], AbstractAsyncContextManager[Any]]) -> AsyncGenerator[Any]:
    """Enter a lifespan and tell its own errors from those that are raised within it, which pass unchanged.

    Raises:
        LifespanError: the set-up or the tear-down failed.
    """
    when, passing = "set-up", None
    try:
        async with lifespan() as state:
            when = "tear-down"
            try:
                yield state
            except BaseException as error:
                passing = error
                raise
    except Exception as error:
        if error is passing:
            raise
        raise LifespanError(f"the lifespan of app {app!r} failed in its {when}") from error


def report(error: LifespanError) -> None:
    """Log a lifespan's error and its place, with the traceback from the user's code on."""
    cause = error.__cause__
    assert cause is not None
    start = _first_of_the_user(cause.__traceback__)
    where = f" ({start.tb_frame.f_code.co_filename}:{start.tb_lineno})" if start is not None else ""
    shown = (type(cause), cause, start or cause.__traceback__)
    log.error("%s with %s: %s%s", error, type(cause).__qualname__, message_of(cause), where, exc_info=shown)


def _first_of_the_user(start: TracebackType | None) -> TracebackType | None:
    """The traceback from the lifespan's own frame on: the first that is neither aioq's nor contextlib's."""
    while start is not None:
        module = str(start.tb_frame.f_globals.get("__name__"))
        if module != "contextlib" and module.partition(".")[0] != "aioq":
            return start
        start = start.tb_next
    return None
