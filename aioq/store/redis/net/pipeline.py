"""A connection that carries the commands of many callers at once.

A caller does not wait for the replies to earlier commands, so the server has the next command while this process
is busy with the last reply. The server carries commands out in the order they were asked in.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError

from aioq.store.redis.net.connection import Arg, Connection


class Asked(Protocol):
    """A command on its way."""

    @property
    def command(self) -> Sequence[Arg]:
        """What it is made of."""
        ...

    @property
    def given_up(self) -> bool:
        """Whether its reply is not awaited any more although none has come."""
        ...

    def answer(self, reply: Any) -> None:
        """Take the reply, an exception where it is an error of the server's or the connection has ended."""
        ...


class Pipe(Connection):
    """Runs and replaces the worker processes.

    Args:
        opened: see `Connection`.
        patience: seconds a reply may take before the connection counts as dead.
    """

    def __init__(self, opened: AbstractConnection, patience: float) -> None:
        super().__init__(opened)
        # Each command leaves at once: uvloop would keep it until this turn of the loop is over.
        self._transport.set_write_buffer_limits(high=0)
        self._patience = patience
        self._asked: deque[tuple[Asked, float]] = deque()
        self._loop = asyncio.get_running_loop()
        self._watch: asyncio.TimerHandle | None = None
        self._leaving = False
        self._ended: asyncio.Future[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether it takes further commands.

        One on which a caller has given up, usually after a timeout, may be dead.
        """
        if self._leaving or self._lost is not None or self._transport.is_closing():
            return False
        for asked, _ in self._asked:  # noqa: SIM110 - a generator would cost a call for each
            if asked.given_up:
                return False
        return True

    @property
    def is_gone(self) -> bool:
        """Whether it has ended."""
        return self._lost is not None

    @property
    def is_awaited(self) -> bool:
        """Whether anybody waits for a reply."""
        return not all(asked.given_up for asked, _ in self._asked)

    def ask(self, asked: Asked) -> None:
        """Send a command, and pass it its reply."""
        try:
            self.send(asked.command)
        except Exception as error:  # the connection has ended, or this cannot be put into a command
            asked.answer(error)
            return
        self._asked.append((asked, self._loop.time() + self._patience))
        if self._watch is None:
            self._watch = self._loop.call_later(self._patience, self._look)

    def see_off(self) -> None:
        """Take no further command, and close once the replies to come have come."""
        self._leaving = True
        if not self._asked:
            self.close()

    async def wait_gone(self) -> None:
        """Wait until it has ended; for one alone to do so."""
        if self._lost is None:
            self._ended = self._loop.create_future()
            await self._ended

    def _received(self, reply: Any) -> None:
        asked, _ = self._asked.popleft()
        asked.answer(reply)
        if self._leaving and not self._asked:
            self.close()

    def _look(self) -> None:
        """See that the oldest command is not overdue; one timer for all."""
        self._watch = None
        if not self._asked:
            return
        _, due = self._asked[0]
        if due <= self._loop.time():
            self._end(RedisConnectionError(f"no reply within {self._patience:g} s"))
            self._transport.abort()
        else:
            self._watch = self._loop.call_at(due, self._look)

    def _end(self, error: Exception) -> None:
        super()._end(error)
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        while self._asked:
            asked, _ = self._asked.popleft()
            asked.answer(error)
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)
