"""Short words for what the unit tests of the worker and the client say again and again."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from aioq.app import App
from aioq.config.settings import Settings
from aioq.store.contract import Claimed, Limits, Settlement, Verb
from aioq.store.memory import MemoryStore
from aioq.util.clock import ManualClock
from aioq.wire.messages import (
    CallOptions,
    Failure,
    WireOutcome,
    WireOutcomeKind,
    decode_failure,
    decode_outcome,
    encode_envelope,
)
from aioq.worker.run.environment import RunEnvironment
from aioq.worker.run.run import Run

T = TypeVar("T")

QUEUE = "mail"
WITHIN = 10.0  # seconds that anything here is waited for


async def until(check: Callable[[], T]) -> T:
    """Let the loop run until `check` is true; for what gives no signal of its own."""
    async with asyncio.timeout(WITHIN):
        while not (answer := check()):  # noqa: ASYNC110 - the point of it: nothing says when
            await asyncio.sleep(0)
    return answer


async def within(work: Awaitable[T]) -> T:
    """What hangs fails, and soon."""
    async with asyncio.timeout(WITHIN):
        return await work


async def turns(count: int = 20) -> None:
    """Give everything that is ready to run a chance to: for asserting that nothing more happens."""
    for _ in range(count):
        await asyncio.sleep(0)


@asynccontextmanager
async def running(*work: Coroutine[Any, Any, Any]) -> AsyncIterator[list["asyncio.Task[Any]"]]:
    """Run services in the background, and end them."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def others() -> set["asyncio.Task[Any]"]:
    """The asyncio tasks of this loop besides the test itself and anyio's runner of it."""
    return {
        task
        for task in asyncio.all_tasks()
        if task is not asyncio.current_task() and "TestRunner" not in getattr(task.get_coro(), "__qualname__", "")
    }


def memory_store(clock: ManualClock | None = None, *, lease_ms: int = 3_600_000) -> MemoryStore:
    return MemoryStore("shop", clock=clock or ManualClock(), limits=Limits(lease_ms=lease_ms))


def claimed(envelope: bytes = b"", *, job_id: str = "job", claim: int = 1, attempts: int = 0) -> Claimed:
    return Claimed(job_id, envelope, claim, attempts, 0, 0, 1_700_000_000_000, 1_700_000_001_000)


def call(task: str = "shop.add", *args: Any, options: CallOptions | None = None, **kwargs: Any) -> bytes:
    return encode_envelope(task, args, kwargs, options)


def make_run(envelope: bytes, *, attempts: int = 0) -> Run:
    return Run(QUEUE, "worker", claimed(envelope, attempts=attempts))


def make_environment(app: App, **settings: Any) -> RunEnvironment:
    return RunEnvironment(app.tasks, Settings(**{"name": app.name, **settings}), "the state")


def settlement(job_id: str = "job", verb: Verb = Verb.SUCCEEDED, *, claim: int = 1) -> Settlement:
    return Settlement(job_id, claim, verb, ttl_ms=60_000)


def outcome(settlement: Settlement | None) -> WireOutcome:
    assert settlement is not None
    return decode_outcome(settlement.outcome)


def failure(settlement: Settlement | None) -> Failure:
    found = outcome(settlement)
    assert found.kind is WireOutcomeKind.FAILED
    return decode_failure(found)
