"""How many shards each queue has, as one event loop knows it: read from the server at first, then now and then.

The server's number counts, not that of the App's code. A queue of which the server has none gets the number that
the code gives. A change by `aioq shards` is noticed with the next read. Until then jobs are sent to the shards of
the number before, which workers go on serving. So a change loses nothing, but during it jobs of one key may
overtake each other.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from itertools import count

from aioq.config.queues import MAX_SHARDS, Queue
from aioq.errors import SendError, ServerError, ServerUnavailableError
from aioq.jobs.options import Options
from aioq.jobs.shards import in_words, shard_names, shard_of
from aioq.store.pauses import PauseVerbs, copy_pauses
from aioq.store.shards import ShardRegister, StoredShards
from aioq.util.aio import Backoff
from aioq.util.log import logger
from aioq.util.randomness import RANDOM

log = logger("aioq.shards")

READ_EVERY = 5.0
"""Seconds between two reads where some queue has several shards; each is one command. A guess: a change is rare,
and nothing is lost during it."""

READ_EVERY_PLAIN = 30.0
"""The same where no queue has any. 1,000 idle processes then send 33 commands a second."""

RETRY_AFTER = 1.0
"""Seconds after a read that has failed, where none has succeeded before."""


class QueueShards:
    """The shards of one queue.

    Attributes:
        queue: the queue.
        number: how many there are; 0 while that is not known.
        names: their names for the store, and those of further ones that are being drained.
        declared: whether the App's code gives their number.
    """

    __slots__ = ("_turns", "declared", "names", "number", "queue")

    def __init__(self, queue: str, number: int, *, served: int = 0, declared: bool = False) -> None:
        self.queue = queue
        self.declared = declared
        self._turns = count(RANDOM.randrange(MAX_SHARDS))  # else many processes would begin with the same shard
        self.set(number, served)

    def set(self, number: int, served: int) -> None:
        """Note how many shards there are, and how many of them are served."""
        self.number = number
        self.names = shard_names(self.queue, max(number, served, 1))

    def shard_for(self, options: Options) -> str | None:
        """The shard for a job with these options; None if that depends on a number that is not known yet."""
        key = options.shard_key or options.job_id
        if self.number == 0:
            # Only an undeclared queue can be in this state for long, and its first shard is served in any case.
            return None if self.declared or key is not None else self.queue
        if key is not None:
            return self.names[shard_of(key, self.number)]
        return self.names[next(self._turns) % self.number]

    def in_words(self) -> str:
        """The queue with its shards, for people."""
        return in_words(self.queue, self.number, len(self.names)) if self.number else self.queue

    def several(self, most: int) -> Sequence[str]:
        """The shards for as many jobs, beginning with the next one in turn; fewer than there are for few jobs."""
        first = next(self._turns) % self.number
        return [*self.names[first : self.number], *self.names[:first]][:most]


class ShardTable(dict[str, QueueShards]):
    """The shards of each queue; an entry is made when it is asked for.

    Attributes:
        known: whether the numbers were read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.known = False

    def __missing__(self, queue: str) -> QueueShards:
        found = self[queue] = QueueShards(queue, 1 if self.known else 0)
        return found


