"""Finds the primary that sentinels know under a name: at each connect, so that a failover needs no other notice.

A search asks one sentinel after the other, beginning with the one that answered last. The server that a sentinel
names is used if it says that it is a primary. A sentinel that was cut off may still name the server that was the
primary before, which is a replica when it is back; then the next sentinel is asked.

A server is asked with HELLO, which needs no permission, not with ROLE, which only administrators may call.
"""

import asyncio
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Protocol

import redis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import AuthenticationError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from aioq.config.urls import Servers
from aioq.errors import ServerError, ServerRejectedError, ServerUnavailableError
from aioq.store.redis.errors import CLIENT_ERRORS, translate
from aioq.store.redis.net.connection import ANONYMOUS, Arg, Connection, abandon
from aioq.store.redis.net.mode import as_dict
from aioq.store.redis.net.switches import Address, SwitchWatch
from aioq.util.log import logger

log = logger("aioq.redis")

ASK_TIMEOUT = 1.0
"""Seconds that one sentinel has to answer: the next one may know more. It is enough for TCP, TLS, a login and the
question where each round trip takes 200 ms."""

TRY_TIMEOUT = 2.5
"""Seconds that the server which a sentinel names has to accept a connection, a login and one command. A stopped
server accepts connections, but answers nothing."""

SEARCH_TIMEOUT = 5.0
"""Seconds after which no further sentinel is asked; the next search begins with that one."""

DOUBT_PAUSE = 30.0
"""Seconds until connections are dropped once more because a sentinel names the same other server. A guess."""

OLD_AFTER = 0.3
"""If the server that a sentinel names needs more seconds to answer, the sentinel is asked again. A primary that
was stopped, replaced and continued takes itself for one for ten seconds. A guess: none is replaced so quickly."""

REPLACED = "was replaced while it did not answer"
_MASTERS = ("SENTINEL", "MASTERS")
_HELLO = ("HELLO",)


def _is_old(asked: float) -> bool:
    return time.monotonic() - asked > OLD_AFTER


def _without_address(text: str) -> str:
    """The text of a failed connect without what its caller says already."""
    found = re.match(r"Error (-?\d+) connecting\. ?(.*)", text, re.DOTALL)
    if found is None:
        return text
    number = int(found[1])
    return os.strerror(number) if number > 0 else found[2]  # negative: an error of the look-up of a name


class OnSwitch(Protocol):
    """What is called when another server has, or may have, become the primary."""

    def __call__(self, *, certain: bool) -> None:
        """Drop all connections; if it is certain, replies of the server before do not count any more."""
        ...


