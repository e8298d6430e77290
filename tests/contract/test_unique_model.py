"""Unique keys in random walks, on every store, against a few lines of plain Python.

After each step each key is held by the same job in the store and in the model, and each job has the same state
and call.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule

from aioq.jobs.job import JobState
from aioq.store.contract import Added, Claimed, Limits, NewJob, Settlement, Verb
from aioq.store.extra import Duplicate, Extra, Lock
from aioq.wire.messages import encode_envelope
from tests.contract.kit import BROKEN, CRASHED, LONG, QUEUE, REASON, THREE
from tests.contract.walks import Walk, drive, in_memory, on, one_of
from tests.databases import Database

pytestmark = [pytest.mark.long(seconds=15), pytest.mark.apart]

WALKS, WALKS_IN_MEMORY = (20, 1000), (40, 2000)
"""How many walks of 60 steps, small and full."""

LIMITS = Limits(lease_ms=LONG, max_crashes=1000)
KEYS = ("shop.sync:1", "shop.sync:2", "shop.save:1")

picks = st.integers(0, 999)
locks = st.tuples(
    st.sampled_from([KEYS[0], KEYS[0], KEYS[1]]),
    st.sampled_from(["ended", "ended", "ended", "started"]),
    st.sampled_from(["return", "replace", "latest", "latest", "latest"]),
)
debounced = st.just((KEYS[2], "started", "debounce"))
sends = st.lists(
    st.one_of(st.tuples(locks, st.sampled_from([False, False, True])), st.tuples(debounced, st.just(True))),
    min_size=1,
    max_size=3,
)
named = st.one_of(
    st.tuples(
        st.sampled_from(KEYS[:2]), st.just("ended"), st.sampled_from(["return", "replace", "latest", "latest"])
    ),
    debounced,
)
counts = st.integers(1, 3)
Given = list[tuple[tuple[str, str, str], bool]]
"""Jobs that are sent together: the lock of each, and whether it has a delay."""

ends = st.sampled_from([Verb.SUCCEEDED, Verb.FAILED, Verb.CANCELLED])
returns = st.sampled_from([Verb.RETRY, Verb.SNOOZE, Verb.INTERRUPT, Verb.CRASH, Verb.RELEASE, Verb.PARK])


@dataclass(slots=True)
class Job:
    """One job, as the model knows it."""

    lock: Lock
    call: bytes
    state: JobState = JobState.QUEUED
    due: bool = False
    begun: bool = False
    asks: bool = False
    is_stale: bool = False

    @property
    def waits(self) -> bool:
        return self.state in {JobState.QUEUED, JobState.SCHEDULED}

    @property
    def is_debounced(self) -> bool:
        return self.lock.conflict == "debounce"


class Model:
    """Who holds each key, who follows that job, and what became of each."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.owners: dict[str, str] = {}
        self.following: dict[str, str] = {}

    def send(self, job_id: str, lock: Lock, call: bytes, *, delayed: bool) -> Added:
        owner, state = self.owners.get(lock.key), JobState.SCHEDULED if delayed else JobState.QUEUED
        if owner is None:
            self.owners[lock.key] = job_id
            self.jobs[job_id] = Job(lock, call, state)
            return True
        there, next_id = self.jobs[owner], self.following.get(lock.key)
        if lock.conflict == "latest" and next_id is not None:
            self.replace_next(next_id, call, delayed=delayed)
            return Duplicate(next_id)
        if lock.conflict != "return" and there.waits and (lock.conflict != "replace" or not there.begun):
            there.call, there.state, there.begun = call, state, False
        elif lock.conflict == "latest":
            self.following[lock.key] = job_id
            self.jobs[job_id] = Job(lock, call, JobState.WAITING, due=delayed)
            return True
        return Duplicate(owner)

    def replace_next(self, job_id: str, call: bytes, *, delayed: bool) -> None:
        """Give a job that follows another call; one whose sender did not know its key waits in its lane."""
        job = self.jobs[job_id]
        job.call, job.begun = call, False
        if job.state is JobState.WAITING:
            job.due = delayed
        elif job.state is JobState.RUNNING:
            job.is_stale = True
        else:
            job.state = JobState.SCHEDULED if delayed else JobState.QUEUED

    def ask(self, job_id: str) -> tuple[str, bool] | None:
        """The reply to the worker of a job whose sender did not know its key, or which follows another one."""
        job = self.jobs[job_id]
        key, owner = job.lock.key, self.owners.get(job.lock.key)
        there = None if owner in {None, job_id} else self.jobs[owner or ""]
        if there is None or owner is None:
            self.owners[key] = job_id
            is_stale, job.is_stale = job.is_stale, False
            job.asks = is_stale
            return (job_id, True) if job.is_debounced or is_stale else None
        if job.is_debounced:
            there.call, there.state = job.call, JobState.RUNNING if not there.waits else JobState.SCHEDULED
        elif there.state is JobState.RUNNING and job.lock.conflict == "latest":
            next_id = self.following.setdefault(key, job_id)
            if next_id != job_id:
                self.replace_next(next_id, job.call, delayed=False)
                return next_id, False
            job.is_stale = False
            return owner, True
        elif there.waits and (
            job.lock.conflict == "latest" or (job.lock.conflict == "replace" and not there.begun)
        ):
            there.call, there.state, there.begun = job.call, JobState.QUEUED, False
        return owner, False

    def start(self, job_id: str) -> None:
        job = self.jobs[job_id]
        job.state = JobState.RUNNING
        if job.lock.until == "started":
            self.give_back(job_id)

    def give_back(self, job_id: str) -> None:
        key = self.jobs[job_id].lock.key
        if self.following.get(key) == job_id:
            del self.following[key]
        if self.owners.get(key) == job_id:
            self.release(key)

    def release(self, key: str) -> None:
        self.owners.pop(key, None)
        if (next_id := self.following.pop(key, None)) is not None:
            self.owners[key] = next_id
            job = self.jobs[next_id]
            if job.state is JobState.WAITING:
                job.state = JobState.SCHEDULED if job.due else JobState.QUEUED

    def end(self, job_id: str, state: JobState) -> None:
        self.give_back(job_id)
        self.jobs[job_id].state = state

    def back(self, job_id: str, verb: Verb, *, delayed: bool) -> None:
        job = self.jobs[job_id]
        key = job.lock.key
        job.begun = job.begun or verb not in {Verb.RELEASE, Verb.PARK}
        is_followed = self.owners.get(key) == job_id and key in self.following
        if verb is Verb.RETRY and job.lock.conflict == "latest" and is_followed:
            self.end(job_id, JobState.FAILED)
            return
        job.state = JobState.SCHEDULED if delayed else JobState.QUEUED
        is_free, was_begun = key not in self.owners, verb not in {Verb.RELEASE, Verb.PARK}
        if job.is_debounced:
            takes = is_free and not was_begun
        else:
            takes = job.lock.until == "started" and (is_free or not was_begun)
        if takes:
            self.owners[key] = job_id

    def reopen(self, job_id: str) -> JobState | Duplicate | None:
        job = self.jobs[job_id]
        if job.state is not JobState.FAILED:
            return job.state
        owner = self.owners.get(job.lock.key)
        if owner not in {None, job_id} and not job.is_debounced:
            return Duplicate(owner or "")
        if not job.is_debounced:
            self.owners[job.lock.key] = job_id
        job.state, job.begun = JobState.QUEUED, False
        return JobState.FAILED


