"""Connections of one event loop to one server, and script calls over them.

redis-py does the connecting (URL, TLS, login, database), `connection.py` what is said then. The pool is our own
because redis-py's polls a connection's socket each time it is handed out, which costs more than a script call's
encoding.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import NoScriptError, ResponseError

from aioq.errors import ServerRejectedError, ServerUnavailableError
from aioq.redis_store.connection import Arg, Connection
from aioq.redis_store.durability import Confirmation
from aioq.redis_store.faults import FOREIGN, translate
from aioq.redis_store.scripts import script

REPLY_TIMEOUT = 10.0
"""Seconds a reply may take before the connection counts as dead. A guess: above any batch's time, below what a
person waits."""

CONNECT_TIMEOUT = 5.0

MAX_CONNECTIONS = 16
"""Calls under way at once, and as many more whose writes are being confirmed; the others wait. One connection
carries thousands of calls a second, so more would only cost the server and this process file descriptors."""


class Link:
    """A server seen from one event loop.

    Args:
        url: a URL redis-py understands.
        shown_url: the same with its password masked, for messages.
    """

    def __init__(self, url: str, shown_url: str) -> None:
        self.shown_url = shown_url
        # No timeouts of redis-py's: it uses asyncio.wait_for, which on Python 3.11 can swallow a cancellation.
        options: dict[str, Any] = {"protocol": 2, "socket_timeout": None, "socket_connect_timeout": None}
        if not url.startswith("unix:"):
            options["socket_keepalive"] = True
        try:
            self._factory: Any = ConnectionPool.from_url(url, **options)  # pyright: ignore[reportUnknownMemberType] - redis-py is partly typed
        except (TypeError, ValueError) as error:
            raise ServerRejectedError(f"{shown_url} has an option that cannot be used: {error}") from error
        self._idle: list[Connection] = []
        self._places = asyncio.Semaphore(MAX_CONNECTIONS)
        # Those that wait for a disk or a replica have places of their own: nobody else waits for that.
        self._confirming = asyncio.Semaphore(MAX_CONNECTIONS)
        self._orders: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._loaded: set[str] = set()
        self._closed = False

    async def connect(self) -> Connection:
        """A new connection, which its caller must close.

        Raises:
            ServerUnavailableError: nobody answers, or not in time.
            ServerRejectedError: the login was refused.
        """
        try:
            opening: AbstractConnection = self._factory.make_connection()
        except FOREIGN as error:
            raise translate(error, self.shown_url) from error
        except (TypeError, ValueError) as error:
            raise ServerRejectedError(f"{self.shown_url} has an option that cannot be used: {error}") from error
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await opening.connect()
            return Connection(opening)
        except FOREIGN as error:
            await _abandon(opening)
            raise translate(error, self.shown_url) from error
        except (
            RuntimeError
        ) as error:  # uvloop refuses to write to a transport that was reset in the middle of the login
            await _abandon(opening)
            raise ServerUnavailableError(f"{self.shown_url} reset the connection: {error}") from error
        except BaseException:
            await _abandon(opening)
            raise

    async def call(
        self, name: str, key: str, args: Sequence[Arg], confirmation: Confirmation | None = None
    ) -> Any:
        """Run a script on the queue whose base key is `key`, and return its reply.

        With a `confirmation`, return once the server has confirmed what the script wrote.

        Cancellation: the connection is dropped; the script may have run.

        Raises:
            ServerError: see `aioq.store.Store`.
        """
        code = script(name)
        try:
            # A confirmed call must not lose its turn because the server does not know the script yet.
            if confirmation is None or code.sha in self._loaded:
                with contextlib.suppress(NoScriptError):
                    return await self._run(("EVALSHA", code.sha, 1, key, *args), key, confirmation)
            reply = await self._run(("EVAL", code.text, 1, key, *args), key, confirmation)
        except ResponseError as error:
            raise translate(error, self.shown_url) from error
        self._loaded.add(code.sha)
        return reply

    async def _run(self, command: Sequence[Arg], key: str, confirmation: Confirmation | None) -> Any:
        if confirmation is None:
            return await self.command(*command)
        async with AsyncExitStack() as turn:
            # Before the connection: one that takes long to be made must not be overtaken.
            await turn.enter_async_context(self._orders[key])
            async with self._confirming:
                connection = await self._take()
                talk = self._confirmed(connection, command, confirmation.commands(key), turn)
                reply, confirmed = await self._guarded(connection, talk)
        confirmation.check(confirmed, self.shown_url)
        return reply

    async def _confirmed(
        self,
        connection: Connection,
        command: Sequence[Arg],
        follow: Sequence[Sequence[Arg]],
        turn: AsyncExitStack,
    ) -> tuple[Any, Any]:
        """Run a script and what confirms its writes, all on one connection; both replies.

        Several of these may be under way; what they write is written in the order they were called in. The turn
        of this one ends with the script's reply.
        """
        connection.send(command, *follow)
        reply = await _read(connection)
        await turn.aclose()
        confirmed = [await _read(connection) for _ in follow]
        for each in (reply, *confirmed):
            if isinstance(each, ResponseError):
                raise each
        return reply, confirmed[-1]

    async def command(self, *args: Arg) -> Any:
        """Send one command over an idle connection and return its reply.

        Raises:
            ResponseError: the server's own error; the connection stays good.
            ServerUnavailableError: the connection failed; the command may have run.
        """
        async with self._places:
            return await self._command(args)

    async def _command(self, command: Sequence[Arg]) -> Any:
        connection = await self._take()
        return await self._guarded(connection, _converse(connection, command))

    async def _guarded(self, connection: Connection, talk: Coroutine[Any, Any, Any]) -> Any:
        """Give the connection back after the talk, unless the talk has broken it."""
        try:
            async with asyncio.timeout(REPLY_TIMEOUT):
                reply = await talk
        except ResponseError:  # an answer, if not the wanted one
            self._give_back(connection)
            raise
        except FOREIGN as error:
            # The idle ones are as old as this one was, and likely as dead.
            for each in (connection, *self._idle):
                await each.close()
            self._idle.clear()
            raise translate(error, self.shown_url) from error
        except BaseException:
            await connection.close()
            raise
        self._give_back(connection)
        return reply

    async def close(self) -> None:
        """Close all connections, those of calls under way when these have ended."""
        self._closed = True
        while self._idle:
            await self._idle.pop().close()

    async def _take(self) -> Connection:
        if self._closed:
            raise ServerUnavailableError(f"the connection to {self.shown_url} was closed by this process")
        return self._idle.pop() if self._idle else await self.connect()

    def _give_back(self, connection: Connection) -> None:
        if self._closed:
            asyncio.get_running_loop().create_task(connection.close())
        else:
            self._idle.append(connection)


async def _converse(connection: Connection, command: Sequence[Arg]) -> Any:
    connection.send(command)
    return await connection.read()


async def _read(connection: Connection) -> Any:
    """The next reply, be it an error: the replies after it have to be read too."""
    try:
        return await connection.read()
    except ResponseError as error:
        return error


async def _abandon(opening: AbstractConnection) -> None:
    """Close a connection whatever state it is in."""
    try:
        await opening.disconnect(nowait=True)
    except FOREIGN:
        return
