"""How many shards each queue has, in memory."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Protocol

from aioq.store.shards import StoredShards, read_shards, shard_fields
from aioq.store.upkeep import Backlog


class ShardQueue(Protocol):
    """A queue, as far as this needs it."""

    def backlog(self) -> Backlog:
        """What is in it."""
        ...


class MemoryShardRegister:
    """The register of an App's shards: the same fields as in the server's hash.

    Args:
        at: locks a queue, and returns it.
    """

    def __init__(self, at: Callable[[str], AbstractContextManager[ShardQueue]]) -> None:
        self._at = at
        self._fields: dict[str, str] = {}

    async def read(self) -> dict[str, StoredShards]:
        """The numbers of all queues that have one."""
        return read_shards(self._fields)

    async def change(self, queue: str, number: int, before: int | None) -> None:
        """Store another number."""
        self._fields |= shard_fields(queue, number, before)

    async def forget(self, queue: str, others: Iterable[int]) -> None:
        """Delete other numbers that the queue has had."""
        for number in others:
            self._fields.pop(f"{queue}#{number}", None)

    async def backlog(self, place: str) -> Backlog:
        """What is in a queue, or in a shard of it."""
        with self._at(place) as queue:
            return queue.backlog()
