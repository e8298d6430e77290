"""Duty: renews the worker's leases, in a thread of its own.

A task that blocks the event loop does not cost the worker its leases, because this thread does not need the loop.
It has its own connection, over which it renews each queue's lease four times within the lease's length.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from math import inf

from aioq.errors import ServerError, ServerRejectedError
from aioq.store.leases import LeaseClient, LeaseRequest, Renewal
from aioq.util.aio import Backoff
from aioq.util.log import logger
from aioq.worker.identity import Membership

log = logger("aioq.worker")

SWEEP_EVERY = 8
"""Every how many renewals a sweep is made: with the default lease every 16 s. What a sweep finds is rare."""

RENEWALS = 4
"""Renewals within one lease: three may fail before it ends."""


class LeaseService:
    """Renews a worker's leases, one for each queue.

    Args:
        lease_client: the connection, used only by the thread.
        memberships: one for each queue.
        lease: the lease's length in seconds.
        on_renewal: called on the event loop with the reply to each renewal, and whether it is the first one after
            an outage, noticed here or by the store (`Renewal.outage`).
        on_lost: called on the event loop with the membership and the worker id whose lease was lost.
        fetched_ago: called in the thread; returns how many seconds ago jobs of a queue were last fetched.
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
        """Renew the leases until `stop`, or until cancelled."""
        self._thread.start()
        try:
            await self._done.wait()
        finally:
            self._stopping = True
            self._wake.set()
        if self._error is not None:
            raise self._error

    async def stop(self) -> None:
        """Renew no more, and let the thread end. The leases expire, or end when the worker deregisters."""
        self._stopping = True
        self._wake.set()
        await self._done.wait()

    def add(self, membership: Membership) -> None:
        """Renew the lease of one more queue, from now on."""
        self._memberships = [*self._memberships, membership]  # a new list: the thread may be reading this one
        self.renew_now()

    def rejection(self, queue: str) -> str:
        """Why the server refuses to renew a queue's lease; empty if it does not. May be called from any thread."""
        return self._rejections.get(queue, "")

    def renew_now(self) -> None:
        """Renew at once; after a lost lease, register the worker again at once."""
        self._wake.set()

    def _run(self) -> None:
        try:
            next_round, memberships = 0.0, self._memberships
            while not self._stopping:
                self._wake.clear()
                if memberships is self._memberships:
                    self._round += 1
                    next_round = time.monotonic() + self._interval
                pauses = self._renew_all(memberships)
                until_round = max(next_round - time.monotonic(), 0.05)
                is_due = self._wake.wait(min([until_round, *pauses])) or until_round <= min(pauses, default=inf)
                # Before the next round is due, only those are tried again that have failed.
                memberships = (
                    self._memberships if is_due else [m for m in memberships if m.queue in self._troubled]
                )
        except BaseException as error:
            self._error = error
        finally:
            self._lease_client.close()
            self._call_on_loop(self._done.set)

    def _renew_all(self, memberships: Sequence[Membership]) -> list[float]:
        """Renew leases, and join the queues not joined; returns in how many seconds to retry each that failed."""
        requests = [self._request(number, each) for number, each in enumerate(memberships)]
        results = self._lease_client.renew_all(requests)
        self._served = self._served or any(isinstance(result, Renewal) for result in results)
        pauses: list[float] = []
        for membership, request, result in zip(memberships, requests, results, strict=True):
            if isinstance(result, Renewal):
                self._renewed(membership, request, result)
            elif isinstance(result, ServerRejectedError) and not self._served:
                raise result  # waiting does not help: the worker ends, with this error
            else:
                pauses.append(self._note_trouble(membership.queue, result))
        return pauses

    def _request(self, number: int, membership: Membership) -> LeaseRequest:
        worker = membership.worker  # first: the event loop may give it a new id, with which it has not joined
        if not membership.joined:
            return LeaseRequest(membership.queue, worker, 0, "join")
        fetched_ms = round(self._fetched_ago(membership.queue) * 1000)
        # The queues take turns, so that the sweeps of many do not keep the server from others all at once.
        sweep = (self._round + number) % SWEEP_EVERY == 0
        return LeaseRequest(membership.queue, worker, fetched_ms, "sweep" if sweep else "")

    def _renewed(self, membership: Membership, request: LeaseRequest, renewal: Renewal) -> None:
        healed = self._note_success(membership.queue)
        if renewal.lost:
            self._call_on_loop(self._on_lost, membership, request.worker)
        else:
            if request.mode == "join":
                self._call_on_loop(membership.confirm, request.worker)
            self._call_on_loop(self._on_renewal, membership, renewal, healed or renewal.outage)

    def _note_trouble(self, queue: str, error: ServerError) -> float:
        """Log an error, once; return the seconds until the next try."""
        if isinstance(error, ServerRejectedError):
            # A password was changed or a permission taken away: a person can correct that.
            self._rejections[queue] = str(error)
        if queue not in self._troubled:
            # One warning for all queues of the server.
            level = logging.DEBUG if self._troubled else logging.WARNING
            log.log(level, "queue %s: %s; trying again until it is back", queue, error)
            self._troubled[queue] = Backoff()
        return self._troubled[queue].next()

    def _note_success(self, queue: str) -> bool:
        """Note a successful renewal; return whether the one before had failed."""
        self._rejections.pop(queue, None)
        if self._troubled.pop(queue, None) is None:
            return False
        level = logging.DEBUG if self._troubled else logging.WARNING
        log.log(level, "queue %s: the server is back", queue)
        return True

    def _call_on_loop(self, callback: Callable[..., object], *args: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback, *args)
