"""aioq, with its defaults; only the log level is raised, as for every library."""

from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis

from aioq import App, Batch, BatchItem, Limit, Unique
from benchmarks import work
from benchmarks.contract import Setup

SETUP = Setup.read()
app = App("bench", url=SETUP.url or None)
TASKS: dict[str, Any] = {function.__name__: app.task(function) for function in (work.noop, work.nap, work.keep)}
TASKS["plain"] = app.task(work.plain)
LIMITER = app.limiter("bench", rate=1_000_000_000, concurrency=100)
CLIENT: Any = Redis.from_url(SETUP.url or "redis://localhost")  # pyright: ignore[reportUnknownMemberType] - redis-py is partly typed


@app.task(name="batched", batch=Batch(size=100, wait=0.5))
async def batched(items: list[BatchItem[int]]) -> list[int]:
    """`work.noop` for a hundred jobs."""
    return [await work.noop(item.value) for item in items]


TASKS["batched"] = batched
KEYS = 1_000
CUSTOMER = Limit("customer", by=lambda job: job["number"] % KEYS, concurrency=1)
SECOND = Limit("second", by=lambda job: job["number"] % KEYS, concurrency=1)
TASKS["limited"] = app.task(name="limited", limits=[CUSTOMER])(work.noop)
TASKS["twice_limited"] = app.task(name="twice_limited", limits=[CUSTOMER, SECOND])(work.noop)
HELD = Limit("held", by=lambda job: job["number"], concurrency=1)
TASKS["held"] = app.task(name="held", limits=[HELD])(work.noop)
UNIQUE: dict[str, Any] = {"noop": app.task(name="unique", unique=Unique())(work.noop)}


class Aioq:
    """`send`, `send_many`, and awaiting a handle."""

    KEYS = KEYS

    async def open(self) -> None:
        """Connect."""
        await app.__aenter__()

    async def close(self) -> None:
        """Disconnect."""
        await app.aclose()
        await CLIENT.aclose()

    async def send(self, task: str, argument: Any) -> Any:
        """`task.send`."""
        return await TASKS[task].send(argument)

    async def send_unique(self, task: str, argument: Any) -> Any:
        """`send` of a task with `unique=Unique()`."""
        return await UNIQUE[task].send(argument)

    async def hold(self, limit: str, key: int | None = None) -> None:
        """`app.limits.pause`."""
        await app.limits.pause(limit, key=key)

    async def let_go(self, limit: str, key: int | None = None) -> None:
        """`app.limits.resume`."""
        await app.limits.resume(limit, key=key)

    async def use_permit(self) -> None:
        """`limiter.acquire`."""
        async with LIMITER.acquire():
            pass

    async def call_server(self) -> None:
        """An INCR with redis-py."""
        await CLIENT.incr("bench:calls")

    async def send_many(self, task: str, arguments: Sequence[Any]) -> Sequence[Any]:
        """`task.send_many`."""
        return await TASKS[task].send_many([(argument,) for argument in arguments])

    async def wait(self, ticket: Any) -> Any:
        """`await handle`."""
        return await ticket

    def job_id(self, ticket: Any) -> str:
        """The handle's id."""
        return ticket.id

    async def read(self, job_id: str) -> Any:
        """A handle made from the id."""
        return await app.handle(job_id).result(timeout=1)

    def worker(self, task: str, processes: int) -> Sequence[str]:
        """`aioq worker`."""
        numbers = ("--concurrency", str(SETUP.concurrency), "--processes", str(processes))
        return ("-m", "aioq", "worker", "benchmarks.peers.with_aioq:app", *numbers, "--log-level", "warning")


PEER = Aioq()
