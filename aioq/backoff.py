"""Pauses between attempts to reach a server that is gone: growing, capped, jittered."""

import random


class Backoff:
    """The pauses of one outage; a new outage takes a new one.

    Args:
        first: the ceiling of the first pause in seconds.
        most: the ceiling of any pause in seconds. With the default a healed server is noticed within a second.
    """

    def __init__(self, first: float = 0.05, most: float = 1.0) -> None:
        self._ceiling = first
        self._most = most

    def next(self) -> float:
        """The next pause in seconds, drawn from the upper half of a doubling ceiling."""
        ceiling = self._ceiling
        self._ceiling = min(ceiling * 2, self._most)
        return ceiling * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing
