"""How the queues of a worker share its slots: decisions only, without an event loop and without a server.

Where no queue has a share of its own, a free slot is taken by whichever queue claims first. Else each has a
weight, and perhaps a number of slots that its jobs never exceed. Of the queues that want slots, each has a right
to its part of all slots, by weight. What is left, because others want nothing or because parts are no whole
numbers, is for everybody. So a slot that a queue may use stays free only while another one, with a right to it, is
about to claim.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from aioq.jobs.shards import queue_of_shard
from aioq.util.plural import counted


class Share(NamedTuple):
    """What one queue may have of a worker's slots.

    Attributes:
        most: the most slots that its jobs take; None for all.
        weight: its part of them where other queues have jobs too, beside their weights.
    """

    most: int | None = None
    weight: int = 1


def shares_of(queues: Iterable[str], most: Mapping[str, int], weights: Mapping[str, int]) -> dict[str, Share]:
    """The shares of a worker's queues; empty if none of them has one of its own."""
    return {
        queue: Share(most.get(queue), weights.get(queue, 1))
        for queue in queues
        if queue in most or queue in weights
    }


def share_in_words(words: str, queue: str, most: Mapping[str, int], weights: Mapping[str, int]) -> str:
    """A queue with its share, for people: `mail (8 shards, up to 10 slots, weight 3)`.

    Args:
        words: the queue in words, as `mail (8 shards)`.
        queue: its name.
        most: by queue, the most slots that its jobs take.
        weights: by queue, its weight.
    """
    said = [f"up to {counted(most[queue], 'slot')}"] if queue in most else []
    said += [f"weight {weights[queue]}"] if queue in weights else []
    if not said:
        return words
    return f"{words.removesuffix(')')}{', ' if words.endswith(')') else ' ('}{', '.join(said)})"


class Shares:
    """The shares of a worker's queues. The shards of a queue have one share together.

    Args:
        shares: by queue; one without has the weight 1.
        used: by queue or shard, how many slots its jobs have taken; it changes while this is used.
    """

    def __init__(self, shares: Mapping[str, Share], used: Mapping[str, int]) -> None:
        self._shares = shares
        self._used = used
        self._turns: dict[str, float] = {}
        self._now = 0.0  # the turn of the queue that took slots last

    def total_for(self, name: str, total: int) -> int:
        """How many of a worker's slots the jobs of a queue, or of a shard, can take at the most."""
        most = self._share(queue_of_shard(name)).most
        return total if most is None else min(most, total)

    def took(self, name: str, count: int) -> None:
        """A queue, or a shard, has taken so many slots: the others are next."""
        queue = queue_of_shard(name)
        self._now = max(self._turns.get(queue, 0.0), self._now)
        self._turns[queue] = self._now + count / self._share(queue).weight

    def free_for(self, names: Iterable[str], free: int, total: int) -> dict[str, int]:
        """How many of the free slots each of the queues and shards that want some may take now."""
        by_queue = self._by_queue({*map(queue_of_shard, names)}, free, total)
        return {name: by_queue.get(queue_of_shard(name), 0) for name in names}

    def _by_queue(self, queues: Iterable[str], free: int, total: int) -> dict[str, int]:
        used = self._used_by_queue()
        room = {queue: self.total_for(queue, total) - used.get(queue, 0) for queue in sorted(queues)}
        room = {queue: number for queue, number in room.items() if number > 0}
        parts = self._parts(room, total)
        due = {queue: parts[queue] - used.get(queue, 0) for queue in room}
        left = max(free - sum(max(number, 0) for number in due.values()), 0)
        others = [queue for queue, number in due.items() if number <= 0]
        following = min(others, key=lambda queue: self._turns.get(queue, 0.0), default=None)
        if len(others) > 1:
            left = min(left, 1)  # they take turns
        may = {queue: due[queue] if due[queue] > 0 else left if queue == following else 0 for queue in room}
        return {queue: min(number, room[queue], free) for queue, number in may.items()}

    def _parts(self, queues: Iterable[str], total: int) -> dict[str, int]:
        """How many of all slots each of these queues has a right to, in whole numbers.

        What a queue cannot use, because it has a number that it does not exceed, is for the others.
        """
        parts: dict[str, int] = {}
        open_to: list[str] = list(queues)
        left = total
        while open_to:
            weight = sum(self._share(queue).weight for queue in open_to)
            shared = {queue: left * self._share(queue).weight // weight for queue in open_to}
            bounded = [queue for queue in open_to if self.total_for(queue, total) < shared[queue]]
            if not bounded:
                return parts | shared
            parts |= {queue: self.total_for(queue, total) for queue in bounded}
            left -= sum(parts[queue] for queue in bounded)
            open_to = [queue for queue in open_to if queue not in parts]
        return parts

    def _used_by_queue(self) -> dict[str, int]:
        used: dict[str, int] = {}
        for name, count in self._used.items():
            queue = queue_of_shard(name)
            used[queue] = used.get(queue, 0) + count
        return used

    def _share(self, queue: str) -> Share:
        return self._shares.get(queue, _EQUAL)


_EQUAL = Share()
