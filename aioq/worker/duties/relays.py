"""Duty: relays what is in the outbox of a queue to other queues, and looks after jobs that were moved to these.

It does nothing until the promoter says that something is due. Entries for different queues are relayed side by
side, so that a queue which cannot be reached holds up no other. Whoever has put an entry into the outbox has
usually relayed it already: this is for those who could not, and for the ends of jobs that were moved here.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from aioq.errors import ServerError, ServerUnavailableError
from aioq.store.contract import Store
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
        self._moved: dict[str, str] = {}
        self._changed = asyncio.Event()

    def request(self, promotion: Promotion) -> None:
        """Do what a promotion asks for."""
        if promotion.relays or promotion.moved:
            self._wanted.update(dict.fromkeys(promotion.relays))
            self._moved.update(promotion.moved)
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

    async def drain(self) -> None:
        """Wait for what is being relayed; not for long, because a queue may not be reached."""
        self._start()
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=DRAIN_TIMEOUT)

    def _start(self) -> None:
        wanted, self._wanted = self._wanted, {}
        for target in wanted:
            if target not in self._tasks:
                task = asyncio.create_task(self._relay(target), name=f"aioq-relay-{self._queue}-{target}")
                self._tasks[target] = task
                task.add_done_callback(lambda _, target=target: self._tasks.pop(target, None))
        moved, self._moved = self._moved, {}
        if moved and "" not in self._tasks:
            self._tasks[""] = asyncio.create_task(self._look(moved), name=f"aioq-look-{self._queue}")
            self._tasks[""].add_done_callback(lambda _: self._tasks.pop("", None))

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
                return

    async def _look(self, moved: dict[str, str]) -> None:
        by_target: defaultdict[str, list[str]] = defaultdict(list)
        for job_id, target in moved.items():
            by_target[target].append(job_id)
        for target, job_ids in by_target.items():
            try:
                await self._look_at(target, job_ids)
            except ServerError as error:  # a timer tells when to look again
                log.debug("queue %s: could not look into queue %s: %s", self._queue, target, error)

    async def _look_at(self, target: str, job_ids: Sequence[str]) -> None:
        found = await self._store.info(target, job_ids)
        gone = [job_id for job_id, info in zip(job_ids, found, strict=True) if info is None]
        # A record in the other queue is deleted only after its end was applied here: then this changes nothing.
        for job_id in await self._store.outbox.lost(self._queue, target, gone) if gone else ():
            log.warning(
                "job %s was moved from queue %s to queue %s, and is not there any more: it has failed",
                *(job_id, self._queue, target),
            )
