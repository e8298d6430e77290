"""The outbox of a queue: what it sends to other queues. Part of the store contract.

Queues may be at different servers (nodes of a cluster), so no call reaches two of them. What one queue sends to
another is written into its outbox, in the same step as what causes it. Entries for one target are delivered in
their order, and each is applied once, however often it is delivered. `aioq.store.relay` does that in three calls:

    read, at the source  ──►  deliver, at the target  ──►  remove, at the source

Its first users are jobs that are moved to another queue. Such a job leaves a record at its old queue until it has
ended. This says where the job is, and the processes that wait for it there are notified of its end by an entry
that comes back.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from aioq.jobs.job import JobState
from aioq.store.extra import MovedJob

HOLD_MS = 5_000
"""For how long after a reading other workers leave the entries to the one that has read them, in milliseconds."""

MOST_ENTRIES = 100
"""The most entries of one reading."""


class OutboxEntry(msgspec.Struct, frozen=True, gc=False):
    """One entry.

    Attributes:
        id: its id; entries that are added later have higher ids.
        kind: `job` takes a job to the target, `ended` tells it of a job's end, `cancel` cancels a job there.
        job_id: the job.
        content: what it says; only the store reads it.
    """

    id: Any
    kind: str
    job_id: str
    content: Any


class Reading(msgspec.Struct, frozen=True, gc=False):
    """The entries that one reading has brought.

    Attributes:
        entries: the first entries for the target, in their order.
        fresh: no entry was read since the outbox had none for this target.
        more: there are further entries.
        name: distinguishes this reading from others.
    """

    entries: Sequence[OutboxEntry] = ()
    fresh: bool = False
    more: bool = False
    name: int = 0


class DeliveryResult(msgspec.Struct, frozen=True, gc=False):
    """What has become of the entries in their target.

    Attributes:
        verdicts: for each entry `applied`, `refused` (the target has another job with this id or unique key, which
            may follow after a blank, or a key of another type) or `stale` (its id is too low although it was never
            delivered; it gets a higher one).
        last: the last entry that was applied before.
        targets: the queues for which the outbox of the target has entries now.
    """

    verdicts: Sequence[str]
    last: Any = None
    targets: Sequence[str] = ()


class Removal(msgspec.Struct, frozen=True, gc=False):
    """What was removed.

    Attributes:
        more: there are further entries.
        returned: the jobs that are in the source again, because the target has refused them.
    """

    more: bool = False
    returned: Sequence[str] = ()


class MovedJobsReport(msgspec.Struct, frozen=True, gc=False):
    """What a queue knows of jobs that were moved there.

    Attributes:
        gone: the ids of those of which it has no record.
        notifies: its outbox has entries that notify the other queue of the end of others.
    """

    gone: Sequence[str] = ()
    notifies: bool = False


class Outbox(Protocol):
    """The outboxes of all queues of a store."""

    async def move(self, queue: str, job_ids: Sequence[str], target: str) -> list[JobState | None]:
        """Move jobs to another queue, and return the state each was in; None too for one that is elsewhere by now.

        Queued and scheduled jobs are moved: they are put into the outbox. One that runs, waits for another job or
        has ended stays as it is.
        """
        ...

    async def read(self, queue: str, target: str, hold_ms: int = HOLD_MS) -> Reading:
        """Read the first entries for a target; other workers leave these to the caller for `hold_ms`."""
        ...

    async def deliver(self, target: str, source: str, reading: Reading) -> DeliveryResult:
        """Apply entries in their target. Those that were applied already are ignored."""
        ...

    async def remove(self, queue: str, target: str, reading: Reading, delivery: DeliveryResult) -> Removal:
        """Remove entries that were delivered."""
        ...

    async def look(self, target: str, source: str, jobs: Sequence[MovedJob]) -> MovedJobsReport:
        """Look in `target` for jobs that were moved there; `source` is notified again of those that have ended."""
        ...

    async def lost(self, queue: str, target: str, job_ids: Sequence[str]) -> list[str]:
        """End those of these jobs that were moved to `target`: they are not there any more. Returns their ids."""
        ...
