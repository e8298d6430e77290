"""Requests to a worker: how they reach it, and how its answer comes back. Part of the store contract.

A request is kept among the cancellations of its worker until that has answered. Each renewal of the lease brings
it, so it arrives also while the worker's event loop is blocked. A message tells the worker to renew at once.
"""

import enum
from typing import Protocol

ASKED = "\n"
"""The first character of a request among the ids of jobs that are to be cancelled; no id contains it."""

ANSWER_TTL_MS = 60_000
"""How long an answer is kept for who has asked."""


class NoAnswer(enum.Enum):
    """What a worker that is asked does instead of answering: it is not known any more, or has not answered yet."""

    GONE = enum.auto()
    LATER = enum.auto()


class WorkerControl(Protocol):
    """Asks workers for something. Every verb may raise `ServerUnavailableError` or `ServerRejectedError`."""

    async def ask(self, queue: str, worker: str, request: str) -> bytes | NoAnswer:
        """Ask a worker, or return its answer if it has answered: to be called until it has.

        Args:
            queue: one of its queues.
            worker: its id there.
            request: a name that no other request has, a line break, and what the worker is asked for.
        """
        ...

    async def withdraw(self, queue: str, worker: str, request: str) -> None:
        """Take back a request; the worker may have it already."""
        ...


def name_of(request: str) -> str:
    """The name of a request."""
    return request.partition("\n")[0]
