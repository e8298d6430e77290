"""Renews leases over a blocking connection, in a thread of its own, which no busy task can delay."""

from collections.abc import Sequence
from typing import Any

import msgspec
import redis
from redis.exceptions import ResponseError

from aioq.errors import ServerError
from aioq.store.contract import Limits
from aioq.store.leases import Renewal
from aioq.store.redis.calls import MOST_TRIES, Calls
from aioq.store.redis.errors import CLIENT_ERRORS, may_be_replaced, translate
from aioq.store.redis.keys import base_key
from aioq.store.redis.net.connection import ANONYMOUS, Arg
from aioq.store.redis.net.failover import Failover
from aioq.store.redis.replies import parse_renewal


class RedisLeaseClient:
    """A worker's leases on a connection of their own; called from one thread, never from an event loop.

    Args:
        url: the server's URL.
        shown_url: the same, masked.
        app: the App's name.
        limits: the App's limits.
        failover: that of the process's other connections.
        outage: the server could not be reached when this process started.
    """

    def __init__(
        self, url: str, shown_url: str, app: str, limits: Limits, failover: Failover, *, outage: bool = False
    ) -> None:
        self._failover = failover
        self._unregister = failover.on_drop(self._note_drop)
        self._dropped = False
        self._outage = outage
        self._shown_url = shown_url
        self._app = app
        self._limits = limits
        self._calls = Calls()
        # A renewal that is not answered within a quarter of the lease is tried again on a new connection.
        patience = max(limits.lease_ms / 4000, 0.5)
        self._client: Any = redis.Redis.from_url(  # pyright: ignore[reportUnknownMemberType] - redis-py is partly typed
            url, protocol=2, socket_timeout=patience, socket_connect_timeout=patience, retry=None, **ANONYMOUS
        )

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
        self._client.close()

    def _note_drop(self) -> None:
        """Note that the connection must not be used any more; called on the event loop."""
        self._dropped = True

    def _renew(self, queue: str, worker: str, fetched_ms: int, mode: str) -> Renewal:
        limits = self._limits
        args = (base_key(self._app, queue), worker, limits.lease_ms, fetched_ms, limits.dead_limit, mode)
        if self._dropped:
            self._dropped = False
            self._client.connection_pool.disconnect()
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
                reply = self._client.execute_command(*self._calls.command(name, args))
            except ResponseError as error:
                if not self._calls.should_repeat(error):
                    raise
                self._load()
            else:
                self._calls.answered(name)
                return reply
        return self._client.execute_command(*self._calls.command(name, args))

    def _load(self) -> None:
        command = self._calls.load
        if command is None:
            return
        try:
            self._calls.library_answered(self._client.execute_command(*command))
        except ResponseError as error:
            self._calls.library_answered(error)
