# pyright: basic, reportMissingImports=false
# The library is installed in its own environment only, so the type checker sees nothing of it.
"""Celery. Settings: https://docs.celeryq.dev/en/stable/userguide/optimizing.html ("Prefetch Limits").

It has no coroutines. For no-op jobs the pool is `solo`, which passes nothing between processes and is the fastest
single process here. For jobs that sleep or should run in threads, it is `threads`.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from celery import Celery as App

from benchmarks import work
from benchmarks.contract import Setup

SETUP = Setup.read()
URL = SETUP.url or "redis://localhost"

app = App("bench", broker=URL, backend=URL)
app.conf.update(
    # For many short tasks the guide advises to experiment with a large multiplier, and names 50 and 150.
    worker_prefetch_multiplier=128,
    worker_enable_remote_control=False,
    worker_send_task_events=False,
    task_acks_late=True,  # as in all other libraries, a job that a crash interrupts runs again
    result_expires=3600,
    broker_connection_retry_on_startup=True,
)


def keep(text: str) -> str:
    """Carry a payload."""
    return text


def plain(number: int) -> int:
    """Mark that it has run; a function of its own, because each is one task only."""
    return work.plain(number)


TASKS: dict[str, Any] = {
    "noop": app.task(work.plain, name="noop"),
    "nap": app.task(work.plain_nap, name="nap"),
    "plain": app.task(plain, name="plain"),
    "keep": app.task(keep, name="keep"),
}


class Celery:
    """`delay`, which blocks. A coroutine calls it one after the other: faster than with a thread for each call."""

    async def open(self) -> None:
        """It connects on first use."""

    async def close(self) -> None:
        """Disconnect."""
        app.close()

    async def send(self, task: str, argument: Any) -> Any:
        """`delay`."""
        return TASKS[task].delay(argument)

    async def send_many(self, task: str, arguments: Sequence[Any]) -> Sequence[Any]:
        """One after the other, over one producer: there is no bulk call."""
        with app.producer_or_acquire() as producer:
            return [TASKS[task].apply_async((argument,), producer=producer) for argument in arguments]

    async def wait(self, ticket: Any) -> Any:
        """`get`, blocking, in a thread; notified by pub/sub."""
        return await asyncio.to_thread(ticket.get, timeout=60)

    def job_id(self, ticket: Any) -> str:
        """The task's id."""
        return ticket.id

    async def read(self, job_id: str) -> Any:
        """The kept result, without the subscription that `get` makes."""
        return app.backend.get_task_meta(job_id, cache=False)["result"]

    def worker(self, task: str, processes: int) -> Sequence[str]:
        """`celery worker`, without the messages between workers that one worker has no use for."""
        pool = ("--pool", "solo")
        if task in {"nap", "plain"}:
            pool = ("--pool", "threads", "--concurrency", str(SETUP.concurrency))
        quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING")
        command = ["-m", "celery", "--app", "benchmarks.peers.with_celery:app", "worker", *pool, *quiet]
        return command if processes == 1 else ("-m", "benchmarks.several", str(processes), *command)


PEER = Celery()
