"""The workers that the server knows of: their places in queues, what they say of themselves, and what they run."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aioq.jobs.job import JobInfo, JobState
from aioq.jobs.shards import queue_of_shard
from aioq.operate.listing import shown
from aioq.store.contract import Store
from aioq.store.leases import WorkerLease
from aioq.store.operating import MOST_LISTED, Wanted
from aioq.store.operating import Place as ListPlace
from aioq.worker.about import About, decode_about
from aioq.worker.identity import host_of

NAMED = 5
"""How many ids of workers an error names."""


@dataclass(frozen=True, slots=True)
class Place:
    """A place of a worker.

    Attributes:
        queue: the queue or shard.
        lease: its id there, and what the server knows of its lease.
    """

    queue: str
    lease: WorkerLease


def id_of(worker: str) -> str:
    """The id of a worker, by its id in one of its queues."""
    return worker.rpartition("-")[0] or worker


async def places_in(store: Store, shards: Sequence[str]) -> dict[str, Sequence[Place]]:
    """The workers of queues and shards, by id, each with its places."""
    found: dict[str, list[Place]] = {}
    for shard, leases in zip(shards, await asyncio.gather(*map(store.workers, shards)), strict=True):
        for lease in leases:
            found.setdefault(id_of(lease.worker), []).append(Place(shard, lease))
    return {**found}


def queues_said_by(places: Sequence[Place]) -> Sequence[str]:
    """The queues that a worker says it has."""
    newest = _newest(places)
    return () if newest is None else newest.queues


def about_of(worker: str, places: Sequence[Place]) -> About:
    """What a worker says of itself. One that says nothing, or nothing readable, has no version and no slots."""
    newest = _newest(places)
    if newest is not None:
        return newest
    *_, pid, _ = f"--{worker}".rsplit("-", 2)
    return About(
        host=host_of(f"{worker}-0"),
        pid=int(pid) if pid.isdecimal() else 0,
        version="",
        python="",
        queues=tuple(dict.fromkeys(queue_of_shard(place.queue) for place in places)),
        slots=0,
        lease_ms=max(place.lease.lease_ms for place in places),
    )


def _newest(places: Sequence[Place]) -> About | None:
    said = [about for place in places if (about := decode_about(place.lease.about)) is not None]
    return max(said, key=lambda about: about.rev, default=None)


async def running_at(store: Store, found: Mapping[str, Sequence[Place]]) -> dict[str, list[JobInfo]]:
    """The jobs that workers run, by the worker's id; the one that was started first comes first."""
    by_queue: dict[str, list[str]] = {}
    for places in found.values():
        for place in places:
            by_queue.setdefault(place.queue, []).append(place.lease.worker)
    lists = await asyncio.gather(*(_running_in(store, queue, workers) for queue, workers in by_queue.items()))
    running: dict[str, list[JobInfo]] = {}
    for job in sorted((job for jobs in lists for job in jobs), key=_started):
        running.setdefault(id_of(job.worker or ""), []).append(job)
    return running


def _started(job: JobInfo) -> tuple[float, str]:
    return 0.0 if job.started_at is None else job.started_at.timestamp(), job.id


async def _running_in(store: Store, queue: str, workers: Sequence[str]) -> list[JobInfo]:
    wanted, jobs = Wanted(JobState.RUNNING, workers=workers), list[JobInfo]()
    after: ListPlace | None = ()
    while after is not None:
        listing = await store.operating.list_jobs(queue, wanted, after, MOST_LISTED)
        jobs += [shown(item.info) for item in listing.items if item.info is not None]
        after = listing.after
    return jobs


def names_in_words(names: Sequence[str]) -> str:
    """The first of these names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
