"""After a failover that leaves connections open: all of them are replaced.

A demoted primary goes on answering those who are connected to it, and refuses what they write. Behind a virtual
address, a proxy or a service of Kubernetes its place has been taken by another server, which only a new connection
finds. So the first answer that says so, over whichever connection, ends all connections of this event loop to the
server: the shared one, the blocking reads, the confirmations, the subscription, and that of the leases' thread.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from math import inf

PAUSE = 0.75
"""Seconds between two times that all connections are dropped: the address may still lead to the old server. A
guess: with the second that callers wait at most between two attempts, half of what the healing may take."""


class Failover:
    """Drops all connections of one event loop to one server.

    The owner of connections passes `on_drop` a function that closes them.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._holders: list[Callable[[], None]] = []
        self._dropped_at = -inf
        self._later: asyncio.TimerHandle | None = None

    def on_drop(self, let_go: Callable[[], None]) -> Callable[[], None]:
        """Have `let_go` called, on the event loop, when all connections are to be dropped.

        May be called from any thread.

        Returns:
            What ends that.
        """
        self._holders.append(let_go)

        def leave() -> None:
            with suppress(ValueError):
                self._holders.remove(let_go)

        return leave

    def drop(self) -> None:
        """Drop all connections, now or once `PAUSE` has passed since the last time."""
        left = self._dropped_at + PAUSE - self._loop.time()
        if left <= 0:
            self._drop()
        elif self._later is None:
            self._later = self._loop.call_later(left, self._drop)

    def drop_soon(self) -> None:
        """Do the same from any thread."""
        with suppress(RuntimeError):  # the loop is closed, and the connections with it
            self._loop.call_soon_threadsafe(self.drop)

    def close(self) -> None:
        """Drop nothing any more."""
        self._holders.clear()
        self._cancel_later()

    def _drop(self) -> None:
        self._cancel_later()
        self._dropped_at = self._loop.time()
        for let_go in tuple(self._holders):
            let_go()

    def _cancel_later(self) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None