class UniqueMachine(Walk):
    """A queue with one worker, and the model."""

    def begun(self) -> None:
        assert not self.lease_client.join(QUEUE, "w").lost
        self.model, self.sent, self.running = Model(), 0, list[Claimed]()

    # -- what happens -------------------------------------------------------------------------------------------

    @rule(given=st.lists(sends, min_size=1, max_size=3), again=st.booleans(), counts=st.lists(counts, max_size=3))
    def send_and_claim(self, given: list[Given], again: bool, counts: list[int]) -> None:
        """What walks would else do too rarely."""
        for some, count in zip_longest(given, counts, fillvalue=None):
            if some is not None:
                self.send(some, again=again)
            if count is not None:
                self.claim(count)

    def send(self, given: Given, *, again: bool) -> None:
        jobs: list[NewJob] = []
        for (key, until, conflict), delayed in given:
            self.sent += 1
            call = encode_envelope("shop.sync", [self.sent, "x" * (2_000 * (self.sent % 3 == 0))], {}, None)
            extra = Extra(unique=Lock(key, until, conflict, wait_ms=LONG if conflict == "debounce" else 0))
            jobs.append(NewJob(f"j{self.sent:04}", call, delay_ms=LONG if delayed else None, extra=extra))
        expected = [
            self.model.send(job.id, job.extra.unique, job.envelope, delayed=job.delay_ms is not None)
            for job in jobs
            if job.extra is not None and job.extra.unique is not None
        ]
        assert self.run(self.store.enqueue, QUEUE, jobs) == expected
        if again:  # its reply was lost: what the first call has not added may be added now, if its key is free
            added = self.run(self.store.enqueue, QUEUE, jobs, again=True)
            assert [each is True for each in added] == [each is True for each in expected]
        self.agree()

    @rule(given=st.lists(named, min_size=1, max_size=2), again=st.booleans(), count=counts)
    def send_without_key(self, given: list[tuple[str, str, str]], again: bool, count: int) -> None:
        """By senders that do not know the task: the worker asks for the key."""
        for key, until, conflict in given:
            self.sent += 1
            call = encode_envelope("shop.sync", [self.sent, "x" * (2_000 * (self.sent % 3 == 0))], {}, None)
            lock = Lock(key, until, conflict, wait_ms=LONG if conflict == "debounce" else 0)
            self.model.jobs[f"j{self.sent:04}"] = Job(lock, call, asks=True)
            assert self.run(self.store.enqueue, QUEUE, [NewJob(f"j{self.sent:04}", call)]) == [True]
        self.claim(count, again=again)

    def claim(self, count: int, *, again: bool = False) -> None:
        claimed = self.run(self.store.claim, QUEUE, "w", count).jobs
        for job in claimed:
            assert self.model.jobs[job.id].state is JobState.QUEUED
            assert job.envelope == self.model.jobs[job.id].call
            assert job.is_unique is not self.model.jobs[job.id].asks
            self.model.start(job.id)
        asking = [job for job in claimed if self.model.jobs[job.id].asks]
        replies = [(job, self.ask(job, again=again)) for job in asking]
        self.running += [job for job in claimed if job not in asking]
        for job, reply in replies:
            if reply is None:
                self.running.append(job)
            elif reply[1]:
                self._settle(job, Verb.SNOOZE, delay_ms=LONG)
                known = self.model.jobs[job.id]
                known.state, known.begun = JobState.SCHEDULED, known.begun or not known.is_debounced
            else:
                self._settle(job, Verb.CANCELLED)
                self.model.end(job.id, JobState.CANCELLED)
        self.agree()

    def ask(self, job: Claimed, *, again: bool) -> tuple[str, bool] | None:
        known = self.model.jobs[job.id]
        reply = self.model.ask(job.id)
        for _ in range(1 + again):  # the second time after a lost reply
            assert self.run(self.store.operating.hold_unique, QUEUE, "w", job.id, job.claim, known.lock) == reply
        known.asks = known.asks and not known.is_debounced and reply is not None
        return reply

    @rule(pick=picks, verb=ends)
    def end(self, pick: int, verb: Verb) -> None:
        if self.running:
            job = self.running.pop(pick % len(self.running))
            self._settle(job, verb)
            self.model.end(job.id, JobState(verb.value))
            self.agree()

    @rule(pick=picks, verb=returns, delayed=st.booleans())
    def come_back(self, pick: int, verb: Verb, delayed: bool) -> None:
        if self.running:
            job = self.running.pop(pick % len(self.running))
            delayed = delayed and verb in {Verb.RETRY, Verb.SNOOZE, Verb.PARK}
            self._settle(job, verb, delay_ms=LONG if delayed else 0)
            self.model.back(job.id, verb, delayed=delayed)
            self.agree()

    def _settle(self, job: Claimed, verb: Verb, *, delay_ms: int = 0) -> None:
        outcome = THREE if verb is Verb.SUCCEEDED else BROKEN
        settlement = Settlement(job.id, job.claim, verb, outcome, delay_ms, LONG)
        for _ in range(2 if verb in {Verb.SUCCEEDED, Verb.FAILED} else 1):  # the second one after a lost reply
            assert self.run(self.store.settle, QUEUE, "w", [settlement]) == [True]

    @rule()
    def die(self) -> None:
        while self.run(self.store.recover, QUEUE, CRASHED, 100, dead="w").more:
            pass
        for key in KEYS[
            :2
        ]:  # a recovery gives jobs back in no order, so any of these may be the one that takes its key
            jobs = [job.id for job in self.running if self.model.jobs[job.id].lock.key == key]
            started = [each for each in jobs if self.model.jobs[each].lock.until == "started"]
            if started and key not in self.model.owners:
                owner = self.run(self.store.operating.unique_owner, QUEUE, key)
                assert owner in started
                self.model.owners[key] = owner
        for job in self.running:
            self.model.back(job.id, Verb.CRASH, delayed=False)
        self.running.clear()
        assert not self.lease_client.join(QUEUE, "w").lost
        self.agree()

    @rule(pick=picks)
    def cancel(self, pick: int) -> None:
        waiting = [each for each, job in self.model.jobs.items() if job.waits or job.state is JobState.WAITING]
        if waiting:
            job_id = one_of(waiting, pick)
            assert self.run(self.store.cancel, QUEUE, [job_id], REASON, LONG) == [self.model.jobs[job_id].state]
            self.model.end(job_id, JobState.CANCELLED)
            self.agree()

    @rule(pick=picks)
    def reopen(self, pick: int) -> None:
        if self.model.jobs:
            job_id = one_of(list(self.model.jobs), pick)
            assert self.run(self.store.operating.reopen, QUEUE, [job_id]) == [self.model.reopen(job_id)]
            self.agree()

    @rule(pick=picks)
    def run_now(self, pick: int) -> None:
        if self.model.jobs:
            job_id = one_of(list(self.model.jobs), pick)
            self.run(self.store.reschedule, QUEUE, [job_id])
            job = self.model.jobs[job_id]
            job.state = JobState.QUEUED if job.state is JobState.SCHEDULED else job.state
            self.agree()

    @rule(key=st.sampled_from([*KEYS, "none", "none", "none"]))
    def release(self, key: str) -> None:
        assert self.run(self.store.operating.release_unique, QUEUE, key) == self.model.owners.get(key)
        self.model.release(key)
        self.agree()

    # -- what holds ---------------------------------------------------------------------------------------------

    def agree(self) -> None:
        """The store and the model say the same."""
        for key in KEYS:
            assert self.run(self.store.operating.unique_owner, QUEUE, key) == self.model.owners.get(key), key
        ids = list(self.model.jobs)
        found = self.run(self.store.info, QUEUE, ids)
        assert [info and info.state for info in found] == [job.state for job in self.model.jobs.values()]
        calls = self.run(self.store.operating.calls, QUEUE, ids)
        for job_id, call in zip(ids, calls, strict=True):
            assert call in {None, self.model.jobs[job_id].call}, job_id

    def ended(self) -> None:
        for job in self.running:
            self._settle(job, Verb.SUCCEEDED)
            self.model.end(job.id, JobState.SUCCEEDED)
        for job_id in list(self.model.jobs):
            if self.model.jobs[job_id].waits or self.model.jobs[job_id].state is JobState.WAITING:
                self.run(self.store.cancel, QUEUE, [job_id], REASON, LONG)
                self.model.end(job_id, JobState.CANCELLED)
        self.agree()
        assert not self.model.owners


@pytest.mark.scale(minutes=10)
def test_keys_are_those_of_the_model_in_memory(size: Callable[[int, int], int]) -> None:
    walks = size(*WALKS_IN_MEMORY)
    drive(UniqueMachine, in_memory(LIMITS), walks, 60, alike=walks < WALKS[1])


@pytest.mark.scale(minutes=10)
def test_keys_are_those_of_the_model_at_a_server(
    server: Database, app_name: str, size: Callable[[int, int], int]
) -> None:
    walks = size(*WALKS)
    drive(UniqueMachine, on(server, app_name, LIMITS, leaves="*:unique:*"), walks, 60, alike=walks < WALKS[1])
