"""Reads large sets in several script calls, so that no call blocks the server for long.

What exists during all of these calls is read at least once. What is added or deleted meanwhile may be read or not.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from aioq.store.leases import WorkerLease
from aioq.store.operating import ListPosition
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

LANE_BEGIN = ["", "", "", ""]
"""The position in a lane where reading begins."""


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


class LanePosition:
    """A position in a lane: its parts as `list_lane.lua` takes them.

    Args:
        lane: the lane.
        stream: `front`, `rest` or `main`; empty for the beginning.
        entry: the entry.
        job: the last job that was named.
        front: the last entry of the lane's front that was read, if the oldest come first.
    """

    def __init__(self, lane: str, stream: str, entry: str, job: str, front: str) -> None:
        self._lane = lane
        self._inside = stream, entry, job
        self._front = front

    def passed(self, named: Sequence[bytes], *, oldest: bool) -> list[tuple[str, ListPosition]]:
        """Move it past jobs that the script has named; returns each with the position after it."""
        found: list[tuple[str, ListPosition]] = []
        items = list(zip(*(map(text_of, named[n::3]) for n in range(3)), strict=True))
        for position, (stream, entry, job) in enumerate(items):
            if stream == "front" and oldest:
                if (stream, entry) != (items[position + 1][:2] if position + 1 < len(items) else None):
                    self._front = entry
            else:
                self._inside = stream, entry, job
            found.append((job, (self._lane, *self._inside, self._front)))
        return found

    def at(self, stream: str, entry: str, front: str) -> ListPosition:
        """The position up to which the script has looked."""
        return (self._lane, stream, entry, self._inside[2], front)


def text_of(raw: bytes) -> str:
    """An id as text. One that is no text was put there by hand, and names no job."""
    return raw.decode(errors="backslashreplace")
