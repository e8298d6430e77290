"""Duty: carries on bulk operations.

It does nothing until the promoter says that a queue reminds of one. Whoever has begun an operation has its
queues remind of it, and these go on until it is over: so one worker carries it on, and another one if that
worker dies.
"""

import asyncio
from collections.abc import Callable

from aioq.errors import ServerError
from aioq.store.upkeep import Promotion
from aioq.util.aio import end
from aioq.util.log import logger
from aioq.worker.app_parts import Attend

log = logger("aioq.worker")


class OperationRunner:
    """Carries on the operations of which one queue reminds.

    Args:
        queue: the queue.
        attend: carries one on; None if this worker cannot.
        expect: called with the time in ms after which the queue reminds again.
    """

    def __init__(self, queue: str, attend: Attend | None, *, expect: Callable[[int | None], None]) -> None:
        self._queue = queue
        self._attend = attend
        self._expect = expect
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._wanted: dict[str, None] = {}
        self._changed = asyncio.Event()

    def request(self, promotion: Promotion) -> None:
        """Carry on what a promotion reminds of."""
        if promotion.operations:
            self._wanted.update(dict.fromkeys(promotion.operations))
            self._changed.set()

    async def run(self) -> None:
        """Carry on until cancelled."""
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                self._start()
        finally:
            await end(self._tasks.values())

    async def drain(self) -> bool:
        """Wait until what can be done now is done; returns whether there was anything: then there may be jobs."""
        self._start()
        was_busy = bool(self._tasks)
        while self._tasks:
            await asyncio.wait(self._tasks.values())
            self._start()
        return was_busy

    def _start(self) -> None:
        for operation in [each for each in self._wanted if each not in self._tasks]:
            del self._wanted[operation]
            task = asyncio.create_task(self._carry(operation), name=f"aioq-operation-{operation}")
            self._tasks[operation] = task
            task.add_done_callback(lambda _, each=operation: self._ended(each))

    def _ended(self, operation: str) -> None:
        self._tasks.pop(operation, None)
        self._changed.set()  # the queue may have reminded of it again meanwhile

    async def _carry(self, operation: str) -> None:
        if self._attend is None:
            return
        try:
            self._expect(await self._attend(self._queue, operation))
        except ServerError as error:
            # The queue reminds of it again in some seconds.
            log.warning("queue %s: operation %s could not be carried on: %s", self._queue, operation, error)
