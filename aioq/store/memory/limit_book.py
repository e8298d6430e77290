"""The numbers and the pauses of the limits of a queue in memory."""

from dataclasses import dataclass

from aioq.store.extra import FAIR, LimitUse
from aioq.store.limits import LimitState, Numbers, numbers_of
from aioq.util.clock import Clock


@dataclass(slots=True)
class _Noted:
    declared: Numbers | None
    declared_ms: int
    override: Numbers | None = None


class LimitBook:
    """The numbers and the pauses of the limits of a queue.

    Args:
        clock: the store's clock.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._noted: dict[str, _Noted] = {}
        self._paused: dict[tuple[str, str | None], int] = {}

    def declare(self, use: LimitUse) -> bool:
        """Note the numbers that a job brings, if its declaration is newer; returns whether others count now."""
        if use.name == FAIR:
            return False
        there, numbers = self._noted.get(use.name), numbers_of(use)
        if there is not None and there.declared is None:  # an operator was first
            there.declared, there.declared_ms = numbers, use.declared_ms
            return False
        if there is not None and (there.declared == numbers or use.declared_ms <= there.declared_ms):
            return False
        self._noted[use.name] = _Noted(numbers, use.declared_ms)
        return there is not None

    def numbers(self, use: LimitUse) -> Numbers:
        """The numbers that count for a limit."""
        noted = self._noted.get(use.name)
        return numbers_of(use) if noted is None else noted.override or noted.declared or numbers_of(use)

    def paused_until(self, name: str, key: str) -> int | None:
        """Until when a key is paused, in ms: 0 until it is resumed; None if it is not."""
        found = [until for each in (None, key) if (until := self._paused_until(name, each)) is not None]
        return None if not found else 0 if 0 in found else max(found)

    def _paused_until(self, name: str, key: str | None) -> int | None:
        until = self._paused.get((name, key))
        if until and until <= self._clock.now_ms():
            del self._paused[name, key]
            return None
        return until

    def put(self, name: str, numbers: Numbers | None) -> bool:
        """Put other numbers, or None, in the place of those of the code; returns whether some were there."""
        noted = self._noted.get(name)
        had = noted is not None and noted.override is not None
        if noted is not None:
            noted.override = numbers
        elif numbers is not None:
            self._noted[name] = _Noted(None, 0, numbers)
        return had

    def pause(self, name: str, key: str | None, until_ms: int | None) -> bool:
        """Pause a key, or all, or end that if the time is None; returns whether there was a pause."""
        was_paused = self._paused_until(name, key) is not None
        self._paused.pop((name, key), None)
        if until_ms is not None:
            self._paused[name, key] = until_ms
        return was_paused

    def states(self) -> list[LimitState]:
        """The limits, without how many keys wait."""
        names = {*self._noted, *(name for name, _ in self._paused)}
        return [self._state(name) for name in sorted(names)]

    def _state(self, name: str) -> LimitState:
        noted = self._noted.get(name) or _Noted(None, 0)
        keys = [key for each, key in self._paused if each == name and key is not None]
        paused = [(key, until) for key in sorted(keys) if (until := self._paused_until(name, key)) is not None]
        return LimitState(
            name,
            noted.declared or Numbers(),
            noted.declared_ms,
            noted.override,
            self._paused_until(name, None),
            paused_keys=tuple(paused),
        )
