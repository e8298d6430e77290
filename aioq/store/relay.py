"""Relays what is in the outbox of a queue to another queue; see `aioq.store.outbox`."""

from collections.abc import Sequence

from aioq.errors import ServerError
from aioq.store.outbox import HOLD_MS, Outbox
from aioq.util.log import logger

log = logger("aioq.outbox")

MOST_STEPS = 100
"""The most queues to which entries are passed on: a chain is as long as a job was moved."""


async def relay(outbox: Outbox, queue: str, target: str, *, hold_ms: int = HOLD_MS) -> Sequence[str]:
    """Deliver all entries for a target, and what they cause in turn.

    What the target passes on to further queues is relayed too, as far as these can be reached; the workers of the
    target do the rest.

    Args:
        outbox: of the store.
        queue: whose outbox it is.
        target: for which queue.
        hold_ms: for how long other workers leave it to this one, should it die.

    Returns:
        The ids of jobs that came back, because the target has refused them: it has other jobs of these ids.

    Raises:
        ServerUnavailableError: one of the two queues cannot be reached; the entries stay.
        ServerError: one of the two refuses the call.

    Cancellation: between two calls; what was not removed is delivered again, and ignored there.
    """
    returned, further = await _relay_one(outbox, queue, target, hold_ms)
    steps = [(target, each) for each in further]
    for _ in range(MOST_STEPS):
        if not steps:
            break
        source, following = steps.pop(0)
        try:
            _, further = await _relay_one(outbox, source, following, hold_ms)
        except ServerError as error:
            log.debug("queue %s: could not relay to queue %s: %s", source, following, error)
        else:
            steps += [(following, each) for each in further]
    return returned


async def _relay_one(outbox: Outbox, queue: str, target: str, hold_ms: int) -> tuple[list[str], list[str]]:
    """Deliver all entries for a target; returns the jobs that came back, and the queues it has entries for now."""
    returned: list[str] = []
    further: dict[str, None] = {}
    more = True
    while more:
        reading = await outbox.read(queue, target, hold_ms)
        more = reading.more
        if not reading.entries:
            continue
        delivery = await outbox.deliver(target, queue, reading)
        further.update(dict.fromkeys(delivery.targets))
        removal = await outbox.remove(queue, target, reading, delivery)
        returned += removal.returned
        more = removal.more
    for job_id in returned:
        log.warning(
            "job %s is in queue %s again: queue %s has another job with this id, or a key of another type",
            *(job_id, queue, target),
        )
    return returned, list(further)
