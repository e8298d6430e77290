# pyright: basic, reportMissingImports=false
# The library is installed in its own environment only, so the type checker sees nothing of it.
"""ArdiQ. Settings: https://ardiq.bytay.dev/guides/performance/ and the table "Configuration" of its README."""

from collections.abc import Sequence
from typing import Any

from ardiq import Ardiq as App

from benchmarks import work
from benchmarks.contract import Setup

SETUP = Setup.read()
work.use_uvloop()  # its command runs the policy's loop; Redis is spoken to in Rust, off that loop

# The prefetch is twice the concurrency by default.
app = App(redis_url=SETUP.url or None, queue_name="bench", concurrency=SETUP.concurrency, result_ttl_ms=3_600_000)
TASKS: dict[str, Any] = {
    function.__name__: app.task(name=function.__name__)(function)
    for function in (work.noop, work.nap, work.plain, work.keep)
}


class Ardiq:
    """`enqueue`, and `enqueue_many`, which is one round trip."""

    async def open(self) -> None:
        """It connects on first use."""

    async def close(self) -> None:
        """Likewise."""

    async def send(self, task: str, argument: Any) -> Any:
        """`enqueue`."""
        return await TASKS[task].enqueue(argument)

    async def send_many(self, task: str, arguments: Sequence[Any]) -> Sequence[Any]:
        """`prepare` each, `enqueue_many` them."""
        return await app.enqueue_many([TASKS[task].prepare(argument) for argument in arguments])

    async def wait(self, ticket: Any) -> Any:
        """`result` with a timeout."""
        return (await ticket.result(timeout=60)).value

    def job_id(self, ticket: Any) -> str:
        """The job's id."""
        return ticket.id

    async def read(self, job_id: str) -> Any:
        """The kept result."""
        found = await app.result(job_id)
        return None if found is None else found.value

    def worker(self, task: str, processes: int) -> Sequence[str]:
        """`ardiq run`."""
        return ("-m", "ardiq", "run", "benchmarks.peers.with_ardiq:app", "--quiet", "--workers", str(processes))


PEER = Ardiq()
