# pyright: basic, reportMissingImports=false
# The library is installed in its own environment only, so the type checker sees nothing of it.
"""dramatiq. Settings: https://dramatiq.io/guide.html ("Workers", "Results") and https://dramatiq.io/advanced.html.

It runs plain functions in threads. Its coroutines (the AsyncIO middleware) take a thread each too. So its tasks
here are plain functions, which are faster.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import ResultMissing, Results
from dramatiq.results.backends import RedisBackend

from benchmarks import work
from benchmarks.contract import Setup

SETUP = Setup.read()
URL = SETUP.roomy_url
QUEUE = "default"

backend = RedisBackend(url=URL)
broker = RedisBroker(url=URL)
broker.add_middleware(Results(backend=backend, result_ttl=3_600_000, store_results=True))
dramatiq.set_broker(broker)


def keep(text: str) -> str:
    """Carry a payload."""
    return text


def _actor(name: str, function: Any) -> Any:
    return dramatiq.actor(function, actor_name=name, queue_name=QUEUE)


TASKS: dict[str, Any] = {
    "noop": _actor("noop", work.plain),
    "nap": _actor("nap", work.plain_nap),
    "plain": _actor("plain", work.plain),
    "keep": _actor("keep", keep),
}


class Dramatiq:
    """`send`, which blocks. A coroutine calls it one after the other: faster than with a thread for each call."""

    async def open(self) -> None:
        """It connects on first use."""

    async def close(self) -> None:
        """Disconnect."""
        broker.close()

    async def send(self, task: str, argument: Any) -> Any:
        """`send`."""
        return TASKS[task].send(argument)

    async def send_many(self, task: str, arguments: Sequence[Any]) -> Sequence[Any]:
        """One after the other: there is no bulk call."""
        return [TASKS[task].send(argument) for argument in arguments]

    async def wait(self, ticket: Any) -> Any:
        """`get_result`, blocking, in a thread."""
        return await asyncio.to_thread(ticket.get_result, backend=backend, block=True, timeout=60_000)

    def job_id(self, ticket: Any) -> str:
        """The message's id; the actor is `noop`, or `nap`, or `plain`."""
        return f"{ticket.actor_name}/{ticket.message_id}"

    async def read(self, job_id: str) -> Any:
        """The kept result of a message of that id."""
        actor, _, message_id = job_id.partition("/")
        message: Any = dramatiq.Message(QUEUE, actor, (), {}, {}, message_id=message_id)
        try:
            return message.get_result(backend=backend)
        except ResultMissing:
            return None

    def worker(self, task: str, processes: int) -> Sequence[str]:
        """`dramatiq`, with one thread for each job that sleeps at the same time, otherwise with the default of 8.

        A hundred threads with no-op jobs would only compete for the interpreter.
        """
        threads = SETUP.concurrency if task == "nap" else 8
        numbers = ("--processes", str(processes), "--threads", str(threads))
        return ("-m", "dramatiq", "benchmarks.peers.with_dramatiq", *numbers, "--skip-logging")


PEER = Dramatiq()
