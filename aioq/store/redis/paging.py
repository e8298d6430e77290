"""Reads of what can be many: in steps, each a script call of its own, so that no step holds the server up.

What is there while all steps are taken is read once at least. What comes or goes meanwhile may be read or not.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from aioq.store.leases import WorkerLease
from aioq.store.redis.net.connection import Arg
from aioq.store.redis.replies import parse_workers

T = TypeVar("T")

Ask = Callable[[str, str, Sequence[Arg]], Awaitable[Any]]
"""Calls a script, by its name, on a queue."""

PAGE = 500
"""About how many are read at once: some milliseconds of a server. Of a small set it reads all."""

BEGIN = b"0"
"""Where a script begins to read; what it says where nothing is left."""


async def all_workers(ask: Ask, queue: str) -> list[WorkerLease]:
    """The workers of a queue, whose lease ends first at first."""
    found: dict[str, WorkerLease] = {}
    cursor = BEGIN
    while True:
        cursor, some = parse_workers(await ask("workers", queue, [cursor, PAGE]))
        found.update((each.worker, each) for each in some)
        if cursor == BEGIN:
            return sorted(found.values(), key=lambda each: (each.lease_ms, each.worker))


def pages(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """Parts of a given size; one empty part where there are no items."""
    return [items[start : start + size] for start in range(0, max(len(items), 1), size)]