def shown(address: Address) -> str:
    """An address for messages."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Search:
    """One search: what the sentinels have answered so far, and the error if none of them leads to a primary.

    Args:
        name: the primary's name.
        shown_url: the URL with its password masked.
        tls: whether the sentinels are spoken to over TLS.
    """

    def __init__(self, name: str, shown_url: str, *, tls: bool = False) -> None:
        self._name = name
        self._shown_url = shown_url
        self._tls = tls
        self._places: dict[str, list[str]] = {}  # by what is wrong: the sentinels that said or did that
        self._is_rejected = self._is_login = False
        self._unusable: dict[Address, ServerError] = {}  # the servers that were named, and why each is not used

    def address(self, reply: Sequence[bytes]) -> Address | None:
        """The server that a sentinel names; None if the search knows already that it cannot be used."""
        host, port = reply
        named = (host.decode(), int(port))
        return None if named in self._unusable else named

    def unusable(self, address: Address, error: Exception | str) -> None:
        """Note that the server which a sentinel names cannot be used: an exception, or what it is instead."""
        where = f"{self._shown_url} ({shown(address)})"
        if isinstance(error, str):
            self._unusable[address] = ServerUnavailableError(f"{where} {error}")
        elif isinstance(error, ServerError):
            self._unusable[address] = error
        else:
            self._unusable[address] = translate(error, where)

    def unknown(self, sentinel: Address, names: Sequence[str]) -> None:
        """Note that a sentinel knows no primary of this name, but those of `names`."""
        others = f", only {', '.join(map(repr, sorted(names)))}" if names else ""
        self._note(sentinel, f"no primary is known as {self._name!r}{others}", rejected=True)

    def failed(self, sentinel: Address, error: Exception) -> None:
        """Note that a sentinel cannot be reached, or answers with an error."""
        fault = translate(error, "")
        cause = error.__cause__ if isinstance(error.__cause__, CLIENT_ERRORS) else error
        if isinstance(error, (TimeoutError, RedisTimeoutError)):
            tls = "; if it speaks no TLS, add sentinel_tls=no to the URL" if self._tls else ""
            self._note(sentinel, f"no answer within {ASK_TIMEOUT:g} s{tls}")
        elif isinstance(fault, ServerRejectedError) and fault.is_login:
            self._is_login = True
            advice = "check sentinel_username and sentinel_password in the URL"
            self._note(sentinel, f"the login was refused ({cause}); {advice}", rejected=True)
        elif "unknown command" in str(cause).lower():
            scheme, place = "rediss" if self._tls else "redis", shown(sentinel)
            server, node = f"{scheme}://{place} if it is the server", f"{scheme}+cluster://{place} if it is a node"
            self._note(sentinel, f"this is no sentinel; write {server}, or {node} of a cluster", rejected=True)
        else:
            text = _without_address(str(fault).strip().removeprefix("cannot be reached: "))
            self._note(sentinel, text, rejected=isinstance(fault, ServerRejectedError))

    def error(self) -> ServerError:
        """The error when all sentinels have been asked."""
        if self._unusable:
            return next(reversed(self._unusable.values()))
        places = "; ".join(f"{', '.join(places)}: {wrong}" for wrong, places in self._places.items())
        if not self._is_rejected:
            return ServerUnavailableError(f"{self._shown_url} cannot be reached: no sentinel answers ({places})")
        error = ServerRejectedError(f"{self._shown_url} cannot be used: {places}")
        error.is_login = self._is_login
        return error

    def _note(self, sentinel: Address, wrong: str, *, rejected: bool = False) -> None:
        self._places.setdefault(wrong, []).append(shown(sentinel))
        self._is_rejected = self._is_rejected or rejected


class Primary:
    """The primary that sentinels know under a name.

    Used by one event loop and by the thread that renews leases.

    Args:
        servers: the parts of the URL.
        shown_url: the URL with its password masked.
        on_switch: called on the event loop when another server has, or may have, become the primary.
    """

    def __init__(self, servers: Servers, shown_url: str, on_switch: OnSwitch) -> None:
        self._servers = servers
        self._shown_url = shown_url
        self._on_switch = on_switch
        self._loop = asyncio.get_running_loop()
        self._first = 0  # the sentinel that answered last
        self._address: Address | None = None
        self._doubted: tuple[Address | None, float] = None, 0.0
        self._trying: dict[asyncio.Timeout, Address] = {}
        self._watch = SwitchWatch(self)
        url = servers.sentinel_url(*servers.addresses[0])
        self._sentinels_have_tls = url.startswith("rediss:")
        no_timeouts = {"socket_timeout": None, "socket_connect_timeout": None}  # as in `Link`
        self._factory = _pool(ConnectionPool, shown_url, url, **no_timeouts)
        timeouts = {"socket_timeout": ASK_TIMEOUT, "socket_connect_timeout": ASK_TIMEOUT}
        self._blocking_factory = _pool(redis.ConnectionPool, shown_url, url, **timeouts, retry=None)

    @property
    def sentinels(self) -> Sequence[Address]:
        """The sentinels, beginning with the one that answered last."""
        addresses = self._servers.addresses
        return (*addresses[self._first :], *addresses[: self._first])

    @property
    def question(self) -> Sequence[Arg]:
        """The command that asks a sentinel for the primary."""
        return ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._servers.name)

    async def connect(self, opening: AbstractConnection) -> None:
        """Let `opening`, which is not connected, connect to the primary and log in.

        Raises:
            ServerUnavailableError: no sentinel or no primary answers, or there is none now.
            ServerRejectedError: the name is unknown, or a login was refused.
        """
        search = self._search()
        for sentinel in self._in_turn():
            address, asked = await self._ask(search, sentinel), time.monotonic()
            if address is not None:
                wrong = await self._try(opening, address)
                if wrong is None and _is_old(asked) and await self._ask(search, sentinel) != address:
                    wrong = REPLACED
                if wrong is None:
                    self._found(sentinel, address, self._has_switched)
                    self._watch.start()
                    return
                await abandon(opening)
                search.unusable(address, wrong)
        raise search.error()

    def connect_blocking(self, opening: Any) -> None:
        """Do the same with a blocking connection; called from a thread."""
        search = self._search()
        for sentinel in self._in_turn():
            address, asked = self._ask_blocking(search, sentinel), time.monotonic()
            if address is not None:
                wrong = _try_blocking(opening, address)
                if wrong is None and _is_old(asked) and self._ask_blocking(search, sentinel) != address:
                    wrong = REPLACED
                if wrong is None:
                    self._found(sentinel, address, self._switch_soon)
                    return
                opening.disconnect()
                search.unusable(address, wrong)
        raise search.error()

    async def open_sentinel(self, sentinel: Address) -> Connection:
        """A connection to a sentinel; raises what the client library and the socket raise."""
        opening: Any = self._factory.make_connection()
        opening.host, opening.port = sentinel
        try:
            await opening.connect()
        except BaseException:
            await abandon(opening)
            raise
        return Connection(opening)

    def named(self, address: Address) -> None:
        """Handle the address that a sentinel names. The sentinel itself may be out of date, for hours."""
        if self._address in {None, address}:
            return
        doubted, again_at = self._doubted
        if doubted != address or self._loop.time() >= again_at:
            self._doubted = address, self._loop.time() + DOUBT_PAUSE
            self._on_switch(certain=False)

    def switched(self, name: str, address: Address) -> None:
        """Handle a sentinel's message that a primary has a new address."""
        if name != self._servers.name or address == self._address:
            return
        self._address = address
        self._has_switched()

    async def close(self) -> None:
        """Listen to the sentinels no more."""
        await self._watch.close()

    def _search(self) -> Search:
        return Search(self._servers.name, self._shown_url, tls=self._sentinels_have_tls)

    def _in_turn(self) -> Iterator[Address]:
        until = time.monotonic() + SEARCH_TIMEOUT
        for sentinel in self.sentinels:
            if time.monotonic() > until:
                self._first = self._servers.addresses.index(sentinel)
                return
            yield sentinel

    def _found(self, sentinel: Address, address: Address, notify: Callable[[], None]) -> None:
        self._first = self._servers.addresses.index(sentinel)
        before, self._address = self._address, address
        if before not in {None, address}:
            notify()

    def _switch_soon(self) -> None:
        with suppress(RuntimeError):  # the loop is closed, and so are its connections
            self._loop.call_soon_threadsafe(self._has_switched)

    def _has_switched(self) -> None:
        if self._address is not None:
            log.info("%s: %s is the primary now", self._shown_url, shown(self._address))
        for trying, address in self._trying.items():
            if address != self._address and not trying.expired():
                trying.reschedule(self._loop.time())
        self._on_switch(certain=True)

    async def _ask(self, search: Search, sentinel: Address) -> Address | None:
        try:
            async with asyncio.timeout(ASK_TIMEOUT):
                connection = await self.open_sentinel(sentinel)
                try:
                    reply = await _asked(connection, self.question)
                    if reply is not None:
                        return search.address(reply)
                    names = await _known(connection)
                finally:
                    connection.close()
        except (*CLIENT_ERRORS, RuntimeError) as error:  # uvloop raises the latter when a transport was reset
            search.failed(sentinel, error)
        else:
            search.unknown(sentinel, names)
        return None

    async def _try(self, opening: Any, address: Address) -> Exception | str | None:
        """Connect to the server that a sentinel names; returns what is wrong with it."""
        opening.host, opening.port = address
        try:
            async with asyncio.timeout(TRY_TIMEOUT) as trying:
                self._trying[trying] = address
                try:
                    await opening.connect()
                    await opening.send_command(*_HELLO)
                    return _what_it_is(await opening.read_response())
                finally:
                    del self._trying[trying]
        except (*CLIENT_ERRORS, RuntimeError) as error:
            return _unless_harmless(error)

    def _ask_blocking(self, search: Search, sentinel: Address) -> Address | None:
        connection: Any = self._blocking_factory.make_connection()
        connection.host, connection.port = sentinel
        try:
            connection.connect()
            reply = _asked_blocking(connection, self.question)
            if reply is not None:
                return search.address(reply)
            names = _known_blocking(connection)
        except CLIENT_ERRORS as error:
            search.failed(sentinel, error)
        else:
            search.unknown(sentinel, names)
        finally:
            connection.disconnect()
        return None


