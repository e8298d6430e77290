"""Helpers for asyncio: ending tasks for certain, and pauses between attempts to reach a server."""

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any

from aioq.util.randomness import RANDOM

CANCEL_AGAIN_AFTER = 0.5
"""Seconds after which a task that has not ended is cancelled again. Code of others may swallow a cancellation:
`asyncio.wait_for` does on Python 3.11 when it comes at the moment at which the awaited future is done."""


async def end(tasks: "Iterable[asyncio.Task[Any]]") -> None:
    """Cancel tasks and wait until they have ended. Their errors are dropped: not raised here, and not logged."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        done, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_AFTER)
        for task in done:
            if not task.cancelled():
                task.exception()


async def wait_for_all(tasks: "Sequence[asyncio.Task[Any]]") -> None:
    """Wait until tasks have ended, whatever their ends are."""
    await asyncio.wait(tasks)


async def all_of(calls: Iterable[Awaitable[object]]) -> None:
    """Make calls for many queues at once: one after the other, each would wait for the server."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


class Backoff:
    """The pauses between attempts in one outage; for the next outage a new object is made.

    Args:
        first: the ceiling of the first pause in seconds.
        most: the ceiling of any pause in seconds. By default a server that is back is found within a second.
    """

    def __init__(self, first: float = 0.05, most: float = 1.0) -> None:
        self._ceiling = first
        self._most = most

    def next(self) -> float:
        """The next pause in seconds, drawn from the upper half of a doubling ceiling."""
        ceiling = self._ceiling
        self._ceiling = min(ceiling * 2, self._most)
        return ceiling * RANDOM.uniform(0.5, 1.0)
