"""Duty: take the jobs that come to this worker by direct dispatch while it waits.

A lone job that is sent while a worker waits need not wake it first and be claimed then: the server marks it as the
worker's own and tells it over pub/sub. What gets lost on that way is brought by a claim, as is the job of a claim
whose reply got lost.
"""

import asyncio
from collections.abc import Callable
from functools import partial

from aioq.errors import ServerError
from aioq.store.contract import Claimed, Store
from aioq.util.aio import Backoff
from aioq.util.log import logger
from aioq.worker.identity import Membership

log = logger("aioq.worker")


class Receiver:
    """Listens for the jobs of one queue that the server dispatches to this worker.

    Args:
        store: where the jobs are.
        membership: the queue, and the worker's id there.
        deliver: given each job: worker, job.
        on_gap: called when jobs may have been lost.
    """

    def __init__(
        self,
        store: Store,
        membership: Membership,
        *,
        deliver: Callable[[str, Claimed], None],
        on_gap: Callable[[], None],
    ) -> None:
        self._store = store
        self._membership = membership
        self._deliver = deliver
        self._on_gap = on_gap

    async def run(self) -> None:
        """Listen until cancelled, under each id the worker takes; where the server refuses that, try again."""
        backoff = Backoff()
        while True:
            worker = await self._membership.ready()
            deliver = partial(self._deliver, worker)
            try:
                leave = await self._store.dispatched(self._membership.queue, worker, deliver, self._on_gap)
            except ServerError as error:  # the renewal of the lease tells of it, and claims bring the jobs
                log.debug("worker %s gets no jobs by direct dispatch: %s", worker, error)
                await asyncio.sleep(backoff.next())
                continue
            backoff = Backoff()
            try:
                await self._membership.ended(worker)
            finally:
                await leave()
