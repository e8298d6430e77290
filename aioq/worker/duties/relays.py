"""Duty: relays what is in the outbox of a queue to other queues, and looks after jobs that were moved to these.

It does nothing until the promoter says that something is due. Entries for different queues are relayed side by
side, so that a queue which cannot be reached holds up no other. Whoever has put an entry into the outbox has
usually relayed it already: this is for those who could not, and for the ends of jobs that were moved here.
"""

import asyncio
from collections import defaultdict
from collections.abc import Coroutine, Sequence
from typing import Any

from aioq.errors import ServerError, ServerUnavailableError
from aioq.store.contract import Store
from aioq.store.extra import MovedJob
from aioq.store.relay import relay
from aioq.store.upkeep import Promotion
from aioq.util.aio import Backoff, end
from aioq.util.log import logger

log = logger("aioq.worker")

PATIENT_HOLD_MS = 15_000
"""For how long other workers leave the entries to this one while it tries again, in milliseconds: longer than the
longest pause and the time in which a command fails. A guess."""

MOST_PAUSE = 5.0
"""The longest pause between two attempts to reach a queue, in seconds. So a queue that is back gets its entries
within that time. A guess."""

REFUSED_PAUSE = 60.0
"""The pause after a queue has refused the call, in seconds: waiting seldom helps then, and each time is logged."""

DRAIN_TIMEOUT = 5.0
"""Seconds for which a worker that is to end when its queues are empty waits for what it relays."""


MOVED_JOBS = ""
"""The name of the task that looks after jobs that were moved, beside the names of queues."""


class Relays:
    """Relays what is in the outbox of one queue.

    Args:
        store: where the jobs are.
        queue: the queue.
    """

    def __init__(self, store: Store, queue: str) -> None:
        self._store = store
        self._queue = queue
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._wanted: dict[str, None] = {}
        self._moved: list[MovedJob] = []
        self._changed = asyncio.Event()
        self._relayed = False

    def request(self, promotion: Promotion) -> None:
        """Do what a promotion asks for."""
        if promotion.relays or promotion.moved:
            self._wanted.update(dict.fromkeys(promotion.relays))
            self._moved += promotion.moved
            self._changed.set()

    def relay(self, targets: Sequence[str]) -> None:
        """Relay what is in the outbox for these queues."""
        self._wanted.update(dict.fromkeys(targets))
        self._changed.set()

    async def run(self) -> None:
        """Relay until cancelled."""
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                self._start()
        finally:
            await end(self._tasks.values())

    async def drain(self) -> bool:
        """Wait for what is being relayed; not for long, because a queue may not be reached.

        Returns:
            Whether something was relayed since this was called last: then other queues may have jobs.
        """
        self._start()
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=DRAIN_TIMEOUT)
        relayed, self._relayed = self._relayed, False
        return relayed

    def _start(self) -> None:
        for target in [each for each in self._wanted if each not in self._tasks]:
            del self._wanted[target]
            self._begin(target, self._relay(target))
        if self._moved and MOVED_JOBS not in self._tasks:
            moved, self._moved = self._moved, []
            self._begin(MOVED_JOBS, self._look(moved))

    def _begin(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        self._tasks[name] = asyncio.create_task(work, name=f"aioq-relay-{self._queue}-{name}")
        self._tasks[name].add_done_callback(lambda _: self._ended(name))

    def _ended(self, name: str) -> None:
        self._tasks.pop(name, None)
        self._changed.set()  # the same may have been asked for again meanwhile

    async def _relay(self, target: str) -> None:
        backoff, was_away = Backoff(most=MOST_PAUSE), False
        while True:
            try:
                await relay(self._store.outbox, self._queue, target, hold_ms=PATIENT_HOLD_MS)
            except ServerUnavailableError as error:
                (log.debug if was_away else log.warning)(
                    "queue %s: what is meant for queue %s waits: %s", self._queue, target, error
                )
                was_away = True
                await asyncio.sleep(backoff.next())
            except ServerError as error:
                log.warning("queue %s: queue %s refuses what is meant for it: %s", self._queue, target, error)
                await asyncio.sleep(REFUSED_PAUSE)
            else:
                self._relayed = True
                return

    async def _look(self, moved: Sequence[MovedJob]) -> None:
        by_target: defaultdict[str, list[MovedJob]] = defaultdict(list)
        for job in moved:
            by_target[job.queue].append(job)
        for target, jobs in by_target.items():
            try:
                await self._look_at(target, jobs)
            except ServerError as error:  # a timer tells when to look again
                log.debug("queue %s: could not look into queue %s: %s", self._queue, target, error)

    async def _look_at(self, target: str, jobs: Sequence[MovedJob]) -> None:
        outbox = self._store.outbox
        found = await outbox.look(target, self._queue, jobs)
        if found.notifies:
            await relay(outbox, target, self._queue)
            self._relayed = True
        # A record in the other queue is deleted only after its end was applied here: then this changes nothing.
        for job_id in await outbox.lost(self._queue, target, found.gone) if found.gone else ():
            log.warning(
                "job %s was moved from queue %s to queue %s, and is not there any more: it has failed",
                *(job_id, self._queue, target),
            )
