"""A connection that many callers use at once.

A command is sent before the replies to earlier commands have come. So the server has the next command while this
process is busy with the last reply. It carries the commands out in the order in which they were sent.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError

from aioq.store.redis.net.connection import Arg, Connection


class Request(Protocol):
    """A command that waits for its reply."""

    @property
    def command(self) -> Sequence[Arg]:
        """The command's name and arguments."""
        ...

    @property
    def given_up(self) -> bool:
        """Whether its caller stopped waiting before a reply came."""
        ...

    def answer(self, reply: Any) -> None:
        """Take the reply; an exception if it is an error of the server, or if the connection has ended."""
        ...


class Pipe(Connection):
    """A connection on which commands are pipelined: each reply is passed to the command that it answers.

    Args:
        opened: see `Connection`.
        patience: seconds a reply may take before the connection counts as dead.
    """

    def __init__(self, opened: AbstractConnection, patience: float) -> None:
        super().__init__(opened)
        # Each command is written at once: otherwise uvloop would keep it until this turn of the loop is over.
        self._transport.set_write_buffer_limits(high=0)
        self._patience = patience
        self._pending: deque[tuple[Request, float]] = deque()
        self._loop = asyncio.get_running_loop()
        self._watch: asyncio.TimerHandle | None = None
        self._retired = False
        self._ended: asyncio.Future[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether it takes further commands.

        If a caller has given up waiting on it, usually after a timeout, the connection may be dead.
        """
        if self._retired or self._lost is not None or self._transport.is_closing():
            return False
        for request, _ in self._pending:  # noqa: SIM110 - a generator would cost a call for each command
            if request.given_up:
                return False
        return True

    @property
    def has_ended(self) -> bool:
        """Whether the connection has ended."""
        return self._lost is not None

    @property
    def is_awaited(self) -> bool:
        """Whether anybody waits for a reply."""
        return not all(request.given_up for request, _ in self._pending)

    def submit(self, request: Request) -> None:
        """Send a command; it is passed its reply when that comes."""
        try:
            self.send(request.command)
        except Exception as error:  # the connection has ended, or the command cannot be encoded
            request.answer(error)
            return
        self._pending.append((request, self._loop.time() + self._patience))
        if self._watch is None:
            self._watch = self._loop.call_later(self._patience, self._check_overdue)

    def retire(self) -> None:
        """Take no further command, and close after the last reply."""
        self._retired = True
        if not self._pending:
            self.close()

    async def wait_ended(self) -> None:
        """Wait until the connection has ended. Only one task may wait at a time."""
        if self._lost is None:
            self._ended = self._loop.create_future()
            await self._ended

    def _received(self, reply: Any) -> None:
        request, _ = self._pending.popleft()
        request.answer(reply)
        if self._retired and not self._pending:
            self.close()

    def _check_overdue(self) -> None:
        """End the connection if the reply to the oldest command is overdue. One timer watches all commands."""
        self._watch = None
        if not self._pending:
            return
        _, due = self._pending[0]
        if due <= self._loop.time():
            self._end(RedisConnectionError(f"no reply within {self._patience:g} s"))
            self._transport.abort()
        else:
            self._watch = self._loop.call_at(due, self._check_overdue)

    def _end(self, error: Exception) -> None:
        super()._end(error)
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        while self._pending:
            request, _ = self._pending.popleft()
            request.answer(error)
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)
