"""The deadlines of debounced jobs in random walks, on every store, against a few lines of plain Python.

Time is made to pass in whole units, so that a server's own clock, which goes on meanwhile, does not matter.
After each step each job has the state, the call and the deadline that the model says.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule

from aioq.jobs.job import JobState
from aioq.store.contract import Added, Claimed, Limits, NewJob, Settlement, Store, Verb
from aioq.store.extra import Duplicate, Extra, Lock
from aioq.store.memory import MemoryStore
from aioq.store.redis import RedisStore
from aioq.store.redis.keys import base_key
from aioq.util.clock import ManualClock
from aioq.wire.messages import encode_envelope
from tests.contract.inside import Inside, MemoryInside, ServerInside
from tests.contract.kit import BROKEN, CRASHED, LONG, QUEUE, REASON, THREE
from tests.contract.walks import Walk, drive, one_of
from tests.databases import Database

pytestmark = [pytest.mark.long(seconds=10), pytest.mark.apart]

WALKS, WALKS_IN_MEMORY = (20, 600), (60, 3000)
"""How many walks of 40 steps, small and full."""

UNIT = 60_000
"""The unit of time, in ms: a walk takes much less on a server."""
LIMITS = Limits(lease_ms=240 * LONG, max_crashes=1000)
KEYS = ("doc:1", "doc:2")

picks = st.integers(0, 999)
calls = st.tuples(st.sampled_from(KEYS), st.sampled_from([1, 2, 5]), st.sampled_from([0, 0, 5, 8]))
"""Calls: the key, `wait` and `max_wait`, 0 for none."""
ends = st.sampled_from([Verb.SUCCEEDED, Verb.FAILED])
returns = st.sampled_from([Verb.RETRY, Verb.SNOOZE, Verb.INTERRUPT, Verb.CRASH, Verb.RELEASE, Verb.PARK])


@dataclass(slots=True)
class Job:
    """One job, as the model knows it: `due` is its deadline, and `over` the end of its series, 0 for none."""

    key: str
    call: bytes
    state: JobState
    due: int = 0
    over: int = 0


class Model:
    """Each key's series, what became of each job, and the time."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.series: dict[str, str] = {}
        self.now = 0

    def put(self, job: Job, due: int) -> None:
        job.state, job.due = JobState.SCHEDULED if due > self.now else JobState.QUEUED, due

    def send(self, job_id: str, key: str, call: bytes, wait: int, most: int) -> Added:
        due, there = self.now + wait, self.series.get(key)
        if there is None:
            job = self.jobs[job_id] = Job(key, call, JobState.SCHEDULED, over=self.now + most if most else 0)
            self.series[key] = job_id
            self.put(job, due)
            return True
        job = self.jobs[there]
        job.call = call
        self.put(job, min(due, job.over) if job.over else due)
        return Duplicate(there)

    def leave(self, job_id: str) -> None:
        key = self.jobs[job_id].key
        if self.series.get(key) == job_id:
            del self.series[key]

    def back(self, job_id: str, verb: Verb, delay: int) -> None:
        job = self.jobs[job_id]
        self.put(job, self.now + delay)
        if verb in {Verb.RELEASE, Verb.PARK}:  # it was not begun
            self.series.setdefault(job.key, job_id)

    def pass_time(self, units: int) -> None:
        self.now += units
        for job in self.jobs.values():
            if job.state is JobState.SCHEDULED and job.due <= self.now:
                job.state = JobState.QUEUED


