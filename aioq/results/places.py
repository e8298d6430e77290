"""Finds the queue that has a job: one that was moved leaves a record in each queue where it was, until its end."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from aioq.errors import ServerUnavailableError
from aioq.jobs.job import JobInfo
from aioq.results.waiters import not_found
from aioq.store.contract import Store
from aioq.store.relay import relay
from aioq.util.log import logger

log = logger("aioq.results.handle")

MOST_MOVES = 100
"""The most queues that are looked at for one job. A guess: nobody moves a job so often."""


TRIES = 5
"""How often a job is looked for again if it was moved meanwhile."""


@dataclass(frozen=True, slots=True)
class JobPlace:
    """Where a job is.

    Attributes:
        queue: the last queue that knows the job. While the job is on its way, that is the queue which it has left.
        before: the queue from which it came there; None if it did not, or if that is not known.
        info: what that queue knows. Its `queue` is another one if the job is on its way to there, or was there and
            has no record there any more.
    """

    queue: str
    before: str | None
    info: JobInfo

    @property
    def is_on_its_way(self) -> bool:
        """Whether the job has left its queue and has not arrived in the other one."""
        return self.info.queue != self.queue and not self.info.state.ended


async def find(store: Store, queue: str, job_id: str, *, results: bool = False) -> JobPlace:
    """Find a job that is in this queue, or was moved from it to others.

    Raises:
        JobNotFoundError: this queue does not know the job.
    """
    before, found = None, (await store.info(queue, [job_id], results=results))[0]
    if found is None:
        raise not_found(job_id, [queue])
    for _ in range(MOST_MOVES):
        if found.queue == queue:
            break
        there = (await store.info(found.queue, [job_id], results=results))[0]
        if there is None:
            break
        before, queue, found = queue, found.queue, there
    return JobPlace(queue, before, found)


async def search(store: Store, shards: Sequence[str], job_id: str) -> str:
    """The first of these queues and shards that has a job: the likeliest is asked first, then all others at once.

    Raises:
        JobNotFoundError: none of them has it.
    """
    if (await store.info(shards[0], [job_id]))[0] is not None:
        return shards[0]
    asked = (store.info(shard, [job_id]) for shard in shards[1:])
    replies = await asyncio.gather(*asked, return_exceptions=True)
    for shard, reply in zip(shards[1:], replies, strict=True):
        if not isinstance(reply, BaseException) and reply[0] is not None:
            return shard
    for reply in replies:
        if isinstance(reply, BaseException):  # the job may be where nobody has answered
            raise reply
    raise not_found(job_id, shards)


async def settle(store: Store, queue: str, job_id: str) -> JobPlace:
    """Find a job; if it is on its way to another queue, deliver it first.

    Raises:
        JobNotFoundError: this queue does not know the job.
        ServerUnavailableError: the other queue cannot be reached.
    """
    place = await find(store, queue, job_id)
    for _ in range(TRIES):
        if not place.is_on_its_way:
            break
        await relay(store.outbox, place.queue, place.info.queue)
        place = await find(store, queue, job_id)
    return place


async def pass_on(store: Store, queue: str, target: str, job_id: str) -> bool:
    """Deliver what was put into the outbox for this job, if the other queue can be reached now.

    If it cannot, a worker of the first queue goes on.

    Returns:
        Whether it was delivered.
    """
    try:
        await relay(store.outbox, queue, target)
    except ServerUnavailableError as error:
        log.info(
            "job %s: queue %s cannot be reached; the workers of queue %s try again: %s",
            *(job_id, target, queue, error),
        )
        return False
    return True
