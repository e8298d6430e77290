"""Compares the limits that a worker's code declares with those on the server, and logs where they differ."""

from collections.abc import Awaitable, Callable, Sequence

from aioq.jobs.limits import Limit, in_words
from aioq.store.limits import LimitState
from aioq.util.log import logger

log = logger("aioq.limits")


class DeclaredLimits:
    """The limits that the code of a worker declares.

    Args:
        declared: the limits, each with its queue.
        stored: reads those of a queue on the server.
    """

    def __init__(
        self, declared: Sequence[tuple[str, Limit]], stored: Callable[[str], Awaitable[Sequence[LimitState]]]
    ) -> None:
        self._declared = declared
        self._stored = stored
        self._compared: set[str] = set()

    async def compare(self, queues: Sequence[str]) -> None:
        """Log the differences in each of these queues that was not compared yet.

        Raises:
            ServerError: the server cannot be asked.
        """
        for queue in queues:
            mine = {limit.name: limit for name, limit in self._declared if name == queue}
            if mine and queue not in self._compared:
                found = {each.name: each for each in await self._stored(queue)}
                for name in mine.keys() & found.keys():
                    _compare(queue, mine[name], found[name])
            self._compared.add(queue)


def _compare(queue: str, mine: Limit, there: LimitState) -> None:
    declared, override = there.declared, there.override
    numbers = (mine.concurrency or 0, float(mine.rate or 0))
    if override is not None:
        text = in_words(override.concurrency, override.rate, override.per_us / 1_000_000)
        log.warning(
            "queue %s: limit %r: %s was put at run time; the code says %s", queue, mine.name, text, mine.words
        )
    if not there.declared_ms or (declared.concurrency, declared.rate) == numbers:
        return
    text = in_words(declared.concurrency, declared.rate, declared.per_us / 1_000_000)
    if there.declared_ms > mine.declared_ms:
        log.warning(
            "queue %s: limit %r: another version of the code, which was started later, says %s, and this one %s: "
            "that one counts",
            *(queue, mine.name, text, mine.words),
        )
    else:
        log.warning(
            "queue %s: limit %r: it said %s until now; with the next job, what this code says counts: %s",
            *(queue, mine.name, text, mine.words),
        )
