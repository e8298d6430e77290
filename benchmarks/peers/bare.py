"""Bare loops without a framework, which show the most that Python and redis-py can do.

`bulk` is one script call for 500 jobs. `coalesced` gathers the sends of one turn of the event loop into one call.
The round trip is one XADD, and the drain is XREADGROUP and XACK. There is no job record and no result;
`bare_records` adds those.
"""

import asyncio
from collections.abc import Sequence
from hashlib import sha1
from typing import Any, cast

from redis.asyncio.connection import AbstractConnection, ConnectionPool

from benchmarks import work
from benchmarks.contract import Setup

SETUP = Setup.read()
PER_CALL = 500
"""The jobs of one bulk call; more would not be faster."""

LANE, GROUP = "lane", "group"
ENQUEUE = """
for i = 1, #ARGV do redis.call('XADD', KEYS[1], '*', 'job', ARGV[i]) end
"""

Future = asyncio.Future[None]


class Connection:
    """One connection, a command at a time."""

    def __init__(self) -> None:
        untyped: Any = ConnectionPool
        self._pool: ConnectionPool = untyped.from_url(SETUP.url, protocol=2)
        self._connection: AbstractConnection | None = None

    async def open(self) -> None:
        """Connect."""
        self._connection = self._pool.make_connection()
        await self._connection.connect()

    async def close(self) -> None:
        """Disconnect."""
        if self._connection is not None:
            await self._connection.disconnect()

    async def __call__(self, *command: Any) -> Any:
        """Send a command and read its reply."""
        connection = self._connection
        assert connection is not None
        await connection.send_packed_command(connection.pack_command(*command), check_health=False)
        return cast("Any", await connection.read_response())


class Bare:
    """The bare loops, in the shape of a library."""

    script = ENQUEUE
    module = __name__

    def __init__(self) -> None:
        self.command = Connection()
        self.sha = sha1(self.script.encode()).hexdigest()
        self._gathered: list[tuple[str, Future]] = []
        self._flusher: asyncio.Task[None] | None = None
        self._sent = 0

    async def open(self) -> None:
        """Connect and load the script."""
        await self.command.open()
        await self.command("SCRIPT", "LOAD", self.script)

    async def close(self) -> None:
        """Disconnect."""
        await self.command.close()

    async def send(self, task: str, argument: Any) -> Any:
        """Wait for the call that sends all jobs of this turn of the event loop."""
        future: Future = asyncio.get_running_loop().create_future()
        self._gathered.append((str(argument), future))
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush())
        await future
        return argument

    async def _flush(self) -> None:
        while self._gathered:
            batch, self._gathered = self._gathered[:PER_CALL], self._gathered[PER_CALL:]
            await self.enqueue([argument for argument, _ in batch])
            for _, future in batch:
                future.set_result(None)
        self._flusher = None

    async def send_many(self, task: str, arguments: Sequence[Any]) -> Sequence[Any]:
        """One script call per 500 jobs."""
        for start in range(0, len(arguments), PER_CALL):
            await self.enqueue([str(argument) for argument in arguments[start : start + PER_CALL]])
        return arguments

    async def enqueue(self, arguments: list[str]) -> None:
        """One call; a single job takes the one command that it needs."""
        if len(arguments) == 1:
            await self.command("XADD", LANE, "*", "job", arguments[0])
        else:
            await self.command("EVALSHA", self.sha, 1, LANE, *arguments)

    async def wait(self, ticket: Any) -> Any:
        """Nobody knows."""
        raise NotImplementedError

    def job_id(self, ticket: Any) -> str:
        """The argument."""
        return str(ticket)

    async def read(self, job_id: str) -> Any:
        """Nobody knows."""
        raise NotImplementedError

    def worker(self, task: str, processes: int) -> Sequence[str]:
        """This module."""
        return ("-m", self.module)


async def drain(command: Connection) -> None:
    """XREADGROUP, run, XACK."""
    count = SETUP.concurrency
    await command.open()
    await command("XGROUP", "CREATE", LANE, GROUP, "0", "MKSTREAM")
    while True:
        reply = await command(
            *("XREADGROUP", "GROUP", GROUP, "worker", "COUNT", count, "BLOCK", 1000, "STREAMS", LANE, ">")
        )
        for _, entries in reply or ():
            for _, fields in entries:
                await work.noop(int(fields[1]))
            await command("XACK", LANE, GROUP, *(entry for entry, _ in entries))


PEER = Bare()

if __name__ == "__main__":
    work.use_uvloop()
    asyncio.run(drain(Connection()))
