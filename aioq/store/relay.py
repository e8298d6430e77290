"""Relays what is in the outbox of a queue to another queue; see `aioq.store.outbox`."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from weakref import WeakKeyDictionary

from aioq.errors import ServerError
from aioq.store.outbox import HOLD_MS, Outbox
from aioq.util.log import logger

log = logger("aioq.outbox")

MOST_STEPS = 100
"""The most queues to which entries are passed on: a chain is as long as a job was moved."""


class Relayed(NamedTuple):
    """What came of the entries for a target.

    Attributes:
        returned: the ids of jobs that came back, because the target has other jobs of these ids.
        further: the queues for which the target has entries now.
    """

    returned: Sequence[str]
    further: Sequence[str]


@dataclass(slots=True)
class _Turn:
    """The calls of one event loop that deliver entries from one queue to another: one after the other.

    Attributes:
        users: how many calls there are now.
        begun: the number of the last one that has begun to deliver.
        ended: the number of the last one that has delivered, or failed.
        relayed: what came of that one.
        error: why it failed, if it did.
    """

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    begun: int = 0
    ended: int = 0
    relayed: Relayed = field(default_factory=lambda: Relayed((), ()))
    error: ServerError | None = None

    def result(self) -> Relayed:
        if self.error is not None:
            raise self.error
        return self.relayed


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[int, str, str], _Turn]] = WeakKeyDictionary()


async def relay(outbox: Outbox, queue: str, target: str, *, hold_ms: int = HOLD_MS) -> Sequence[str]:
    """Deliver all entries for a target, and what they cause in turn.

    Calls that come while another one delivers wait for it, and share the next one.

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


async def _relay_one(outbox: Outbox, queue: str, target: str, hold_ms: int) -> Relayed:
    """Deliver all entries for a target, unless a call that began after this one has done so meanwhile.

    Many coroutines that move jobs at once would all read and deliver the same entries otherwise: 600 of them made
    12,000 calls.
    """
    turns = _turns.setdefault(asyncio.get_running_loop(), {})
    turn = turns.setdefault((id(outbox), queue, target), _Turn())
    came = turn.begun
    turn.users += 1
    try:
        async with turn.lock:
            if turn.ended > came:
                return turn.result()
            turn.begun += 1
            try:
                turn.relayed, turn.error = await _deliver_all(outbox, queue, target, hold_ms, turn), None
            except ServerError as error:
                turn.error = error
            turn.ended = turn.begun
            return turn.result()
    finally:
        turn.users -= 1
        if not turn.users:
            del turns[id(outbox), queue, target]


async def _deliver_all(outbox: Outbox, queue: str, target: str, hold_ms: int, turn: _Turn) -> Relayed:
    """Deliver all entries for a target; those that are added meanwhile only if no other call is there to do it."""
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
        more = removal.more and (reading.more or turn.users == 1)
    for job_id in returned:
        log.warning(
            "job %s is in queue %s again: queue %s has another job with this id or unique key, "
            "or a key of another type",
            *(job_id, queue, target),
        )
    return Relayed(returned, list(further))
