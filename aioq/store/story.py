"""What a store tells of single jobs to those who operate queues. Part of the store contract."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from aioq.jobs.job import JobInfo
from aioq.store.events import EventPart, Position
from aioq.store.limits import Blocked

MOST_AHEAD = 1_000
"""How many jobs of a queue are looked at to find the place of one of them; further back it is estimated."""

MOST_LINES = 500
"""The most lines that one call of `Story.log` writes, and one of `Story.log_lines` reads: some milliseconds."""


class LoggedLines(msgspec.Struct, frozen=True, gc=False):
    """Lines that a running job has logged.

    Attributes:
        job_id: the job.
        claim: the `Claimed.claim` of its run.
        lines: the encoded lines, the oldest first; each is UTF-8.
    """

    job_id: str
    claim: int
    lines: Sequence[bytes]


class Counted(msgspec.Struct, frozen=True, gc=False):
    """A number of jobs.

    Attributes:
        count: the number.
        exact: whether it was counted; else it is an estimate.
        cut: how many of failed jobs are beyond `dead_limit`: they have failed before all others, and the calls of
            most are not kept.
    """

    count: int
    exact: bool = True
    cut: int = 0


class Story(Protocol):
    """What is known of single jobs beside their records.

    Every verb may raise `ServerUnavailableError` or `ServerRejectedError`.
    """

    async def ahead(self, queue: str, job: JobInfo) -> Counted:
        """How many queued jobs are claimed before this one, which is queued itself.

        It is counted where the job is among the first `MOST_AHEAD`; else it is estimated by when the job came to
        its lane.
        """
        ...

    async def blocked(self, queue: str, job_id: str) -> Blocked | None:
        """What holds back a job that waits for a limit; None for one that does not."""
        ...

    async def held_by(self, queue: str, job_id: str) -> str:
        """The job that the job of a tick waits for (`overlap`); empty if that is not known."""
        ...

    async def cancellation(self, queue: str, job_id: str) -> bytes | None:
        """The outcome with which a running job will end as cancelled, if somebody asked for that; else None."""
        ...

    async def log(self, queue: str, worker: str, logged: Sequence[LoggedLines]) -> list[bool]:
        """Add lines to the logs of jobs, `MOST_LINES` in all; False for each job this worker no longer holds.

        A job keeps its last `Limits.logs` lines, as long after the last as results or dead jobs are kept.
        """
        ...

    async def log_lines(self, queue: str, job_id: str, after: int) -> list[tuple[int, bytes]]:
        """Lines of a job's log that follow on that number, each with its own: up to `MOST_LINES`, oldest first.

        They are numbered from 1 on. There are none if there is no such job, or if it has logged nothing.
        """
        ...

    async def events(
        self, queue: str, after: Position | None, *, listens: bool, watches: bool = False
    ) -> EventPart:
        """What has happened after a position; without one nothing, but where to begin.

        It may be only a part; the next call continues with the position of what was read.

        Args:
            queue: the queue.
            after: where to begin.
            listens: whether events of jobs that have not ended are read too; then they are written for
                `LISTENING_MS` from now on.
            watches: the same for events of workers and of pauses.
        """
        ...
