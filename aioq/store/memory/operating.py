"""The verbs of those who operate queues, in memory."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from aioq.jobs.job import JobState, Priority
from aioq.store.contract import Limits
from aioq.store.extra import Lock
from aioq.store.leases import WorkerLease
from aioq.store.memory.control import MemoryWorkerControl, QueueRequests
from aioq.store.memory.limits import MemoryLimits, QueueLimits
from aioq.store.memory.operations import MemoryOperations, OperationQueue
from aioq.store.memory.pauses import MemoryPauses, QueuePauses
from aioq.store.memory.schedules import MemoryQueueTimetable
from aioq.store.memory.story import MemoryStory, StoryQueue
from aioq.store.memory.unique import Uniques
from aioq.store.operating import MOST_LISTED, Counted, Listing, ListPosition, ListQuery, Reopened
from aioq.util.clock import Clock


class OperatedQueue(OperationQueue, StoryQueue, Protocol):
    """A queue."""

    pauses: QueuePauses
    limits: QueueLimits
    timetable: MemoryQueueTimetable
    requests: QueueRequests
    uniques: Uniques

    def workers(self) -> Sequence[WorkerLease]:
        """The workers of this queue."""
        ...


class MemoryOperatorVerbs:
    """The verbs of those who operate queues.

    Args:
        lock: locks a queue for one verb, and returns it.
        queues: the names of all queues.
        clock: the store's clock.
        limits: how long things are kept.

    Attributes:
        control: asks workers for something.
        limits: the verbs for limits.
        story: what is known of single jobs.
    """

    def __init__(
        self,
        lock: Callable[[str], AbstractContextManager[OperatedQueue]],
        queues: Callable[[], Sequence[str]],
        clock: Clock,
        limits: Limits,
    ) -> None:
        self.pauses = MemoryPauses(lock)
        self.limits = MemoryLimits(lock)
        self._locked = lock
        self._queues = queues
        self._clock = clock
        self.story = MemoryStory(lock, limits, clock)
        self.control = MemoryWorkerControl(lock)
        self._operations = MemoryOperations(lock, clock, forget_log=self.story.forget)

    @property
    def operations(self) -> MemoryOperations:
        """The bulk operations."""
        return self._operations

    async def now_ms(self, queue: str) -> int:
        """The time of the store's clock."""
        del queue
        return self._clock.now_ms()

    async def queues(self) -> list[str]:
        """The queues that are used; sorted by name."""
        return [name for name in sorted(self._queues()) if await self.is_used(name)]

    async def note_queues(self, queues: Sequence[str]) -> None:
        """Nothing: all queues that are used are known."""

    async def forget_queues(self) -> None:
        """Nothing, likewise."""

    async def is_used(self, queue: str) -> bool:
        """Whether there are jobs, schedules or workers of a queue."""
        if queue not in self._queues():
            return False
        with self._locked(queue) as locked:
            return bool(len(locked.jobs) or locked.workers() or locked.timetable.read(None).entries)

    async def list_jobs(self, queue: str, query: ListQuery, after: ListPosition, limit: int) -> Listing:
        """A part of a list of jobs, of up to `limit` items."""
        with self._locked(queue) as locked:
            return locked.jobs.list(query, after, min(limit, MOST_LISTED))

    async def count_jobs(self, queue: str, query: ListQuery) -> Counted:
        """How many jobs a list has; all lists are counted."""
        with self._locked(queue) as locked:
            return locked.jobs.count(query)

    async def calls(self, queue: str, job_ids: Sequence[str]) -> list[bytes | None]:
        """The encoded calls of jobs; None for each whose call is gone, and where there is no such job."""
        with self._locked(queue) as locked:
            return [locked.jobs.call(job_id) for job_id in job_ids]

    async def reopen(self, queue: str, job_ids: Sequence[str]) -> list[Reopened]:
        """Queue dead jobs again as if they were new, and return the state each was in."""
        with self._locked(queue) as locked:
            return [locked.jobs.reopen(job_id) for job_id in job_ids]

    async def unique_owner(self, queue: str, key: str) -> str | None:
        """The job that holds a unique key; None for none."""
        with self._locked(queue) as locked:
            return locked.uniques.holder(key)

    async def hold_unique(
        self, queue: str, worker: str, job_id: str, claim: int, lock: Lock
    ) -> tuple[str, bool] | None:
        """Let a running job hold a unique key; None if it does, or if this worker does not run it any more.

        Else the job that holds the key, and whether this one is to wait for its end.
        """
        with self._locked(queue) as locked:
            return locked.uniques.hold(worker, job_id, claim, lock)

    async def release_unique(self, queue: str, key: str) -> str | None:
        """Give a unique key back for the job that holds it; returns that job, None for none."""
        with self._locked(queue) as locked:
            return locked.uniques.release(key)

    async def delete(self, queue: str, job_ids: Sequence[str], outcome: bytes) -> list[JobState | None]:
        """Delete jobs, and return the state each was in."""
        with self._locked(queue) as locked:
            states = [locked.jobs.delete(job_id, outcome) for job_id in job_ids]
            for job_id, state in zip(job_ids, states, strict=True):
                if state is not JobState.RUNNING:
                    self.story.forget(queue, job_id)
            return states

    async def prioritize(self, queue: str, job_ids: Sequence[str], priority: Priority) -> list[JobState | None]:
        """Move jobs to another lane, and return the state each was in."""
        with self._locked(queue) as locked:
            return [locked.jobs.prioritize(job_id, priority) for job_id in job_ids]
