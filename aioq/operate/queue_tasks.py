"""The tasks of a queue: those of which the server knows jobs or statistics."""

import asyncio
from collections.abc import Collection, Iterable, Sequence

import msgspec

from aioq.errors import ConfigError
from aioq.operate.pauses import PauseInfo
from aioq.public import public
from aioq.store.contract import Store
from aioq.store.operating import LISTED_STATES, MOST_LISTED, ListQuery, OperatorVerbs
from aioq.util.suggestions import did_you_mean

_TASKS_NAMED = 20
"""How many known tasks an error names."""


@public
class QueueTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task of which a queue has, or had, jobs.

    Attributes:
        name: its name.
        registered: whether the App knows the task.
        ended: how many of its jobs ended here in the last 24 hours; None if the App keeps no statistics.
        paused: its pause in this queue; None if it is not paused by itself.
    """

    name: str
    registered: bool
    ended: int | None = None
    paused: PauseInfo | None = None


async def with_jobs(verbs: OperatorVerbs, shards: Sequence[str]) -> Collection[str]:
    """The names of the tasks of the first jobs of each state, in some shards."""
    lists = [(shard, ListQuery(state), (), MOST_LISTED) for shard in shards for state in LISTED_STATES]
    found = await asyncio.gather(*(verbs.list_jobs(*each) for each in lists))
    return {item.info.task for listing in found for item in listing.items if item.info is not None}


async def seen(store: Store, shards: Sequence[str]) -> Collection[str]:
    """The names of the tasks that have jobs or statistics, in some shards."""
    found = await asyncio.gather(*map(store.history.statistics, shards))
    return {*await with_jobs(store.operating, shards), *(task for each in found for task in each.day.tasks)}


def check_known(where: str, names: Iterable[str], known: Iterable[str], are: str = "there are") -> None:
    """Check that tasks exist.

    Args:
        where: what was called, for the error.
        names: the tasks.
        known: those that there are.
        are: what these are, for the error.

    Raises:
        ConfigError: one does not; the message names those that do.
    """
    there = sorted({*known} - {""})
    for name in names:
        if name not in there:
            more = f" and {len(there) - _TASKS_NAMED} more" if len(there) > _TASKS_NAMED else ""
            listed = f"{are}: {', '.join(there[:_TASKS_NAMED]) or 'none'}{more}"
            raise ConfigError(f"{where}: no task {name!r}{did_you_mean(name, there)}; {listed}")
