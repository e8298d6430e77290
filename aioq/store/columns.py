"""Jobs to enqueue, as columns: most jobs are only an id and an envelope, so no object is made for each of them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

from aioq.jobs.job import Priority
from aioq.store.contract import NewJob
from aioq.store.rooms import Place


class NewJobs(Sequence[NewJob]):
    """Jobs to enqueue, in columns.

    Args:
        jobs: the first ones.

    Attributes:
        ids: the id of each.
        envelopes: the encoded call of each.
        special: the jobs that have more than these two, by position. Whoever appends to the two lists only adds a
            job that has no more.
        place: if their queue has no room for them, the place from which they wait for it; None to refuse them.
    """

    __slots__ = ("envelopes", "ids", "place", "special")

    def __init__(self, jobs: Iterable[NewJob] = ()) -> None:
        self.ids: list[str] = []
        self.envelopes: list[bytes] = []
        self.special: dict[int, NewJob] = {}
        self.place: Place | None = None
        if jobs:
            self.extend(jobs)

    @staticmethod
    def usual(ids: list[str], envelopes: list[bytes]) -> "NewJobs":
        """Jobs that are only an id and an envelope. The lists are not copied."""
        jobs = NewJobs()
        jobs.ids, jobs.envelopes = ids, envelopes
        return jobs

    @staticmethod
    def special_only(ids: list[str], envelopes: list[bytes], jobs: Iterable[NewJob]) -> "NewJobs":
        """Jobs of which each has more than its id and its envelope. The lists are not copied."""
        made = NewJobs.usual(ids, envelopes)
        made.special = dict(enumerate(jobs))
        return made

    def append(self, job: NewJob) -> None:
        """Append a job of any kind."""
        if _is_special(job):
            self.special[len(self.ids)] = job
        self.ids.append(job.id)
        self.envelopes.append(job.envelope)

    def extend(self, jobs: Iterable[NewJob]) -> None:
        """Append jobs of any kind."""
        if not isinstance(jobs, NewJobs):
            for job in jobs:
                self.append(job)
            return
        self.special |= {position + len(self.ids): job for position, job in jobs.special.items()}
        self.ids += jobs.ids
        self.envelopes += jobs.envelopes

    def part(self, first: int, after: int) -> "NewJobs":
        """The jobs from position `first` to the one before `after`."""
        part = NewJobs.usual(self.ids[first:after], self.envelopes[first:after])
        if special := self.special:
            part.special = {at - first: special[at] for at in range(first, after) if at in special}
        return part

    def replace(self, jobs: "NewJobs") -> None:
        """Replace all jobs by these. Their lists are not copied."""
        self.ids, self.envelopes, self.special = jobs.ids, jobs.envelopes, jobs.special

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[NewJob]:
        if len(self.special) == len(self.ids):  # in the order of their positions, as they were appended
            yield from self.special.values()
            return
        known = self.special.get
        for position, (job_id, envelope) in enumerate(zip(self.ids, self.envelopes, strict=True)):
            yield known(position) or NewJob(job_id, envelope)

    @overload
    def __getitem__(self, position: int) -> NewJob: ...
    @overload
    def __getitem__(self, position: slice) -> list[NewJob]: ...
    def __getitem__(self, position: int | slice) -> NewJob | list[NewJob]:
        if isinstance(position, slice):
            return [self[each] for each in range(*position.indices(len(self.ids)))]
        at = range(len(self.ids))[position]
        return self.special.get(at) or NewJob(self.ids[at], self.envelopes[at])


def _is_special(job: NewJob) -> bool:
    """Whether a job is more than an id and an envelope."""
    timed = job.delay_ms or job.eta_ms is not None
    return bool(timed or job.nonce or job.waiter or job.extra or job.priority is not Priority.NORMAL)
