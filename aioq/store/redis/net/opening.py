"""Opens the connections of one event loop to one server: redis-py connects and logs in."""

import asyncio
from typing import Any

from redis.asyncio.connection import AbstractConnection, ConnectionPool

from aioq.config.urls import parse_servers
from aioq.errors import ServerRejectedError, ServerUnavailableError
from aioq.store.redis.errors import CLIENT_ERRORS, closed_here, translate
from aioq.store.redis.net.connection import ANONYMOUS, abandon
from aioq.store.redis.net.sentinel import OnSwitch, Primary

CONNECT_TIMEOUT = 5.0


class Opener:
    """Opens connections.

    Args:
        url: the URL of one server, or of a primary that sentinels know.
        shown_url: the same with its password masked, for messages.
        advice: the message for a server that does not answer, instead of the network's own.
        on_switch: called when another server has, or may have, become the primary.

    Attributes:
        primary: finds the primary that sentinels know; None for a server that is always at the same address.
        server_url: a URL that redis-py understands. If there is a `primary`, the address in it is not that of the
            server.
    """

    def __init__(self, url: str, shown_url: str, advice: str, on_switch: OnSwitch) -> None:
        self._shown_url = shown_url
        self._advice = advice
        self._closed = False
        self.primary: Primary | None = None
        servers = parse_servers(url)
        if servers is not None and servers.kind == "sentinel":
            url = servers.server_url(*servers.addresses[0])
            self.primary = Primary(servers, shown_url, on_switch)
        self.server_url = url
        # No timeouts in redis-py: it uses asyncio.wait_for, which on Python 3.11 can swallow a cancellation.
        timeouts = {"socket_timeout": None, "socket_connect_timeout": None}
        options: dict[str, Any] = {"protocol": 2, **timeouts, **ANONYMOUS}
        if not url.startswith("unix:"):
            options["socket_keepalive"] = True
        try:
            self._factory: Any = ConnectionPool.from_url(url, **options)  # pyright: ignore[reportUnknownMemberType] - redis-py is partly typed
        except (TypeError, ValueError) as error:
            raise ServerRejectedError(f"{shown_url} has an option that cannot be used: {error}") from None

    async def open(self) -> AbstractConnection:
        """A connection that has logged in.

        Raises:
            ServerUnavailableError: the server does not answer in time, or this object is closed.
            ServerRejectedError: the login was refused.
        """
        if self._closed:
            raise closed_here(self._shown_url)
        try:
            opening: AbstractConnection = self._factory.make_connection()
        except CLIENT_ERRORS as error:
            raise self._unreached(error) from None
        except (TypeError, ValueError) as error:
            raise ServerRejectedError(f"{self._shown_url} has an option that cannot be used: {error}") from None
        try:
            await self._connect(opening)
        except CLIENT_ERRORS as error:
            await abandon(opening)
            raise self._unreached(error) from None
        except RuntimeError as error:  # uvloop refuses to write to a transport that was reset during the login
            await abandon(opening)
            raise ServerUnavailableError(f"{self._shown_url} reset the connection: {error}") from None
        except BaseException:
            await abandon(opening)
            raise
        if self._closed:  # meanwhile, and nothing would close this one
            await abandon(opening)
            raise closed_here(self._shown_url)
        return opening

    async def close(self) -> None:
        """Open no further connection."""
        self._closed = True
        if self.primary is not None:
            await self.primary.close()

    async def _connect(self, opening: AbstractConnection) -> None:
        if self.primary is not None:
            await self.primary.connect(opening)
            return
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await opening.connect()

    def _unreached(self, error: Exception) -> Exception:
        fault = translate(error, self._shown_url)
        no_answer = isinstance(fault, ServerUnavailableError)
        return ServerUnavailableError(self._advice) if self._advice and no_answer else fault
