"""The verbs of those who operate queues: to list jobs, to count them, and to change waiting and ended ones.

Part of the store contract. They are slower than those by which jobs are sent and run, and no job needs them. What
may be many is read in bounded steps, each some milliseconds of the server's time.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from aioq.jobs.job import JobInfo, JobState, Priority
from aioq.store.control import WorkerControl
from aioq.store.extra import Duplicate, Lock, NodeOf
from aioq.store.limits import LimitVerbs
from aioq.store.operations import OperationVerbs
from aioq.store.pauses import PauseVerbs
from aioq.store.story import Counted, Story

ListPosition = tuple[str, ...]
"""A position in a list of jobs, in a form of the store's own; empty for its beginning. It stays valid while jobs
come and go: of those that stay, none after it is missed."""

LISTED_STATES = (JobState.QUEUED, JobState.SCHEDULED, JobState.WAITING, JobState.RUNNING, JobState.FAILED)
"""The states of which a store has a list: those of jobs that have not ended, and the dead."""

MOST_LISTED = 250
"""The most jobs that one call of `OperatorVerbs.list_jobs` looks at."""


Reopened = JobState | Duplicate | NodeOf | None
"""The reply to `OperatorVerbs.reopen` for a job."""


class TimeSpan(msgspec.Struct, frozen=True, gc=False):
    """A span of time.

    Attributes:
        since_ms: its first moment, in milliseconds since the Unix epoch; None for no limit.
        until_ms: its last moment, likewise.
    """

    since_ms: int | None = None
    until_ms: int | None = None

    def includes(self, at_ms: float) -> bool:
        """Whether a moment is in it."""
        return (self.since_ms is None or at_ms >= self.since_ms) and (
            self.until_ms is None or at_ms <= self.until_ms
        )


ALWAYS = TimeSpan()


class ListQuery(msgspec.Struct, frozen=True, gc=False):
    """What a list of jobs is to have.

    Attributes:
        state: their state.
        oldest: whether those come first whose time is the earliest, or that are claimed next.
        span: the times of scheduled and of dead jobs; of queued ones, if the oldest come first, when they came to
            their lane, as far as the store knows that. Other lists disregard it.
        workers: the ids of the workers whose running jobs are listed; None for all.
        calls: whether calls are to be read whole, and not only their beginning if they are long.
    """

    state: JobState
    oldest: bool = False
    span: TimeSpan = ALWAYS
    workers: Sequence[str] | None = None
    calls: bool = False


class Listed(msgspec.Struct, frozen=True, gc=False):
    """An item of a list of jobs.

    Attributes:
        after: the position after it.
        info: the job; None if it is not there (any more), or in another state by now.
        call: the encoded call; empty if it was not asked for, or is gone.
        has_call: whether its call is there. Without it, a job that has failed cannot be retried.
    """

    after: ListPosition
    info: JobInfo | None = None
    call: bytes = b""
    has_call: bool = True


class Listing(msgspec.Struct, frozen=True, gc=False):
    """A part of a list of jobs.

    Attributes:
        items: in the order of the list.
        after: where the list continues; None if nothing is left. There may be no items although there is more.
    """

    items: Sequence[Listed]
    after: ListPosition | None


class OperatorVerbs(Protocol):
    """The verbs of those who operate queues.

    Every verb may raise `ServerUnavailableError` or `ServerRejectedError`. A store that repeats a call after a
    lost reply returns what the first call found.
    """

    @property
    def story(self) -> Story:
        """What is known of single jobs beside their records."""
        ...

    @property
    def control(self) -> WorkerControl:
        """Asks workers for something."""
        ...

    @property
    def operations(self) -> OperationVerbs:
        """The bulk operations."""
        ...

    @property
    def pauses(self) -> PauseVerbs:
        """The verbs for pauses."""
        ...

    @property
    def limits(self) -> LimitVerbs:
        """The verbs for limits."""
        ...

    async def now_ms(self, queue: str) -> int:
        """The time of the server that has a queue, in milliseconds since the Unix epoch."""
        ...

    async def queues(self) -> list[str]:
        """The queues that the server knows of, besides those that the App knows; sorted by name."""
        ...

    async def note_queues(self, queues: Sequence[str]) -> None:
        """Note that a worker serves these queues, so that those who do not know them find them.

        Raises:
            ServerUnavailableError: the server does not answer.
        """
        ...

    async def forget_queues(self) -> None:
        """Forget which queues workers have said to serve; those that run say it again within a day.

        Raises:
            ServerUnavailableError: the server does not answer.
        """
        ...

    async def is_used(self, queue: str) -> bool:
        """Whether the server has jobs, schedules or workers of a queue."""
        ...

    async def list_jobs(self, queue: str, query: ListQuery, after: ListPosition, limit: int) -> Listing:
        """A part of a list of jobs, of up to `limit` items; `MOST_LISTED` at the most.

        Queued jobs are in the order in which they are claimed, those that were set aside because their task is
        paused after all others; scheduled and dead ones in that of their times,
        running ones by worker and id, those that wait for another job in no order.
        """
        ...

    async def count_jobs(self, queue: str, query: ListQuery) -> Counted:
        """How many jobs a list has. Of queued ones it is an estimate."""
        ...

    async def calls(self, queue: str, job_ids: Sequence[str]) -> list[bytes | None]:
        """The encoded calls of jobs; None for each whose call is gone, and where there is no such job."""
        ...

    async def reopen(self, queue: str, job_ids: Sequence[str]) -> list[Reopened]:
        """Queue dead jobs again as if they were new, and return the state each was in.

        A job that has failed is queued; any other stays as it is. None stands for no such job, and for one that
        has failed but whose call is gone; a `Duplicate` for one whose unique key another job holds, and a `NodeOf`
        for a job of a flow.
        """
        ...

    async def unique_owner(self, queue: str, key: str) -> str | None:
        """The job that holds a unique key; None for none."""
        ...

    async def hold_unique(
        self, queue: str, worker: str, job_id: str, claim: int, lock: Lock
    ) -> tuple[str, bool] | None:
        """Let a running job hold a unique key; None if it does, or if this worker does not run it any more.

        Else the job that holds the key, and whether this one is to wait for its end.
        """
        ...

    async def release_unique(self, queue: str, key: str) -> str | None:
        """Give a unique key back for the job that holds it, which goes on; returns that job, None for none.

        If a job waits to follow it, that one holds the key then.
        """
        ...

    async def delete(self, queue: str, job_ids: Sequence[str], outcome: bytes) -> list[JobState | None]:
        """Delete jobs, 100 at the most, for each may have 64 waiters; return the state each was in.

        One that waits to be run ends with this outcome first. One that runs stays as it is.
        """
        ...

    async def prioritize(self, queue: str, job_ids: Sequence[str], priority: Priority) -> list[JobState | None]:
        """Move jobs to another lane, and return the state each was in.

        A queued one goes to the end of that lane. One that is scheduled, waits or runs will be queued there. One
        that has ended stays as it is.
        """
        ...
