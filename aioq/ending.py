"""Ending asyncio tasks for certain."""

import asyncio
from collections.abc import Iterable
from typing import Any

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
