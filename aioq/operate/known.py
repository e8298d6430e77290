"""Which queues there are: those that the App knows, and those that the server knows of."""

from collections.abc import Sequence
from typing import Protocol

from aioq.errors import ConfigError
from aioq.jobs.shards import queue_of_shard
from aioq.operate.filters import WHERE
from aioq.store.contract import Store
from aioq.util.suggestions import did_you_mean


class KnownSource(Protocol):
    """The App, whatever event loop it is asked on.

    A protocol, because what it is (`aioq.internals`) is in a room above this one.
    """

    async def store(self) -> Store:
        """The store of the running loop."""
        ...

    def known_queues(self) -> Sequence[str]:
        """The queues that the App knows."""
        ...


async def queues_of(
    source: KnownSource, wanted: Sequence[str] | None = None, store: Store | None = None, where: str = f"{WHERE}: "
) -> Sequence[str]:
    """The queues that are asked for; by default those that the App knows, and those that the server knows of.

    Args:
        source: the App.
        wanted: the queues that are asked for; None for all.
        store: its store, if the caller has it.
        where: how an error begins.

    Raises:
        ConfigError: one does not exist; the message names those that do.
    """
    known = list(dict.fromkeys(source.known_queues()))
    if wanted is not None and {*wanted} <= {*known}:
        return wanted
    store = store or await source.store()
    known = list(dict.fromkeys([*known, *map(queue_of_shard, await store.operating.queues())]))
    for queue in wanted or ():
        if queue not in known and not await store.operating.is_used(queue):
            raise ConfigError(
                f"{where}there is no queue {queue!r}{did_you_mean(queue, known)}; there are: {', '.join(known)}"
            )
    return wanted or known
