"""What a queue in memory tells of single jobs."""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from aioq.jobs.job import JobInfo, JobState
from aioq.store.contract import Limits
from aioq.store.events import EventPart, Position
from aioq.store.limits import Blocked
from aioq.store.memory.history import QueueHistory
from aioq.store.memory.limits import QueueLimits
from aioq.store.memory.operated import OperatedJobs
from aioq.store.memory.schedules import MemoryQueueTimetable
from aioq.store.operating import ListQuery
from aioq.store.story import MOST_AHEAD, MOST_LINES, Counted, LoggedLines
from aioq.util.clock import Clock


class StoryQueue(Protocol):
    """A queue."""

    jobs: OperatedJobs
    timetable: MemoryQueueTimetable
    limits: QueueLimits

    @property
    def history(self) -> QueueHistory:
        """What has ended."""
        ...

    def cancellation(self, job_id: str) -> bytes | None:
        """The outcome with which a job will end, if its cancellation was asked for."""
        ...

    def runs(self, worker: str, job_id: str, claim: int) -> bool:
        """Whether a worker runs a job under this claim."""
        ...


class _Log:
    """The log of a job: its lines, the number of the last one, and until when it is kept."""

    def __init__(self, most: int) -> None:
        self.lines: deque[bytes] = deque(maxlen=most)
        self.last = 0
        self.until_ms = 0


class MemoryStory:
    """What is known of single jobs beside their records.

    Args:
        lock: locks a queue for one verb, and returns it.
        limits: how long things are kept.
        clock: the store's clock.
    """

    def __init__(
        self, lock: Callable[[str], AbstractContextManager[StoryQueue]], limits: Limits, clock: Clock
    ) -> None:
        self._locked = lock
        self._limits = limits
        self._clock = clock
        self._logs: dict[tuple[str, str], _Log] = {}

    async def ahead(self, queue: str, job: JobInfo) -> Counted:
        """How many queued jobs are claimed before this one."""
        query = ListQuery(JobState.QUEUED, oldest=True)
        with self._locked(queue) as locked:
            found = locked.jobs.list(query, (), MOST_AHEAD + 1).items
            ids = list(dict.fromkeys(item.info.id for item in found if item.info is not None))
            if job.id in ids:
                return Counted(ids.index(job.id))
            return Counted(max(len(ids), locked.jobs.count(query).count - 1), exact=False)

    async def blocked(self, queue: str, job_id: str) -> Blocked | None:
        """What holds back a job that waits for a limit; None for one that does not."""
        with self._locked(queue) as locked:
            return locked.limits.groups.blocked(job_id)

    async def held_by(self, queue: str, job_id: str) -> str:
        """The job that the job of a tick waits for."""
        with self._locked(queue) as locked:
            return locked.timetable.current(job_id.rpartition("@")[0])

    async def cancellation(self, queue: str, job_id: str) -> bytes | None:
        """The outcome with which a running job will end as cancelled, if somebody asked for that."""
        with self._locked(queue) as locked:
            return locked.cancellation(job_id)

    async def log(self, queue: str, worker: str, logged: Sequence[LoggedLines]) -> list[bool]:
        """Add lines to the logs of jobs; False for each job that this worker no longer holds."""
        now = self._clock.now_ms()
        with self._locked(queue) as locked:
            taken = [locked.runs(worker, each.job_id, each.claim) for each in logged]
            for key in [key for key, kept in self._logs.items() if kept.until_ms <= now]:
                del self._logs[key]
            for each, is_taken in zip(logged, taken, strict=True):
                if is_taken:
                    kept = self._logs.setdefault((queue, each.job_id), _Log(self._limits.logs))
                    kept.lines.extend(each.lines)
                    kept.last += len(each.lines)
                    limits = self._limits.of(queue)
                    kept.until_ms = now + max(limits.result_ttl_ms, limits.dead_ttl_ms)
            return taken

    async def log_lines(self, queue: str, job_id: str, after: int) -> list[tuple[int, bytes]]:
        """Lines of a job's log that follow on that number, each with its own."""
        with self._locked(queue):
            kept = self._logs.get((queue, job_id))
            if kept is None or kept.until_ms <= self._clock.now_ms():
                return []
            numbered = enumerate(kept.lines, kept.last - len(kept.lines) + 1)
            return [each for each in numbered if each[0] > after][:MOST_LINES]

    async def events(
        self, queue: str, after: Position | None, *, listens: bool, watches: bool = False
    ) -> EventPart:
        """What has happened after a position."""
        with self._locked(queue) as locked:
            return locked.history.events(after, listens=listens, watches=watches)

    def forget(self, queue: str, job_id: str) -> None:
        """Drop the log of a job that is deleted."""
        self._logs.pop((queue, job_id), None)
