"""Calls of middleware hooks that are not around a send or a run: their time is limited, and errors are logged."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from aioq.jobs.middleware import Middleware
from aioq.util.log import logger

log = logger("aioq.worker")

HOOK_TIME = 10.0
"""Seconds that a hook may take: enough for an HTTP request to a metrics service."""


def overriding(middleware: Sequence[Middleware], hook: str) -> tuple[Middleware, ...]:
    """The middleware that override a hook, in their order."""
    base = getattr(Middleware, hook)
    return tuple(layer for layer in middleware if getattr(getattr(layer, hook), "__func__", None) is not base)


@asynccontextmanager
async def worker_lifespan(
    lifespan: Callable[[], AbstractAsyncContextManager[Any]], middleware: Sequence[Middleware]
) -> AsyncGenerator[Any]:
    """The lifespans, and within them the hooks at a worker's start and, in reverse order, at its end."""
    async with lifespan() as state:
        started: list[Middleware] = []
        try:
            for layer in tuple(middleware):
                started.append(layer)
                await call_hook(layer, "worker_started")
            yield state
        finally:
            for layer in reversed(started):
                await call_hook(layer, "worker_stopped")


async def call_hook(layer: Middleware, hook: str, *args: Any) -> None:
    """Call a hook for a limited time, and log what it raises. If this is cancelled, the hook is cancelled."""
    task = asyncio.current_task()
    before = 0 if task is None else task.cancelling()
    try:
        async with asyncio.timeout(HOOK_TIME):
            await getattr(layer, hook)(*args)
    except BaseException as error:
        if task is not None and task.cancelling() > before:
            raise
        log.warning("middleware %s: its %s has failed", type(layer).__qualname__, hook, exc_info=error)
