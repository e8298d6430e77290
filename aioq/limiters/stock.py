"""The tokens and places of one limiter that an event loop has. Decisions only, no I/O; times are the loop's."""

import math

from aioq.limiters.permits import Held
from aioq.store.limiters import QUANTUM_MS, SAME_WINDOW_MS, LimiterRule, Observed, Taken

QUANTUM = QUANTUM_MS / 1000
"""For how many seconds what a call has brought may be used without another call."""


def nap(wait_ms: float) -> float:
    """How many seconds to sleep of a wait: half of a long one, because refunds may bring its end forward."""
    return max(min(wait_ms, 1_000.0), wait_ms / 2) / 1000


class Observations:
    """What a service has said and the server is to know: of each kind one, which has the others in it.

    So the strictest is not lost where answers come together.
    """

    def __init__(self) -> None:
        self._by_kind: dict[bool, Observed] = {}

    def __bool__(self) -> bool:
        return bool(self._by_kind)

    def add(self, observed: Observed) -> None:
        """The service has said this."""
        is_window = observed.reset_ms is not None
        before = self._by_kind.get(is_window)
        self._by_kind[is_window] = observed if before is None else _both(before, observed)

    def first(self) -> Observed | None:
        """What the next call says; None for nothing. What asks for a pause comes first."""
        return self._by_kind.get(True) or self._by_kind.get(False)

    def said(self, observed: Observed | None) -> None:
        """The server knows this."""
        if observed is not None and self._by_kind.get(observed.reset_ms is not None) is observed:
            del self._by_kind[observed.reset_ms is not None]

    def clear(self) -> None:
        """Forget them."""
        self._by_kind.clear()


def _both(before: Observed, after: Observed) -> Observed:
    """What two of one kind say, as the store takes the one after the other."""
    left = min(before.remaining, after.remaining)
    if before.reset_ms is None or after.reset_ms is None:
        return Observed(left)
    is_later = after.reset_ms > before.reset_ms + SAME_WINDOW_MS
    if is_later and (before.remaining >= 1 or after.remaining < 1):
        return after
    return before if left == before.remaining else Observed(left, before.reset_ms)


class Stock:
    """What there is of one limiter.

    Args:
        lease: how long a lease lasts, in seconds.

    Attributes:
        held: how many places the process holds.
        busy: how many of them permits have.
        stamp: `Taken.stamp` of the last call.
        is_away: whether the server cannot be reached now.
    """

    def __init__(self, lease: float) -> None:
        self.held = self.busy = 0
        self.stamp = 0.0
        self.is_away = False
        self._lease = lease
        self._tokens = self._given_out = 0
        self._called_at = self._lapse_at = self._lease_end = -math.inf
        self._is_closing = False

    @property
    def idle(self) -> int:
        """How many places no permit has."""
        return max(0, self.held - self.busy)

    def is_fresh(self, now: float) -> bool:
        """Whether idle places may be used: for a short time, and while the server is away until the lease ends."""
        if self._is_closing:  # a service has said how much is left, and the server counts that
            return False
        return now < self._called_at + QUANTUM or (self.is_away and now < self._lease_end)

    def take(self, rule: LimiterRule, tokens: int, now: float) -> Held | None:
        """A permit, if there is enough for it."""
        if rule.concurrency and not (self.held > self.busy and self.is_fresh(now)):
            return None
        if rule.rate:
            if self._tokens < tokens or now >= self._lapse_at:
                return None
            self._tokens -= tokens
        return self.grant(rule, tokens)

    def grant(self, rule: LimiterRule, tokens: int) -> Held:
        """A permit for tokens that a call has brought for it."""
        has_place = bool(rule.concurrency)
        self._given_out += tokens
        self.busy += has_place
        return Held(tokens, self.stamp, has_place=has_place)

    def drop(self) -> None:
        """Use nothing more of what is here."""
        self._tokens, self._called_at = 0, -math.inf

    def wanted(self, rule: LimiterRule | None, now: float) -> int:
        """How many tokens to ask for beyond those that are needed: as many as would be used until they lapse.

        That is judged by what was used since the last call; but twice as many at the most.
        """
        if rule is None or not rule.rate:
            return 0
        return math.ceil(self._given_out * min(2.0, QUANTUM / max(now - self._called_at, 1e-9)))

    def add(self, taken: Taken, began: float) -> None:
        """Take over what a call has brought that began at this time."""
        self.held, self.stamp, self._is_closing = taken.held, taken.stamp, taken.is_closing
        self._called_at, self._given_out, self.is_away = began, 0, False
        if taken.held:
            self.renewed(began)
        if taken.spare:
            self._tokens, self._lapse_at = taken.spare, began + QUANTUM

    def renewed(self, began: float) -> None:
        """The lease was renewed, by a call that began at this time."""
        self._lease_end = max(self._lease_end, began + self._lease)
