"""Changes of queues with several shards, which are carried on if whoever makes them dies.

Pauses hold in all shards alike, and schedules of shards that are given up move to the others.

The first shard says what is paused: it is changed first, and the others follow it. Before that it gets a timer, by
which its workers are reminded of it as of a bulk operation; whoever has changed all shards stops that. So if that
process dies, workers do the rest some seconds later. Each call has a timer of its own: what one still has to do is
done, whatever others have finished meanwhile.
"""

import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from aioq.jobs.shards import shard_names
from aioq.schedules.homes import move_schedules
from aioq.store.contract import Store
from aioq.store.pauses import copy_pauses
from aioq.store.shards import StoredShards
from aioq.util.log import logger

log = logger("aioq.operations")

REMINDED_AFTER_MS = 5_000
"""When workers are reminded, in milliseconds: far later than all shards are usually changed."""

_REMINDER = "shards-"
"""How the names of such timers begin; that of no operation does."""


def is_reminder(operation_id: str) -> bool:
    """Whether a queue reminds of a change of its shards, and of no bulk operation."""
    return operation_id.startswith(_REMINDER)


@asynccontextmanager
async def carried_on(store: Store, queue: str) -> AsyncGenerator[Callable[[], Awaitable[None]]]:
    """Have the workers of a queue do the rest of a change of its shards, unless this process gets to the end.

    The result sets their timer anew. Call it after what they are to carry on was written: if that has taken long,
    one of them may have found nothing to do before, and stopped the timer.
    """
    remind, name = store.operating.operations.remind, f"{_REMINDER}{os.urandom(6).hex()}"

    async def set_timer() -> None:
        # Nobody is woken: a pause has all workers claim, and else a renewal of a lease comes early enough.
        await remind(queue, name, REMINDED_AFTER_MS, wakes=False)

    await set_timer()
    yield set_timer
    await remind(queue, name, None)


async def change_pauses(store: Store, shards: Sequence[str], change: Callable[[str], Awaitable[None]]) -> None:
    """Change what is paused in all shards of a queue.

    Args:
        store: the store.
        shards: their names.
        change: changes what is paused in one of them.

    Raises:
        ServerError: some could not be changed: workers go on with that, unless it is the first one.

    Cancellation: as an error.
    """
    first, others = shards[0], shards[1:]
    if not others:
        await change(first)
        return
    async with carried_on(store, first) as set_timer:
        await change(first)
        await set_timer()
        await copy_pauses(store.operating.pauses, first, others)


async def attend_to_shards(store: Store, queue: str, reminder: str) -> None:
    """Do what somebody who was interrupted has left: move schedules, and make the pauses alike."""
    stored = (await store.shards.read()).get(queue, StoredShards(1))
    names = shard_names(queue, stored.served)
    await move_schedules(store.timetable, names[stored.number :], names[: stored.number])
    if changed := await copy_pauses(store.operating.pauses, queue, names[1:]):
        log.info(
            "queue %s: whoever has paused or resumed it was interrupted; this now holds in %s too",
            *(queue, ", ".join(changed)),
        )
    await store.operating.operations.remind(queue, reminder, None)
