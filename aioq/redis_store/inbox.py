"""The one subscription of a process: pub/sub over a connection that is rebuilt whenever it breaks."""

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any

from redis.asyncio.connection import AbstractConnection

from aioq.ending import end
from aioq.errors import ServerError, ServerRejectedError
from aioq.redis_store.connection import Connection
from aioq.redis_store.faults import FOREIGN
from aioq.redis_store.link import Link

log = logging.getLogger("aioq.redis")

QUIET = 15.0
"""Seconds without a message after which the connection is tested with a PING; a second such silence ends it. A
guess: half-open connections are rare, and the waiters' safety poll bounds what they can cost."""

MAX_PAUSE = 2.0
"""The longest pause between two attempts to reconnect, in seconds; results are late by no more than that."""


_Message = list[bytes]
"""Kind, channel and body; a PONG has an empty body, and a confirmation a number."""


class _Subscription(Connection):
    """A connection whose messages go to a function as they come.

    Attributes:
        heard: how many messages have come.
        ended: done when the connection has ended.
    """

    def __init__(self, opened: AbstractConnection, on_message: Callable[["_Message"], None]) -> None:
        super().__init__(opened)
        self._on_message = on_message
        self.heard = 0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def _received(self, reply: Any) -> None:
        self.heard += 1
        if isinstance(reply, Exception):
            self._end(reply)
        else:
            self._on_message(reply)

    def _end(self, error: Exception) -> None:
        super()._end(error)
        if not self.ended.done():
            log.debug("the subscription ends: %s", error)
            self.ended.set_result(None)


class RedisInbox:
    """Channels and who listens to them.

    Args:
        link: where to connect.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._listeners: dict[str, tuple[Callable[[bytes], None], Callable[[], None]]] = {}
        self._confirmations: dict[str, asyncio.Future[None]] = {}
        self._subscribed: set[str] = set()  # what earlier connections have asked for, be it answered or not
        self._connection: _Subscription | None = None
        self._reader: asyncio.Task[None] | None = None

    async def listen(self, channel: str, on_message: Callable[[bytes], None], on_gap: Callable[[], None]) -> None:
        """Listen to a channel; returns once the server has confirmed it.

        Cancellation: the channel stays registered; `leave` it.
        """
        self._listeners[channel] = (on_message, on_gap)
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._confirmations[channel] = confirmed
        if self._reader is None:
            self._reader = asyncio.get_running_loop().create_task(self._run(), name="aioq-inbox")
        elif self._connection is not None:
            self._send(self._connection, "SUBSCRIBE", channel)
        try:
            await asyncio.shield(confirmed)
        finally:
            if self._confirmations.get(channel) is confirmed:
                del self._confirmations[channel]

    async def leave(self, channel: str) -> None:
        """Stop listening to a channel."""
        self._subscribed.discard(channel)
        if self._listeners.pop(channel, None) is not None and self._connection is not None:
            self._send(self._connection, "UNSUBSCRIBE", channel)

    async def close(self) -> None:
        """Stop listening to everything."""
        self._listeners.clear()
        if self._reader is not None:
            await end([self._reader])
            self._reader = None

    @staticmethod
    def _send(connection: Connection, *command: str) -> None:
        try:
            connection.send(command)
        except FOREIGN as error:
            # The reader meets the same broken connection, and subscribes again to all that is listened to.
            log.debug("could not send %s: %s", command[0], error)

    async def _run(self) -> None:
        pause = 0.05
        while True:
            try:
                self._connection = _Subscription(await self._link.open(), self._dispatch)
                if self._listeners:
                    self._connection.send(("SUBSCRIBE", *self._listeners))
                pause = 0.05
                await self._watch(self._connection)
            except ServerRejectedError as error:
                self._fail_confirmations(error)
            except ServerError as error:
                log.debug("the subscription is down: %s", error)
            except FOREIGN as error:
                log.debug("the subscription broke: %s", error)
            finally:
                if self._connection is not None:
                    self._subscribed.update(self._listeners)
                    await self._connection.close()
                self._connection = None
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, guards nothing
            pause = min(pause * 2, MAX_PAUSE)

    def _fail_confirmations(self, error: ServerRejectedError) -> None:
        """Waiting does not heal this: tell those who wait to be subscribed."""
        for confirmed in self._confirmations.values():
            if not confirmed.done():
                confirmed.set_exception(error)

    @staticmethod
    async def _watch(connection: "_Subscription") -> None:
        """Return when the connection has ended, or says nothing even when it is asked."""
        tested = False
        while not connection.ended.done():
            heard = connection.heard
            await asyncio.wait([connection.ended], timeout=QUIET)
            if connection.heard != heard:
                tested = False
            elif tested:
                return
            else:
                connection.send(("PING",))
                tested = True

    def _dispatch(self, message: "_Message") -> None:
        kind, channel = message[0], message[1].decode() if message[1] else ""
        listener = self._listeners.get(channel)
        if kind == b"subscribe":
            confirmed = self._confirmations.pop(channel, None)
            if confirmed is not None and not confirmed.done():
                confirmed.set_result(None)
            if listener is not None and channel in self._subscribed:
                listener[1]()  # the server may have had it before, over a connection that is gone
            self._subscribed.discard(channel)
        elif kind == b"message" and listener is not None:
            try:
                listener[0](message[2])
            except Exception:
                # Anyone can publish on a channel; what nobody can read must not end the subscription.
                log.warning("a message on %s could not be read: %r", channel, message[2][:40], exc_info=True)
