"""Hears from a sentinel when another server becomes the primary.

Only a help: without it the same is found out by the first refusal, lost connection or silence. So whatever goes
wrong here is tried again with another sentinel, and nothing is logged.
"""

import asyncio
from collections.abc import Sequence
from itertools import cycle
from typing import Any, Protocol

from redis.exceptions import ResponseError

from aioq.store.redis.errors import CLIENT_ERRORS
from aioq.store.redis.net.connection import Arg, Connection
from aioq.util.aio import Backoff, end
from aioq.util.log import logger

log = logger("aioq.redis")

SWITCH, PROMOTED = "+switch-master", "+promoted-slave"
"""What a sentinel publishes: that it names another primary now, and before that, if it leads the failover, which
replica it has promoted. Until its last replica follows the new primary, the old one still accepts writes, and they
are lost. A failover that is asked for (SENTINEL FAILOVER) may take 3 minutes for that.
"""

QUIET = 15.0
"""Seconds without a message after which the connection is tested with a PING; if nothing comes for as long again,
another sentinel is asked. As with the subscription of results."""

POLL = 2.0
"""Seconds between two questions to a sentinel whose user may not subscribe."""

MOST_PAUSE = 10.0
"""The longest pause between two attempts to reach a sentinel, in seconds. A guess: this is only a help."""

Address = tuple[str, int]
"""Host and port."""


class Source(Protocol):
    """The sentinels, and what is done with what they tell."""

    @property
    def sentinels(self) -> Sequence[Address]:
        """The sentinels, beginning with the one that answered last."""
        ...

    @property
    def question(self) -> Sequence[Arg]:
        """The command that asks for the primary."""
        ...

    async def open_sentinel(self, sentinel: Address) -> Connection:
        """Connect to a sentinel."""
        ...

    def named(self, address: Address) -> None:
        """Handle the address that a sentinel names when it is asked."""
        ...

    def switched(self, name: str, address: Address) -> None:
        """Handle what it tells of a primary by itself: its name, and its new address."""
        ...


class SwitchWatch:
    """The subscription of one event loop to a sentinel.

    Args:
        source: the sentinels.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start to listen, if that was not done yet."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="aioq-sentinel")

    async def close(self) -> None:
        """Listen no more."""
        if self._task is not None:
            await end([self._task])

    async def _run(self) -> None:
        backoff = Backoff(0.2, MOST_PAUSE)
        for sentinel in cycle(self._source.sentinels):
            try:
                if await self._listen_to(sentinel):
                    backoff = Backoff(0.2, MOST_PAUSE)
            except (*CLIENT_ERRORS, RuntimeError, ValueError) as error:
                log.debug("the subscription to the sentinel %s:%s is down: %s", *sentinel, error)
            await asyncio.sleep(backoff.next())

    async def _listen_to(self, sentinel: Address) -> bool:
        """Listen to one sentinel until it is lost; returns whether it answered."""
        async with asyncio.timeout(QUIET):
            connection = await self._source.open_sentinel(sentinel)
        try:
            await self._ask(connection)
            connection.send(("SUBSCRIBE", SWITCH, PROMOTED))
            try:
                await _read(connection)
            except ResponseError as error:
                log.debug("the sentinel %s:%s is asked at intervals: %s", *sentinel, error)
                await self._poll(connection)
            else:
                log.debug("the sentinel %s:%s tells of switches", *sentinel)
                await self._listen(connection)
        finally:
            connection.close()
        return True

    async def _ask(self, connection: Connection) -> None:
        connection.send(self._source.question)
        reply = await _read(connection)
        if reply is not None:
            self._source.named(_address(*reply))

    async def _poll(self, connection: Connection) -> None:
        while True:
            await asyncio.sleep(POLL)
            await self._ask(connection)

    async def _listen(self, connection: Connection) -> None:
        """Handle messages until the sentinel does not even answer a PING."""
        tested = False
        while True:
            try:
                kind, *message = await _read(connection)
            except TimeoutError:
                if tested:
                    return
                connection.send(("PING",))
                tested = True
                continue
            tested = False
            if kind == b"message":
                self._source.switched(*new_primary(*message))


def new_primary(channel: bytes, text: bytes) -> tuple[str, Address]:
    """The name of a primary and its new address, from a sentinel's message.

    Raises:
        ValueError: the message has another form.
    """
    if channel.decode() == SWITCH:
        name, _, _, host, port = text.split(b" ")
    else:  # slave <host>:<port> <host> <port> @ <name> <old host> <old port>
        _, _, host, port, _, name, _, _ = text.split(b" ")
    return name.decode(), _address(host, port)


async def _read(connection: Connection) -> Any:
    async with asyncio.timeout(QUIET):
        return await connection.read()


def _address(host: bytes, port: bytes) -> Address:
    return host.decode(), int(port)
