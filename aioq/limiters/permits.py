"""What a permit holds, and who waits for one."""

import asyncio
from collections import deque
from itertools import islice

from aioq.errors import ConfigError
from aioq.jobs.context import JobContext, batch_here, job_here
from aioq.limiters.rules import check_tokens
from aioq.store.limiters import MOST_NEEDS, LimiterRule


class Held:
    """What a permit holds.

    Attributes:
        tokens: how many it was taken for.
        stamp: when they were taken, as `Taken.stamp`.
        has_place: whether it holds a place.
        actual: how many were used in the end; None if nobody has said so.
        has_ended: whether it was given back.
    """

    __slots__ = ("actual", "has_ended", "has_place", "stamp", "tokens")

    def __init__(self, tokens: int, stamp: float, *, has_place: bool) -> None:
        self.tokens = tokens
        self.stamp = stamp
        self.has_place = has_place
        self.has_ended = False
        self.actual: int | None = None


class Waiter:
    """Somebody who waits for a permit.

    Attributes:
        tokens: how many it is to be for.
        future: gets it.
        job: the job that waits, or what stands for a batch; None outside of both.
        since: the loop's time when it began to wait.
        timeout: how long it waits, also while the server is away; None for as long as it takes.
    """

    __slots__ = ("future", "job", "since", "timeout", "tokens")

    def __init__(self, tokens: int, timeout: float | None) -> None:
        loop = asyncio.get_running_loop()
        self.tokens = tokens
        self.future: asyncio.Future[Held] = loop.create_future()
        self.job: JobContext | None = job_here() or batch_here.get()
        self.since = loop.time()
        self.timeout = timeout


class Line:
    """Those who wait, in their order."""

    def __init__(self) -> None:
        self._waiters: deque[Waiter] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiters)

    @property
    def jobs(self) -> set[JobContext]:
        """The jobs among them."""
        return {each.job for each in self._waiters if each.job is not None}

    def add(self, waiter: Waiter) -> None:
        """Somebody waits, behind the others."""
        self._waiters.append(waiter)

    def first(self) -> Waiter | None:
        """Who waits for the longest, without those who have just given up."""
        while self._waiters and self._waiters[0].future.done():
            self._waiters.popleft()
        return self._waiters[0] if self._waiters else None

    def serve(self, permit: Held) -> None:
        """Give the first one its permit."""
        self._waiters.popleft().future.set_result(permit)

    def needs(self) -> list[int]:
        """The tokens that the first of them need."""
        return [each.tokens for each in islice(self._waiters, MOST_NEEDS)]

    def remove(self, waiter: Waiter) -> bool:
        """Somebody does not wait any more; returns whether that was the first one."""
        was_first = bool(self._waiters) and self._waiters[0] is waiter
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        return was_first

    def impatient(self, before: float) -> list[Waiter]:
        """Those without a timeout who have waited since then or longer."""
        return [each for each in self._waiters if each.timeout is None and each.since < before]

    def refuse(self, error: Exception) -> None:
        """Nobody gets a permit."""
        for waiter in self._waiters:
            refuse(waiter, error)
        self._waiters.clear()

    def refuse_too_large(self, name: str, rule: LimiterRule) -> None:
        """Refuse those who wait for more than there ever will be."""
        for waiter in [*self._waiters]:
            try:
                check_tokens(name, waiter.tokens, rule)
            except ConfigError as error:
                refuse(waiter, error)
                self._waiters.remove(waiter)


def refuse(waiter: Waiter, error: Exception) -> None:
    """Let somebody wait no more."""
    if not waiter.future.done():
        waiter.future.set_exception(error)
