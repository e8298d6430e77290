"""The clock of the in-memory store. In production only the server's clock counts.

`ManualClock` stays at its time until it is moved, so a test of a one-hour delay takes no time.
"""

import time
from typing import Protocol


class Clock(Protocol):
    """The clock from which the in-memory store reads the time."""

    def now_ms(self) -> int:
        """The time in milliseconds since the Unix epoch."""
        ...


class ManualClock:
    """A clock that moves only by `advance`.

    Args:
        start_ms: its first time, in milliseconds since the Unix epoch; by default the host's time.
    """

    def __init__(self, start_ms: int | None = None) -> None:
        self._now_ms = time.time_ns() // 1_000_000 if start_ms is None else start_ms

    def now_ms(self) -> int:
        """The time in milliseconds since the Unix epoch."""
        return self._now_ms

    def advance(self, seconds: float) -> None:
        """Move on by `seconds`.

        Raises:
            ValueError: `seconds` is negative; time does not run backwards.
        """
        if seconds < 0:
            raise ValueError(f"a clock cannot go back by {-seconds} s")
        self._now_ms += round(seconds * 1000)
