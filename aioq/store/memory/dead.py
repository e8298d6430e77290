"""The dead jobs of a queue in memory: those that failed, kept for the operator."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping

from aioq.store.memory.records import Record


class Dead:
    """The ids of dead jobs, and when each job died. The oldest comes first: ids are added in the order of time.

    Args:
        ttl_ms: how long a job stays in here.
        limit: the most jobs in here.
    """

    def __init__(self, ttl_ms: int, limit: int) -> None:
        self._ttl_ms = ttl_ms
        self._limit = limit
        self._died: OrderedDict[str, int] = OrderedDict()
        self._cut: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._died)

    def __iter__(self) -> Iterator[str]:
        return iter(self._died)

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._died

    def listed(self, records: Mapping[str, Record]) -> list[Record]:
        """The records of these jobs, and those that are left of jobs of which there were too many."""
        for job_id in [each for each in self._cut if each not in records]:
            del self._cut[job_id]
        return [records[job_id] for job_id in (*self._died, *self._cut) if job_id in records]

    def is_cut(self, job_id: str) -> bool:
        """Whether a job is one of which there were too many."""
        return job_id in self._cut

    def add(self, record: Record, now_ms: int) -> Iterator[str]:
        """Add a job that has just died; yields the ids of jobs that are removed because there are too many."""
        self._died[record.id] = now_ms
        while len(self._died) > self._limit:
            cut, _ = self._died.popitem(last=False)
            self._cut[cut] = None
            yield cut

    def is_free(self, record: Record, now_ms: int) -> bool:
        """Whether it is a dead job whose result has expired, so that a new send can use its id."""
        return record.id in self._died and record.result_expires_ms <= now_ms

    def free_id(self, record: Record, now_ms: int) -> bool:
        """Remove a dead job whose result has expired, so that a new send can use its id; False if it is none."""
        free = self.is_free(record, now_ms)
        if free:
            del self._died[record.id]
        return free

    def drop(self, job_id: str) -> None:
        """Remove a job that is to run again."""
        self._died.pop(job_id, None)
        self._cut.pop(job_id, None)

    def expire(self, now_ms: int) -> None:
        """Remove the jobs whose time is over."""
        while self._died and next(iter(self._died.values())) <= now_ms - self._ttl_ms:
            self._died.popitem(last=False)
