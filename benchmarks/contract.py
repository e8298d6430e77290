"""What the benchmark asks of a library: one adapter in `benchmarks/peers/` gives it.

An adapter is imported in the library's own environment only, by `benchmarks.driver`. It learns what to connect to
from environment variables, because a worker that the library's own command starts imports it as well.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

TASKS = ("noop", "nap", "plain", "keep")
"""The tasks that every adapter registers; their bodies are in `benchmarks/work.py`."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What this measurement runs with.

    Attributes:
        url: the server, on loopback TCP.
        concurrency: how many jobs a worker process may run at once.
    """

    url: str
    concurrency: int

    @property
    def roomy_url(self) -> str:
        """The URL for libraries that take as many connections of redis-py's pool as jobs run at once.

        The pool holds 100 by default. What asks for more at a concurrency of 100 fails, and its jobs are late by
        minutes; nobody who runs that concurrency would leave it so.
        """
        return f"{self.url or 'redis://localhost'}?max_connections=4000"

    @classmethod
    def read(cls) -> Self:
        """Read it from the environment."""
        return cls(os.environ.get("BENCH_URL", ""), int(os.environ.get("BENCH_CONCURRENCY", "100")))

    def environ(self) -> dict[str, str]:
        """The environment variables that `read` finds it in."""
        return {"BENCH_URL": self.url, "BENCH_CONCURRENCY": str(self.concurrency)}


class Peer(Protocol):
    """A library, as a user of it would call it.

    What `send` returns, a ticket, is whatever the library gives its user; only the adapter looks inside.
    """

    async def open(self) -> None:
        """Connect."""
        ...

    async def close(self) -> None:
        """Disconnect."""
        ...

    async def send(self, task: str, argument: Any) -> Any:
        """Enqueue one job, and return once the server has it."""
        ...

    async def send_many(self, task: str, arguments: Sequence[Any]) -> Sequence[Any]:
        """Enqueue jobs in the fastest way the library offers, and return once the server has them all."""
        ...

    async def wait(self, ticket: Any) -> Any:
        """Wait for a job's result in the way the library offers, and return it."""
        ...

    def job_id(self, ticket: Any) -> str:
        """The id by which another process can read the result."""
        ...

    async def read(self, job_id: str) -> Any:
        """The result of a job that has ended; anything else than the result where there is none."""
        ...

    def worker(self, task: str, processes: int) -> Sequence[str]:
        """The arguments after `python` that start a worker of that many processes for that task.

        The worker runs with the concurrency of `Setup` in each process, and logs nothing about single jobs.
        """
        ...
