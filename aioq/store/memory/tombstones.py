"""Tombstones of jobs whose records were deleted while their sends could still be repeated."""

import heapq


class Tombstones:
    """The sends of these jobs; each is remembered until it cannot be repeated any more."""

    def __init__(self) -> None:
        self._sends: dict[str, int] = {}
        self._expiring: list[tuple[int, str]] = []

    def put(self, send: str, until_ms: int) -> None:
        """Remember a send until that time."""
        self._sends[send] = until_ms
        heapq.heappush(self._expiring, (until_ms, send))

    def __contains__(self, send: str) -> bool:
        return send in self._sends

    def expire(self, now_ms: int) -> None:
        """Forget the sends whose time is over."""
        while self._expiring and self._expiring[0][0] <= now_ms:
            until_ms, send = heapq.heappop(self._expiring)
            if self._sends.get(send) == until_ms:  # else the id was used again, and has a later time
                del self._sends[send]
