"""Unique keys of jobs whose sender did not know that their task is unique or debounced.

That is so where a task is sent by its name. The worker asks for the key before it calls the function.
"""

import asyncio
from typing import Any

from aioq.errors import ServerUnavailableError
from aioq.jobs.options import Options
from aioq.jobs.retry import Snooze
from aioq.jobs.verdicts import Cancel
from aioq.producer.unique_keys import KeyMaker
from aioq.store.contract import Store
from aioq.tasks.task import Task, app_of, signature_of
from aioq.util.aio import Backoff
from aioq.worker.run.run import Run

LOOK_AGAIN = 1.0
"""Seconds after which a job looks again whether the one that it is to follow has ended. A guess: such jobs are
rare, for who imports the task sends them so that they wait without being run."""


def lacks_key(task: Task[Any, Any], run: Run) -> bool:
    """Whether a job has to get its key before it is run; not if its key is held until its start only.

    A job of a debounced task does: it is put off, or gives its call to the job of its series.
    """
    unique, debounce = task.defaults.unique, task.defaults.debounce
    asks = debounce is not None or (unique is not None and unique.mode != "started")
    return asks and not run.claimed.is_unique


async def hold_key(store: Store, run: Run) -> None:
    """Let a job hold its unique key.

    Raises:
        Cancel: another job holds it.
        Snooze: the job is to run after the one that holds it, or has begun a series of calls.
    """
    task, envelope = run.task, run.envelope
    assert task is not None and envelope is not None  # noqa: PT018 - one fact: resolved
    signature, backoff = signature_of(task), Backoff()
    options = Options(unique=task.defaults.unique, debounce=task.defaults.debounce)
    maker = KeyMaker.of(task.name, signature, options, app_of(task).own_types)
    if maker is None:
        return
    lock = maker.lock(*signature.decode(envelope.args, envelope.kwargs))
    while True:
        try:
            holder = await store.operating.hold_unique(
                run.queue, run.worker, run.claimed.id, run.claimed.claim, lock
            )
            break
        except ServerUnavailableError:
            await asyncio.sleep(backoff.next())
    if holder is None:
        return
    owner, must_wait = holder
    if must_wait:
        raise Snooze(lock.wait_ms / 1000 or LOOK_AGAIN)
    raise Cancel(f"job {owner} {'has its call now' if lock.is_debounced else 'holds its unique key'}")
