"""Jobs on their way to the server: as they leave together, and as they are sent again one by one."""

from collections.abc import Sequence

import msgspec

from aioq.errors import SendError
from aioq.store.columns import NewJobs
from aioq.store.contract import NewJob
from aioq.util.batcher import Batch


class Pending(msgspec.Struct, gc=False):
    """Jobs that are confirmed or given up together: one, or a part of a `send_many`.

    Attributes:
        jobs: the jobs.
        deadline: when they are given up, by the loop's clock.
        again: these very jobs were sent before, and it is not known whether the server has them.
    """

    jobs: Sequence[NewJob]
    deadline: float
    again: bool = False


class Parcel(NewJobs, Batch):
    """What leaves in one call.

    Attributes:
        deadlines: when each entry is given up.
        again: some of the jobs were sent before, and it is not known whether the server has them.
        attempt_ends: when the first attempt is given up.
        expired: it was.
    """

    def __init__(self) -> None:
        NewJobs.__init__(self)
        Batch.__init__(self)
        self.deadlines: list[float] = []
        self.again = False
        self.attempt_ends = 0.0
        self.expired = False

    def weights(self, count: int) -> Sequence[int]:
        """See `Batch.weights`: bytes."""
        return [*map(len, self.envelopes[:count])]

    def keep(self, entries: Sequence[int], items: Sequence[int]) -> None:
        """See `Batch.keep`."""
        self.deadlines = [self.deadlines[position] for position in entries]
        self.replace(NewJobs(self[position] for position in items))

    def cut(self, entries: int, items: int) -> "Parcel":
        """See `Batch.cut`."""
        parcel = Parcel()
        parcel.again = self.again
        parcel.replace(self.part(0, items))
        self.replace(self.part(items, len(self)))
        parcel.deadlines, self.deadlines = self.deadlines[:entries], self.deadlines[entries:]
        return parcel

    def pending(self) -> list[Pending]:
        """Its entries, each for itself."""
        entries: list[Pending] = []
        first = 0
        for entry, deadline in enumerate(self.deadlines):
            after = first + self.several.get(entry, 1)
            entries.append(Pending(self[first:after], deadline, self.again))
            first = after
        return entries


def jobs_of(batch: Sequence[Pending]) -> Sequence[NewJob]:
    """All jobs of these."""
    return [job for pending in batch for job in pending.jobs]


def gave_up(batch: Sequence[Pending], send_timeout: float, why: str, what: str) -> SendError:
    """The error that names the jobs of these."""
    ids = tuple(job.id for job in jobs_of(batch))
    shown = ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")  # noqa: PLR2004
    return SendError(f"job {shown} {what} after {send_timeout:g} s: {why}", ids)


def refused_of(pending: Pending, told: Sequence[bool | Exception]) -> Sequence[bool | Exception]:
    """What the jobs of an entry are told, with one error that names those of them that were refused."""
    faults = [each for each in told if isinstance(each, Exception)]
    if len(told) == 1 or not faults:
        return told
    ids = tuple(job.id for job, each in zip(pending.jobs, told, strict=True) if isinstance(each, Exception))
    refused = SendError(f"{len(ids)} of {len(told)} jobs were not sent: {faults[0]}", ids)
    refused.__cause__ = faults[0].__cause__ if isinstance(faults[0], SendError) else faults[0]
    return [refused if isinstance(each, Exception) else each for each in told]
