"""Renews leases over a blocking connection, in a thread of its own, which no busy task can delay."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec
from redis import ConnectionPool
from redis.exceptions import ResponseError

from aioq.errors import ServerError
from aioq.store.contract import Limits
from aioq.store.leases import LeaseClient, LeaseRequest, Renewal
from aioq.store.limiters import PermitLease
from aioq.store.redis.calls import MOST_TRIES, Calls
from aioq.store.redis.errors import CLIENT_ERRORS, translate
from aioq.store.redis.history import marks_arg
from aioq.store.redis.keys import base_key
from aioq.store.redis.net.connection import ANONYMOUS, Arg
from aioq.store.redis.net.failover import Failover
from aioq.store.redis.net.sentinel import Primary
from aioq.store.redis.replies import parse_renewal

MOST_AT_ONCE = 500
"""The most renewals that are sent before their replies are read: some 100 kB, which a server or proxy takes in."""


class RedisLeaseClient(LeaseClient):
    """A worker's leases on a connection of their own; called from one thread, never from an event loop.

    Args:
        url: the server's URL.
        shown_url: the same, masked.
        app: the App's name.
        limits: the App's limits.
        failover: that of the process's other connections.
        primary: finds the server at each connect; None if it is always at the address in `url`.
        calls: how commands are called at this server.
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
        calls: Calls,
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
        self._marks = marks_arg(limits)
        self._calls = calls
        # A renewal that is not answered within a quarter of the lease is tried again on a new connection.
        patience = max(limits.lease_ms / 4000, 0.5)
        timeouts = {"socket_timeout": patience, "socket_connect_timeout": patience}
        pool: Any = ConnectionPool.from_url(url, protocol=2, retry=None, **timeouts, **ANONYMOUS)  # pyright: ignore[reportUnknownMemberType] - redis-py is partly typed
        self._connection: Any = pool.make_connection()
        self._is_open = False
        self._connected = 0

    @property
    def reconnects(self) -> int:
        """How often the connection was made again."""
        return max(0, self._connected - 1)

    def renew_all(self, requests: Sequence[LeaseRequest]) -> Sequence[Renewal | ServerError]:
        """Renew the leases of several queues, or take new ones: one result for each request, in their order."""
        replies = self._call_some("renew", [self._args(each) for each in requests])
        faults = self._faults(replies)
        return [
            faults.get(id(reply)) or self._renewal(request, reply)
            for request, reply in zip(requests, replies, strict=True)
        ]

    def renew_permits(self, leases: Sequence[PermitLease]) -> Sequence[int | ServerError]:
        """Renew the leases of places of limiters."""
        args = [(base_key(self._app, each.queue), each.member, self._limits.lease_ms) for each in leases]
        replies = self._call_some("limiter_renew", args)
        faults = self._faults(replies)
        return [faults.get(id(reply)) or reply for reply in replies]

    def _call_some(self, name: str, calls: Sequence[Sequence[Arg]]) -> list[Any]:
        """Call a script with each of these arguments, so many at once; returns the reply to each, or the error."""
        if self._dropped:
            self._dropped = False
            self._disconnect()
        replies: list[Any] = []
        for start in range(0, len(calls), MOST_AT_ONCE):
            replies += self._call_all(name, calls[start : start + MOST_AT_ONCE])
            if _has_ended_connection(replies[-1]):  # on a new connection the others might wait as long again
                replies += replies[-1:] * (len(calls) - len(replies))
                break
        return replies

    def close(self) -> None:
        """Close the connection."""
        self._unregister()
        self._disconnect()

    def _note_drop(self) -> None:
        """Note that the connection must not be used any more; called on the event loop."""
        self._dropped = True

    def _args(self, request: LeaseRequest) -> Sequence[Arg]:
        limits = self._limits.of(request.queue)
        args: list[Arg] = [base_key(self._app, request.queue), request.worker, limits.lease_ms, request.fetched_ms]
        args += (limits.dead_limit, self._marks, request.mode)
        if request.about:
            args += ("", request.about)
        for answered in request.answers:
            args += answered
        return args

    def _faults(self, replies: Sequence[Any]) -> dict[int, ServerError]:
        """The error to report for each reply that is one, by the reply's `id`: one may be that of many queues."""
        errors = {id(reply): self._calls.reason_for(reply) for reply in replies if isinstance(reply, Exception)}
        if any(self._failover.shown_by(error) for error in errors.values()):
            self._failover.drop_soon()
        return {
            key: error if isinstance(error, ServerError) else translate(error, self._shown_url)
            for key, error in errors.items()
        }

    def _renewal(self, request: LeaseRequest, reply: Any) -> Renewal:
        renewal = parse_renewal(reply)
        has_outage = self._outage and request.mode == "join"
        return msgspec.structs.replace(renewal, outage=True) if has_outage else renewal

    def _call_all(self, name: str, calls: Sequence[Sequence[Arg]]) -> list[Any]:
        """Call a script with each of these arguments, all at once; returns the reply to each, or the error.

        The calls that the server does not know are repeated, in another way or after it was sent what they need.
        """
        replies: list[Any] = [None] * len(calls)
        left = list(range(len(calls)))
        error = None
        for tries_left in reversed(range(MOST_TRIES + 1)):
            answers = self._exchange(self._commands(name, [calls[i] for i in left]))
            for i, answer in zip(left, answers, strict=True):
                replies[i] = answer
            left = [i for i in left if self._calls.should_repeat(replies[i])]
            error = self._load() if left and tries_left else None
            if not left or error is not None:
                break
        for i in left if error is not None else ():
            replies[i] = error
        return replies

    def _commands(self, name: str, calls: Sequence[Sequence[Arg]]) -> list[Sequence[Arg]]:
        first = self._calls.command(name, calls[0])
        self._calls.answered(name)  # when it comes to the others, the server has got the script with the first
        return [first, *(self._calls.command(name, args) for args in calls[1:])]

    def _load(self) -> Exception | None:
        """Send the library if the server needs it; returns the error that has ended the connection."""
        command = self._calls.load
        if command is None:
            return None
        (reply,) = self._exchange([command])
        self._calls.library_answered(reply)
        return reply if _has_ended_connection(reply) else None

    def _exchange(self, commands: Sequence[Sequence[Arg]]) -> list[Any]:
        """Send commands at once; returns the reply to each, or the error.

        When the connection ends, its error is the reply to all that were not answered.
        """
        replies: list[Any] = []
        try:
            self._connect()
            self._connection.send_packed_command(self._connection.pack_commands(commands))
            while len(replies) < len(commands):
                replies.append(self._read())
        except (*CLIENT_ERRORS, ServerError) as error:
            self._disconnect()
            replies += [error] * (len(commands) - len(replies))
        except BaseException:
            self._disconnect()
            raise
        return replies

    def _read(self) -> Any:
        try:
            return self._connection.read_response()
        except ResponseError as error:  # the server's own error: the connection can still be used
            return error

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
        self._connected += 1

    def _disconnect(self) -> None:
        self._is_open = False
        self._connection.disconnect()


def _has_ended_connection(reply: object) -> bool:
    return isinstance(reply, Exception) and not isinstance(reply, ResponseError)
