# pyright: basic, reportMissingImports=false
# The library is installed in its own environment only, so the type checker sees nothing of it.
"""SAQ. Settings: https://saq-py.readthedocs.io/ (Getting started, `Worker`, `RedisQueue`)."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from saq import Queue

from benchmarks import work
from benchmarks.contract import Setup

SETUP = Setup.read()
work.use_uvloop()  # SAQ's command takes the policy's loop
logging.getLogger("saq").setLevel(logging.WARNING)

# max_concurrent_ops bounds enqueues and reads at once, 20 by default; 100 senders are one workload.
queue = Queue.from_url(SETUP.roomy_url, max_concurrent_ops=100)


async def noop(_: dict[str, Any], *, number: int) -> int:
    """Mark that it has run."""
    return await work.noop(number)


async def nap(_: dict[str, Any], *, number: int) -> int:
    """Wait, then mark that it has run."""
    return await work.nap(number)


def plain(_: dict[str, Any], *, number: int) -> int:
    """Mark that it has run; SAQ runs plain functions in its thread pool."""
    return work.plain(number)


async def keep(_: dict[str, Any], *, number: str) -> str:
    """Carry a payload."""
    return await work.keep(number)


async def start(_: dict[str, Any]) -> None:
    """Hold the lock of the sweep, as if another worker had swept within the last minute.

    A worker sweeps when it starts. It then aborts jobs that it has taken from the queue itself but not marked as
    active yet. If the queue is full at the start, these are one or two jobs of a thousand, so each round would be
    void.
    """
    await queue.redis.set(queue.namespace("sweep"), 1, ex=3600)


# dequeue_timeout is left at 0, its default, which blocks on the server.
settings = {
    "queue": queue,
    "functions": [noop, nap, plain, keep],
    "concurrency": SETUP.concurrency,
    "startup": start,
}


class Saq:
    """`enqueue`; there is no bulk call, so many are gathered."""

    async def open(self) -> None:
        """Connect."""
        await queue.connect()

    async def close(self) -> None:
        """Disconnect."""
        await queue.disconnect()

    async def send(self, task: str, argument: Any) -> Any:
        """`enqueue`."""
        return await queue.enqueue(task, number=argument, ttl=3600)

    async def send_unique(self, task: str, argument: Any) -> Any:
        """A key of one's own: with SAQ that is what makes a job unique, until it has ended."""
        return await queue.enqueue(task, number=argument, ttl=3600, key=f"{task}:{argument}")

    async def send_many(self, task: str, arguments: Sequence[Any]) -> Sequence[Any]:
        """Gathered; the queue bounds how many are under way."""
        return await asyncio.gather(*(self.send(task, argument) for argument in arguments))

    async def wait(self, ticket: Any) -> Any:
        """`refresh` until complete, which listens to pub/sub.

        It reads the job first and listens afterwards, so it misses a job that ends in between. Hence the time
        limit of a second, after which it is called again.
        """
        while not ticket.completed:
            with suppress(TimeoutError):
                await ticket.refresh(until_complete=1)
        return ticket.result

    def job_id(self, ticket: Any) -> str:
        """The job's key."""
        return ticket.key

    async def read(self, job_id: str) -> Any:
        """The job's record."""
        job = await queue.job(job_id)
        return None if job is None else job.result

    def worker(self, task: str, processes: int) -> Sequence[str]:
        """`saq`."""
        return ("-m", "saq", "benchmarks.peers.with_saq.settings", "--workers", str(processes))


PEER = Saq()
