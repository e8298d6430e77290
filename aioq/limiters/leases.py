"""Renews the leases of the places that a process holds, in a thread, which no busy event loop can delay."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence

from aioq.errors import ServerError
from aioq.store.leases import LeaseClient
from aioq.store.limiters import PermitLease
from aioq.util.log import logger

log = logger("aioq.limiters")

RENEWALS = 4
"""Renewals within one lease, as a worker makes: three may fail before it ends."""


STOP_PATIENCE = 1.0
"""Seconds for which the end of the thread is waited for."""


class LeaseThread:
    """Renews leases, from the first place on that is held.

    Args:
        lease_client: makes the connection, which only the thread uses.
        lease: how long a lease lasts, in seconds.
        held: returns for which limiters places are held. Called in the thread.
        on_renewal: called on the event loop with a limiter's name, how many places the server knows of, and the
            loop's time when the renewal began.
    """

    def __init__(
        self,
        lease_client: Callable[[], LeaseClient],
        lease: float,
        *,
        held: Callable[[], Sequence[PermitLease]],
        on_renewal: Callable[[str, int, float], None],
    ) -> None:
        self._make_client = lease_client
        self._interval = lease / RENEWALS
        self._held = held
        self._on_renewal = on_renewal
        self._loop = asyncio.get_running_loop()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._troubled = False
        self._ended = asyncio.Event()

    def start(self) -> None:
        """Renew from now on."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="aioq-permits", daemon=True)
            self._thread.start()

    async def stop(self) -> None:
        """Renew no more."""
        self._stopping.set()
        if self._thread is not None:
            with contextlib.suppress(TimeoutError):  # if the server is away, the thread ends later
                async with asyncio.timeout(STOP_PATIENCE):
                    await self._ended.wait()

    def _run(self) -> None:
        client = self._make_client()
        try:
            while not self._stopping.wait(min(self._interval, threading.TIMEOUT_MAX)):
                leases = self._held()
                if leases:
                    self._renew(client, leases)
        except BaseException:
            log.exception("the leases of limiters are not renewed any more: an error of aioq's own")
        finally:
            client.close()
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._ended.set)

    def _renew(self, client: LeaseClient, leases: Sequence[PermitLease]) -> None:
        began = time.monotonic()
        results = client.renew_permits(leases)
        errors = [each for each in results if isinstance(each, ServerError)]
        for lease, result in zip(leases, results, strict=True):
            if not isinstance(result, ServerError) and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._on_renewal, lease.name, result, began)
        if errors and not self._troubled:
            log.warning("the leases of limiters could not be renewed: %s; trying again", errors[0])
        elif self._troubled and not errors:
            log.log(logging.INFO, "the leases of limiters are renewed again")
        self._troubled = bool(errors)
