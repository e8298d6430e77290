"""The dead jobs of a queue in memory: those that failed, kept for the operator."""

from collections import OrderedDict


class Dead(OrderedDict[str, int]):
    """Ids of failed jobs, and when they died; oldest first, for a job dies once and time does not run backwards.

    Args:
        ttl_ms: how long they are kept; 0 for not at all.
        limit: the most of them.
    """

    def __init__(self, ttl_ms: int, limit: int) -> None:
        super().__init__()
        self._ttl_ms = ttl_ms
        self._limit = limit

    def bury(self, job_id: str, now_ms: int) -> None:
        """Add a job, and forget those that are too old or too many."""
        if self._ttl_ms <= 0:
            return
        self[job_id] = now_ms
        while self and (len(self) > self._limit or next(iter(self.values())) <= now_ms - self._ttl_ms):
            self.popitem(last=False)
