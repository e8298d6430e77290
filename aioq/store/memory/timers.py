"""What is due in a queue in memory beside its jobs, each under a kind and the id of what it is about."""

import heapq

EXPIRE = "expire"
"""A job is to end if it has not been started by then."""


class Timers:
    """A heap of (time, kind, id). What was set again or stopped stays until its time, and is then ignored."""

    def __init__(self) -> None:
        self._times: dict[tuple[str, str], int] = {}
        self._heap: list[tuple[int, str, str]] = []

    def __len__(self) -> int:
        return len(self._times)

    def set(self, kind: str, name: str, at_ms: int) -> bool:
        """Set a timer, in place of the one of this kind and id; whether it is the first of all now."""
        first = self.first_ms()
        self._times[kind, name] = at_ms
        heapq.heappush(self._heap, (at_ms, kind, name))
        return first is None or at_ms < first

    def stop(self, kind: str, name: str) -> None:
        """Stop a timer, if there is one."""
        self._times.pop((kind, name), None)

    def first_ms(self) -> int | None:
        """When the first of them is due, None where there is none."""
        while self._heap:
            at_ms, kind, name = self._heap[0]
            if self._times.get((kind, name)) == at_ms:
                return at_ms
            heapq.heappop(self._heap)
        return None

    def pop_due(self, now_ms: int) -> tuple[str, str] | None:
        """Take out one that is due: its kind and id."""
        first = self.first_ms()
        if first is None or first > now_ms:
            return None
        _, kind, name = heapq.heappop(self._heap)
        del self._times[kind, name]
        return kind, name
