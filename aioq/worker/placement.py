"""What a worker has to know before it stores the schedules of its code: in which shard each of them is.

For that it reads how many shards there are, which a key of the App says, and then the shards of the queues that
have schedules. On a cluster a node of these may be away when a worker starts. Then it serves what it reaches, and
gets to know this later.
"""

import asyncio
from collections.abc import Callable, Sequence

from aioq.errors import ServerError
from aioq.producer.shards import Shards
from aioq.schedules.declare import Declared
from aioq.schedules.homes import placed
from aioq.store.schedules import Timetable
from aioq.util.aio import Backoff
from aioq.util.log import logger

log = logger("aioq.worker")


class Placement:
    """The schedules of the code, each with its shard once that is known.

    Args:
        timetable: where the schedules are.
        shards: how many shards each queue has.
        declared: the schedules, with their queues.

    Attributes:
        declared: the schedules; until they are placed, with their queues.
        is_known: whether they are placed.
        on_known: called when they are, unless they were at the start.
    """

    def __init__(self, timetable: Timetable, shards: Shards, declared: Sequence[Declared]) -> None:
        self._timetable = timetable
        self._shards = shards
        self.declared = [*declared]  # one list, which all tickers of the worker have
        self.is_known = False
        self.on_known: Callable[[], None] = lambda: None

    async def find(self) -> None:
        """Read the numbers of shards, and where the schedules are.

        Raises:
            ServerError: as in `aioq.store.contract.Store`.
        """
        await self._shards.read()
        self.declared[:] = await placed(self._timetable, self._shards.table, self.declared)
        self.is_known = True

    async def keep_finding(self) -> None:
        """Try until it is known, if it is not."""
        backoff = Backoff()
        while not self.is_known:
            await asyncio.sleep(backoff.next())
            try:
                await self.find()
            except ServerError as error:
                log.debug("where the schedules are is not known yet: %s", error)
            else:
                log.warning("all that this worker needs to know of its queues and schedules is known now")
                self.on_known()
