"""Limiters in random walks, on every store, against a few lines of plain Python.

The model has a log of all that was used, and who holds how many places. In no span of time more is used than the
burst and what comes in that time, whatever is taken ahead, given back or owed; and never more places are held than
there are. On a server time passes by itself: there the log says between which times something was used.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule

from aioq.store.contract import Limits
from aioq.store.limiters import QUANTUM_MS, LimiterRule, Promise, Take, Taken
from aioq.store.memory import MemoryStore
from tests.contract.kit import LONG
from tests.contract.walks import Walk, drive, in_memory, on
from tests.databases import Database

pytestmark = [pytest.mark.long(seconds=15), pytest.mark.apart]

WALKS, WALKS_IN_MEMORY = (15, 600), (60, 3000)
"""How many walks of 60 steps, small and full."""

LIMITS = Limits(lease_ms=LONG)
NAME = "api"
ROUNDING_MS = 2
"""A server's time has whole milliseconds."""
RULES = [
    LimiterRule(rate=20, per_ms=1_000, burst=20),
    LimiterRule(rate=1_000, per_ms=1_000, burst=150),
    LimiterRule(rate=5, per_ms=60_000, burst=3),
    LimiterRule(concurrency=3),
    LimiterRule(rate=300, per_ms=1_000, burst=60, concurrency=2),
]
MEMBERS = "abc"
members = st.sampled_from(MEMBERS)
needs = st.lists(st.integers(1, 3), max_size=4)


@dataclass(slots=True)
class Use:
    """Tokens that were used during the call that brought them, or that may be used at any time from then on."""

    tokens: float
    first: float
    last: float
    stamp: float
    is_ahead: bool = False

    def may_be_in(self, begin: float, end: float) -> bool:
        """Whether all of it is in a span for certain, or can be."""
        if self.is_ahead:
            return self.first <= end and self.last >= begin
        return self.first >= begin and self.last <= end


@dataclass(slots=True)
class Process:
    """What a process has, as it knows it."""

    held: int = 0
    promise: Promise | None = None


class LimiterMachine(Walk):
    """A limiter, three processes, and the log of what they use."""

    def begun(self) -> None:
        self.processes = {name: Process() for name in MEMBERS}
        self.log: list[Use] = []
        self.rule = RULES[0]
        self.is_declared = False

    def now(self) -> float:
        if isinstance(self.store, MemoryStore):
            return float(self.store.clock.now_ms())
        return time.time() * 1000

    @rule(number=st.integers(0, len(RULES) - 1))
    def declare(self, number: int) -> None:
        """The first step declares a limiter; numbers that change would allow two bounds at a time."""
        if not self.is_declared:
            self.rule, self.is_declared = RULES[number], True

    @rule(name=members, needs=needs, spare=st.integers(0, 30), kept=st.integers(0, 3))
    def take(self, name: str, needs: list[int], spare: int, kept: int) -> None:
        process = self.processes[name]
        if not self.is_declared or any(need > (self.rule.burst or 1) for need in needs):
            return
        wanted = [1] * len(needs) if not self.rule.rate else needs
        held = min(process.held, kept)
        began = self.now()
        taken = self.call(name, needs=wanted, spare=spare, held=held, promise=process.promise)
        process.promise = taken.promise
        process.held = taken.held
        used = float(sum(wanted[: taken.granted]))
        if self.rule.rate and used:
            self.log.append(Use(used, began, self.now(), taken.stamp))
        if taken.spare:
            first, last = self.now(), began + QUANTUM_MS
            if first <= last:
                self.log.append(Use(float(taken.spare), first, last, taken.stamp, is_ahead=True))
        if self.rule.concurrency:
            assert taken.held - held >= taken.granted, "each permit has a place"
        self.check(taken)

    @rule(name=members, tokens=st.integers(1, 40))
    def owe(self, name: str, tokens: int) -> None:
        """More was used than was taken: that is a fact, which is made up for."""
        if self.is_declared and self.rule.rate:
            process = self.processes[name]
            taken = self.call(name, debt=float(tokens), held=process.held, promise=process.promise)
            process.promise = taken.promise

    @rule(name=members, pick=st.integers(0, 99), part=st.floats(0.1, 1.0))
    def refund(self, name: str, pick: int, part: float) -> None:
        if not self.log or not self.is_declared:
            return
        use = self.log[pick % len(self.log)]
        if use.tokens <= 0 or use.last > self.now():
            return
        unused = float(max(1, int(use.tokens * part)))
        process = self.processes[name]
        taken = self.call(name, refunds=[(unused, use.stamp)], held=process.held, promise=process.promise)
        process.promise = taken.promise
        use.tokens -= unused

    @rule(ms=st.sampled_from([0, 1, 7, 50, 100, 130, 1_000, 20_000]))
    def pass_time(self, ms: int) -> None:
        if isinstance(self.store, MemoryStore):
            self.store.clock.advance(ms / 1000)  # pyright: ignore[reportAttributeAccessIssue] - a ManualClock
        elif ms <= 7:
            time.sleep(ms / 1000)

    def call(self, name: str, **said: object) -> Taken:
        said.setdefault("idle", said["held"])
        take = Take(member=name, rule=self.rule, **said)  # pyright: ignore[reportArgumentType] - as it says
        taken = self.run(self.store.limiters.take, NAME, take)
        assert taken is not None
        return taken

    def check(self, taken: Taken) -> None:
        """Never above."""
        state = self.run(self.store.limiters.state, NAME)
        assert state is not None
        assert state.used == sum(process.held for process in self.processes.values())
        if self.rule.concurrency:
            assert state.used <= self.rule.concurrency
        if self.rule.rate:
            assert state.available <= self.rule.burst + 0.001
            self.check_spans()

    def check_spans(self) -> None:
        """Each span that begins with a use and ends with one."""
        each_ms = self.rule.rate / self.rule.per_ms
        uses = [use for use in self.log if use.tokens > 0]
        for begin in {each for use in uses for each in (use.first, use.last)}:
            for end in {each for use in uses for each in (use.first, use.last) if each >= begin}:
                inside = sum(use.tokens for use in uses if use.may_be_in(begin, end))
                most = self.rule.burst + each_ms * (end - begin + ROUNDING_MS)
                assert inside <= most + 0.01, (begin, end, self.log)


@pytest.mark.scale(minutes=5)
def test_never_above_in_memory(size: Callable[[int, int], int]) -> None:
    walks = size(*WALKS_IN_MEMORY)
    drive(LimiterMachine, in_memory(LIMITS), walks, 60, alike=walks < WALKS[1])


@pytest.mark.scale(minutes=5)
def test_never_above_at_a_server(server: Database, app_name: str, size: Callable[[int, int], int]) -> None:
    walks = size(*WALKS)
    drive(LimiterMachine, on(server, app_name, LIMITS), walks, 60, alike=walks < WALKS[1])
