"""Pauses in random interleavings with blocking reads: nothing is lost, and jobs come in their order.

Tasks of a queue, and the whole queue, are paused and resumed while workers read, claim and give back. What a read
brings to a worker is on its way: it may claim that before or after something is paused or resumed, as far as the
server knows. After each claim, the jobs that it brought have to be the next ones of their lanes that may run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule

from aioq.jobs.job import Priority
from aioq.store.contract import Claimed, Limits, NewJob, Settlement, Token, Verb
from aioq.store.memory import MemoryStore
from aioq.wire.messages import encode_envelope
from tests.contract.kit import CRASHED, LONG, QUEUE, THREE
from tests.contract.walks import Walk, drive, in_memory, on, one_of
from tests.databases import Database

pytestmark = [pytest.mark.long(seconds=15), pytest.mark.apart]

WALKS = (10, 1000)
WALKS_IN_MEMORY = (20, 1000)
"""How many walks of 50 steps, small and full."""

LIMITS = Limits(lease_ms=LONG, max_crashes=1000)

TASKS = ("shop.add", "shop.other")
CALLS = [encode_envelope(task, [], {}, None) for task in TASKS]
WHOLE = 2
"""The number of the pause of the whole queue, after those of the tasks."""

picks = st.integers(0, 999)
counts = st.sampled_from([1, 1, 2, 3, 9])
kinds = st.lists(st.sampled_from([0, 0, 1]), min_size=1, max_size=12)
priorities = st.sampled_from([Priority.NORMAL, Priority.NORMAL, Priority.HIGH])


@dataclass(slots=True)
class Job:
    """One job that has not ended.

    Attributes:
        task: the number of its task.
        came: when it came to its lane.
        again: whether it was claimed before, and so comes before those that were not.
        handed: whether a read has brought it to a worker that did not take it.
        backs: how often it was given back. An entry of an earlier time may still name it, so it may come early.
        where: the worker to which a read brought it, or that runs it; "" while it is in its lane.
        runs: whether that runs it.
    """

    task: int
    priority: Priority
    came: int
    again: bool = False
    handed: bool = False
    backs: int = 0
    where: str = ""
    runs: bool = False

    @property
    def line(self) -> tuple[Priority, bool]:
        """Those of one line come in their order."""
        return self.priority, self.again


class PausesMachine(Walk):
    """A queue, its workers, and what is paused."""

    workers: ClassVar[tuple[str, ...]] = ("w1",)

    def begun(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.sent = self.came = 0
        self.tokens: dict[str, list[Token]] = {worker: [] for worker in self.workers}
        self.waits: set[str] = set()  # workers for which nothing was left
        self.left_there: set[str] = set()  # workers that have to look for what was brought to them
        self.running: list[tuple[str, Claimed]] = []
        self.paused: set[int] = set()
        for worker in self.workers:
            assert not self.lease_client.join(QUEUE, worker).lost

    def _next(self) -> int:
        self.came += 1
        return self.came

    # -- what happens -------------------------------------------------------------------------------------------

    @rule(kinds=kinds, priority=priorities)
    def send(self, kinds: list[int], priority: Priority) -> None:
        """Jobs that share an entry."""
        names = [f"{'ao'[kind]}{self.sent + at:04}" for at, kind in enumerate(kinds)]
        self.sent += len(kinds)
        jobs = [NewJob(name, CALLS[kind], priority) for name, kind in zip(names, kinds, strict=True)]
        assert all(self.run(self.store.enqueue, QUEUE, jobs))
        for name, kind in zip(names, kinds, strict=True):
            self.jobs[name] = Job(kind, priority, self._next())

    @rule(what=st.sampled_from([0, 0, 0, 1, WHOLE]))
    def pause(self, what: int) -> None:
        self.run(self.store.operating.pauses.pause, QUEUE, list(TASKS[what : what + 1]))
        self.paused.add(what)

    @rule(pick=picks)
    def resume(self, pick: int) -> None:
        if self.paused:
            what = one_of(sorted(self.paused), pick)
            self.run(self.store.operating.pauses.resume, QUEUE, list(TASKS[what : what + 1]))
            self.paused.discard(what)
            if isinstance(self.store, MemoryStore):
                self.waits.clear()  # jobs are back in their lanes at once: a read would bring the first of each

    @rule(pick=picks, count=counts)
    def claim(self, pick: int, count: int) -> None:
        self._claim(one_of(self.workers, pick), count)

    @rule(pick=picks)
    def block(self, pick: int) -> None:
        """A worker reads for which nothing was left; what that brings is on its way to it until it claims."""
        worker = one_of(self.workers, pick)
        if self.tokens[worker] or (WHOLE in self.paused and worker not in self.waits):
            return
        while worker not in self.waits:
            self._claim(worker, 9)
        self.waits.discard(worker)
        if not any(self._in_lanes(job) for job in self.jobs.values()):
            self.send([0, 1, 0], Priority.NORMAL)
        tokens = self.tokens[worker] = list(self.run(self.store.block, QUEUE, worker, 1))
        for name in (name for token in tokens for name in token.job_ids):
            if (job := self.jobs.get(name)) is not None and not job.where:
                job.where = worker

    @rule(pick=picks)
    def give_up(self, pick: int) -> None:
        """All slots of a worker are taken meanwhile: what was brought goes back."""
        worker = one_of(self.workers, pick)
        if self.tokens[worker]:
            self._claim(worker, 0)

    @rule(pick=picks, verb=st.sampled_from([Verb.SUCCEEDED, Verb.SUCCEEDED, Verb.INTERRUPT]))
    def end(self, pick: int, verb: Verb) -> None:
        if self.running:
            self._settle(self.running.pop(pick % len(self.running)), verb)

    def _settle(self, ran: tuple[str, Claimed], verb: Verb) -> None:
        worker, claimed = ran
        settlement = Settlement(claimed.id, claimed.claim, verb, THREE if verb is Verb.SUCCEEDED else b"", 0, LONG)
        assert self.run(self.store.settle, QUEUE, worker, [settlement]) == [True]
        if verb is Verb.SUCCEEDED:
            del self.jobs[claimed.id]
        else:
            self._back(self.jobs[claimed.id], self._next())

    def _back(self, job: Job, came: int) -> None:
        """A job that ran comes back."""
        job.where, job.runs, job.again, job.came, job.handed = "", False, True, came, False
        job.backs += 1

    # -- what must hold -----------------------------------------------------------------------------------------

    def _in_lanes(self, job: Job) -> bool:
        return not job.where

    def _may_run(self, job: Job) -> bool:
        return job.task not in self.paused and WHOLE not in self.paused

    def _claim(self, worker: str, count: int) -> None:
        """A worker claims, with what a read has brought to it, and gets the next ones."""
        tokens, self.tokens[worker] = self.tokens[worker], []
        self.waits.discard(worker)
        looks = worker in self.left_there
        held = [job.id for owner, job in self.running if owner == worker]
        claim = self.run(self.store.claim, QUEUE, worker, count, tokens, known=held if looks else None)
        assert not claim.lost
        if WHOLE in self.paused:
            assert claim.jobs == []
            if tokens:
                self.left_there.add(worker)
            return
        self.left_there.discard(worker)
        for job in self.jobs.values():
            if job.where == worker and not job.runs:
                job.where, job.handed = "", True
        got = [job.id for job in claim.jobs]
        assert len(set(got)) == len(got) <= count
        for name in got:
            self._is_next(name)
            job = self.jobs[name]
            job.where, job.runs = worker, True
        self.running += [(worker, job) for job in claim.jobs]
        if len(got) < count and not claim.more:
            self.waits.add(worker)
            left = [name for name, job in self.jobs.items() if self._in_lanes(job) and self._may_run(job)]
            assert not left, "a claim that was to bring more has left them"

    def _is_next(self, name: str) -> None:
        job = self.jobs[name]
        assert self._in_lanes(job) or (job.backs and not job.runs), f"{name} was elsewhere"
        assert self._may_run(job), f"{name} is paused"
        line = [other for other, each in self.jobs.items() if self._in_lanes(each) and each.line == job.line]
        before = [self.jobs[other] for other in line if self.jobs[other].came < job.came]
        passed = [each for each in before if self._may_run(each) and self._is_ordered(each, job)]
        assert not passed, f"{name} came before {passed}"

    def _is_ordered(self, first: Job, second: Job) -> bool:
        """Whether one has to come before another one."""
        if second.backs > 1:
            return False
        return not (first.handed or second.handed) or (len(self.workers) == 1 and not first.again)

    def ended(self) -> None:
        """Once nothing is paused, all jobs come."""
        for _ in TASKS, WHOLE, 0:
            self.resume(0)
        for worker in self.workers:
            self._claim(worker, 1)
        while self.jobs:
            for ran in self.running:
                self._settle(ran, Verb.SUCCEEDED)
            self.running.clear()
            before = len(self.jobs)
            self._claim(one_of(self.workers, before), 2)
            assert self.running or not self.jobs, "some jobs are never claimed"


class SeveralWorkers(PausesMachine):
    """Several workers: some of them die with what was brought to them, or leave."""

    workers = ("w1", "w2", "w3")

    @rule(pick=picks, dies=st.booleans())
    def leave(self, pick: int, dies: bool) -> None:
        worker = one_of(self.workers, pick)
        if dies:
            while self.run(self.store.recover, QUEUE, CRASHED, 100, dead=worker).more:
                pass
        else:
            self.run(self.store.depart, QUEUE, worker)
        self.tokens[worker] = []
        self.waits.discard(worker)
        self.left_there.discard(worker)
        self.running = [each for each in self.running if each[0] != worker]
        came = self._next()
        for job in self.jobs.values():
            if job.where == worker and job.runs:
                self._back(job, came)
            elif job.where == worker:
                job.where, job.handed = "", True
        assert not self.lease_client.join(QUEUE, worker).lost


several = pytest.mark.parametrize("kind", [PausesMachine, SeveralWorkers], ids=["one worker", "several"])


@pytest.mark.scale(minutes=10)
@several
def test_jobs_keep_their_order_in_memory(kind: type[PausesMachine], size: Callable[[int, int], int]) -> None:
    walks = size(*WALKS_IN_MEMORY)
    drive(kind, in_memory(LIMITS), walks, 50, alike=walks < WALKS[1])


@pytest.mark.scale(minutes=10)
@several
def test_jobs_keep_their_order_at_a_server(
    kind: type[PausesMachine], server: Database, app_name: str, size: Callable[[int, int], int]
) -> None:
    walks = size(*WALKS)
    drive(kind, on(server, app_name, LIMITS), walks, 50, alike=walks < WALKS[1])