class DebounceMachine(Walk):
    """A queue with one worker, a clock that is moved, and the model.

    Attributes:
        inside_of: looks into a store.
    """

    inside_of: Callable[[Store], Inside]

    def begun(self) -> None:
        assert not self.lease_client.join(QUEUE, "w").lost
        self.inside = type(self).inside_of(self.store)
        self.model, self.sent, self.running = Model(), 0, list[Claimed]()

    # -- what happens -------------------------------------------------------------------------------------------

    @rule(
        given=st.lists(calls, min_size=1, max_size=3),
        again=st.booleans(),
        units=st.sampled_from([0, 1, 1, 2, 4]),
        count=st.integers(0, 3),
        verbs=st.lists(st.one_of(returns, returns, ends), max_size=2),
        delay=st.integers(0, 3),
    )
    def go_on(
        self,
        given: list[tuple[str, int, int]],
        again: bool,
        units: int,
        count: int,
        verbs: list[Verb],
        delay: int,
    ) -> None:
        """What walks would else do too rarely."""
        self.send(given, again)
        self.pass_time(units)
        if count:
            self.claim(count)
        for verb in verbs:
            if verb in {Verb.SUCCEEDED, Verb.FAILED}:
                self.end(0, verb)
            else:
                self.come_back(0, verb, delay)

    def send(self, given: list[tuple[str, int, int]], again: bool) -> None:
        jobs: list[NewJob] = []
        expected: list[Added] = []
        for key, wait, most in given:
            self.sent += 1
            call = encode_envelope("shop.save", [self.sent, "x" * (2_000 * (self.sent % 3 == 0))], {}, None)
            lock = Lock(key, "started", "debounce", max(most, wait) * UNIT * (most > 0), wait_ms=wait * UNIT)
            name = f"j{self.sent:04}"
            jobs.append(NewJob(name, call, delay_ms=wait * UNIT, extra=Extra(unique=lock)))
            expected.append(self.model.send(name, key, call, wait, max(most, wait) if most else 0))
        assert self.run(self.store.enqueue, QUEUE, jobs) == expected
        if again:  # its reply was lost
            added = self.run(self.store.enqueue, QUEUE, jobs, again=True)
            assert [each is True for each in added] == [each is True for each in expected]
        self.agree()

    @rule(units=st.sampled_from([1, 1, 2, 4]))
    def pass_time(self, units: int) -> None:
        self.inside.jump(units * UNIT)
        self.model.pass_time(units)
        while self.run(self.store.promote, QUEUE, 100).count:
            pass
        self.agree()

    def claim(self, count: int) -> None:
        queued = [name for name, job in self.model.jobs.items() if job.state is JobState.QUEUED]
        claimed = self.run(self.store.claim, QUEUE, "w", count).jobs
        assert len(claimed) == min(count, len(queued))
        for job in claimed:
            assert job.id in queued
            assert job.envelope == self.model.jobs[job.id].call
            self.model.jobs[job.id].state = JobState.RUNNING
            self.model.leave(job.id)
        self.running += claimed
        self.agree()

    def end(self, pick: int, verb: Verb) -> None:
        if self.running:
            job = self.running.pop(pick % len(self.running))
            self.settle(job, verb, 0)
            self.model.jobs[job.id].state = JobState(verb.value)
            self.agree()

    def come_back(self, pick: int, verb: Verb, delay: int) -> None:
        if self.running:
            job = self.running.pop(pick % len(self.running))
            delay *= verb in {Verb.RETRY, Verb.SNOOZE, Verb.PARK}
            self.settle(job, verb, delay)
            self.model.back(job.id, verb, delay)
            self.agree()

    def settle(self, job: Claimed, verb: Verb, delay: int) -> None:
        outcome = THREE if verb is Verb.SUCCEEDED else BROKEN
        settlement = Settlement(job.id, job.claim, verb, outcome, delay * UNIT, 240 * LONG)
        assert self.run(self.store.settle, QUEUE, "w", [settlement]) == [True]

    @rule()
    def die(self) -> None:
        while self.run(self.store.recover, QUEUE, CRASHED, 100, dead="w").more:
            pass
        for job in self.running:
            self.model.back(job.id, Verb.CRASH, 0)
        self.running.clear()
        assert not self.lease_client.join(QUEUE, "w").lost
        self.agree()

    @rule(pick=picks)
    def cancel(self, pick: int) -> None:
        if waiting := self.waiting():
            name = one_of(waiting, pick)
            assert self.run(self.store.cancel, QUEUE, [name], REASON, 240 * LONG) == [self.model.jobs[name].state]
            self.model.leave(name)
            self.model.jobs[name].state = JobState.CANCELLED
            self.agree()

    @rule(pick=picks, delay=st.integers(0, 3))
    def reschedule(self, pick: int, delay: int) -> None:
        """An operator's time counts until the next call."""
        if waiting := self.waiting():
            name = one_of(waiting, pick)
            self.run(self.store.reschedule, QUEUE, [name], delay_ms=delay * UNIT or None)
            job = self.model.jobs[name]
            if delay or job.state is JobState.SCHEDULED:
                self.model.put(job, self.model.now + delay)
            self.agree()

    @rule(pick=picks)
    def reopen(self, pick: int) -> None:
        """A dead job that is retried belongs to no series."""
        dead = [name for name, job in self.model.jobs.items() if job.state is JobState.FAILED]
        if dead:
            name = one_of(dead, pick)
            assert self.run(self.store.operating.reopen, QUEUE, [name]) == [JobState.FAILED]
            self.model.jobs[name].state = JobState.QUEUED
            self.agree()

    @rule(key=st.sampled_from([*KEYS, "none", "none"]))
    def release(self, key: str) -> None:
        assert self.run(self.store.operating.release_unique, QUEUE, key) == self.model.series.pop(key, None)
        self.agree()

    def waiting(self) -> list[str]:
        return [
            name for name, job in self.model.jobs.items() if job.state in {JobState.QUEUED, JobState.SCHEDULED}
        ]

    # -- what holds ---------------------------------------------------------------------------------------------

    def agree(self) -> None:
        """The store and the model say the same."""
        for key in KEYS:
            assert self.run(self.store.operating.unique_owner, QUEUE, key) == self.model.series.get(key), key
        names = list(self.model.jobs)
        found = self.run(self.store.info, QUEUE, names)
        assert [info and info.state for info in found] == [job.state for job in self.model.jobs.values()]
        sent = self.run(self.store.operating.calls, QUEUE, names)
        now_ms = self.run(self.store.operating.now_ms, QUEUE)
        for info, call, job in zip(found, sent, self.model.jobs.values(), strict=True):
            assert call in {None, job.call}
            if info is not None and job.state is JobState.SCHEDULED:
                assert info.due_at is not None
                left = (info.due_at.timestamp() * 1000 - now_ms) / UNIT
                assert abs(left - (job.due - self.model.now)) < 0.25, (info.id, left, job)

    def ended(self) -> None:
        """However often calls come, a job is run at the end of its series: nothing is put off for ever."""
        for job in self.running:
            self.settle(job, Verb.SUCCEEDED, 0)
            self.model.jobs[job.id].state = JobState.SUCCEEDED
        self.running.clear()
        latest = max([self.model.now, *(job.due for job in self.model.jobs.values())])
        self.pass_time(latest - self.model.now + 1)
        self.claim(len(self.model.jobs) + 1)
        assert not self.waiting()
        assert not self.model.series


