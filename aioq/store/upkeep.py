"""What workers do for a queue beside running its jobs: see to what is due, and to what the dead held."""

from collections.abc import Sequence

import msgspec


class Promotion(msgspec.Struct, frozen=True, gc=False):
    """What one step in seeing to what is due did.

    Attributes:
        count: how many jobs and timers were looked at; 0 where nothing was due.
        next_due_ms: how long until the next job or timer is due, in milliseconds; None where there is none.
        expired: how many jobs ended because they had not been started in time.
    """

    count: int
    next_due_ms: int | None
    expired: int = 0


class Recovery(msgspec.Struct, frozen=True, gc=False):
    """What one bounded step of a recovery did.

    Attributes:
        worker: the worker it was about, or None when no lease has ended.
        returned: jobs that went back to the front of their lane.
        buried: ids of jobs that had crashed too often and were dead-lettered.
        more: there is more to do; call again.
    """

    worker: str | None = None
    returned: int = 0
    buried: Sequence[str] = ()
    more: bool = False
