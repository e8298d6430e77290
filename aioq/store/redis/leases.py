"""Renews leases over a blocking connection, in a thread of its own, which no busy task can delay."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec
from redis import ConnectionPool
from redis.exceptions import ResponseError

from aioq.errors import ServerError
from aioq.store.contract import Limits
from aioq.store.leases import Renewal
from aioq.store.redis.calls import MOST_TRIES, Calls
from aioq.store.redis.errors import CLIENT_ERRORS, may_be_replaced, translate
from aioq.store.redis.keys import base_key
from aioq.store.redis.net.connection import ANONYMOUS, Arg
from aioq.store.redis.net.failover import Failover
from aioq.store.redis.net.sentinel import Primary
from aioq.store.redis.replies import parse_renewal


class RedisLeaseClient:
    """A worker's leases on a connection of their own; called from one thread, never from an event loop.

    Args:
        url: the server's URL.
        shown_url: the same, masked.
        app: the App's name.
        limits: the App's limits.
        failover: that of the process's other connections.
        primary: finds the server at each connect; None if it is always at the address in `url`.
        outage: the server could not be reached when this process started.
    """

    def __init__(
        self,
        url: str,
        shown_url: str,
        app: str,
        limits: Limits,
        failover: Failover,
        *,
        primary: Primary | None = None,
        outage: bool = False,
    ) -> None:
        self._failover = failover
        self._unregister = failover.on_drop(self._note_drop)
        self._primary = primary
        self._dropped = False
        self._outage = outage
        self._shown_url = shown_url
        self._app = app
        self._limits = limits
        self._calls = Calls()
        # A renewal that is not answered within a quarter of the lease is tried again on a new connection.
        patience = max(limits.lease_ms / 4000, 0.5)
        timeouts = {"socket_timeout": patience, "socket_connect_timeout": patience}
        pool: Any = ConnectionPool.from_url(url, protocol=2, retry=None, **timeouts, **ANONYMOUS)  # pyright: ignore[reportUnknownMemberType] - redis-py is partly typed
        self._connection: Any = pool.make_connection()
        self._is_open = False

    def join(self, queue: str, worker: str) -> Renewal:
        """Take a new lease, and create what a worker needs to read the queue."""
        renewal = self._renew(queue, worker, 0, "join")
        return msgspec.structs.replace(renewal, outage=True) if self._outage else renewal

    def renew(self, queue: str, worker: str, *, fetched_ms: int = 0, sweep: bool = False) -> Renewal:
        """Renew the lease."""
        return self._renew(queue, worker, fetched_ms, "sweep" if sweep else "")

    def close(self) -> None:
        """Close the connection."""
        self._unregister()
        self._disconnect()

    def _note_drop(self) -> None:
        """Note that the connection must not be used any more; called on the event loop."""
        self._dropped = True

    def _renew(self, queue: str, worker: str, fetched_ms: int, mode: str) -> Renewal:
        limits = self._limits
        args = (base_key(self._app, queue), worker, limits.lease_ms, fetched_ms, limits.dead_limit, mode)
        if self._dropped:
            self._dropped = False
            self._disconnect()
        try:
            reply = self._call("renew", args)
        except CLIENT_ERRORS as answer:
            error = self._calls.reason_for(answer)
            if may_be_replaced(error):
                self._failover.drop_soon()
            fault: ServerError = translate(error, self._shown_url)
            raise fault from None
        return parse_renewal(reply)

    def _call(self, name: str, args: Sequence[Arg]) -> Any:
        for _ in range(MOST_TRIES):
            try:
                reply = self._exchange(self._calls.command(name, args))
            except ResponseError as error:
                if not self._calls.should_repeat(error):
                    raise
                self._load()
            else:
                self._calls.answered(name)
                return reply
        return self._exchange(self._calls.command(name, args))

    def _load(self) -> None:
        command = self._calls.load
        if command is None:
            return
        try:
            self._calls.library_answered(self._exchange(command))
        except ResponseError as error:
            self._calls.library_answered(error)

    def _exchange(self, command: Sequence[Arg]) -> Any:
        self._connect()
        try:
            self._connection.send_command(*command)
            return self._connection.read_response()
        except ResponseError:  # the server's own error: the connection can still be used
            raise
        except BaseException:
            self._disconnect()
            raise

    def _connect(self) -> None:
        """Connect, unless there is a connection that nothing has ended since the last renewal."""
        if self._is_open:
            with suppress(*CLIENT_ERRORS):
                if not self._connection.can_read():
                    return
            self._disconnect()
        if self._primary is None:
            self._connection.connect()
        else:
            self._primary.connect_blocking(self._connection)
        self._is_open = True

    def _disconnect(self) -> None:
        self._is_open = False
        self._connection.disconnect()
