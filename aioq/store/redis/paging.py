"""Reads large sets in several script calls, so that no call blocks the server for long.

What exists during all of these calls is read at least once. What is added or deleted meanwhile may be read or not.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from aioq.store.leases import WorkerLease
from aioq.store.redis.net.connection import Arg
from aioq.store.redis.replies import parse_workers

T = TypeVar("T")

ScriptCall = Callable[[str, str, Sequence[Arg]], Awaitable[Any]]
"""A function that calls a script by its name, for a queue, with arguments."""

PAGE = 500
"""About how many items one call reads: some milliseconds of the server's time. A small set is read whole."""

MORE = 1
"""What a script says that may have more than it has named."""

BEGIN = b"0"
"""The cursor with which reading begins, and which a script returns when nothing is left."""


async def all_workers(call: ScriptCall, queue: str) -> list[WorkerLease]:
    """The workers of a queue, sorted by the end of their leases."""
    found: dict[str, WorkerLease] = {}
    cursor = BEGIN
    while True:
        cursor, some = parse_workers(await call("workers", queue, [cursor, PAGE]))
        found.update((each.worker, each) for each in some)
        if cursor == BEGIN:
            return sorted(found.values(), key=lambda each: (each.lease_ms, each.worker))


def pages(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """The items in parts of a given size; one empty part if there are no items."""
    return [items[start : start + size] for start in range(0, max(len(items), 1), size)]
