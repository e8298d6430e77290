"""Connections of one event loop to one server, and calls of aioq's commands over them.

redis-py does the connecting (URL, TLS, login, database), `connection.py` what is said then. All commands of a
process share one connection (`pipe.py`), but for those that block: the reads that wait for jobs, and writes that
wait to be confirmed (`confirming.py`).
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import ResponseError

from aioq.errors import ServerRejectedError, ServerUnavailableError
from aioq.store.redis.calls import MOST_TRIES, Calls
from aioq.store.redis.durability import Confirmation
from aioq.store.redis.errors import FOREIGN, closed_here, may_be_replaced, translate
from aioq.store.redis.net.confirming import REPLY_TIMEOUT, ConfirmedWrites
from aioq.store.redis.net.connection import ANONYMOUS, Arg, Connection
from aioq.store.redis.net.failover import Failover
from aioq.store.redis.net.pipeline import Asked, Pipe
from aioq.util.aio import end

CONNECT_TIMEOUT = 5.0

CLOSE_PATIENCE = 1.0
"""Seconds that calls under way get when the connections are closed. A guess: far longer than a server takes that
answers at all, and a close beside one that does not is not held up for long."""

Read = Callable[[Any], Any]
"""Makes of a reply what its caller wants."""


class _Asked:
    """What a command of the server's and a call of one of aioq's have in common."""

    __slots__ = ("link", "reply")

    link: "Link"
    reply: "asyncio.Future[Any]"

    @property
    def given_up(self) -> bool:
        return self.reply.cancelled()


class _Command(_Asked):
    """A command of any kind; the server's own errors are its caller's to read."""

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
        elif isinstance(reply, FOREIGN) and not isinstance(reply, ResponseError):
            self.reply.set_exception(_translated(reply, self.link.shown_url))
        else:
            self.link.note(reply)
            self.reply.set_exception(reply)


class _Call(_Asked):
    """A call of a command of aioq's. It is made again where the server has forgotten how."""

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
        """As it is to be sent now: what the server is known to have may change while a call waits for its turn."""
        return self.link.calls.command(self.name, self.args)

    def answer(self, reply: Any) -> None:
        if self.reply.done():
            return
        if not isinstance(reply, Exception):
            self.link.calls.answered(self.name)
            try:
                self.reply.set_result(reply if self.read is None else self.read(reply))
            except Exception as error:  # the caller gets it, not the connection
                self.reply.set_exception(error)
        elif self.link.calls.can_mend(reply) and self.tries < MOST_TRIES:
            self.tries += 1
            self.link.ask_again(self)
        elif isinstance(reply, FOREIGN):
            reply = self.link.calls.reason_for(reply)
            self.link.note(reply)
            self.reply.set_exception(_translated(reply, self.link.shown_url))
        else:
            self.reply.set_exception(reply)


class _Load:
    """The library, on its way to a server that may not have it."""

    given_up = False

    def __init__(self, link: "Link", command: Sequence[Arg]) -> None:
        self.command = command
        self._link = link

    def answer(self, reply: Any) -> None:
        self._link.took_library(reply)


