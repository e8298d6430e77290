"""A clock for stores in memory that run beside servers."""

import time


class SystemClock:
    """The host's clock."""

    def now_ms(self) -> int:
        """The time in milliseconds since the Unix epoch."""
        return time.time_ns() // 1_000_000
