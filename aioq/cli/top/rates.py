"""How many jobs come and end a second, by what the server has counted in each minute. Pure."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from aioq.store.history import MinuteCount, Minutes

SHOWN_MINUTES = 20
"""How many minutes a line of bars has."""

WINDOW_MS = 10_000
"""The time over which the present rate is taken. A guess: short enough to see a change, long enough to be calm."""

_MINUTE_MS = 60_000
_BARS = "▁▂▃▄▅▆▇█"


class Rate(msgspec.Struct, frozen=True):
    """Jobs a second.

    Attributes:
        sent: how many were sent.
        ended: how many ended.
    """

    sent: float
    ended: float


class _Sample(msgspec.Struct, frozen=True):
    at_ms: int
    sent: int
    ended: int


class Rates:
    """The rates of one queue or shard, out of what was read of it again and again."""

    def __init__(self) -> None:
        self._counts: dict[int, MinuteCount] = {}  # by the number of the minute
        self._samples: deque[_Sample] = deque()
        self._now_ms = 0

    @property
    def now_ms(self) -> int:
        """The server's time at the last reading; 0 for none."""
        return self._now_ms

    def due(self, seconds: float) -> int:
        """How many minutes are to be read, so many seconds after the last reading."""
        if not self._now_ms:
            return SHOWN_MINUTES
        return min(SHOWN_MINUTES, int(seconds) // 60 + 2)

    def add(self, minutes: Minutes) -> None:
        """Take in a reading."""
        present = minutes.now_ms // _MINUTE_MS
        read = {present - place: each for place, each in enumerate(minutes.counts)}
        last = self._samples[-1] if self._samples else _Sample(minutes.now_ms, 0, 0)
        sent, ended = last.sent, last.ended
        newest = max(self._counts, default=present)
        for number, each in read.items():
            # Of the first reading nothing is known to be new; later on, minutes that have begun since then are.
            before = self._counts.get(number, MinuteCount() if number > newest else each)
            sent += max(0, each.sent - before.sent)  # a server that has lost its data begins anew
            ended += max(0, each.ended - before.ended)
        self._counts = {
            number: each for number, each in {**self._counts, **read}.items() if number > present - SHOWN_MINUTES
        }
        self._now_ms = minutes.now_ms
        self._samples.append(_Sample(minutes.now_ms, sent, ended))
        while len(self._samples) > 2 and self._samples[1].at_ms <= minutes.now_ms - WINDOW_MS:  # noqa: PLR2004 - two are needed
            self._samples.popleft()

    @property
    def rate(self) -> Rate:
        """Over the last ten seconds; after the first reading over the last minute and the present one."""
        if not self._samples:
            return Rate(0, 0)
        first, last = self._samples[0], self._samples[-1]
        seconds = (last.at_ms - first.at_ms) / 1000
        if seconds > 0:
            return Rate((last.sent - first.sent) / seconds, (last.ended - first.ended) / seconds)
        present, seconds = self._now_ms // _MINUTE_MS, 60 + self._now_ms % _MINUTE_MS / 1000
        some = [self._counts.get(number, MinuteCount()) for number in (present, present - 1)]
        return Rate(sum(each.sent for each in some) / seconds, sum(each.ended for each in some) / seconds)

    def per_minute(self) -> Mapping[int, Rate]:
        """The rate in each minute, by its number; that of the present one by as much of it as has passed."""
        present = self._now_ms // _MINUTE_MS
        passed = max(self._now_ms % _MINUTE_MS, WINDOW_MS) / 1000
        lengths = {number: passed if number == present else 60 for number in self._counts}
        return {
            number: Rate(each.sent / lengths[number], each.ended / lengths[number])
            for number, each in self._counts.items()
        }


def total_rate(rates: Iterable[Rates]) -> Rate:
    """The rate of several together."""
    found = [each.rate for each in rates]
    return Rate(sum(each.sent for each in found), sum(each.ended for each in found))


def total_bars(rates: Sequence[Rates]) -> tuple[str, str]:
    """The bars of what was sent and of what ended in each minute, the present one last."""
    parts = [each.per_minute() for each in rates]
    present = max((number for part in parts for number in part), default=0)
    numbers = range(present - SHOWN_MINUTES + 1, present + 1)
    sums = [total_of([part[number] for part in parts if number in part]) for number in numbers]
    return bars([each.sent for each in sums]), bars([each.ended for each in sums])


def total_of(rates: Sequence[Rate]) -> Rate:
    """The sum of rates."""
    return Rate(sum(each.sent for each in rates), sum(each.ended for each in rates))


def bars(values: Sequence[float]) -> str:
    """A bar for each value; the highest one stands for the greatest of them."""
    most = max(values, default=0)
    return "".join(
        _BARS[min(len(_BARS) - 1, int(each / most * len(_BARS)))] if most > 0 else _BARS[0] for each in values
    )
