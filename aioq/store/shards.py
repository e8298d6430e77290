"""How many shards each queue of an App has, as the server knows it. Part of the store contract.

To the other verbs each shard is a queue; `aioq.jobs.shards` has their names.
"""

from collections.abc import Iterable, Mapping
from typing import Protocol

import msgspec

from aioq.store.upkeep import Backlog


class StoredShards(msgspec.Struct, frozen=True, gc=False):
    """The number of shards of one queue.

    Attributes:
        number: how many shards it has now.
        others: the other numbers that it has had, and whose shards may not be empty yet.
    """

    number: int
    others: tuple[int, ...] = ()

    @property
    def served(self) -> int:
        """How many shards workers have to serve: the most that it has had, unless that was forgotten."""
        return max((self.number, *self.others))


class ShardRegister(Protocol):
    """The numbers of shards of an App's queues. Errors and cancellation are as in `aioq.store.contract.Store`."""

    async def read(self) -> dict[str, StoredShards]:
        """The numbers of all queues that have one; a queue of which none was stored has one shard."""
        ...

    async def change(self, queue: str, number: int, before: int | None) -> None:
        """Store another number.

        The number before is kept with the new one. So of two changes at the same time the later one counts, but
        workers serve the shards of both.

        Args:
            queue: the queue.
            number: the new number.
            before: the number before; None if none was stored.
        """
        ...

    async def forget(self, queue: str, others: Iterable[int]) -> None:
        """Delete other numbers that the queue has had, because the shards beyond the present number are empty."""
        ...

    async def backlog(self, place: str) -> Backlog:
        """What is in a queue, or in a shard of it."""
        ...


class Sharded(Protocol):
    """A store that knows how many shards each queue has."""

    @property
    def shards(self) -> ShardRegister:
        """How many shards each queue has."""
        ...


def shard_fields(queue: str, number: int, before: int | None) -> dict[str, str]:
    """What a change writes: by its name each field of the register, with its value."""
    numbers = {number} if before is None else {number, before}
    return {queue: str(number), **{f"{queue}#{each}": "" for each in sorted(numbers)}}


def read_shards(fields: Mapping[str, str]) -> dict[str, StoredShards]:
    """The numbers that the fields of the register hold; a field that is no such thing counts as missing."""
    numbers = {name: int(value) for name, value in fields.items() if "#" not in name and _is_number(value)}
    others: dict[str, list[int]] = {queue: [] for queue in numbers}
    for name in fields:
        queue, separator, number = name.partition("#")
        if separator and queue in others and _is_number(number) and int(number) != numbers[queue]:
            others[queue].append(int(number))
    return {queue: StoredShards(number, tuple(sorted(others[queue]))) for queue, number in numbers.items()}


def _is_number(text: str) -> bool:
    """Whether it can be a number of shards; the bound is that of `aioq.config.queues`, with one digit to spare."""
    return text.isascii() and text.isdigit() and int(text[:5]) > 0 and len(text) <= 4  # noqa: PLR2004
