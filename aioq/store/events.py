"""Live events: jobs were sent, were started, or report. They are recorded while somebody listens.

The history has a row for each end and each further attempt. What happens before that is recorded where somebody
reads the events of the queue, or has done so within `LISTENING_MS`, or where the setting is `history="full"`. Both
are numbered, each for itself, so two numbers are a place from which a reader can go on.
"""

import enum
from collections.abc import Sequence

import msgspec

from aioq.store.history import Row

LISTENING_MS = 60_000
"""For how long live events are recorded after a read of them: whoever comes back within it has missed none."""

MOST_LIVE = 10_000
"""About how many live events a queue keeps, the last ones; the same as in `lib/events.lua`."""

ENTRIES_AT_ONCE = 64
"""The most entries of each kind that one call reads."""


class LiveKind(enum.StrEnum):
    """What has happened to a job that has not ended."""

    SENT = "q"
    STARTED = "b"
    PROGRESS = "p"


class LiveEvent(msgspec.Struct, frozen=True, gc=False):
    """One event of a job that has not ended.

    Attributes:
        number: its number.
        at_ms: when it was written, in milliseconds since the Unix epoch.
        job_id: the job.
        what: what has happened to it.
        worker: the worker that has it; empty for none.
        task: its task; empty where the call cannot be read.
        row: the number of the last row of the history then: this came after it, and before the next one.
    """

    number: int
    at_ms: int
    job_id: str
    what: LiveKind
    worker: str
    task: str
    row: int


class Position(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Up to where somebody has read.

    Attributes:
        row: the number of the last row of the history.
        live: the number of the last live event.
        at_ms: the server's time then, in milliseconds since the Unix epoch.
    """

    row: int
    live: int
    at_ms: int


class EventPart(msgspec.Struct, frozen=True, gc=False):
    """A part of what has happened in a queue.

    Attributes:
        last: the last numbers that were given, and the server's time.
        since_ms: since when live events are recorded without a gap; None if nobody has listened before this call.
        rows: rows of the history, the oldest first.
        live: live events, the oldest first.
        is_cut: whether there are more rows, and whether there are more live events.
    """

    last: Position
    since_ms: int | None
    rows: Sequence[Row] = ()
    live: Sequence[LiveEvent] = ()
    is_cut: tuple[bool, bool] = (False, False)
