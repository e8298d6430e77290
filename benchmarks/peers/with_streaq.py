# pyright: basic, reportMissingImports=false
# The library is installed in its own environment only, so the type checker sees nothing of it.
"""streaQ. Settings: https://streaq.readthedocs.io/en/latest/worker.html (concurrency, anyio options)."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

from streaq import Worker

from benchmarks import work
from benchmarks.contract import Setup

SETUP = Setup.read()

# uvloop through anyio, as its documentation of the event loop shows; the prefetch is what it takes by default.
worker = Worker(
    redis_url=SETUP.url or "redis://localhost",
    concurrency=SETUP.concurrency,
    anyio_backend="asyncio",
    anyio_kwargs={"use_uvloop": True},
)
# silent: one log line a job is what no library writes here.
TASKS: dict[str, Any] = {
    function.__name__: worker.task(name=function.__name__, ttl=3600, silent=True)(function)
    for function in (work.noop, work.nap, work.plain, work.keep)
}


class Streaq:
    """`enqueue`, and `enqueue_many`, which is one pipeline."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()

    async def open(self) -> None:
        """Connect."""
        await self._stack.enter_async_context(worker)

    async def close(self) -> None:
        """Disconnect."""
        await self._stack.aclose()

    async def send(self, task: str, argument: Any) -> Any:
        """Awaiting what `enqueue` returns sends it."""
        return await TASKS[task].enqueue(argument)

    async def send_many(self, task: str, arguments: Sequence[Any]) -> Sequence[Any]:
        """`enqueue_many`."""
        tasks = [TASKS[task].enqueue(argument) for argument in arguments]
        await worker.enqueue_many(tasks)
        return tasks

    async def wait(self, ticket: Any) -> Any:
        """A subscription of its own for each job."""
        return (await ticket.result()).result

    def job_id(self, ticket: Any) -> str:
        """The task's id."""
        return ticket.id

    async def read(self, job_id: str) -> Any:
        """The kept result."""
        return (await worker.result_by_id(job_id, timeout=5)).result

    def worker(self, task: str, processes: int) -> Sequence[str]:
        """`streaq run`."""
        return ("-m", "streaq", "run", "benchmarks.peers.with_streaq:worker", "--workers", str(processes))


PEER = Streaq()
