"""A job as the stores take it. Part of the store contract."""

import msgspec

from aioq.jobs.job import Priority
from aioq.store.extra import Extra


class NewJob(msgspec.Struct, frozen=True, gc=False):
    """A job to enqueue.

    Attributes:
        id: chosen by the client; the server adds each id once, so sending again after a lost reply is safe.
        envelope: the encoded call.
        priority: the lane.
        delay_ms: queue it this long after the server takes it, in milliseconds; None for at once.
        eta_ms: queue it at this time, in milliseconds since the Unix epoch; None for at once.
        nonce: distinguishes this send from other sends of the same id; "" if no other send can have that id.
        waiter: the channel on which this process will wait for the outcome, as if it had called `Store.wait`; ""
            for none. All jobs of a call have the same: if one has it, the store may register it for all.
        extra: further data that the stores act on (tags, an expiry); None for a plain job.
    """

    id: str
    envelope: bytes
    priority: Priority = Priority.NORMAL
    delay_ms: int | None = None
    eta_ms: int | None = None
    nonce: str = ""
    waiter: str = ""
    extra: Extra | None = None
