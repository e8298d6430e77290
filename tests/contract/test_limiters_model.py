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
from hypothesis.stateful import initialize, rule

from aioq.store.contract import Limits
from aioq.store.limiters import QUANTUM_MS, LimiterRule, Promise, Take, Taken
from aioq.store.memory import MemoryStore
from tests.contract.kit import LONG
from tests.contract.walks import Walk, drive, in_memory, on
from tests.databases import Database

pytestmark = [pytest.mark.long(seconds=15), pytest.mark.apart]

WALKS, WALKS_IN_MEMORY = (12, 600), (40, 3000)
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
parts = st.lists(st.sampled_from([0.1, 0.3, 0.5, 1.0]), max_size=4)
"""What is needed, as parts of the burst."""
pauses = st.sampled_from([0, 1, 7, 50, 100, 130, 1_000, 60_000])


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

    def now(self) -> float:
        if isinstance(self.store, MemoryStore):
            return float(self.store.clock.now_ms())
        return time.time() * 1000

    @initialize(number=st.integers(0, len(RULES) - 1))
    def declare(self, number: int) -> None:
        """Numbers that change would allow two bounds at a time."""
        self.number = number

    @rule(name=members, parts=parts, spare=st.integers(0, 30), kept=st.integers(0, 3))
    def take(self, name: str, parts: list[float], spare: int, kept: int) -> None:
        process, self.rule = self.processes[name], RULES[self.number]
        wanted = [max(1, int(part * self.rule.burst)) for part in parts]
        held = min(process.held, kept)
        began = self.now()
        taken = self.call(name, needs=wanted, spare=spare, held=held, promise=process.promise)
        process.promise = taken.promise
        process.held = taken.held
        used = float(sum(wanted[: taken.granted]))
        self.log = self.log[-40:]
        if self.rule.rate and used:
            self.log.append(Use(used, began, self.now(), taken.stamp))
        if taken.spare:
            first, last = self.now(), began + QUANTUM_MS
            if first <= last:
                self.log.append(Use(float(taken.spare), first, last, taken.stamp, is_ahead=True))
        if self.rule.concurrency:
            assert taken.held >= taken.granted, "each permit has a place"
        self.check(taken)

    @rule(name=members, tokens=st.integers(1, 40))
    def owe(self, name: str, tokens: int) -> None:
        """More was used than was taken: that is a fact, which is made up for."""
        if self.rule.rate and self.log:
            process = self.processes[name]
            taken = self.call(name, debt=float(tokens), held=process.held, promise=process.promise)
            process.promise = taken.promise

    @rule(name=members, pick=st.integers(0, 99), part=st.floats(0.1, 1.0))
    def refund(self, name: str, pick: int, part: float) -> None:
        if not self.log:
            return
        use = self.log[pick % len(self.log)]
        if use.tokens <= 0 or use.last > self.now():
            return
        unused = float(max(1, int(use.tokens * part)))
        process = self.processes[name]
        taken = self.call(name, refunds=[(unused, use.stamp)], held=process.held, promise=process.promise)
        process.promise = taken.promise
        use.tokens -= unused

    @rule(name=members, pause=pauses, pick=st.integers(0, 99))
    def refund_when_others_have_taken_all(self, name: str, pause: int, pick: int) -> None:
        """What walks would else do too rarely."""
        self.take("a", [1.0], 0, 0)
        self.pass_time(pause)
        self.take(name, [1.0], 30, 0)
        self.refund("a", pick, 1.0)
        self.take(name, [0.5, 0.5, 0.1], 30, 0)

    @rule(pause=pauses)
    def use_at_the_end_of_what_was_taken_ahead(self, pause: int) -> None:
        """Tokens that are used just before they lapse, beside those that have come meanwhile."""
        self.pass_time(60_000)
        self.take("a", [], 30, 0)
        self.pass_time(pause)
        self.take("b", [0.5, 0.3, 0.1, 0.1], 0, 0)

    @rule(ms=pauses)
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
