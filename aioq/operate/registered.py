"""The workers that the server knows: where they are registered, what they say of themselves, what they run."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aioq.jobs.job import JobInfo, JobState
from aioq.jobs.shards import queue_of_shard
from aioq.operate.listing import shown
from aioq.store.contract import Store
from aioq.store.leases import WorkerLease
from aioq.store.operating import MOST_LISTED, ListPosition, ListQuery
from aioq.worker.about import About, decode_about
from aioq.worker.identity import host_of

IDS_NAMED = 5
"""How many ids of workers an error names."""


@dataclass(frozen=True, slots=True)
class Registration:
    """A worker's registration in one queue or shard.

    Attributes:
        queue: the queue or shard.
        lease: its id there, and what the server knows of its lease.
    """

    queue: str
    lease: WorkerLease


def id_of(worker: str) -> str:
    """The id of a worker, by its id in one of its queues."""
    return worker.rpartition("-")[0] or worker


async def registrations_in(store: Store, shards: Sequence[str]) -> dict[str, Sequence[Registration]]:
    """The workers of queues and shards, by id, each with its registrations."""
    found: dict[str, list[Registration]] = {}
    for shard, leases in zip(shards, await asyncio.gather(*map(store.workers, shards)), strict=True):
        for lease in leases:
            found.setdefault(id_of(lease.worker), []).append(Registration(shard, lease))
    return {**found}


def queues_said_by(registrations: Sequence[Registration]) -> Sequence[str]:
    """The queues that a worker says it has."""
    newest = _newest(registrations)
    return () if newest is None else newest.queues


def about_of(worker: str, registrations: Sequence[Registration]) -> About:
    """What a worker says of itself. One that says nothing, or nothing readable, has no version and no slots."""
    newest = _newest(registrations)
    if newest is not None:
        return newest
    *_, pid, _ = f"--{worker}".rsplit("-", 2)
    return About(
        host=host_of(f"{worker}-0"),
        pid=int(pid) if pid.isdecimal() else 0,
        version="",
        python="",
        queues=tuple(dict.fromkeys(queue_of_shard(each.queue) for each in registrations)),
        slots=0,
        lease_ms=max(each.lease.lease_ms for each in registrations),
    )


def _newest(registrations: Sequence[Registration]) -> About | None:
    said = [about for each in registrations if (about := decode_about(each.lease.about)) is not None]
    return max(said, key=lambda about: about.rev, default=None)


async def running_at(store: Store, found: Mapping[str, Sequence[Registration]]) -> dict[str, list[JobInfo]]:
    """The jobs that workers run, by the worker's id; the one that was started first comes first."""
    by_queue: dict[str, list[str]] = {}
    for registrations in found.values():
        for each in registrations:
            by_queue.setdefault(each.queue, []).append(each.lease.worker)
    lists = await asyncio.gather(*(_running_in(store, queue, workers) for queue, workers in by_queue.items()))
    running: dict[str, list[JobInfo]] = {}
    for job in sorted((job for jobs in lists for job in jobs), key=_started):
        running.setdefault(id_of(job.worker or ""), []).append(job)
    return running


def _started(job: JobInfo) -> tuple[float, str]:
    return 0.0 if job.started_at is None else job.started_at.timestamp(), job.id


async def _running_in(store: Store, queue: str, workers: Sequence[str]) -> list[JobInfo]:
    query, jobs = ListQuery(JobState.RUNNING, workers=workers), list[JobInfo]()
    after: ListPosition | None = ()
    while after is not None:
        listing = await store.operating.list_jobs(queue, query, after, MOST_LISTED)
        jobs += [shown(item.info) for item in listing.items if item.info is not None]
        after = listing.after
    return jobs


def heartbeat_age(lease_ms: int, registrations: Sequence[Registration]) -> float:
    """How many seconds ago a worker has renewed a lease, each of which lasts `lease_ms` after that."""
    left = max(each.lease.lease_ms for each in registrations)
    ended = min(each.lease.ended_ms for each in registrations)
    return (max(lease_ms - left, 0) + ended) / 1000


def names_in_words(names: Sequence[str]) -> str:
    """The first of these names, and how many more there are."""
    more = f" and {len(names) - IDS_NAMED} more" if len(names) > IDS_NAMED else ""
    return ", ".join(names[:IDS_NAMED]) + more
