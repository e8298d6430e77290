# pyright: basic, reportMissingImports=false
# The library is installed in its own environment only, so the type checker sees nothing of it.
"""docket (pydocket). Settings: `docket worker --help`, which explains each, and its README."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from docket import ConcurrencyLimit
from docket import Docket as Client

from benchmarks import work
from benchmarks.contract import Setup

SETUP = Setup.read()
NAME = "bench"
URL = SETUP.roomy_url


async def plain(number: int) -> int:
    """docket takes coroutines only; a thread is the task's own affair."""
    return await asyncio.to_thread(work.plain, number)


KEYS = 1_000


async def limited(number: int, key: int, limit: ConcurrencyLimit = ConcurrencyLimit("key", 1)) -> int:  # noqa: B008 - docket declares it so
    """`work.noop` under docket's limit, of which a task has one, by an argument."""
    return await work.noop(number)


tasks = [work.noop, work.nap, plain, work.keep, limited]
TASKS: dict[str, Any] = {task.__name__: task for task in tasks}


def _arguments(task: str, argument: Any) -> tuple[Any, ...]:
    return (argument, argument % KEYS) if task == "limited" else (argument,)


class Docket:
    """`add`, and `add_many`, which is one pipeline a thousand."""

    KEYS = KEYS

    def __init__(self) -> None:
        self._docket = Client(NAME, URL, execution_ttl=timedelta(hours=1))

    async def open(self) -> None:
        """Connect."""
        await self._docket.__aenter__()
        for task in tasks:
            self._docket.register(task)

    async def close(self) -> None:
        """Disconnect."""
        await self._docket.__aexit__(None, None, None)

    async def send(self, task: str, argument: Any) -> Any:
        """`add`."""
        return await self._docket.add(TASKS[task])(*_arguments(task, argument))

    async def send_many(self, task: str, arguments: Sequence[Any]) -> Sequence[Any]:
        """`call` each, `add_many` them."""
        call = self._docket.call
        return await self._docket.add_many([call(TASKS[task])(*_arguments(task, each)) for each in arguments])

    async def wait(self, ticket: Any) -> Any:
        """A subscription of its own for each job."""
        return await ticket.get_result()

    def job_id(self, ticket: Any) -> str:
        """The execution's key."""
        return ticket.key

    async def read(self, job_id: str) -> Any:
        """The kept result."""
        execution = await self._docket.get_execution(job_id)
        return None if execution is None else await execution.get_result(timeout=timedelta(seconds=5))

    def worker(self, task: str, processes: int) -> Sequence[str]:
        """`docket worker`; its command runs asyncio's own loop and has no option for another."""
        command = [
            *("-m", "docket", "worker", "--docket", NAME, "--url", URL),
            *("--tasks", "benchmarks.peers.with_pydocket:tasks", "--concurrency", str(SETUP.concurrency)),
            *("--logging-level", "WARNING"),
        ]
        return command if processes == 1 else ("-m", "benchmarks.several", str(processes), *command)


PEER = Docket()
