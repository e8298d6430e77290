"""Duty: logs what of a queue is paused, at the start and whenever that changes.

The replies to claims tell when it has changed; what exactly is then asked for once. The pause itself is the
server's: a claim brings no such job.
"""

import asyncio

from aioq.errors import ServerError
from aioq.jobs.shards import queue_of_shard
from aioq.store.contract import Store
from aioq.store.pauses import Pause, in_words
from aioq.util.log import logger

log = logger("aioq.worker")


class PauseLog:
    """Logs the pauses of one queue; of its shards the first one does.

    Args:
        store: where the jobs are.
        queue: the queue.
    """

    def __init__(self, store: Store, queue: str) -> None:
        self._store = store
        self._queue = queue
        self._logs = queue_of_shard(queue) == queue  # all shards of a queue are paused together
        self._last: Pause | None = None
        self._changed = asyncio.Event()

    def note(self, pause: Pause | None) -> None:
        """Note what the reply to a claim says."""
        if not self._logs or pause is self._last or (self._last is not None and not self._last.differs(pause)):
            return
        self._last = pause
        self._changed.set()

    async def run(self) -> None:
        """Log each change until cancelled."""
        words = ""
        while True:
            await self._changed.wait()
            self._changed.clear()
            before, words = words, await self._words()
            if words:
                log.info("queue %s: %s", self._queue, words)
            elif before:
                log.info("queue %s: nothing is paused any more", self._queue)

    async def _words(self) -> str:
        if self._last is None:
            return ""
        try:
            return in_words(await self._store.operating.pauses.read(self._queue))
        except ServerError as error:
            log.debug("queue %s: could not read what is paused: %s", self._queue, error)
            return "it is paused" if self._last.whole else f"{self._last.tasks} of its tasks are paused"
