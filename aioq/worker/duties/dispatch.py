"""Duty: receives what the server sends to this worker while it waits: jobs by direct dispatch, and wake-ups.

If a single job is sent while a worker waits, the server assigns it to that worker and sends it over pub/sub. So
the worker need not be woken first and claim the job then. If the message gets lost, a later claim returns the job,
as it does for a claim whose reply got lost. A worker of many queues stands, that is, it waits without a blocking
read; a message wakes it when there is something to claim.
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
    """Listens for what the server sends to this worker of one queue.

    Args:
        store: where the jobs are.
        membership: the queue, and the worker's id there.
        deliver: called with the worker's id and the job, for each job.
        on_gap: called when messages may have been lost.
        on_wake: called with the worker's id and a number of jobs, when there is something to claim.
        on_listening: called with whether it listens, each time that begins or ends.
    """

    def __init__(
        self,
        store: Store,
        membership: Membership,
        *,
        deliver: Callable[[str, Claimed], None],
        on_gap: Callable[[], None],
        on_wake: Callable[[str, int], None],
        on_listening: Callable[[bool], None],
    ) -> None:
        self._store = store
        self._membership = membership
        self._deliver = deliver
        self._on_gap = on_gap
        self._on_wake = on_wake
        self._on_listening = on_listening

    async def run(self) -> None:
        """Listen until cancelled, under each id that the worker takes; if the server refuses that, try again."""
        backoff = Backoff()
        while True:
            worker = await self._membership.ready()
            deliver, wake = partial(self._deliver, worker), partial(self._on_wake, worker)
            try:
                leave = await self._store.dispatched(self._membership.queue, worker, deliver, self._on_gap, wake)
            except ServerError as error:  # renewals of the lease log the cause, and claims return the jobs
                log.debug("worker %s gets no jobs by direct dispatch: %s", worker, error)
                await asyncio.sleep(backoff.next())
                continue
            backoff = Backoff()
            self._on_listening(True)
            try:
                await self._membership.ended(worker)
            finally:
                self._on_listening(False)
                await leave()
