"""Live events: jobs were sent, were started, or report; workers come and go; a queue is paused, or a task.

The history has a row for each end and each further attempt. All else is recorded where somebody reads such events
of the queue, or has done so within `LISTENING_MS`, or where the setting is `history="full"`. Those of jobs cost
something for each job, so they are not recorded for somebody who reads only the others. Rows and live events are
numbered, each for itself, so two numbers are a place from which a reader can go on.
"""

import enum
from collections.abc import Sequence

import msgspec

from aioq.store.history import HistoryRow

LISTENING_MS = 60_000
"""For how long live events are recorded after a read of them: whoever comes back within it has missed none."""

MOST_LIVE = 10_000
"""About how many live events a queue keeps, the last ones; the same as in `lib/events.lua`."""

ENTRIES_AT_ONCE = 64
"""The most entries of each kind that one call reads."""


class LiveKind(enum.StrEnum):
    """What has happened to a job that has not ended; to a worker; or, from `PAUSED` on, to a queue or a task.

    A worker has joined; has left by itself; or its jobs were given back because its lease had ended, or because
    its process was seen to have died; or it takes no more jobs, or takes them again. No letter is one of `End`:
    both are looked up in one table.
    """

    SENT = "q"
    STARTED = "b"
    PROGRESS = "p"
    JOINED = "j"
    LEFT = "l"
    LAPSED = "e"
    DIED = "d"
    HALTED = "h"
    GOES_ON = "g"
    PAUSED = "z"
    RESUMED = "u"


class LiveEvent(msgspec.Struct, frozen=True, gc=False):
    """One live event.

    Attributes:
        number: its number.
        at_ms: when it was written, in milliseconds since the Unix epoch.
        job_id: the job; empty for an event that is not of a job.
        what: what has happened.
        worker: the worker, or that which has the job; empty for none.
        task: the job's task; empty where the call cannot be read. Of a pause the task, empty for the whole queue.
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
        since_ms: since when the live events that were asked for are recorded without a gap; None if nobody has
            listened to all of them before this call.
        rows: rows of the history, the oldest first.
        live: live events, the oldest first.
        is_cut: whether there are more rows, and whether there are more live events.
    """

    last: Position
    since_ms: int | None
    rows: Sequence[HistoryRow] = ()
    live: Sequence[LiveEvent] = ()
    is_cut: tuple[bool, bool] = (False, False)
