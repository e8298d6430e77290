"""What a live view shows of all queues: read part by part, with a bounded number of commands each time."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import msgspec

from aioq.jobs.job import JobInfo, JobState
from aioq.operate.ended import JobLists
from aioq.operate.listing import JobList, part_size, shown, step
from aioq.store.contract import Store
from aioq.store.history import Minutes
from aioq.store.leases import WorkerLease
from aioq.store.operating import MOST_LISTED, Listed, ListQuery
from aioq.store.pauses import NO_PAUSES, Pauses

COUNTED_STATES = (JobState.QUEUED, JobState.SCHEDULED, JobState.RUNNING, JobState.FAILED)
"""The states whose jobs are counted: each has a list that the server counts with one command."""


class ShardReading(msgspec.Struct, frozen=True, kw_only=True):
    """What is in a queue, or in a shard of one.

    Attributes:
        counts: how many jobs are in each state of `COUNTED_STATES`; of queued ones it is an estimate.
        minutes: what was sent and what ended, if statistics are kept.
        pauses: what is paused.
    """

    counts: Mapping[JobState, int]
    minutes: Minutes | None
    pauses: Pauses = NO_PAUSES


async def read_shard(store: Store, shard: str, minutes: int) -> ShardReading:
    """Read what is in a queue or shard.

    It is a command for each count, one for the pauses, and one for the minutes of 175 tasks.

    Args:
        store: the store.
        shard: the queue or shard.
        minutes: how many minutes are read; 0 for none.
    """
    verbs = store.operating

    async def history() -> Minutes | None:
        return await store.history.minutes(shard, minutes) if minutes else None

    counts, found, pauses = await asyncio.gather(
        asyncio.gather(*(verbs.count_jobs(shard, ListQuery(state)) for state in COUNTED_STATES)),
        history(),
        verbs.pauses.read(shard),
    )
    numbers = [each.count for each in counts]
    return ShardReading(counts=dict(zip(COUNTED_STATES, numbers, strict=True)), minutes=found, pauses=pauses)


async def read_workers(store: Store, shards: Sequence[str]) -> dict[str, Sequence[WorkerLease]]:
    """The workers of queues and shards: a command for 500 workers of each."""
    found = await asyncio.gather(*map(store.workers, shards))
    return dict(zip(shards, found, strict=True))


async def read_running(store: Store, holders: Mapping[str, Sequence[str]]) -> list[JobInfo]:
    """The jobs that workers run: a command for each worker of a shard, and one or a few for all of its jobs.

    Args:
        store: the store.
        holders: by queue or shard the ids of its workers.
    """
    lists = await asyncio.gather(
        *(
            store.operating.list_jobs(shard, ListQuery(JobState.RUNNING, workers=workers), (), MOST_LISTED)
            for shard, workers in holders.items()
        )
    )
    return [shown(item.info) for listing in lists for item in listing.items if item.info is not None]


async def listed_jobs(
    store: Store, shards: Sequence[str], state: JobState, fits: Callable[[JobInfo], bool], size: int
) -> tuple[Sequence[JobInfo], int]:
    """Up to `size` jobs in a state, and how many were looked at for that: 1,000 at the most.

    Failed jobs come in the order of their ends, the newest first; others in the order in which they will be run.

    Args:
        store: the store.
        shards: the queues and shards.
        state: the state; of running jobs `read_running` tells.
        fits: what the jobs must match.
        size: the most jobs to find.
    """
    if not shards:
        return (), 0
    oldest = state is not JobState.FAILED
    part = part_size(len(shards), size, looks_into_jobs=False)
    lists = [JobList(shard, ListQuery(state, oldest), (), part) for shard in shards]

    def matches(item: Listed) -> bool:
        return item.info is not None and fits(shown(item.info))

    found = await step(JobLists(store), lists, matches, size=size, oldest=oldest)
    return found.jobs, found.looked_at