def _machine(inside_of: Callable[[Store], Inside]) -> Any:
    return type("Machine", (DebounceMachine,), {"inside_of": staticmethod(inside_of)})


@pytest.mark.scale(minutes=10)
def test_deadlines_are_those_of_the_model_in_memory(size: Callable[[int, int], int]) -> None:
    def make() -> tuple[Store, Callable[[], None]]:
        return MemoryStore("test", clock=ManualClock(), limits=LIMITS), lambda: None

    def inside_of(store: Any) -> Inside:
        return MemoryInside(store, store.clock, QUEUE)

    walks = size(*WALKS_IN_MEMORY)
    drive(_machine(inside_of), make, walks, 40, alike=walks < WALKS[1])


@pytest.mark.scale(minutes=10)
def test_deadlines_are_those_of_the_model_at_a_server(
    server: Database, app_name: str, size: Callable[[int, int], int]
) -> None:
    walks = size(*WALKS)
    with server.client() as client:

        def make() -> tuple[Store, Callable[[], None]]:
            def clean() -> None:
                left = client.keys("*:unique:*")
                client.flushdb()
                assert left == []

            return RedisStore(app_name, server.url, shown_url=server.url, limits=LIMITS), clean

        def inside_of(_: Store) -> Inside:
            return ServerInside(client, base_key(app_name, QUEUE))

        drive(_machine(inside_of), make, walks, 40, alike=walks < WALKS[1])
