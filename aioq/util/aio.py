"""Asyncio as aioq uses it: tasks that end for certain, and pauses between attempts at a server that is gone."""

import asyncio
from collections.abc import Iterable
from typing import Any

from aioq.util.randomness import RANDOM

AGAIN = 0.5
"""Seconds after which a task that has not ended is cancelled once more: code of others may swallow a
cancellation, as `asyncio.wait_for` does on Python 3.11 when it comes at the moment the awaited thing is done."""


async def end(tasks: "Iterable[asyncio.Task[Any]]") -> None:
    """Cancel tasks and wait until they have ended; what they raise is not raised here, nor reported as unseen."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        done, left = await asyncio.wait(left, timeout=AGAIN)
        for task in done:
            if not task.cancelled():
                task.exception()


class Backoff:
    """The pauses of one outage; a new outage takes a new one.

    Args:
        first: the ceiling of the first pause in seconds.
        most: the ceiling of any pause in seconds. With the default a healed server is noticed within a second.
    """

    def __init__(self, first: float = 0.05, most: float = 1.0) -> None:
        self._ceiling = first
        self._most = most

    def next(self) -> float:
        """The next pause in seconds, drawn from the upper half of a doubling ceiling."""
        ceiling = self._ceiling
        self._ceiling = min(ceiling * 2, self._most)
        return ceiling * RANDOM.uniform(0.5, 1.0)
