"""Duty: keep the worker's leases, from a thread of its own.

A task that blocks the event loop does not cost the worker its leases, because this thread does not need the loop:
it renews each queue's lease four times within the lease's length over a connection of its own.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence

from aioq.errors import ServerError, ServerRejectedError
from aioq.store.leases import LeaseClient, Renewal
from aioq.util.aio import Backoff
from aioq.util.log import logger
from aioq.worker.identity import Membership

log = logger("aioq.worker")

SWEEP_EVERY = 8
"""Renewals from one sweep to the next: with the default lease every 16 s. What a sweep finds is rare."""

RENEWALS = 4
"""Renewals within one lease: three may fail before it ends."""


class LeaseService:
    """Renews a worker's leases, one a queue.

    Args:
        lease_client: the connection, used by the thread alone.
        memberships: one a queue.
        lease: the lease's length in seconds.
        on_renewal: called on the event loop with what each renewal brought, and whether it was the first one after
            an outage, seen here or by the store (`Renewal.outage`).
        on_lost: called on the event loop with the membership and the id that was lost.
        fetched_ago: called in the thread: how many seconds ago a queue was last fetched from.
    """

    def __init__(
        self,
        lease_client: LeaseClient,
        memberships: Sequence[Membership],
        lease: float,
        *,
        on_renewal: Callable[[Membership, Renewal, bool], None],
        on_lost: Callable[[Membership, str], None],
        fetched_ago: Callable[[str], float] = lambda _: 0.0,
    ) -> None:
        self._lease_client = lease_client
        self._fetched_ago = fetched_ago
        self._memberships = memberships
        self._interval = lease / RENEWALS
        self._on_renewal = on_renewal
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._wake = threading.Event()
        self._stopping = False
        self._round = 0
        self._error: BaseException | None = None
        self._done = asyncio.Event()
        self._troubled: dict[str, Backoff] = {}  # by queue
        self._rejections: dict[str, str] = {}
        self._served = False
        self._thread = threading.Thread(target=self._run, name="aioq-lease", daemon=True)

    async def run(self) -> None:
        """Keep the leases until `stop`, or until cancelled."""
        self._thread.start()
        try:
            await self._done.wait()
        finally:
            self._stopping = True
            self._wake.set()
        if self._error is not None:
            raise self._error

    async def stop(self) -> None:
        """Renew no more, and let the thread end. The leases run out, or end with the departure."""
        self._stopping = True
        self._wake.set()
        await self._done.wait()

    def rejection(self, queue: str) -> str:
        """Why the server refuses to renew the lease of a queue; empty where it does not. From any thread."""
        return self._rejections.get(queue, "")

    def hurry(self) -> None:
        """Renew now; after a lost lease this is how the worker joins again at once."""
        self._wake.set()

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._wake.clear()
                self._round += 1
                started = time.monotonic()
                pauses = [pause for m in self._memberships if (pause := self._tend(m)) is not None]
                spent = time.monotonic() - started
                self._wake.wait(min([max(self._interval - spent, 0.05), *pauses]))
        except BaseException as error:
            self._error = error
        finally:
            self._lease_client.close()
            self._tell(self._done.set)

    def _tend(self, membership: Membership) -> float | None:
        """Renew or join one queue; a pause in seconds where it has to be tried again soon."""
        worker, joining = membership.worker, not membership.joined
        try:
            if joining:
                renewal = self._lease_client.join(membership.queue, worker)
            else:
                sweep = self._round % SWEEP_EVERY == 0
                fetched_ms = round(self._fetched_ago(membership.queue) * 1000)
                renewal = self._lease_client.renew(membership.queue, worker, fetched_ms=fetched_ms, sweep=sweep)
        except ServerError as error:
            if isinstance(error, ServerRejectedError) and not self._served:
                raise  # waiting does not heal it: the worker ends, and says why
            return self._note_trouble(membership.queue, error)
        healed = self._note_success(membership.queue)
        if renewal.lost:
            self._tell(self._on_lost, membership, worker)
        else:
            if joining:
                self._tell(membership.confirm, worker)
            self._tell(self._on_renewal, membership, renewal, healed or renewal.outage)
        return None

    def _note_trouble(self, queue: str, error: ServerError) -> float:
        """Say it once; the pause until the next try."""
        if isinstance(error, ServerRejectedError):
            # A password that was changed, a permission that was taken away: a person can mend that.
            self._rejections[queue] = str(error)
        if queue not in self._troubled:
            level = logging.DEBUG if self._troubled else logging.WARNING  # one server, one cause
            log.log(level, "queue %s: %s; trying again until it is back", queue, error)
            self._troubled[queue] = Backoff()
        return self._troubled[queue].next()

    def _note_success(self, queue: str) -> bool:
        """Whether there was trouble before."""
        self._served = True
        self._rejections.pop(queue, None)
        if self._troubled.pop(queue, None) is None:
            return False
        level = logging.DEBUG if self._troubled else logging.WARNING
        log.log(level, "queue %s: the server is back", queue)
        return True

    def _tell(self, callback: Callable[..., object], *args: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback, *args)
