"""Requests to workers in memory."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Protocol

from aioq.store.control import ANSWER_TTL_MS, NoAnswer, name_of


class QueueRequests:
    """What the workers of one queue are asked for, and what they have answered; in real time, as leases are.

    Args:
        is_registered: tells whether there is a worker of an id.
        notify: tells a worker that it is asked for something.
    """

    def __init__(self, is_registered: Callable[[str], bool], notify: Callable[[str], None]) -> None:
        self._is_registered = is_registered
        self._notify = notify
        self._asked: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self._answers: dict[str, tuple[bytes, float]] = {}

    def ask(self, worker: str, request: str) -> bytes | NoAnswer:
        """Ask a worker, or return its answer if it has answered."""
        now = time.monotonic()
        self._answers = {name: each for name, each in self._answers.items() if each[1] > now}
        found = self._answers.get(name_of(request))
        if found is not None:
            return found[0]
        if not self._is_registered(worker):
            return NoAnswer.GONE
        self._asked[worker][request] = None
        self._notify(worker)
        return NoAnswer.LATER

    def asked(self, worker: str) -> list[str]:
        """What a worker is asked for."""
        return list(self._asked.get(worker, ()))

    def answer(self, worker: str, answers: Iterable[tuple[str, bytes]]) -> None:
        """Keep a worker's answers."""
        for request, answer in answers:
            self.withdraw(worker, request)
            self._answers[name_of(request)] = (answer, time.monotonic() + ANSWER_TTL_MS / 1000)

    def withdraw(self, worker: str, request: str) -> None:
        """Forget a request."""
        self._asked[worker].pop(request, None)

    def forget(self, worker: str) -> None:
        """Forget a worker; what it has answered stays."""
        self._asked.pop(worker, None)


class AskedQueue(Protocol):
    """A queue."""

    requests: QueueRequests


class MemoryWorkerControl:
    """Asks workers for something.

    Args:
        lock: locks a queue for one verb, and returns it.
    """

    def __init__(self, lock: Callable[[str], AbstractContextManager[AskedQueue]]) -> None:
        self._locked = lock

    async def ask(self, queue: str, worker: str, request: str) -> bytes | NoAnswer:
        """Ask a worker, or return its answer if it has answered."""
        with self._locked(queue) as locked:
            return locked.requests.ask(worker, request)

    async def withdraw(self, queue: str, worker: str, request: str) -> None:
        """Take back a request."""
        with self._locked(queue) as locked:
            locked.requests.withdraw(worker, request)
