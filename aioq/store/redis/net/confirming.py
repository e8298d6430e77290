"""Calls that wait until the server has confirmed what they wrote (`durability.py`).

Each call has a connection of its own until it is confirmed, so that no other command waits for a disk or a
replica.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any

from redis.exceptions import ResponseError

from aioq.errors import ServerUnavailableError
from aioq.store.redis.calls import MOST_TRIES, Calls
from aioq.store.redis.durability import Confirmation
from aioq.store.redis.errors import CLIENT_ERRORS, closed_here, translate
from aioq.store.redis.net.connection import Arg, Connection
from aioq.store.redis.net.failover import Failover

REPLY_TIMEOUT = 7.0
"""Seconds a reply may take before the connection counts as dead. It is longer than any batch takes. It is shorter
than the default lease (8 s) and `send_timeout`, so that a send has time for another attempt."""

MAX_CONFIRMATIONS = 16
"""The most writes that are being confirmed at once, each on a connection of its own; the others wait."""


class ConfirmedWrites:
    """Calls whose writes the server has to confirm.

    Args:
        connect: makes a connection.
        failover: is notified of errors that mean that another server may have replaced this one; calls back when
            connections are to be dropped.
        shown_url: the server's URL, for messages.
        calls: how commands are called at the server.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        failover: Failover,
        shown_url: str,
        calls: Calls,
    ) -> None:
        self._connect = connect
        self._failover = failover
        self._shown_url = shown_url
        self._calls = calls
        self.idle: list[Connection] = []
        self._in_use: set[Connection] = set()
        self._confirming = asyncio.Semaphore(MAX_CONFIRMATIONS)
        self._orders: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._drops = 0
        self._closed = False
        failover.on_drop(self._drop)

    async def call(self, name: str, key: str, args: Sequence[Arg], confirmation: Confirmation) -> Any:
        """Call a command for a queue, and return its reply once the server has confirmed its writes."""
        try:
            return await self._in_turn(name, (key, *args), confirmation)
        except ResponseError as error:
            raise translate(self._calls.reason_for(error), self._shown_url) from None

    def close(self) -> None:
        """Close the connections; those with calls in flight are closed when these have ended."""
        self._closed = True
        self._drop()

    def abort(self) -> None:
        """Close all connections at once: the calls in flight fail, and their callers repeat them."""
        for connection in self._in_use:
            connection.close()

    async def _in_turn(self, name: str, args: Sequence[Arg], confirmation: Confirmation) -> Any:
        key = str(args[0])
        async with AsyncExitStack() as turn:
            # The turn comes before the connection: a call whose connection takes long must not be overtaken.
            await turn.enter_async_context(self._orders[key])
            async with self._confirming:
                if not self.idle:
                    confirmation.reconnecting()
                connection = await self._take()
                exchange = self._confirmed(connection, name, args, confirmation, turn)
                reply, missing = await self._guarded(connection, exchange)
        if missing is not None:
            seconds = confirmation.patience_ms / 1000
            raise ServerUnavailableError(f"{self._shown_url} {missing} within {seconds:g} s")
        return reply

    async def _confirmed(
        self,
        connection: Connection,
        name: str,
        args: Sequence[Arg],
        confirmation: Confirmation,
        turn: AsyncExitStack,
    ) -> tuple[Any, str | None]:
        """Send a command and its confirmation over one connection; returns its reply, and what is missing.

        Several calls may be in flight; they write in the order in which they were called. This call's turn ends
        with the reply to its command, even if the command had to be loaded first.
        """
        commands = confirmation.commands(str(args[0]))
        reply = await self._call(connection, name, args, commands)
        for _ in range(MOST_TRIES):
            if not self._calls.should_repeat(reply) or self._calls.is_refused:
                break  # the server refuses the library for now; the next call tries again
            for _ in commands:
                await _read(connection)
            reply = await self._call(connection, name, args, commands)
        await turn.aclose()
        confirmed = [await _read(connection) for _ in commands]
        _raise_first((reply, *confirmed))
        judgement = confirmation.judge(commands, confirmed)
        while judgement.more:
            connection.send(*judgement.more)
            confirmed = [await _read(connection) for _ in judgement.more]
            _raise_first(confirmed)
            judgement = confirmation.judge(judgement.more, confirmed)
        return reply, judgement.missing

    async def _call(
        self, connection: Connection, name: str, args: Sequence[Arg], follow: Sequence[Sequence[Arg]]
    ) -> Any:
        """Send a command and the commands that follow it; returns its reply, which may be an error."""
        load = self._calls.load
        connection.send(*([] if load is None else [load]), self._calls.command(name, args), *follow)
        if load is not None:
            self._calls.library_answered(await _read(connection))
        reply = await _read(connection)
        if not isinstance(reply, ResponseError):
            self._calls.answered(name)
        return reply

    async def _guarded(self, connection: Connection, exchange: Coroutine[Any, Any, Any]) -> Any:
        """Await an exchange over a connection; then keep the connection for others, unless it has failed."""
        drops = self._drops
        self._in_use.add(connection)
        try:
            async with asyncio.timeout(REPLY_TIMEOUT):
                reply = await exchange
        except ResponseError as error:  # the server's own error: the connection can still be used
            if self._failover.shown_by(self._calls.reason_for(error)):
                self._failover.drop()
            self._give_back(connection, drops)
            raise
        except CLIENT_ERRORS as error:
            # The idle ones are as old as this one, and probably as dead.
            for each in (connection, *self.idle):
                each.close()
            self.idle.clear()
            raise translate(error, self._shown_url) from None
        except BaseException:
            connection.close()
            raise
        finally:
            self._in_use.discard(connection)
        self._give_back(connection, drops)
        return reply

    async def _take(self) -> Connection:
        if self._closed:
            raise closed_here(self._shown_url)
        return self.idle.pop() if self.idle else await self._connect()

    def _give_back(self, connection: Connection, drops: int) -> None:
        if drops == self._drops and not self._closed:
            self.idle.append(connection)
        else:
            connection.close()

    def _drop(self) -> None:
        self._drops += 1
        while self.idle:
            self.idle.pop().close()


async def _read(connection: Connection) -> Any:
    """The next reply, even if it is an error: the replies after it have to be read too."""
    try:
        return await connection.read()
    except ResponseError as error:
        return error


def _raise_first(replies: Sequence[Any]) -> None:
    """Raise the first reply that is an error."""
    for reply in replies:
        if isinstance(reply, ResponseError):
            raise reply
