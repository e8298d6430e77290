"""Limits in random walks, on every store, against a few lines of plain Python.

After each step each key has as many holders and waiting jobs as in the model, each job has the same state, and a
claim brings the jobs that the model expects: of each key the first ones, as many as there is room for.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule

from aioq.jobs.job import JobState
from aioq.store.contract import Claimed, Limits, Settlement, Verb
from aioq.store.limits import Numbers
from tests.contract.kit import BROKEN, CRASHED, LONG, QUEUE, REASON, THREE
from tests.contract.limiting import job, use, verbs
from tests.contract.walks import Walk, drive, in_memory, on, one_of
from tests.databases import Database

pytestmark = pytest.mark.long(seconds=10)

WALKS, WALKS_IN_MEMORY = (15, 600), (40, 2000)
"""How many walks of 50 steps, small and full."""

LIMITS = Limits(lease_ms=LONG, max_crashes=1000)
KEYS = ("1", "2", "3")

picks = st.integers(0, 999)
keys = st.sampled_from(KEYS)
ends = st.sampled_from([Verb.SUCCEEDED, Verb.FAILED, Verb.CANCELLED])
returns = st.sampled_from([Verb.RETRY, Verb.SNOOZE, Verb.INTERRUPT, Verb.CRASH, Verb.RELEASE, Verb.PARK])


@dataclass(slots=True)
class Key:
    """One key, as the model knows it."""

    waiting: list[str] = field(default_factory=list[str])
    running: list[str] = field(default_factory=list[str])
    queued: list[str] = field(default_factory=list[str])  # those that came back, and ask when a claim meets them


class LimitsMachine(Walk):
    """A queue with one worker, a limit with some keys, and the model."""

    def begun(self) -> None:
        assert not self.lease_client.join(QUEUE, "w").lost
        self.keys = {key: Key() for key in KEYS}
        self.key_of: dict[str, str] = {}
        self.states: dict[str, JobState] = {}
        self.running: list[Claimed] = []
        self.most, self.sent = 2, 0
        self.paused: set[str | None] = set()

    # -- what happens -------------------------------------------------------------------------------------------

    @rule(given=st.lists(st.tuples(keys, st.sampled_from([False, False, True])), min_size=1, max_size=4))
    def send(self, given: list[tuple[str, bool]]) -> None:
        jobs = []
        for key, delayed in given:
            self.sent += 1
            name = f"j{self.sent:04}"
            self.key_of[name] = key
            self.states[name] = JobState.SCHEDULED if delayed else JobState.WAITING
            if not delayed:
                self.keys[key].waiting.append(name)
            jobs.append(job(name, use(key=key, most=2), delay_ms=LONG if delayed else None))
        assert self.run(self.store.enqueue, QUEUE, jobs) == [True] * len(jobs)
        self.agree()

    @rule(count=st.integers(1, 4))
    def claim(self, count: int) -> None:
        claimed = self.run(self.store.claim, QUEUE, "w", count)
        for each in claimed.jobs:
            key = self.keys[self.key_of[each.id]]
            assert not self.is_paused(self.key_of[each.id])
            assert len(key.running) < self.most
            assert each.id in key.queued or each.id == key.waiting[0], "another one came before it"
            (key.queued if each.id in key.queued else key.waiting).remove(each.id)
            key.running.append(each.id)
            self.states[each.id] = JobState.RUNNING
            self.running.append(each)
        self.moved()
        if len(claimed.jobs) < count and not claimed.more:
            for name, key in self.keys.items():
                room = 0 if self.is_paused(name) else self.most - len(key.running)
                assert room <= 0 or not (key.waiting or key.queued), f"key {name} has room, and jobs that wait"
        self.agree()

    def moved(self) -> None:
        """Those that came back, and that a claim has met, wait in their key."""
        for key in self.keys.values():
            found = self.run(self.store.info, QUEUE, key.queued)
            for name, info in zip(list(key.queued), found, strict=True):
                assert info is not None
                if info.state is JobState.WAITING:
                    key.queued.remove(name)
                    self.states[name] = JobState.WAITING
                    key.waiting.append(name)
            self.sort(key)

    def sort(self, key: Key) -> None:
        """Put those that wait into the order that the store says."""
        ahead: dict[str, int] = {}
        for name in key.waiting:
            found = self.run(self.store.operating.story.blocked, QUEUE, name)
            assert found is not None
            ahead[name] = found.ahead
        assert sorted(ahead.values()) == list(range(len(ahead)))
        key.waiting.sort(key=lambda name: ahead[name])

    @rule(pick=picks, verb=ends)
    def end(self, pick: int, verb: Verb) -> None:
        if self.running:
            claimed = self.take(pick)
            self.settle(claimed, verb)
            self.states[claimed.id] = JobState(verb.value)
            self.agree()

    @rule(pick=picks, verb=returns, delayed=st.booleans())
    def come_back(self, pick: int, verb: Verb, delayed: bool) -> None:
        if self.running:
            claimed = self.take(pick)
            delayed = delayed and verb in {Verb.RETRY, Verb.SNOOZE, Verb.PARK}
            self.settle(claimed, verb, delay_ms=LONG if delayed else 0)
            self.states[claimed.id] = JobState.SCHEDULED if delayed else JobState.QUEUED
            if not delayed:
                self.keys[self.key_of[claimed.id]].queued.append(claimed.id)
            self.agree()

    def take(self, pick: int) -> Claimed:
        claimed = self.running.pop(pick % len(self.running))
        self.keys[self.key_of[claimed.id]].running.remove(claimed.id)
        return claimed

    def settle(self, claimed: Claimed, verb: Verb, *, delay_ms: int = 0) -> None:
        outcome = THREE if verb is Verb.SUCCEEDED else BROKEN
        settlement = Settlement(claimed.id, claimed.claim, verb, outcome, delay_ms, LONG)
        for _ in range(2 if verb in {Verb.SUCCEEDED, Verb.FAILED} else 1):  # the second one after a lost reply
            assert self.run(self.store.settle, QUEUE, "w", [settlement]) == [True]

    @rule()
    def die(self) -> None:
        while self.run(self.store.recover, QUEUE, CRASHED, 100, dead="w").more:
            pass
        for claimed in self.running:
            key = self.keys[self.key_of[claimed.id]]
            key.running.remove(claimed.id)
            key.queued.append(claimed.id)
            self.states[claimed.id] = JobState.QUEUED
        self.running.clear()
        assert not self.lease_client.join(QUEUE, "w").lost
        self.agree()

    @rule(pick=picks, deletes=st.booleans())
    def cancel(self, pick: int, deletes: bool) -> None:
        waits = {JobState.WAITING, JobState.SCHEDULED, JobState.QUEUED}
        names = [name for name, state in self.states.items() if state in waits]
        if names:
            name = one_of(names, pick)
            before = self.states[name]
            if deletes:
                assert self.run(self.store.operating.delete, QUEUE, [name], REASON) == [before]
                del self.states[name]
            else:
                assert self.run(self.store.cancel, QUEUE, [name], REASON, LONG) == [before]
                self.states[name] = JobState.CANCELLED
            self.drop(name)
            self.agree()

    def drop(self, name: str) -> None:
        key = self.keys[self.key_of[name]]
        for names in (key.waiting, key.queued):
            if name in names:
                names.remove(name)

    @rule(pick=picks)
    def put_off(self, pick: int) -> None:
        names = [name for key in self.keys.values() for name in key.waiting]
        if names:
            name = one_of(names, pick)
            assert self.run(self.store.reschedule, QUEUE, [name], delay_ms=LONG) == [JobState.WAITING]
            self.drop(name)
            self.states[name] = JobState.SCHEDULED
            self.agree()

    @rule(pick=picks)
    def run_now(self, pick: int) -> None:
        names = [name for name, state in self.states.items() if state is JobState.SCHEDULED]
        if names:
            name = one_of(names, pick)
            assert self.run(self.store.reschedule, QUEUE, [name]) == [JobState.SCHEDULED]
            self.states[name] = JobState.WAITING
            self.keys[self.key_of[name]].waiting.append(name)
            self.agree()

    @rule(most=st.integers(1, 3))
    def put(self, most: int) -> None:
        self.run(verbs(self.store).put, QUEUE, "customer", Numbers(most, 0.0, 0, 0.0))
        self.most = most
        self.agree()

    @rule(key=st.none() | keys)
    def pause(self, key: str | None) -> None:
        self.run(verbs(self.store).pause, QUEUE, "customer", key, 0)
        self.paused.add(key)

    @rule(key=st.none() | keys)
    def resume(self, key: str | None) -> None:
        assert self.run(verbs(self.store).resume, QUEUE, "customer", key) is (key in self.paused)
        self.paused.discard(key)

    def is_paused(self, key: str) -> bool:
        return None in self.paused or key in self.paused

    # -- what holds ---------------------------------------------------------------------------------------------

    def agree(self) -> None:
        """The store and the model say the same."""
        for name, key in self.keys.items():
            found = self.run(verbs(self.store).look, QUEUE, "customer", name)
            assert (found.held, found.waiting) == (len(key.running), len(key.waiting)), name
            assert {job_id for job_id, _ in found.holders} == {*key.running}
        names = list(self.states)
        found = self.run(self.store.info, QUEUE, names)
        assert [info and info.state for info in found] == [self.states[name] for name in names]

    def ended(self) -> None:
        """All jobs run once nothing is paused."""
        for key in [*KEYS, None]:
            self.run(verbs(self.store).resume, QUEUE, "customer", key)
        self.paused.clear()
        left = Counter(self.states.values())
        for _ in range(left[JobState.WAITING] + left[JobState.QUEUED] + 1):
            self.claim(4)
            while self.running:
                self.end(0, Verb.SUCCEEDED)
        for name, state in list(self.states.items()):
            assert state.ended or state is JobState.SCHEDULED, f"{name} never comes"


@pytest.mark.scale(minutes=10)
def test_limits_are_those_of_the_model_in_memory(size: Callable[[int, int], int]) -> None:
    walks = size(*WALKS_IN_MEMORY)
    drive(LimitsMachine, in_memory(LIMITS), walks, 50, alike=walks < WALKS[1])


@pytest.mark.scale(minutes=10)
def test_limits_are_those_of_the_model_at_a_server(
    server: Database, app_name: str, size: Callable[[int, int], int]
) -> None:
    walks = size(*WALKS)
    drive(LimitsMachine, on(server, app_name, LIMITS), walks, 50, alike=walks < WALKS[1])
