"""Limits of jobs whose sender did not know them, as where a task is sent by its name.

The worker asks for the permits before it calls the function.
"""

import asyncio
from collections.abc import Callable

from aioq.errors import ServerUnavailableError
from aioq.jobs.shards import queue_of_shard
from aioq.store.contract import Store
from aioq.tasks.task import app_of, signature_of
from aioq.util.aio import Backoff
from aioq.worker.run.run import WAITS_FOR_LIMIT, Run
from aioq.worker.run.unique import hold_key


async def hold_keys(store: Store, put_back: Callable[[Run], None], run: Run) -> None:
    """Let a job hold the unique key and the permits that it lacks.

    Args:
        store: where the job is.
        put_back: called if the job waits for a limit now: it is this worker's no more.
        run: the job's run.

    Raises:
        Cancel: another job holds its unique key.
        Snooze: it is to run after the one that holds it.
        CancelledError: the job waits for a limit now.
    """
    if run.lacks_key:
        await hold_key(store, run)
    if run.lacks_limits and not await _hold_limits(store, run):
        run.stop = WAITS_FOR_LIMIT
        put_back(run)
        raise asyncio.CancelledError


async def _hold_limits(store: Store, run: Run) -> bool:
    task, envelope, backoff = run.task, run.envelope, Backoff()
    assert task is not None and envelope is not None  # noqa: PT018 - one fact: resolved
    signature = signature_of(task)
    sender = app_of(task).sender
    keys = sender.limit_keys(task.name, signature, task.defaults, queue_of_shard(run.queue))
    if keys is None:
        return True
    uses = keys.uses(*signature.decode(envelope.args, envelope.kwargs))
    claimed = run.claimed
    while True:
        try:
            return await store.operating.limits.hold(run.queue, run.worker, claimed.id, claimed.claim, uses)
        except ServerUnavailableError:
            await asyncio.sleep(backoff.next())
