"""What is left of jobs whose records went before their sends were over."""

import heapq


class Tombstones:
    """Sends that were carried out, each remembered until it cannot be repeated any more."""

    def __init__(self) -> None:
        self._sends: dict[str, int] = {}
        self._expiring: list[tuple[int, str]] = []

    def put(self, send: str, until_ms: int) -> None:
        """Remember a send until then."""
        self._sends[send] = until_ms
        heapq.heappush(self._expiring, (until_ms, send))

    def __contains__(self, send: str) -> bool:
        return send in self._sends

    def expire(self, now_ms: int) -> None:
        """Forget the sends whose time is over."""
        while self._expiring and self._expiring[0][0] <= now_ms:
            until_ms, send = heapq.heappop(self._expiring)
            if self._sends.get(send) == until_ms:  # an id that was used anew has a later time
                del self._sends[send]
