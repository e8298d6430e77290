"""Duty: takes the jobs that come to this worker by direct dispatch while it waits.

If a single job is sent while a worker waits, the server assigns it to that worker and sends it over pub/sub. So
the worker need not be woken first and claim the job then. If the message gets lost, a later claim returns the job,
as it does for a claim whose reply got lost.
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
        deliver: called with the worker's id and the job, for each job.
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
        """Listen until cancelled, under each id that the worker takes; if the server refuses that, try again."""
        backoff = Backoff()
        while True:
            worker = await self._membership.ready()
            deliver = partial(self._deliver, worker)
            try:
                leave = await self._store.dispatched(self._membership.queue, worker, deliver, self._on_gap)
            except ServerError as error:  # renewals of the lease log the cause, and claims return the jobs
                log.debug("worker %s gets no jobs by direct dispatch: %s", worker, error)
                await asyncio.sleep(backoff.next())
                continue
            backoff = Backoff()
            try:
                await self._membership.ended(worker)
            finally:
                await leave()
