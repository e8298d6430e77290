"""Limits of jobs whose sender did not know them, as where a task is sent by its name.

The worker asks for the permits before it calls the function.
"""

import asyncio
from collections.abc import Awaitable, Callable

from aioq.errors import ServerUnavailableError
from aioq.jobs.options import Options
from aioq.jobs.shards import queue_of_shard
from aioq.producer.shards import Shards
from aioq.store.contract import Store
from aioq.tasks.task import app_of, signature_of
from aioq.util.aio import Backoff
from aioq.util.log import logger
from aioq.worker.run.flow_inputs import read_inputs
from aioq.worker.run.run import WAITS_FOR_LIMIT, Run
from aioq.worker.run.unique import hold_key

log = logger("aioq.limits")


async def hold_keys(
    store: Store,
    shards: Callable[[], Awaitable[Shards]],
    put_back: Callable[[Run], None],
    warned: set[str],
    run: Run,
) -> None:
    """Let a job hold the unique key and the permits that it lacks; before that, read the results that it uses.

    Args:
        store: where the job is.
        shards: how many shards each queue has.
        put_back: called if the job waits for a limit now: it is this worker's no more.
        warned: the tasks whose jobs were in a wrong shard; is added to.
        run: the job's run.

    Raises:
        Cancel: another job holds its unique key.
        Snooze: it is to run after the one that holds it; or the server that has those results is away.
        ArgumentError: such a result is lost, or does not fit the task's signature.
        CancelledError: the job waits for a limit now.
    """
    if run.lacks_inputs:
        await read_inputs(store, run)
    if run.lacks_key:
        await hold_key(store, run)
    if run.lacks_limits and not await _hold_limits(store, shards, warned, run):
        run.stop = WAITS_FOR_LIMIT
        put_back(run)
        raise asyncio.CancelledError


async def _hold_limits(store: Store, shards: Callable[[], Awaitable[Shards]], warned: set[str], run: Run) -> bool:
    task, envelope, backoff = run.task, run.envelope, Backoff()
    assert task is not None and envelope is not None  # noqa: PT018 - one fact: resolved
    signature = signature_of(task)
    sender = app_of(task).sender
    keys = sender.limit_keys(task.name, signature, task.defaults, queue_of_shard(run.queue))
    if keys is None:
        return True
    uses, shard_key = keys.uses_and_shard_key(*signature.decode(envelope.args, envelope.kwargs))
    if shard_key and task.name not in warned:
        queue = (await shards()).table[queue_of_shard(run.queue)]
        if queue.number > 1 and queue.shard_for(Options(shard_key=shard_key)) != run.queue:
            warned.add(task.name)
            log.warning(
                "job %s of task %r was sent by its name, so it is in another shard than others of its key: "
                "its limits hold within each shard. Send it with options(shard_key=%r)",
                *(run.claimed.id, task.name, shard_key),
            )
    claimed = run.claimed
    while True:
        try:
            return await store.operating.limits.hold(run.queue, run.worker, claimed.id, claimed.claim, uses)
        except ServerUnavailableError:
            await asyncio.sleep(backoff.next())
