"""The job that a command names by its id."""

from typing import Any

from aioq.app import App, internals_of
from aioq.jobs.job import queue_of
from aioq.jobs.shards import queue_of_shard
from aioq.operate.known import queues_of
from aioq.results.handle import JobHandle
from aioq.results.places import search


async def handle_of(app: App, job_id: str) -> JobHandle[Any]:
    """A handle of a job. An id that names no queue is looked for in all that the App or the server knows.

    Raises:
        ArgumentError: `job_id` cannot be the id of a job.
        JobNotFoundError: there is no such job.
        ServerUnavailableError: the server cannot be reached.
    """
    handle = app.handle(job_id)
    if queue_of(job_id) is not None:
        return handle
    internals = internals_of(app)
    store = await internals.store()
    queues = await queues_of(internals, store=store)
    if {*queues} == {*internals.known_queues()}:
        return handle
    places = [each for queue in queues for each in await internals.shards_of_job(job_id, queue, patient=False)]
    return app.handle(job_id, queue=queue_of_shard(await search(store, places, job_id)))
