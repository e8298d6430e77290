"""The timers of a queue in memory: times at which something other than a scheduled job is due.

Each has a kind, and the id of the job that it is about.
"""

import heapq

EXPIRE, RELAY, OPERATE, BATCH = "expire", "relay", "operate", "batch"
"""The kinds of timers: one ends a job if it has not been started by then; another relays what is in the outbox
for a queue, whose name takes the place of the id; another carries on the bulk operation of this id; the last one
lets the jobs be run that wait for a batch of this lane and key."""

LIMIT, RESUME = "limit", "resume"
"""The same of limits: the rate of a group lets its next job start; the pause of a limit or of one key ends."""

FLOW = "flow"
"""The same of flows: a step is due in the flow of this id."""


class Timers:
    """A heap of (time, kind, id). If a timer is set again or stopped, its old item stays, and is ignored later."""

    def __init__(self) -> None:
        self._times: dict[tuple[str, str], int] = {}
        self._heap: list[tuple[int, str, str]] = []

    def __len__(self) -> int:
        return len(self._times)

    def set(self, kind: str, name: str, at_ms: int) -> bool:
        """Set a timer, replacing the one of this kind and id; returns whether it is now the first of all."""
        first = self.first_ms()
        self._times[kind, name] = at_ms
        heapq.heappush(self._heap, (at_ms, kind, name))
        return first is None or at_ms < first

    def has(self, kind: str, name: str) -> bool:
        """Whether there is a timer of this kind and id."""
        return (kind, name) in self._times

    def stop(self, kind: str, name: str) -> None:
        """Stop a timer, if there is one."""
        self._times.pop((kind, name), None)

    def first_ms(self) -> int | None:
        """When the first timer is due; None if there is none."""
        while self._heap:
            at_ms, kind, name = self._heap[0]
            if self._times.get((kind, name)) == at_ms:
                return at_ms
            heapq.heappop(self._heap)
        return None

    def first_without(self, kind: str) -> int | None:
        """When the first timer of any other kind is due; None if there is none."""
        return min((at_ms for (each, _), at_ms in self._times.items() if each != kind), default=None)

    def due_names(self, kind: str, now_ms: int) -> list[str]:
        """The ids of the timers of a kind that are due, in their order."""
        found = sorted((at_ms, name) for (each, name), at_ms in self._times.items() if each == kind)
        return [name for at_ms, name in found if at_ms <= now_ms]

    def pop_due(self, now_ms: int) -> tuple[str, str] | None:
        """Remove a timer that is due, and return its kind and id; None if there is none."""
        first = self.first_ms()
        if first is None or first > now_ms:
            return None
        _, kind, name = heapq.heappop(self._heap)
        del self._times[kind, name]
        return kind, name
