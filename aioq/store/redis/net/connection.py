"""One connection to the server: redis-py opens it and logs in, hiredis packs and parses what follows.

redis-py's own reading and writing goes through asyncio's streams, and packs in Python: a round trip takes
54 to 76 µs of this process's time that way and 24 µs this way (measured), and packing one job 4.3 µs and 0.5 µs.
"""

import asyncio
import os
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any, Protocol, cast

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, NoScriptError, ResponseError

from aioq.store.redis.calls import Arg

_INIT: Any = vars(AbstractConnection)["__init__"]
_HAS_DRIVER_INFO = "driver_info" in signature(_INIT).parameters

ANONYMOUS: dict[str, Any] = {"driver_info": None} if _HAS_DRIVER_INFO else {"lib_name": None, "lib_version": None}
"""Options of a connection: not to tell the server redis-py's name and version, which takes two commands, is no
command to Redis 6.2 and 7.0, and which a user with few permissions may not."""

__all__ = ["ANONYMOUS", "Arg", "Connection", "answered"]


class _Stream(Protocol):
    """What is asked of the stream that redis-py has written its login to."""

    transport: asyncio.Transport


def answered(text: str) -> ResponseError:
    """The exception for an error that the server answers with."""
    return NoScriptError(text) if text.startswith("NOSCRIPT") else ResponseError(text)


_pack = cast("Callable[[tuple[Arg, ...]], bytes]", cast("Any", hiredis).pack_command)  # typed for one part only


class Connection(asyncio.Protocol):
    """Commands and their replies, which come in the commands' order.

    Args:
        opened: a connection of redis-py's that has logged in; its transport is taken over.
    """

    def __init__(self, opened: AbstractConnection) -> None:
        # replyError turns nested errors, as within the reply of a script, into exceptions too.
        self._parser = hiredis.Reader(protocolError=InvalidResponse, replyError=answered)
        self._replies: deque[Any] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._lost: Exception | None = None
        # redis-py has no other way to its transport; `tests/contract/test_connection.py` holds on to it. From here
        # on the connection is this object's alone, so that it can be closed at once, also where nothing can be
        # awaited; the stream is kept because the last reference to it would close the transport.
        theirs = cast("Any", opened)
        self._stream: _Stream = theirs._writer  # noqa: SLF001
        theirs._writer = theirs._reader = None  # noqa: SLF001
        self._transport = self._stream.transport
        self._transport.set_protocol(self)
        _open.add(self)

    def send(self, *commands: Sequence[Arg]) -> None:
        """Send commands; their replies are the caller's to read.

        Raises:
            RedisConnectionError: the connection has ended.
        """
        if self._lost is not None or self._transport.is_closing():
            raise RedisConnectionError(f"the connection was closed: {self._lost or 'by the server'}")
        packed = _pack(tuple(commands[0]))  # as a rule the only one
        if len(commands) > 1:
            packed += b"".join([_pack(tuple(command)) for command in commands[1:]])
        try:
            self._transport.write(packed)
        except RuntimeError as error:
            # uvloop refuses to write to a transport that a reset has closed; asyncio's own leaves it to the read.
            raise RedisConnectionError(f"the connection was reset: {error}") from error

    async def read(self) -> Any:
        """The next reply.

        Cancellation: the reply stays to be read.

        Raises:
            ResponseError: the server's own error; the connection stays good.
            RedisConnectionError: the connection has ended.
        """
        while not self._replies:
            if self._lost is not None:
                raise self._lost
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        reply = self._replies.popleft()
        if isinstance(reply, Exception):
            raise reply
        return reply

    def close(self) -> None:
        """End the connection, whatever state it is in; a read under way fails."""
        self._end(RedisConnectionError("the connection was closed by this process"))
        # At once: what a server that does not read has not taken yet would keep the socket open.
        self._transport.abort()

    def forked(self) -> None:
        """This is a fork: what it reads and writes here would be missing, or too much, in its parent.

        So it has the null device in the socket's place. Closing the socket would leave its number to whatever is
        opened next, and the transport would use and close that.
        """
        if self._lost is None and not self._transport.is_closing():  # its number may be another file's by now
            self._lost = RedisConnectionError(
                "the connection is that of the process that this one was forked from"
            )
            if (socket := self._transport.get_extra_info("socket")) is not None:
                _shut(socket.fileno())

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._parser.feed(data)
        try:
            while (reply := self._parser.gets()) is not False:
                self._received(reply)
        except InvalidResponse as error:
            self._end(error)
            self._transport.abort()
            return
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._end(RedisConnectionError(f"the connection was lost: {exc or 'closed by the server'}"))

    def _received(self, reply: Any) -> None:
        self._replies.append(reply)

    def _end(self, error: Exception) -> None:
        self._lost = self._lost or error
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


_open: weakref.WeakSet[Connection] = weakref.WeakSet()


def _forked() -> None:
    for connection in list(_open):
        connection.forked()


def _shut(descriptor: int) -> None:
    with open(os.devnull, "r+b", buffering=0) as nothing:
        os.dup2(nothing.fileno(), descriptor, inheritable=False)


os.register_at_fork(after_in_child=_forked)
