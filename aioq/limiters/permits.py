"""What a permit holds, and who waits for one."""

import asyncio

from aioq.jobs.context import JobContext, job_here


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
        job: the job that waits; None outside of one.
        since: the loop's time when it began to wait.
        timeout: how long it waits, also while the server is away; None for as long as it takes.
    """

    __slots__ = ("future", "job", "since", "timeout", "tokens")

    def __init__(self, tokens: int, timeout: float | None) -> None:
        loop = asyncio.get_running_loop()
        self.tokens = tokens
        self.future: asyncio.Future[Held] = loop.create_future()
        self.job: JobContext | None = job_here()
        self.since = loop.time()
        self.timeout = timeout
