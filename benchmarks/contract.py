"""The interface between the benchmark and a library: an adapter in `benchmarks/peers/` implements it.

An adapter is imported in the library's own environment only, by `benchmarks.driver`. It gets the server's URL from
environment variables, because a worker that the library's own command starts imports the adapter too.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

TASKS = ("noop", "nap", "plain", "keep")
"""The tasks that every adapter registers; their bodies are in `benchmarks/work.py`."""


@dataclass(frozen=True, slots=True)
class Setup:
    """The parameters of one measurement.

    Attributes:
        url: the server, on loopback TCP.
        concurrency: how many jobs a worker process may run at once.
    """

    url: str
    concurrency: int

    @property
    def roomy_url(self) -> str:
        """The URL for libraries that use one connection of redis-py's pool for each running job.

        The pool holds 100 connections by default. At a concurrency of 100, requests for more fail, and jobs are
        late by minutes. Nobody with that concurrency would keep this default.
        """
        return f"{self.url or 'redis://localhost'}?max_connections=4000"

    @classmethod
    def read(cls) -> Self:
        """Read it from the environment."""
        return cls(os.environ.get("BENCH_URL", ""), int(os.environ.get("BENCH_CONCURRENCY", "100")))

    def environ(self) -> dict[str, str]:
        """The environment variables that `read` reads."""
        return {"BENCH_URL": self.url, "BENCH_CONCURRENCY": str(self.concurrency)}


class KeyedPeer(Protocol):
    """A library with unique keys."""

    async def send_unique(self, task: str, argument: Any) -> Any:
        """Enqueue one job that is unique by its argument, and return once the server has it."""
        ...


class LimitedPeer(Protocol):
    """A library with limits by key.

    It has three more tasks, with the body of `noop`. Of `limited` one job of a key runs at a time, by the limit
    `customer`; `twice_limited` has the limit `second` too. Both have `KEYS` keys. Of `held` each job has its own.
    A library with one limit for a task has `limited` only.
    """

    KEYS: int

    async def hold(self, limit: str, key: int | None = None) -> None:
        """Let no job of a limit run, or of one of its keys."""
        ...

    async def let_go(self, limit: str, key: int | None = None) -> None:
        """End that."""
        ...


class LimitingPeer(Protocol):
    """A library with limiters that several processes share."""

    async def use_permit(self) -> None:
        """Get one permit, and give it back."""
        ...

    async def call_server(self) -> None:
        """Make one plain call to the server, as programs do that count there by themselves."""
        ...


class Peer(Protocol):
    """A library, called as its users would call it.

    `send` returns a ticket: the object that the library gives its user. Only the adapter knows what it is.
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
        """The result of a job that has ended; any other value if there is no result."""
        ...

    def worker(self, task: str, processes: int) -> Sequence[str]:
        """The arguments after `python` that start a worker of that many processes for that task.

        The worker runs with the concurrency of `Setup` in each process, and logs nothing about single jobs.
        """
        ...
