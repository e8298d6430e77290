"""The scheduled jobs of a queue in memory, sorted by when they are due."""

import heapq
from collections.abc import Mapping

from aioq.store.memory.records import Record


class Delayed:
    """A heap of (due time, job id). If a job is cancelled or moved, its item stays until its time, and is ignored.

    Args:
        records: the queue's jobs; an item of the heap is valid if the record's `due_ms` is the same.
    """

    def __init__(self, records: Mapping[str, Record]) -> None:
        self._records = records
        self._heap: list[tuple[int, str]] = []

    def add(self, record: Record, due_ms: int) -> bool:
        """Add a job; returns whether it is due before all others."""
        first = self.first()
        record.due_ms = due_ms
        heapq.heappush(self._heap, (due_ms, record.id))
        return first is None or first.due_ms is None or due_ms < first.due_ms

    def first(self) -> Record | None:
        """The job that is due first."""
        while self._heap:
            due_ms, job_id = self._heap[0]
            record = self._records.get(job_id)
            if record is not None and record.due_ms == due_ms:
                return record
            heapq.heappop(self._heap)
        return None

    def next_due(self, now_ms: int) -> int | None:
        """How long until the first job is due, in ms; 0 if it is due now, None if there is none."""
        first = self.first()
        return None if first is None else max(0, (first.due_ms or 0) - now_ms)

    def pop_due(self, now_ms: int) -> Record | None:
        """Remove and return a job that is due; None if there is none."""
        record = self.first()
        if record is None or (record.due_ms or 0) > now_ms:
            return None
        heapq.heappop(self._heap)
        return record
