"""The dead jobs of a queue in memory: those that failed, kept for the operator."""

from collections import OrderedDict
from collections.abc import Iterator

from aioq.store.memory.records import Record


class Dead:
    """Ids by when their jobs died. Oldest first, because a job dies once and time does not run backwards.

    Args:
        ttl_ms: how long a job is one of them.
        limit: the most of them.
    """

    def __init__(self, ttl_ms: int, limit: int) -> None:
        self._ttl_ms = ttl_ms
        self._limit = limit
        self._died: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._died)

    def __iter__(self) -> Iterator[str]:
        return iter(self._died)

    def add(self, record: Record, now_ms: int) -> Iterator[str]:
        """Take in a job that has just died; yields the ids of those that are one too many for it."""
        self._died[record.id] = now_ms
        while len(self._died) > self._limit:
            yield self._died.popitem(last=False)[0]

    def give_up(self, record: Record, now_ms: int) -> bool:
        """Let a dead job go whose result is forgotten, for a new send of its id; whether it is one."""
        free = record.id in self._died and record.result_expires_ms <= now_ms
        if free:
            del self._died[record.id]
        return free

    def drop(self, job_id: str) -> None:
        """Take out a job that is to run again."""
        self._died.pop(job_id, None)

    def expire(self, now_ms: int) -> None:
        """Let those go whose time is over."""
        while self._died and next(iter(self._died.values())) <= now_ms - self._ttl_ms:
            self._died.popitem(last=False)
