"""What a job has beside its call that the stores act on: one field of its record, absent in a plain job.

Each feature has one key of it, and a hook in the stores that is called at the moves of every job with that key: in
`lua/lib/hooks.lua` and in `aioq.store.memory.hooks`. `docs/design.md`, "The doors", says when.
"""

import enum

import msgspec

from aioq.errors import Failure
from aioq.wire.messages import encode_cancellation, encode_failure


class Expiry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """By when a job must have been started.

    Attributes:
        at_ms: this time, in milliseconds since the Unix epoch; with a `span_ms` the store works it out.
        span_ms: how long after the job is due that is, in milliseconds; 0 where it is a time of its own.
        begun: whether the job cannot expire now: a worker has it, or it has been started.
        has_run: whether it has been started: then it never expires.
    """

    at_ms: int = 0
    span_ms: int = 0
    begun: bool = False
    has_run: bool = False


class Extra(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What a job has beside its call, as the MessagePack map that is in its record; it is never empty.

    Attributes:
        tags: words that its sender has marked it with.
        expires: by when it must have been started; None for no such time.
    """

    tags: tuple[str, ...] = ()
    expires: Expiry | None = None


class Way(enum.StrEnum):
    """How a job comes back to a lane, or to wait for its time, once it was there before.

    Those that have the name of a settlement's verb come by that. `recover` and `depart` give back what a dead or a
    leaving worker held, `return` what was delivered to one and never claimed; `promote` queues what is due,
    `reschedule` moves what waits to another time, `let_next` queues what `overlap` held back.
    """

    RETRY = "retry"
    SNOOZE = "snooze"
    INTERRUPT = "interrupt"
    CUT = "cut"
    CRASH = "crash"
    RELEASE = "release"
    PARK = "park"
    RECOVER = "recover"
    DEPART = "depart"
    RETURN = "return"
    PROMOTE = "promote"
    RESCHEDULE = "reschedule"
    LET_NEXT = "let_next"


EXPIRED = encode_cancellation("", "expired")
"""The outcome of a job that was not started in time. Who writes it cannot read the call, so that is kept."""

CALL_GONE = encode_failure(
    "",
    Failure("CallGone", "its call is gone from the server, evicted or deleted by hand: it cannot be run"),
)
"""The outcome of a job that could not be started because its call had a key of its own and that is no more."""
