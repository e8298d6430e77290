"""One limiter in memory: its bucket of tokens, and its places.

Each step is that of `lua/commands/limiter_take.lua`, whose comments say why.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from aioq.store.limiters import (
    POLL_MS,
    QUANTUM_MS,
    SAME_WINDOW_MS,
    SNOOZED_MS,
    STALE_MS,
    TURN_MS,
    LimiterRule,
    Observed,
    Promise,
    Take,
)

TINY = 1e-6
"""What the numbers of tokens may differ by, because they are floats."""


@dataclass(slots=True)
class Holder:
    """A process that holds places.

    Attributes:
        places: how many.
        until: when its lease ends, in seconds of real time.
    """

    places: int
    until: float


@dataclass(slots=True)
class Tokens:
    """What a process got of the tokens; see `Taken`."""

    granted: int = 0
    spare: int = 0
    wait_ms: float | None = None
    promise: Promise | None = None
    is_snoozed: bool = False


@dataclass(slots=True)
class MemoryLimiter:
    """What the store keeps of a limiter.

    Attributes:
        rule: its numbers.
        revision: the number of their declaration.
        level: the tokens in the bucket.
        line: the tokens that nobody was promised.
        at: when both were right, in ms.
        kept_ms: until when it is kept.
        debts: the sum of all debts.
        taken: the sum of all tokens that were taken.
        left: how many tokens a service has said are left until `closed_until`.
        closed_until: until when that holds, in ms.
        holders: by process, its places.
        row: the processes that wait for a place, in their order, and when each has called last.
        snoozed: the jobs that come back, and when, in ms.
    """

    rule: LimiterRule
    revision: int
    level: float
    line: float
    at: int
    kept_ms: int = 0
    debts: float = 0.0
    taken: float = 0.0
    left: float = 0.0
    closed_until: int = 0
    holders: dict[str, Holder] = field(default_factory=dict[str, Holder])
    row: dict[str, float] = field(default_factory=dict[str, float])
    snoozed: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def used(self) -> int:
        """How many places are held."""
        return sum(each.places for each in self.holders.values())

    @property
    def free(self) -> int:
        """How many places are free; negative if there are fewer than before, and more are held."""
        return self.rule.concurrency - self.used

    @property
    def each_ms(self) -> float:
        """How many tokens come in a millisecond."""
        return self.rule.rate / self.rule.per_ms

    def refill(self, now: int) -> None:
        """Add what has come since it was looked at last."""
        gained = self.each_ms * max(0, now - self.at)
        self.level = min(self.rule.burst, self.level + gained)
        self.line = min(self.level, self.line + gained)
        self.at = now

    def account(self, take: Take, now: int) -> None:
        """Settle debts, refunds, and what a service has said."""
        self._owe(take.debt)
        self.taken += take.debt
        for tokens, stamp in take.refunds:
            given = max(0.0, min(tokens, self.rule.burst - self.level - (self.taken - stamp)))
            self._owe(-given)
        if take.observed is not None:
            self._observe(take.observed, now)

    def _owe(self, tokens: float) -> None:
        self.level -= tokens
        self.line -= tokens
        self.debts += tokens

    def _observe(self, observed: Observed, now: int) -> None:
        if observed.reset_ms is None:
            self._owe(max(0.0, self.level - observed.remaining))
            return
        ends = now + observed.reset_ms
        later = ends > self.closed_until + SAME_WINDOW_MS
        if self.closed_until <= now or (later and (self.left >= 1 or observed.remaining < 1)):
            self.left, self.closed_until = observed.remaining, ends
        else:
            self.left = min(self.left, observed.remaining)

    def adopt(self, take: Take, lease_end: float) -> tuple[int, int]:
        """Note how many places a process holds; returns how many it does, and how many of them are free."""
        holder = self.holders.get(take.member)
        before, held = 0 if holder is None else holder.places, take.held
        if held > before:
            held = before + max(0, min(held - before, self.free))
        self.hold(take.member, held, lease_end)
        return held, max(0, take.idle - (take.held - held))

    def hold(self, member: str, places: int, lease_end: float) -> None:
        """Note how many places a process holds."""
        if places:
            self.holders[member] = Holder(places, lease_end)
        else:
            self.holders.pop(member, None)

    def take_places(self, take: Take, wanted: int, now: float) -> int:
        """Take places for those that wait in a process, if it is its turn; else it stands in the row."""
        member = take.member
        if wanted <= 0:
            self.row.pop(member, None)
            return 0
        if wanted > self.free and take.evicts:
            self._evict(member, now)
        if 0 < self.free <= self._ahead(member):
            self._drop_dead(member, now)
        places, ahead = 0, self._ahead(member)
        if self.free > ahead:
            share = -(-self.free // (len(self.row) + (member not in self.row)))  # rounded up
            places = min(wanted, self.free - ahead, share)
        if places:
            self.row.pop(member, None)
        if places < wanted:  # if it has got some, it stands at the end now
            self.row[member] = now
        return places

    def _ahead(self, member: str) -> int:
        """How many processes stand before this one in the row."""
        row = list(self.row)
        return row.index(member) if member in self.row else len(row)

    def _evict(self, but: str, now: float) -> None:
        """Give up the leases that have ended."""
        for member in [each for each, holder in self.holders.items() if holder.until <= now and each != but]:
            del self.holders[member]

    def _drop_dead(self, but: str, now: float) -> None:
        """Remove those from the row that would have had to call."""
        for member in list(self.row)[: self.free]:
            if member != but and self.row[member] + STALE_MS / 1000 < now:
                del self.row[member]

    def take_tokens(self, take: Take, eligible: int, now: int) -> Tokens:
        """Take tokens for as many of the first `eligible` that wait as may have them now."""
        found, promise = Tokens(), self._promise_of(take, eligible)
        found.granted, total = _fitting(take.needs[:eligible], self._budget(promise, now))
        if found.granted:
            self._spend(total, promise, now)
            promise = None
        if found.granted < eligible:
            found.wait_ms, found.promise = self._wait(take.needs[found.granted : eligible], promise, now)
        elif self.each_ms and eligible == len(take.needs) and not self.closes(now):
            found.spare = self._spare(take.spare)
        if eligible < len(take.needs):
            found.wait_ms = float(POLL_MS) if found.wait_ms is None else min(found.wait_ms, POLL_MS)
        if take.job and not found.granted:
            self._snooze(take, eligible, now, found)
        return found

    def _promise_of(self, take: Take, eligible: int) -> Promise | None:
        """What a process was promised, if it can use that; debts put it off."""
        promise = take.promise
        if take.job and promise is None and take.job in self.snoozed:
            promise = Promise(take.needs[0], self.snoozed.pop(take.job), self.debts)
        if promise is not None and (not self.each_ms or not eligible or take.needs[0] > promise.tokens + TINY):
            self.line, promise = self.line + promise.tokens, None
        self.line = min(self.line, self.level)
        if promise is None:
            return None
        due = promise.due_ms + (self.debts - promise.debts) / self.each_ms
        return Promise(promise.tokens, due, self.debts)

    def _snooze(self, take: Take, eligible: int, now: int, found: Tokens) -> None:
        """Note that a job comes back rather than waits for long."""
        wait, long = found.wait_ms or 0.0, take.snooze_ms
        if long >= 0 and not (wait > long and eligible):
            return
        found.wait_ms = float(-long) if long < 0 else wait
        self.snoozed = {each: due for each, due in self.snoozed.items() if due > now - SNOOZED_MS}
        self.snoozed[take.job] = now + found.wait_ms
        found.is_snoozed = True

    def closes(self, now: int) -> bool:
        """Whether a service has said how many tokens are left, and that holds."""
        return self.closed_until > now

    def _budget(self, promise: Promise | None, now: int) -> float:
        budget = max(0.0, self.line) if self.each_ms else math.inf
        if promise is not None:
            due = now + 1 >= promise.due_ms
            budget = min(self.level, promise.tokens + max(0.0, self.line)) if due else 0.0
        return min(budget, self.left) if self.closes(now) else budget

    def _spend(self, total: float, promise: Promise | None, now: int) -> None:
        self.taken += total
        if self.each_ms:
            self.level -= total
            self.line = min(self.level, self.line - total + (0.0 if promise is None else promise.tokens))
        if self.closes(now):
            self.left -= total

    def _wait(self, needs: Sequence[float], promise: Promise | None, now: int) -> tuple[float, Promise | None]:
        """In how many ms a process is to call again for these needs, and what it is promised for then."""
        first = needs[0]
        if self.closes(now) and self.left < first:
            if promise is not None:
                self.line = min(self.level, self.line + promise.tokens)
            return float(max(1, self.closed_until - now)), None
        if promise is not None:
            due = max(promise.due_ms, now + (promise.tokens - self.level) / self.each_ms)
            return float(max(1, math.ceil(due - now))), Promise(promise.tokens, due, self.debts)
        chunk, turn = first, min(self.rule.burst, max(first, self.each_ms * TURN_MS))
        for need in needs[1:]:
            if chunk + need > turn:
                break
            chunk += need
        wait = (chunk - self.line) / self.each_ms
        self.line -= chunk
        return float(max(1, math.ceil(wait))), Promise(chunk, now + wait, self.debts)

    def _spare(self, wanted: int) -> int:
        """Take some more, which count as used when they lapse."""
        quantum = self.each_ms * QUANTUM_MS
        spare = max(0, math.floor(min(wanted, self.line, quantum, self.rule.burst - quantum) + TINY))
        if spare:
            self.level = min(self.level, self.rule.burst - quantum) - spare
            self.line = min(self.line - spare, self.level)
            self.taken += spare
        return spare


def _fitting(needs: Sequence[float], budget: float) -> tuple[int, float]:
    """For how many of these, from the first on, there are enough tokens; and how many they need."""
    granted, total = 0, 0.0
    while granted < len(needs) and total + needs[granted] <= budget + TINY:
        total += needs[granted]
        granted += 1
    return granted, total
