"""Sharded queues: the names of a queue's shards, and which shard a key belongs to. Decisions only, no I/O.

To a store a shard is simply a queue. Shard 0 has the queue's own name, so that a queue without shards becomes the
first shard when it gets more. The others are `mail#1`, `mail#2` and so on, which no queue can be named.
An id that aioq makes begins with the name of its shard, as it does with that of a queue.
"""

from collections.abc import Sequence
from hashlib import blake2b

SEPARATOR = "#"
"""Separates a queue's name from the number of a shard; the names of queues cannot contain it."""

MAX_KEY = 256
"""The longest `shard_key`, in characters. It is not stored."""

_MULTIPLIER = 2_862_933_555_777_941_757
_MASK = 2**64 - 1


def shard_name(queue: str, shard: int) -> str:
    """The name that a shard has for the stores."""
    return f"{queue}{SEPARATOR}{shard}" if shard else queue


def shard_names(queue: str, number: int) -> tuple[str, ...]:
    """The names of a queue's first `number` shards, in order."""
    return tuple(shard_name(queue, shard) for shard in range(number))


def queue_of_shard(name: str) -> str:
    """The queue that a shard is a part of; the name of a queue without shards is returned as it is."""
    return name.partition(SEPARATOR)[0]


def shard_of(key: str, number: int) -> int:
    """The shard of a key, where the queue has `number` shards: the same in every process and every version.

    This is jump consistent hash (Lamping and Veach, 2014, arXiv:1406.2294): from n to n + 1 shards it moves one
    key in n + 1, and all of these to the new shard.

    Args:
        key: any text.
        number: how many shards there are, at least 1.
    """
    state = int.from_bytes(blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest())
    shard, following = 0, 0
    while following < number:
        shard = following
        state = (state * _MULTIPLIER + 1) & _MASK
        following = int((shard + 1) * (2**31 / ((state >> 33) + 1)))
    return shard


def shards_to_search(queue: str, key: str, number: int, most: int) -> list[str]:
    """The shards in which a job with an id of the caller's own may be, the most likely first.

    That is the shard of its id. But it may have been sent with a `shard_key`, or while the queue had another
    number of shards.

    Args:
        queue: the queue.
        key: the job's id.
        number: how many shards the queue has.
        most: the most that it has had.
    """
    first = shard_of(key, number)
    others = (shard for shard in range(max(number, most)) if shard != first)
    return [shard_name(queue, shard) for shard in (first, *others)]


def in_words(queue: str, number: int, served: int = 0) -> str:
    """A queue with the number of its shards, for people: `mail (8 shards)`; its name alone if it has one.

    Args:
        queue: the queue.
        number: how many shards it has.
        served: how many of them workers serve, if these are more: the others are being drained.
    """
    if served > number:
        more = served - number
        return f"{queue} ({number} shard{'s' if number > 1 else ''}, {more} more to drain)"
    return f"{queue} ({number} shards)" if number > 1 else queue


def by_queue(names: Sequence[str]) -> dict[str, list[str]]:
    """The given shards of each queue, in their order."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(queue_of_shard(name), []).append(name)
    return found
