"""The connections of one event loop to one server, and the calls of aioq's commands over them.

redis-py connects (URL, TLS, login, database); `connection.py` does all that follows. The commands of an event loop
share one connection (`pipeline.py`), except those that block: the reads that wait for jobs, and the writes that
wait to be confirmed (`confirming.py`).
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, ParamSpec, TypeVar

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

from aioq.errors import ServerError, ServerUnavailableError
from aioq.store.redis.calls import MOST_TRIES, ClusterNode, calls_for
from aioq.store.redis.durability import Confirmation
from aioq.store.redis.errors import CLIENT_ERRORS, SlotUnservedError, closed_here, translate
from aioq.store.redis.net.confirming import REPLY_TIMEOUT, ConfirmedWrites
from aioq.store.redis.net.connection import Arg, Connection
from aioq.store.redis.net.failover import Failover
from aioq.store.redis.net.mode import if_a_node, reject_sentinel
from aioq.store.redis.net.opening import Opener
from aioq.store.redis.net.pipeline import Pipe, Request
from aioq.store.redis.replies import Rest
from aioq.util.aio import end

T = TypeVar("T")
Sent = ParamSpec("Sent")

CLOSE_PATIENCE = 1.0
"""Seconds that calls in flight still have when the connections are closed. A guess: far longer than any server
takes that answers at all, and short enough that a server which does not answer does not delay the close for
long."""

Read = Callable[[Any], Any]
"""Converts a reply into what its caller wants."""


class _Request:
    """The common part of a plain command and of a call of one of aioq's own commands."""

    __slots__ = ("link", "reply")

    link: "Link"
    reply: "asyncio.Future[Any]"

    @property
    def given_up(self) -> bool:
        return self.reply.cancelled()


class _Command(_Request):
    """A plain command; its caller gets the server's own errors untranslated."""

    __slots__ = ("command",)

    def __init__(self, link: "Link", command: Sequence[Arg], reply: "asyncio.Future[Any]") -> None:
        self.link = link
        self.command = command
        self.reply = reply

    def answer(self, reply: Any) -> None:
        if self.reply.done():
            return
        if not isinstance(reply, Exception):
            self.reply.set_result(reply)
        elif isinstance(reply, CLIENT_ERRORS) and not isinstance(reply, ResponseError):
            self.reply.set_exception(self.link.translated(reply))
        else:
            self.link.drop_if_replaced(reply)
            self.reply.set_exception(reply)


class _Call(_Request):
    """A call of one of aioq's own commands.

    It is repeated if the server does not have that command any more. If the script has left a part of the call,
    that part is sent in another call.
    """

    __slots__ = ("args", "name", "read", "tries")

    def __init__(
        self, link: "Link", name: str, args: Sequence[Arg], read: Read | None, reply: "asyncio.Future[Any]"
    ) -> None:
        self.link = link
        self.reply = reply
        self.name = name
        self.args = args
        self.read = read
        self.tries = 0

    @property
    def command(self) -> Sequence[Arg]:
        """The command to send now: what the server is known to have may change while a call waits for its turn."""
        return self.link.calls.command(self.name, self.args)

    def answer(self, reply: Any) -> None:
        if self.reply.done():
            return
        if not isinstance(reply, Exception):
            self.link.calls.answered(self.name)
            try:
                result = reply if self.read is None else self.read(reply)
            except Exception as error:  # the caller gets it, not the connection
                self.reply.set_exception(error)
                return
            if type(result) is Rest:
                self.args, self.read = (self.args[0], *result.args), result.read
                self.link.submit(self)
            else:
                self.reply.set_result(result)
        elif self.link.calls.should_repeat(reply) and self.tries < MOST_TRIES:
            self.tries += 1
            self.link.resubmit(self)
        elif isinstance(reply, CLIENT_ERRORS):
            reply = self.link.calls.reason_for(reply)
            self.link.drop_if_replaced(reply)
            self.reply.set_exception(self.link.translated(reply))
        else:
            self.reply.set_exception(reply)


class _Load:
    """The command that loads the library into a server that may not have it."""

    given_up = False

    def __init__(self, link: "Link", command: Sequence[Arg]) -> None:
        self.command = command
        self._link = link

    def answer(self, reply: Any) -> None:
        self._link.library_answered(reply)