class Shards:
    """Keeps the table of one event loop up to date.

    Args:
        register: the numbers in the server.
        declared: the settings of queues in the App's code.
        warned: what this process has warned of already.
        pauses: the pauses of queues, which hold for shards that are added too; None if there are none.

    Attributes:
        table: the shards of each queue.
        on_change: called after a read that has changed the table.
    """

    def __init__(
        self,
        register: ShardRegister,
        declared: Mapping[str, Queue],
        warned: set[tuple[str, int, int]],
        pauses: PauseVerbs | None = None,
    ) -> None:
        self._pauses = pauses
        self._register = register
        self._declared = {name: each.shards for name, each in declared.items() if each.shards is not None}
        self._warned = warned
        self._loop = asyncio.get_running_loop()
        self._reading: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._refused = ""
        self._closed = False
        self.table = ShardTable()
        self.on_change: list[Callable[[], None]] = []
        for queue in self._declared:
            self.table[queue] = QueueShards(queue, 0, declared=True)

    def declared(self) -> Mapping[str, int]:
        """The numbers that the App's code gives, by queue."""
        return self._declared

    def start(self) -> None:
        """Begin the first read; nothing waits for it that does not need it."""
        self._begin()

    async def read(self) -> None:
        """Read the numbers now; a read under way counts.

        Raises:
            ServerUnavailableError: the server cannot be reached.
        """
        try:
            await asyncio.shield(self._begin())
        except ServerUnavailableError as error:
            raise error.with_traceback(None) from None  # all who wait for this read share the error

    async def known(self) -> None:
        """Return when the numbers are known, however long the server is away; the caller limits the time."""
        backoff = Backoff()
        while not self.table.known:
            try:
                await self.read()
            except ServerUnavailableError as error:
                log.debug("the numbers of shards could not be read: %s", error)
                await asyncio.sleep(backoff.next())

    async def shard_for(self, queue: str, options: Options) -> str:
        """The shard for a job; waits until the number is known if it depends on that."""
        found = self.table[queue].shard_for(options)
        if found is None:
            await self.known()
            found = self.table[queue].shard_for(options)
        return found or queue

    async def shard_within(self, queue: str, options: Options, task: str, limit: float) -> str:
        """The shard for a job of a task; waits for `limit` seconds at the most until the number is known.

        Raises:
            SendError: it is not known by then; nothing was sent.
        """
        shard = self.table[queue].shard_for(options)
        if shard is not None:
            return shard
        given = options.job_id
        try:
            async with asyncio.timeout(limit):
                return await self.shard_for(queue, options)
        except TimeoutError:
            what = f"a job of {task!r}" if given is None else f"job {given}"
            raise SendError(
                f"{what} was not sent after {limit:g} s: the server does not answer, so it is not known how many "
                f"shards queue {queue!r} has",
                () if given is None else (given,),
            ) from None

    async def close(self) -> None:
        """Read no more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])

    def _begin(self) -> "asyncio.Task[None]":
        if self._reading is None or self._reading.done():
            if self._timer is not None:
                self._timer.cancel()
            self._reading = self._loop.create_task(self._read(), name="aioq-shards")
            self._reading.add_done_callback(self._plan_next)
        return self._reading

    def _plan_next(self, reading: "asyncio.Task[None]") -> None:
        if reading.cancelled():
            return
        failed = reading.exception() is not None  # also marks the error as seen: the next read tries again
        if self._closed or reading is not self._reading:  # that one was begun meanwhile, and plans the next
            return
        several = self._declared or any(len(each.names) > 1 for each in self.table.values())
        pause = READ_EVERY if several else READ_EVERY_PLAIN
        if failed and not self.table.known:
            pause = RETRY_AFTER
        self._timer = self._loop.call_later(pause, self._begin)

    async def _read(self) -> None:
        try:
            stored = await self._register.read()
            missing = [queue for queue, number in self._declared.items() if queue not in stored and number > 1]
            for queue in missing:
                await self._declare(queue, self._declared[queue])
            if missing:  # another process may have stored another number at the same time
                stored = await self._register.read()
        except ServerUnavailableError:
            raise
        except ServerError as error:
            # This user may not use the key, or it holds something else: the numbers of the code have to do.
            if self._declared and str(error) != self._refused:
                self._refused = str(error)
                log.warning("%s; the numbers of shards are those that the App declares", error)
            stored = {queue: StoredShards(number) for queue, number in self._declared.items()}
        self._note(stored)

    async def _declare(self, queue: str, number: int) -> None:
        """Store the number of shards of a queue that has none stored."""
        if self._pauses is not None:
            await copy_pauses(self._pauses, queue, shard_names(queue, number)[1:])
        await self._register.change(queue, number, None)
        if self._pauses is not None:  # it may have been paused meanwhile, by somebody who did not know the others
            await copy_pauses(self._pauses, queue, shard_names(queue, number)[1:])

    def _note(self, stored: Mapping[str, StoredShards]) -> None:
        changed = False
        self.table.known = True
        for queue in {*self.table, *stored}:
            found, shards = stored.get(queue), self.table[queue]
            number, served = (1, 1) if found is None else (found.number, found.served)
            # A shard that was served once is served until this process ends: a sender may still use it.
            served = max(served, len(shards.names))
            if (number, served) != (shards.number, len(shards.names)):
                if shards.number:
                    log.info("queue %s: it has %d shards now, it had %d", queue, number, shards.number)
                shards.set(number, served)
                changed = True
            self._compare(queue, number)
        for callback in self.on_change if changed else ():
            callback()

    def _compare(self, queue: str, number: int) -> None:
        declared = self._declared.get(queue, number)
        if declared != number and (queue, declared, number) not in self._warned:
            self._warned.add((queue, declared, number))
            log.warning(
                "queue %s: this App declares %d shards and the server has %d, which are used; declare %d, or "
                "change the server's number: aioq shards MODULE:APP %s %d",
                *(queue, declared, number, number, queue, declared),
            )
