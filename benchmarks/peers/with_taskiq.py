# pyright: basic, reportMissingImports=false
# The library is installed in its own environment only, so the type checker sees nothing of it.
"""taskiq with the stream broker of taskiq-redis, which is the one that acknowledges.

Settings: https://taskiq-python.github.io/guide/cli.html and https://github.com/taskiq-python/taskiq-redis.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from taskiq.serializers import PickleSerializer
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from benchmarks import work
from benchmarks.contract import Setup

SETUP = Setup.read()
URL = SETUP.url or "redis://localhost"

# consumer_id "0" instead of "$": the queue is filled before the first worker makes the group, and with "$" the
# group would skip these jobs. Results are pickled, which is the backend's default.
broker = RedisStreamBroker(URL, consumer_id="0", max_connection_pool_size=120).with_result_backend(
    RedisAsyncResultBackend(URL, result_ex_time=3600, serializer=PickleSerializer(), max_connection_pool_size=120)
)
TASKS: dict[str, Any] = {
    function.__name__: broker.task(task_name=function.__name__)(function)
    for function in (work.noop, work.nap, work.plain, work.keep)
}


class Taskiq:
    """`kiq`; there is no bulk call, so many are gathered."""

    async def open(self) -> None:
        """Connect."""
        await broker.startup()

    async def close(self) -> None:
        """Disconnect."""
        await broker.shutdown()

    async def send(self, task: str, argument: Any) -> Any:
        """`kiq`."""
        return await TASKS[task].kiq(argument)

    async def send_many(self, task: str, arguments: Sequence[Any]) -> Sequence[Any]:
        """100 at a time: each takes a connection of its own."""
        found: list[Any] = []
        for start in range(0, len(arguments), 100):
            found += await asyncio.gather(*(self.send(task, each) for each in arguments[start : start + 100]))
        return found

    async def wait(self, ticket: Any) -> Any:
        """Polls; its default of 0.2 s would measure the pause."""
        return (await ticket.wait_result(check_interval=0.001)).return_value

    def job_id(self, ticket: Any) -> str:
        """The task's id."""
        return ticket.task_id

    async def read(self, job_id: str) -> Any:
        """The kept result."""
        return (await broker.result_backend.get_result(job_id)).return_value

    def worker(self, task: str, processes: int) -> Sequence[str]:
        """`taskiq worker`, which uses uvloop if it is installed.

        --no-parse avoids that pydantic parses the arguments; --max-prefetch fills the gap between two reads.
        """
        numbers = ("--workers", str(processes), "--max-async-tasks", str(SETUP.concurrency))
        options = ("--max-prefetch", str(SETUP.concurrency), "--no-parse", "--log-level", "WARNING")
        return ("-m", "taskiq", "worker", "benchmarks.peers.with_taskiq:broker", *numbers, *options)


PEER = Taskiq()