def _pool(kind: Any, shown_url: str, url: str, **options: Any) -> Any:
    try:
        return kind.from_url(url, protocol=2, **options, **ANONYMOUS)
    except (TypeError, ValueError) as error:
        raise ServerRejectedError(f"{shown_url} has an option that cannot be used: {error}") from None


async def _asked(connection: Connection, command: Sequence[Arg]) -> Any:
    connection.send(command)
    return await connection.read()


async def _known(connection: Connection) -> list[str]:
    try:
        return _names(await _asked(connection, _MASTERS))
    except ResponseError:  # this user may not ask that
        return []


def _known_blocking(connection: Any) -> list[str]:
    try:
        return _names(_asked_blocking(connection, _MASTERS))
    except ResponseError:
        return []


def _asked_blocking(connection: Any, command: Sequence[Arg]) -> Any:
    connection.send_command(*command)
    return connection.read_response()


def _try_blocking(opening: Any, address: Address) -> Exception | str | None:
    opening.host, opening.port = address
    try:
        opening.connect()
        return _what_it_is(_asked_blocking(opening, _HELLO))
    except CLIENT_ERRORS as error:
        return _unless_harmless(error)


def _names(masters: Sequence[Sequence[bytes]]) -> list[str]:
    """The names of all primaries that a sentinel knows."""
    return [as_dict(facts)[b"name"].decode() for facts in masters]


def _what_it_is(hello: Sequence[Any]) -> str | None:
    """What a server is that answers HELLO so, if it is no primary."""
    role = as_dict(hello).get(b"role", b"master")
    return None if role == b"master" else f"is not ready: the sentinels name a {role.decode()} as the primary"


def _unless_harmless(error: Exception) -> Exception | None:
    """The error, except from a server or proxy without HELLO: then the first write will show what it is."""
    text = str(error)
    if isinstance(error, ResponseError) and "unknown command" in text.lower():
        return None
    return AuthenticationError("Authentication required.") if "HELLO must be called" in text else error
