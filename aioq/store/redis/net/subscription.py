"""The one subscription of a process: pub/sub over a connection that is made again whenever it breaks."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, cast

from redis.asyncio.connection import AbstractConnection
from redis.crc import key_slot
from redis.exceptions import ResponseError

from aioq.errors import ServerError, ServerRejectedError
from aioq.store.redis.calls import ClusterNode
from aioq.store.redis.errors import CLIENT_ERRORS, is_of_a_slot, slot_unserved, translate
from aioq.store.redis.net.commands import Link
from aioq.store.redis.net.connection import Connection
from aioq.util.aio import end
from aioq.util.log import logger
from aioq.util.randomness import RANDOM

log = logger("aioq.redis")

QUIET = 15.0
"""Seconds without a message after which the connection is tested with a PING; if nothing comes for as long again,
it is closed. A guess: half-open connections are rare, and because waiters also poll, they cannot cost much."""

FIRST_PAUSE = 0.05
"""The pause before the first attempt to reconnect, in seconds; each further pause is twice as long."""

REFUSED_PAUSE = 0.4
"""The shortest pause if the server answers but refuses, in seconds: the cause takes longer to go away than a lost
connection takes to be made again."""

MAX_PAUSE = 2.0
"""The longest pause between two attempts to reconnect, in seconds; results are late by no more than that."""


_Message = list[bytes]
"""Kind, channel and body. The body of a PONG is empty, that of a confirmation is a number."""


class _Subscription(Connection):
    """A connection that passes each message to a function.

    Args:
        opened: see `Connection`.
        on_message: called with each message.
        on_slot: called with the answer that a node does not serve a channel's slot; None without a cluster.

    Attributes:
        received: how many messages have come.
        ended: a future that is done when the connection has ended.
        refusal: the error with which the server has answered, if it has.
    """

    def __init__(
        self,
        opened: AbstractConnection,
        on_message: Callable[["_Message"], None],
        on_slot: Callable[[ResponseError], None] | None = None,
    ) -> None:
        super().__init__(opened)
        self._on_message = on_message
        self._on_slot = on_slot
        self.received = 0
        self.refusal: ResponseError | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def _received(self, reply: Any) -> None:
        if self.refusal is not None:
            return  # what comes after a refusal is ignored: this connection is about to end
        if isinstance(reply, ResponseError) and self._on_slot is not None and is_of_a_slot(reply):
            self._on_slot(reply)
        elif isinstance(reply, Exception):
            self.refusal = reply if isinstance(reply, ResponseError) else None
            self._end(reply)
        elif isinstance(reply, list):  # a message; the reply to the probe is no list
            self.received += 1
            self._on_message(cast("_Message", reply))

    def _end(self, error: Exception) -> None:
        super()._end(error)
        if not self.ended.done():
            log.debug("the subscription ends: %s", error)
            self.ended.set_result(None)


class RedisInbox:
    """The process's subscription: channels, and the listener of each.

    Args:
        link: the server to connect to.
        no_key: a key that never exists. A replica refuses to delete it, and so is recognised as a replica; it does
            not refuse a subscription.
        node: which node of a cluster the server is; None for a server by itself.
    """

    def __init__(self, link: Link, no_key: str, node: ClusterNode | None = None) -> None:
        self._link = link
        self._on_moved: Callable[[str], None] = (lambda _: None) if node is None else node.on_moved
        self._sharded = "S" if node is not None and node.sharded else ""
        self._probe = ("DEL", no_key)
        self._listeners: dict[str, tuple[Callable[[bytes], None], Callable[[], None]]] = {}
        self._confirmations: dict[str, asyncio.Future[None]] = {}
        self._subscribed: set[str] = set()  # channels that earlier connections asked for, confirmed or not
        self._connection: _Subscription | None = None
        self._reader: asyncio.Task[None] | None = None
        self._rejection: ServerRejectedError | None = None  # since the last attempt, and until the next one
        self._refused = self._logged = False
        self._checking: asyncio.Task[None] | None = None
        link.failover.on_drop(self._drop)

    async def listen(self, channel: str, on_message: Callable[[bytes], None], on_gap: Callable[[], None]) -> None:
        """Listen to a channel; returns once the server has confirmed the subscription.

        Cancellation: the channel stays registered until it is left (`leave`).

        Raises:
            ServerRejectedError: the server refuses the login, or refuses this channel to this user. The channel
                stays registered all the same.
        """
        self._listeners[channel] = (on_message, on_gap)
        if self._rejection is not None:
            raise self._rejection
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._confirmations[channel] = confirmed
        if self._reader is None:
            self._reader = asyncio.get_running_loop().create_task(self._run(), name="aioq-inbox")
        elif self._connection is not None:
            self._send(self._connection, f"{self._sharded}SUBSCRIBE", channel)
        try:
            await asyncio.shield(confirmed)
        finally:
            if self._confirmations.get(channel) is confirmed:
                del self._confirmations[channel]

    async def leave(self, channel: str) -> None:
        """Stop listening to a channel."""
        self._subscribed.discard(channel)
        if self._listeners.pop(channel, None) is not None and self._connection is not None:
            self._send(self._connection, f"{self._sharded}UNSUBSCRIBE", channel)

    def check_server(self) -> None:
        """Start to check whether the server is still the primary; if not, `failover.py` drops all connections."""
        if self._checking is None or self._checking.done():
            self._checking = asyncio.get_running_loop().create_task(self._check(), name="aioq-check-server")

    async def _check(self) -> None:
        with contextlib.suppress(ServerError, ResponseError):
            await self._link.command(*self._probe)

    async def close(self) -> None:
        """Stop listening to everything."""
        self._listeners.clear()
        await end([task for task in (self._reader, self._checking) if task is not None])
        self._reader = self._checking = None

    @staticmethod
    def _send(connection: Connection, *command: str) -> None:
        try:
            connection.send(command)
        except CLIENT_ERRORS as error:
            # The reader task meets the same broken connection, and then subscribes to all channels again.
            log.debug("could not send %s: %s", command[0], error)

    async def _run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                if await self._listen_once():
                    pause = FIRST_PAUSE
            except ServerRejectedError as error:
                self._reject(error)
            except ServerError as error:
                log.debug("the subscription is down: %s", error)
            except CLIENT_ERRORS as error:
                log.debug("the subscription broke: %s", error)
            if self._refused:
                pause = max(pause, REFUSED_PAUSE)
            await asyncio.sleep(pause * RANDOM.uniform(0.5, 1.0))
            pause = min(pause * 2, MAX_PAUSE)
            self._rejection = None

    async def _listen_once(self) -> bool:
        """Connect, and listen until the connection ends; returns whether any message came.

        Raises:
            ServerError: the server refuses, or cannot be reached.
        """
        self._refused = False
        connection = self._connection = _Subscription(
            await self._link.open(), self._dispatch, self._slot_moved if self._sharded else None
        )
        try:
            connection.send(self._probe, *self._subscriptions())
            await self._watch(connection)
        finally:
            self._connection = None
            self._subscribed.update(self._listeners)
            connection.close()
        self._refused = connection.refusal is not None
        if connection.refusal is not None:
            self._link.drop_if_replaced(connection.refusal)
            raise translate(connection.refusal, self._link.shown_url)
        return connection.received > 0

    def _subscriptions(self) -> list[tuple[str, ...]]:
        """The commands that subscribe to all channels; those of different slots cannot be in one."""
        if self._sharded:
            return [("SSUBSCRIBE", channel) for channel in self._listeners]
        return [("SUBSCRIBE", *self._listeners)] if self._listeners else []

    def _slot_moved(self, error: ResponseError) -> None:
        """The node does not serve the slot of a channel: which one it was the reply does not say."""
        slot = slot_unserved(error, self._link.shown_url).moved_to
        for channel in tuple(self._listeners):
            if slot is None or key_slot(channel.encode()) == slot[0]:
                self._on_moved(channel)

    def _drop(self) -> None:
        """Close the connection after a failover: messages of the new server come over a new connection only."""
        if self._connection is not None:
            self._connection.close()

    def _reject(self, error: ServerRejectedError) -> None:
        """Fail those that wait to be subscribed, and new ones until the next attempt: waiting does not help."""
        if self._refused and not self._logged:  # a refused login is logged by the other connections
            self._logged = True
            log.warning("%s; results and cancellations are late until that is fixed", error)
        self._rejection = error
        for confirmed in self._confirmations.values():
            if not confirmed.done():
                confirmed.set_exception(error)

    @staticmethod
    async def _watch(connection: "_Subscription") -> None:
        """Return when the connection has ended, or when it does not even answer a PING."""
        tested = False
        while True:
            received = connection.received
            await asyncio.wait([connection.ended], timeout=QUIET)
            if connection.ended.done():
                return
            if connection.received != received:
                tested = False
            elif tested:
                return
            else:
                connection.send(("PING",))
                tested = True

    def _dispatch(self, message: "_Message") -> None:
        kind, channel = message[0], message[1].decode() if message[1] else ""
        listener = self._listeners.get(channel)
        if kind == b"sunsubscribe":
            if listener is not None:  # nobody has left it: its slot has moved
                self._on_moved(channel)
        elif kind in {b"subscribe", b"ssubscribe"}:
            self._logged = False
            confirmed = self._confirmations.pop(channel, None)
            if confirmed is not None and not confirmed.done():
                confirmed.set_result(None)
            if listener is not None and channel in self._subscribed:
                listener[1]()  # it was subscribed before over a connection that is gone: there may be a gap
            self._subscribed.discard(channel)
        elif kind in {b"message", b"smessage"} and listener is not None:
            try:
                listener[0](message[2])
            except Exception:
                # Any client can publish on a channel; an unreadable message must not end the subscription.
                log.warning("a message on %s could not be read: %r", channel, message[2][:40], exc_info=True)
