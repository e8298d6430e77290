# pyright: basic, reportMissingImports=false
# The library is installed in its own environment only, so the type checker sees nothing of it.
"""blitzq. Settings: docs/performance_tuning.md and "Configuration" of its README."""

from collections.abc import Sequence
from typing import Any

from blitzq import Queue

from benchmarks import work
from benchmarks.contract import Setup

SETUP = Setup.read()
work.use_uvloop()  # its command runs the policy's loop

# Reliable mode, the default: the fast one may lose jobs, which nothing else here does. track_state stays off, as
# by default: it costs a write for each transition.
queue = Queue("default", redis_url=SETUP.url or None, store_results=True, result_ttl=3600)
TASKS: dict[str, Any] = {
    function.__name__: queue.task(name=function.__name__)(function)
    for function in (work.noop, work.nap, work.plain, work.keep)
}


class Blitzq:
    """`enqueue`, and `enqueue_many`, which is one pipeline."""

    async def open(self) -> None:
        """Connect."""
        await queue.connect()

    async def close(self) -> None:
        """Disconnect."""
        await queue.close()

    async def send(self, task: str, argument: Any) -> Any:
        """`enqueue`."""
        return await TASKS[task].enqueue(argument)

    async def send_many(self, task: str, arguments: Sequence[Any]) -> Sequence[Any]:
        """`enqueue_many`."""
        return await TASKS[task].enqueue_many([(argument,) for argument in arguments])

    async def wait(self, ticket: Any) -> Any:
        """`get_result`, which waits for pub/sub."""
        return await queue.get_result(ticket.id)

    def job_id(self, ticket: Any) -> str:
        """The task's id."""
        return ticket.id

    async def read(self, job_id: str) -> Any:
        """The kept result."""
        return await queue.get_result(job_id, timeout=5)

    def worker(self, task: str, processes: int) -> Sequence[str]:
        """`blitzq worker`."""
        numbers = ("--concurrency", str(SETUP.concurrency), "--workers", str(processes))
        return ("-m", "blitzq", "worker", "benchmarks.peers.with_blitzq:queue", *numbers, "--log-level", "WARNING")


PEER = Blitzq()
