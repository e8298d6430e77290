"""Replaces all connections after a failover that has left them open.

A demoted primary still answers its clients, but refuses their writes. Behind a virtual address, a proxy or a
Kubernetes service another server has taken its place, and only a new connection reaches that one. So the first
error that shows this, on any connection, closes all connections of this event loop to the server: the shared one,
the blocking reads, the confirmations, the subscription, and that of the thread that renews leases.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from math import inf

from aioq.store.redis.errors import is_of_a_slot, may_be_replaced

DROP_PAUSE = 0.75
"""The shortest time between two droppings of all connections, in seconds: the address may still lead to the old
server. A guess: together with the second that callers wait at most between two attempts, this is half of the time
that a recovery from a failover may take."""


class Failover:
    """Drops all connections of one event loop to one server.

    Whoever owns connections passes to `on_drop` a function that closes them.

    Args:
        in_cluster: the server is a node of a cluster. That it does not serve a slot is then no sign of a failover.
    """

    def __init__(self, *, in_cluster: bool = False) -> None:
        self._in_cluster = in_cluster
        self._loop = asyncio.get_running_loop()
        self._holders: list[Callable[[], None]] = []
        self._dropped_at = -inf
        self._timer: asyncio.TimerHandle | None = None

    def on_drop(self, close: Callable[[], None]) -> Callable[[], None]:
        """Register `close`, which is called on the event loop when all connections are to be dropped.

        May be called from any thread.

        Returns:
            A function that undoes this.
        """
        self._holders.append(close)

        def remove() -> None:
            with suppress(ValueError):
                self._holders.remove(close)

        return remove

    def shown_by(self, error: Exception) -> bool:
        """Whether an error shows that another server may have replaced this one."""
        return may_be_replaced(error) and not (self._in_cluster and is_of_a_slot(error))

    def drop(self) -> None:
        """Drop all connections: now, or when `DROP_PAUSE` has passed since the last time."""
        left = self._dropped_at + DROP_PAUSE - self._loop.time()
        if left <= 0:
            self._drop()
        elif self._timer is None:
            self._timer = self._loop.call_later(left, self._drop)

    def drop_soon(self) -> None:
        """Do the same from any thread."""
        with suppress(RuntimeError):  # the loop is closed, and so are its connections
            self._loop.call_soon_threadsafe(self.drop)

    def close(self) -> None:
        """Forget all owners: from now on nothing is dropped."""
        self._holders.clear()
        self._cancel_timer()

    def _drop(self) -> None:
        self._cancel_timer()
        self._dropped_at = self._loop.time()
        for close in tuple(self._holders):
            close()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