class Link:
    """One server, as one event loop uses it.

    Args:
        url: the URL of one server, or of a primary that sentinels know.
        shown_url: the same with its password masked, for messages.
        advice: the message for a server that does not answer, instead of the network's own.
        node: which node of a cluster the server is; None for a server by itself.

    Attributes:
        primary: finds the primary that sentinels know; None for a server that is always at the same address.
        server_url: a URL that redis-py understands. If there is a `primary`, the address in it is not that of the
            server.
    """

    def __init__(self, url: str, shown_url: str, advice: str = "", node: ClusterNode | None = None) -> None:
        self.shown_url = shown_url
        self._opener = Opener(url, shown_url, advice, self._switched)
        self.primary, self.server_url = self._opener.primary, self._opener.server_url
        self._pipe: Pipe | None = None
        self._opening: asyncio.Task[None] | None = None
        self._unsent: deque[Request] = deque()
        self._retired: list[Pipe] = []
        self.calls = calls_for(node)
        self._is_loading = False
        self._is_no_sentinel = False
        self._is_node = node is not None
        self._closed = False
        self.failover = Failover(in_cluster=self._is_node)
        self.failover.on_drop(self._drop)
        self.confirmed = ConfirmedWrites(self.connect, self.failover, shown_url, self.calls)

    async def connect(self) -> Connection:
        """A new connection, which its caller must close; see `open`."""
        return Connection(await self.open())

    async def open(self) -> AbstractConnection:
        """A connection that has logged in.

        Raises:
            ServerUnavailableError: the server does not answer in time, or this link is closed.
            ServerRejectedError: the login was refused.
        """
        return await self._opener.open()

    async def call(
        self, name: str, key: str, args: Sequence[Arg], confirmation: Confirmation | None = None
    ) -> Any:
        """Call a command for the queue whose base key is `key`, and return its reply.

        With a `confirmation`, return once the server has confirmed what the command wrote. Calls without a
        confirmation are carried out in the order in which they were made.

        Cancellation: the command may have run.

        Raises:
            ServerError: see `aioq.store.contract.Store`.
        """
        if confirmation is None:
            return await self.begin(name, key, args)
        try:
            return await self.confirmed.call(name, key, args, confirmation)
        except SlotUnservedError as fault:
            raise self._explained(fault) from None

    def begin(self, name: str, key: str, args: Sequence[Arg], read: Read | None = None) -> "asyncio.Future[Any]":
        """Call a command as `call` does, without a confirmation.

        Returns the future of its reply, converted by `read` if that is given. If the future is cancelled, the call
        is abandoned.
        """
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.submit(_Call(self, name, (key, *args), read, reply))
        return reply

    async def command(self, *args: Arg) -> Any:
        """Send one command, and return its reply.

        Cancellation: the command may have run. Later commands go over a new connection; see `Pipe.is_open`.

        Raises:
            ResponseError: the server's own error; the connection can still be used.
            ServerUnavailableError: the connection failed; the command may have run.
        """
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.submit(_Command(self, args, reply))
        return await reply

    def submit(self, request: Request) -> None:
        """Send a command and pass it its reply; over a new connection if the last one may be dead."""
        pipe = self._pipe
        if pipe is not None and self._opening is None and pipe.is_open:
            pipe.submit(request)
        elif self._closed:
            request.answer(closed_here(self.shown_url))
        else:
            self._unsent.append(request)
            if self._opening is None:
                self._opening = asyncio.get_running_loop().create_task(self._reopen(), name="aioq-connect")

    async def _reopen(self) -> None:
        """Connect, and send all commands that have waited for that, in their order."""
        old, self._pipe = self._pipe, None
        if old is not None:
            self._retire(old)
        try:
            pipe = Pipe(await self.open(), REPLY_TIMEOUT)
            try:
                await self._ensure_library(pipe)
            except BaseException:
                pipe.close()
                raise
        except BaseException as error:
            self._opening = None
            failed = error if isinstance(error, Exception) else closed_here(self.shown_url)
            while self._unsent:
                self._unsent.popleft().answer(failed)
            if not isinstance(error, Exception):
                raise
            return
        self._pipe, self._opening, self._is_loading = pipe, None, False
        while self._unsent:
            request = self._unsent.popleft()
            if not request.given_up:
                pipe.submit(request)

    async def _ensure_library(self, pipe: Pipe) -> None:
        """Load the library if the server does not have it, before the first command.

        The server may have been restarted without it. Loading it only when a call fails would change the order of
        calls: if another process loads it between two calls of this one, the second call would run before the
        first is repeated.
        """
        self.calls.forget()
        if self.calls.probe is not None:
            self.calls.should_repeat(await self._reply_alone(pipe, self.calls.probe))
        if self.calls.load is not None:
            self.calls.library_answered(await self._reply_alone(pipe, self.calls.load))
        if not (self.calls.functions or self._is_no_sentinel):
            await reject_sentinel(partial(self._reply_alone, pipe), self.server_url, self.shown_url)
            self._is_no_sentinel = True

    async def _reply_alone(self, pipe: Pipe, command: Sequence[Arg]) -> object:
        """Send a command over a connection that nothing else uses yet; returns the reply, maybe an error."""
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        pipe.submit(_Command(self, command, reply))
        try:
            return await reply
        except ResponseError as error:
            return error

    def resubmit(self, request: Request) -> None:
        """Repeat a call, after loading the library if the server has lost it."""
        self._send_library()
        self.submit(request)

    def _send_library(self) -> None:
        command = self.calls.load
        if command is not None and not self._is_loading:
            self._is_loading = True
            self.submit(_Load(self, command))

    def library_answered(self, reply: object) -> None:
        """Handle the reply to the loading of the library."""
        self._is_loading = False
        self.calls.library_answered(reply)

    def translated(self, error: Exception) -> Exception:
        """The error that a caller gets for an error of the server or the connection."""
        fault = self._explained(translate(error, self.shown_url))
        fault.__context__, fault.__suppress_context__ = error, True  # as `raise ... from None`
        return fault

    def _explained(self, fault: ServerError) -> ServerError:
        return fault if self._is_node else if_a_node(fault, self.server_url, self.shown_url)

    def drop_if_replaced(self, error: Exception) -> None:
        """Drop all connections if this error means that another server may have replaced this one."""
        if self.failover.shown_by(error):
            self.failover.drop()

    def _drop(self) -> None:
        """Use a new connection for all later commands."""
        old, self._pipe = self._pipe, None
        if old is not None:
            self._retire(old)

    def _switched(self, *, certain: bool) -> None:
        """Drop all connections; if another server is certainly the primary now, await no more replies."""
        if certain:
            self._drop()
            for pipe in self._retired:
                pipe.close()
            self.confirmed.abort()
        self.failover.drop()

    def _retire(self, pipe: Pipe) -> None:
        pipe.retire()
        self._retired = [each for each in (*self._retired, pipe) if not each.has_ended]

    async def close(self) -> None:
        """Close all connections. Those with calls in flight are closed after their replies, or `CLOSE_PATIENCE`.

        Cancellation: the connections are closed at once.
        """
        self._closed = True
        try:
            await self._opener.close()
            if self._opening is not None:
                await end([self._opening])
            self._drop()
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_PATIENCE):
                    for pipe in self._retired:
                        if pipe.is_awaited:
                            await pipe.wait_ended()
        finally:
            self._opening = None  # the task may have been cancelled before its first step
            while self._unsent:
                self._unsent.popleft().answer(closed_here(self.shown_url))
            self._drop()
            for pipe in self._retired:
                pipe.close()
            self.confirmed.close()
            self.failover.close()


async def sent_again(command: Callable[Sent, Awaitable[T]], *args: Sent.args, **kwargs: Sent.kwargs) -> T:
    """The reply to what may be carried out twice: it is sent once more if the connection has failed.

    Perhaps that was only because the server has closed the connection meanwhile.

    Raises:
        ServerUnavailableError: it failed again.
    """
    try:
        return await command(*args, **kwargs)
    except ServerUnavailableError:
        return await command(*args, **kwargs)
