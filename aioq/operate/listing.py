"""The lists of several queues and states as one, in the order of time."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from aioq.jobs.job import JobInfo, JobState
from aioq.jobs.shards import SEPARATOR, queue_of_shard
from aioq.operate.ended import JobLists
from aioq.operate.filters import time_of
from aioq.store.operating import MOST_LISTED, Listed, ListPosition, ListQuery

MOST_LOOKED_AT = 1_000
"""The most jobs that one page looks at."""

ON_ITS_WAY = (
    *(JobState.WAITING, JobState.SCHEDULED, JobState.QUEUED, JobState.RUNNING),
    *(JobState.FAILED, JobState.SUCCEEDED, JobState.CANCELLED),
)
"""All states, in the order in which a job passes them."""

_LEAST = 5
_GROWTH = 4


class JobList:
    """The list of one queue and state, read in parts.

    Args:
        queue: the queue.
        query: what is listed.
        after: where it continues; None for its end.
        part: how many items are read at first.
    """

    def __init__(self, queue: str, query: ListQuery, after: ListPosition | None, part: int) -> None:
        self.queue = queue
        self.query = query
        self.position = after
        self._next = after
        self._part = part
        self._read: deque[Listed] = deque()

    @property
    def head(self) -> JobInfo | None:
        """The next job that was read."""
        return self._read[0].info if self._read else None

    @property
    def is_due(self) -> bool:
        """Whether its next job is not known yet."""
        return not self._read and self._next is not None

    def pop(self) -> Listed:
        """The next job; the list goes on after it."""
        item = self._read.popleft()
        self.position = item.after
        self._skip()
        return item

    async def read(self, store: JobLists) -> int:
        """Read the next part; returns how many of its items at the beginning are no jobs."""
        listing = await store.list_jobs(self.queue, self.query, self._next or (), self._part)
        self._part = min(self._part * _GROWTH, MOST_LISTED)
        self._next = listing.after
        self._read.extend(listing.items)
        return self._skip()

    def _skip(self) -> int:
        """Pass items without a job."""
        skipped = 0
        while self._read and self._read[0].info is None:
            self.position = self._read.popleft().after
            skipped += 1
        if not self._read:
            self.position = self._next
        return skipped


@dataclass(frozen=True, slots=True)
class ListingResult:
    """The result of one step.

    Attributes:
        jobs: those that match.
        looked_at: how many were looked at.
        seen: how many of these were jobs of the lists: others have left them, or ended.
        is_over: whether nothing is left.
        without_call: how many of the jobs that match have no call any more.
    """

    jobs: Sequence[JobInfo]
    looked_at: int
    seen: int
    is_over: bool
    without_call: int = 0


def part_size(lists: int, size: int, *, looks_into_jobs: bool) -> int:
    """How many items of each list are read at first, for a page of `size` jobs."""
    enough = MOST_LISTED if looks_into_jobs else min(size, MOST_LISTED)
    return max(_LEAST if lists > 1 else 1, -(-enough // max(1, lists)))


async def step(
    store: JobLists,
    lists: Sequence[JobList],
    matches: Callable[[Listed], bool],
    *,
    size: int,
    oldest: bool,
) -> ListingResult:
    """Look at the jobs of all lists in the order of time, until `size` match or enough were looked at.

    The lists are not read at one moment, but in the order in which a job passes their states. So one that a worker
    takes meanwhile is in the first of two or in both, and is found once.

    Args:
        store: reads the lists.
        lists: they are left where the next step begins.
        matches: decides whether a job matches.
        size: the most jobs to find.
        oldest: whether the oldest ones come first.
    """
    jobs: list[JobInfo] = []
    known = set[tuple[str, str]]()
    looked_at = seen = without_call = 0
    while len(jobs) < size and looked_at < MOST_LOOKED_AT:
        due = [each for each in lists if each.is_due]
        if due:
            looked_at += await _read(store, due)
            continue
        best = _first(lists, oldest=oldest)
        if best is None:
            return ListingResult(jobs, looked_at, seen, True, without_call)
        item = best.pop()
        looked_at, seen = looked_at + 1, seen + 1
        if item.info is not None and (item.info.queue, item.info.id) not in known and matches(item):
            known.add((item.info.queue, item.info.id))
            jobs.append(shown(item.info))
            without_call += not item.has_call
    return ListingResult(jobs, looked_at, seen, not any(each.head or each.is_due for each in lists), without_call)


async def _read(store: JobLists, due: Sequence[JobList]) -> int:
    """Read the next part of these lists; returns how many items or parts without a job were looked at."""
    looked_at = 0
    for state in ON_ITS_WAY:
        now = [each for each in due if each.query.state is state]
        if now:
            skipped = await asyncio.gather(*(each.read(store) for each in now))
            looked_at += sum(skipped) + sum(each.is_due for each in now)  # a part may have no items
    return looked_at


def shown(info: JobInfo) -> JobInfo:
    """A job as users see it: a shard is a matter of the store."""
    return replace(info, queue=queue_of_shard(info.queue)) if SEPARATOR in info.queue else info


def _first(lists: Sequence[JobList], *, oldest: bool) -> JobList | None:
    """The list whose next job comes first; None if no list has one."""
    heads = [(time_of(each.head), each) for each in lists if each.head is not None]
    if not heads:
        return None
    return (min if oldest else max)(heads, key=lambda head: head[0])[1]
