"""Duty of `--burst`: finds out when the queues are empty.

They are empty when everything that this worker ran is written and another check then finds nothing to claim. Jobs
that are scheduled for later, and jobs that other workers run, are not waited for. Jobs that wait for others for
their batch are run with those that are there, because no more are waited for.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable

from aioq.errors import ServerError
from aioq.jobs.job import JobState
from aioq.store.contract import Store
from aioq.store.operating import MOST_LISTED, ListPosition, ListQuery
from aioq.util.log import logger

log = logger("aioq.worker")

Hurry = Callable[[], Awaitable[bool]]
"""Queues jobs that wait for others; returns whether there were any."""


class Burst:
    """Knows when all queues of a worker are empty.

    Args:
        queues: the queues that the worker serves.
        running: returns how many jobs this worker runs.
        check_again: writes all outcomes and makes every fetcher claim again.
    """

    def __init__(
        self, queues: Iterable[str], running: Callable[[], int], check_again: Callable[[], Awaitable[None]]
    ) -> None:
        self._queues = set(queues)
        self._running = running
        self._check_again = check_again
        self._empty: set[str] = set()
        self._outdated = True
        self._changed = asyncio.Event()
        self._is_paused = False

    def add(self, queue: str) -> None:
        """The worker serves one more queue."""
        self._queues.add(queue)

    def remove(self, queue: str) -> None:
        """The worker does not serve this queue any more."""
        self._queues.discard(queue)
        self._changed.set()

    def paused(self, *, is_paused: bool) -> None:
        """The worker takes no jobs, or takes them again."""
        self._is_paused = is_paused
        self._changed.set()

    def delivered(self) -> None:
        """A job has come in."""
        self._outdated = True
        self._empty.clear()

    def empty(self, queue: str) -> None:
        """A claim from the queue found nothing."""
        self._empty.add(queue)
        self._changed.set()

    def idle(self) -> None:
        """The last running job has ended."""
        self._changed.set()

    async def wait(self, *, or_paused: bool = False, hurry: Hurry | None = None) -> None:
        """Return when the queues are empty, or no job runs because the worker is paused; may be called again.

        Args:
            or_paused: whether to return if the worker is paused.
            hurry: called when they are empty; returns whether it has queued jobs, which are waited for then.
        """
        self._outdated = True
        self._changed.set()
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._running():
                continue
            if self._is_paused:
                if or_paused:
                    return
                self._outdated = True
                continue
            if self._outdated:
                self._outdated = False
                self._empty.clear()
                await self._check_again()
            elif self._empty >= self._queues:
                if hurry is None or not await hurry():
                    return
                self._outdated = True
                self._changed.set()


async def hurry_batches(store: Store, queues: Iterable[str], tasks: Collection[str]) -> bool:
    """Let jobs of these tasks be run now that wait for others for their batch; returns whether there were any."""
    found = False
    try:
        for queue in queues if tasks else ():
            after: ListPosition | None = ()
            while after is not None:
                query = ListQuery(JobState.WAITING)
                listing = await store.operating.list_jobs(queue, query, after, MOST_LISTED)
                waiting = [each.info.id for each in listing.items if each.info and each.info.task in tasks]
                states = await store.reschedule(queue, waiting) if waiting else ()
                found, after = found or JobState.QUEUED in states, listing.after
    except ServerError as error:
        log.warning("could not look for jobs that wait for their batch: %s", error)
    return found