class Link:
    """A server seen from one event loop.

    Args:
        url: a URL redis-py understands.
        shown_url: the same with its password masked, for messages.
        advice: the message for a server that does not answer, in place of the network's.
    """

    def __init__(self, url: str, shown_url: str, advice: str = "") -> None:
        self.shown_url = shown_url
        self._advice = advice
        # No timeouts of redis-py's: it uses asyncio.wait_for, which on Python 3.11 can swallow a cancellation.
        timeouts = {"socket_timeout": None, "socket_connect_timeout": None}
        options: dict[str, Any] = {"protocol": 2, **timeouts, **ANONYMOUS}
        if not url.startswith("unix:"):
            options["socket_keepalive"] = True
        try:
            self._factory: Any = ConnectionPool.from_url(url, **options)  # pyright: ignore[reportUnknownMemberType] - redis-py is partly typed
        except (TypeError, ValueError) as error:
            raise ServerRejectedError(f"{shown_url} has an option that cannot be used: {error}") from None
        self._pipe: Pipe | None = None
        self._opening: asyncio.Task[None] | None = None
        self._unsent: deque[Asked] = deque()
        self._leaving: list[Pipe] = []
        self.calls = Calls()
        self._is_loading = False
        self._closed = False
        self.failover = Failover()
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
        if self._closed:
            raise closed_here(self.shown_url)
        try:
            opening: AbstractConnection = self._factory.make_connection()
        except FOREIGN as error:
            raise self._unreached(error) from None
        except (TypeError, ValueError) as error:
            raise ServerRejectedError(f"{self.shown_url} has an option that cannot be used: {error}") from None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await opening.connect()
        except FOREIGN as error:
            await _abandon(opening)
            raise self._unreached(error) from None
        except (
            RuntimeError
        ) as error:  # uvloop refuses to write to a transport that was reset in the middle of the login
            await _abandon(opening)
            raise ServerUnavailableError(f"{self.shown_url} reset the connection: {error}") from None
        except BaseException:
            await _abandon(opening)
            raise
        if self._closed:  # meanwhile, and nothing would close this one
            await _abandon(opening)
            raise closed_here(self.shown_url)
        return opening

    def _unreached(self, error: Exception) -> Exception:
        fault = translate(error, self.shown_url)
        no_answer = isinstance(fault, ServerUnavailableError)
        return ServerUnavailableError(self._advice) if self._advice and no_answer else fault

    async def call(
        self, name: str, key: str, args: Sequence[Arg], confirmation: Confirmation | None = None
    ) -> Any:
        """Run a script on the queue whose base key is `key`, and return its reply.

        With a `confirmation`, return once the server has confirmed what the script wrote.

        Calls without a confirmation are carried out in the order they were made in. Cancellation: the script may
        have run.

        Raises:
            ServerError: see `aioq.store.contract.Store`.
        """
        if confirmation is None:
            return await self.begin(name, key, args)
        return await self.confirmed.call(name, key, args, confirmation)

    def begin(self, name: str, key: str, args: Sequence[Arg], read: Read | None = None) -> "asyncio.Future[Any]":
        """Call a script as `call` does, without a confirmation.

        Returns the future of its reply, or of what `read` makes of it.

        Cancelling the future gives the call up.
        """
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.ask(_Call(self, name, (key, *args), read, reply))
        return reply

    async def command(self, *args: Arg) -> Any:
        """Send one command, and return its reply.

        Cancellation: the command may have run. What is asked from then on goes over a new connection; see
        `Pipe.is_open`.

        Raises:
            ResponseError: the server's own error; the connection stays good.
            ServerUnavailableError: the connection failed; the command may have run.
        """
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.ask(_Command(self, args, reply))
        return await reply

    def ask(self, asked: Asked) -> None:
        """Send a command and pass it its reply; over a new connection where the last one may be dead."""
        pipe = self._pipe
        if pipe is not None and self._opening is None and pipe.is_open:
            pipe.ask(asked)
        elif self._closed:
            asked.answer(closed_here(self.shown_url))
        else:
            self._unsent.append(asked)
            if self._opening is None:
                self._opening = asyncio.get_running_loop().create_task(self._reopen(), name="aioq-connect")

    async def _reopen(self) -> None:
        """Connect for all that is to be said, and say it in its order."""
        old, self._pipe = self._pipe, None
        if old is not None:
            self._see_off(old)
        try:
            pipe = Pipe(await self.open(), REPLY_TIMEOUT)
            try:
                await self._introduce(pipe)
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
            asked = self._unsent.popleft()
            if not asked.given_up:
                pipe.ask(asked)

    async def _introduce(self, pipe: Pipe) -> None:
        """Load what the server may lack, before the first command.

        It may have been restarted. If another process loaded it meanwhile, between two calls of this one, the
        second would overtake the first.
        """
        self.calls.forget()
        if self.calls.probe is not None:
            self.calls.can_mend(await self._ask_first(pipe, self.calls.probe))
        if self.calls.load is not None:
            self.calls.took_library(await self._ask_first(pipe, self.calls.load))

    async def _ask_first(self, pipe: Pipe, command: Sequence[Arg]) -> object:
        """The reply to a command over a connection that nothing else uses yet; it may be an error."""
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        pipe.ask(_Command(self, command, reply))
        try:
            return await reply
        except ResponseError as error:
            return error

    def ask_again(self, asked: Asked) -> None:
        """Make a call again, after loading what the server has lost."""
        self._load()
        self.ask(asked)

    def _load(self) -> None:
        command = self.calls.load
        if command is not None and not self._is_loading:
            self._is_loading = True
            self.ask(_Load(self, command))

    def took_library(self, reply: object) -> None:
        """See what was answered to the library."""
        self._is_loading = False
        self.calls.took_library(reply)

    def note(self, error: Exception) -> None:
        """See whether an answer means that another server may be there by now; see `Failover`."""
        if may_be_replaced(error):
            self.failover.drop()

    def _drop(self) -> None:
        """Ask for everything that is asked from now on over a new connection."""
        old, self._pipe = self._pipe, None
        if old is not None:
            self._see_off(old)

    def _see_off(self, pipe: Pipe) -> None:
        pipe.see_off()
        self._leaving = [each for each in (*self._leaving, pipe) if not each.is_gone]

    async def close(self) -> None:
        """Close all connections: those of calls under way when these have ended, or after `CLOSE_PATIENCE`.

        Cancellation: the connections are closed at once.
        """
        self._closed = True
        try:
            if self._opening is not None:
                await end([self._opening])
            self._drop()
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_PATIENCE):
                    for pipe in self._leaving:
                        if pipe.is_awaited:
                            await pipe.wait_gone()
        finally:
            self._opening = None  # it may have ended before its first step
            while self._unsent:
                self._unsent.popleft().answer(closed_here(self.shown_url))
            self._drop()
            for pipe in self._leaving:
                pipe.close()
            self.confirmed.close()
            self.failover.close()


def _translated(error: Exception, shown_url: str) -> Exception:
    fault = translate(error, shown_url)
    fault.__context__, fault.__suppress_context__ = error, True  # as `raise ... from None`
    return fault


async def _abandon(opening: AbstractConnection) -> None:
    """Close a connection whatever state it is in."""
    try:
        await opening.disconnect(nowait=True)
    except FOREIGN:
        return
