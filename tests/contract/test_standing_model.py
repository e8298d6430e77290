"""Workers that stand, in random interleavings: no job waits while a worker stands at its queue with a free slot.

What a worker does when it is woken is done here in steps: its message arrives, is lost, waits; its slots are full
by then with jobs of another queue; it dies. After each step, wherever a job is queued and a worker stands with a
free slot, somebody has to be about to claim: a worker that was woken and has not claimed since, or one that does
not stand.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from aioq.jobs.job import JobState, Priority
from aioq.store.contract import Claimed, NewJob, Settlement, Token, Verb
from aioq.store.redis import RedisStore
from tests.contract.kit import BROKEN, CALL, CRASHED, LONG, THREE, Listener
from tests.contract.test_model import LIMITS
from tests.contract.walks import Walk, drive, in_memory, on, one_of
from tests.databases import Database

pytestmark = [pytest.mark.long(seconds=15), pytest.mark.apart]

T = TypeVar("T")

WALKS = (6, 300)
WALKS_IN_MEMORY = (20, 1000)
"""How many walks of 60 steps, small and full."""

QUEUES = ("one", "two")
SLOTS = (1, 2)
"""The slots of each worker that stands: fewer than queues, or as many."""

picks = st.integers(0, 999)
queues = st.sampled_from(QUEUES)


@dataclass(slots=True, eq=False)
class At:
    """A worker at one queue.

    Attributes:
        messages: those that it has received and not acted on.
        missed: whether it may have lost one since its last claim.
        stands: whether it believes that it stands.
    """

    name: str
    queue: str
    messages: list[int] = field(default_factory=list[int])
    dispatched: list[Claimed] = field(default_factory=list[Claimed])
    missed: bool = False
    stands: bool = False
    leave: Callable[[], Awaitable[None]] | None = None


@dataclass(slots=True, eq=False)
class Standing:
    """A worker of all queues."""

    slots: int
    queues: dict[str, At]
    running: list[tuple[At, Claimed]] = field(default_factory=list[tuple[At, Claimed]])

    @property
    def free(self) -> int:
        return self.slots - len(self.running)


class StandingMachine(Walk):
    """Workers that stand at two queues and one that blocks, and what is on its way to each."""

    def begun(self) -> None:
        for slots in SLOTS:
            self.enter(slots)
        for queue in QUEUES:
            self.lease_client.join(queue, "blocks")

    async def opened(self) -> None:
        self.ids: dict[str, list[str]] = {queue: [] for queue in QUEUES}
        self.tokens: dict[str, list[Token]] = {queue: [] for queue in QUEUES}
        self.workers: list[Standing] = []
        self.dead: list[Standing] = []
        self.count = 0
        self.barrier = await Listener.on(self.store, "barrier")

    def run(self, call: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
        async def wait() -> T:
            found = await call(*args, **kwargs)
            await self._settled()
            return found

        return self.loop.run_until_complete(wait())

    async def _settled(self) -> None:
        """Return when all messages that were published have arrived, and take the jobs that were dispatched."""
        while True:
            if isinstance(self.store, RedisStore):
                await self.store.command("PUBLISH", "barrier", "here")
                await self.barrier.next()
            else:
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            taken = [(worker, at) for worker in self.workers for at in worker.queues.values() if at.dispatched]
            if not taken:
                return
            for worker, at in taken:
                job = at.dispatched.pop(0)
                if worker.free > 0:
                    worker.running.append((at, job))
                else:
                    await self._settle(worker, at, job, Verb.RELEASE)

    async def _settle(self, worker: Standing, at: At, job: Claimed, verb: Verb) -> None:
        outcome = {Verb.SUCCEEDED: THREE, Verb.RETRY: BROKEN}.get(verb, b"")
        settlement = Settlement(job.id, job.claim, verb, outcome, 0, LONG)
        idle = at.stands and worker.free > 0
        assert await self.store.settle(at.queue, at.name, [settlement], idle=idle) == [True]

    def _at(self, pick: int, queue: str) -> tuple[Standing, At]:
        worker = one_of(self.workers, pick)
        return worker, worker.queues[queue]

    def _claim(self, worker: Standing, at: At, most: int) -> None:
        at.messages.clear()
        at.missed = False
        claim = self.run(self.store.claim, at.queue, at.name, most, idle=True, stands=True)
        assert not claim.lost
        worker.running += [(at, job) for job in claim.jobs]
        at.stands = len(claim.jobs) < most

    # -- what happens -------------------------------------------------------------------------------------------

    @rule(slots=st.sampled_from(SLOTS))
    def enter(self, slots: int) -> None:
        """Another worker, up to four, that has not claimed yet."""
        if len(self.workers) == 4:
            return
        self.count += 1
        worker = Standing(slots, {queue: At(f"w{self.count}", queue) for queue in QUEUES})
        for queue, at in worker.queues.items():
            assert not self.lease_client.join(queue, at.name).lost
            at.leave = self.run(
                self.store.dispatched, queue, at.name, at.dispatched.append, lambda: None, at.messages.append
            )
        self.workers.append(worker)

    @rule(queue=queues, count=st.sampled_from([1, 1, 2, 3]), priority=st.sampled_from(Priority))
    def send(self, queue: str, count: int, priority: Priority) -> None:
        if len(self._waiting(queue)) > 2 or not any(worker.queues[queue].stands for worker in self.workers):
            self.work_off()  # else all would be full soon, and nobody would stand
        jobs = [NewJob(f"job {len(self.ids[queue]) + at}", CALL, priority) for at in range(count)]
        self.ids[queue] += [job.id for job in jobs]
        assert all(self.run(self.store.enqueue, queue, jobs))

    @rule(pick=picks, queue=queues)
    def act(self, pick: int, queue: str) -> None:
        """One that was woken claims, or passes that on; one that does not stand claims if it can."""
        worker, at = self._at(pick, queue)
        if at.messages and worker.free <= 0:
            self._claim(worker, at, 0)
        elif worker.free > 0 and (at.messages or not at.stands):
            self._claim(worker, at, worker.free)

    @rule(pick=picks, queue=queues)
    def claim_small(self, pick: int, queue: str) -> None:
        """With fewer than it has slots for, and without being woken, as it does now and then."""
        worker, at = self._at(pick, queue)
        if worker.free > 0:
            self._claim(worker, at, 1)

    @rule(pick=picks, verb=st.sampled_from([Verb.SUCCEEDED, Verb.SUCCEEDED, Verb.RETRY, Verb.RELEASE]))
    def end(self, pick: int, verb: Verb) -> None:
        busy = [worker for worker in self.workers if worker.running]
        if busy:
            worker = one_of(busy, pick)
            at, job = worker.running.pop(0)
            self.run(self._settle, worker, at, job, verb)

    @rule(pick=picks, queue=queues)
    def lose(self, pick: int, queue: str) -> None:
        _, at = self._at(pick, queue)
        if at.messages:
            at.messages.clear()
            at.missed = True

    @rule(pick=picks)
    def die(self, pick: int) -> None:
        """Without a word; the messages for it are lost, or, if it only hangs, are not acted on."""
        if len(self.workers) > 1:
            worker = one_of(self.workers, pick)
            self.workers.remove(worker)
            self.dead.append(worker)
            for at in worker.queues.values():
                if pick % 2 and at.leave is not None:
                    self.run(at.leave)
            if pick % 3:
                self.recover()

    @rule()
    def recover(self) -> None:
        for worker in self.dead:
            for queue, at in worker.queues.items():
                assert self.run(self.store.recover, queue, CRASHED, 100, dead=at.name).worker == at.name
                if at.leave is not None:
                    self.run(at.leave)
        self.dead.clear()

    @rule(pick=picks)
    def depart(self, pick: int) -> None:
        if len(self.workers) > 1:
            worker = one_of(self.workers, pick)
            self.workers.remove(worker)
            for queue, at in worker.queues.items():
                self.run(self.store.depart, queue, at.name)
                if at.leave is not None:
                    self.run(at.leave)

    @rule(queue=queues)
    def block(self, queue: str) -> None:
        """The worker that blocks gets entries."""
        if self._waiting(queue) and not self.tokens[queue]:
            self.run(self.store.claim, queue, "blocks", 0, idle=True)
            self.tokens[queue] = self.run(self.store.block, queue, "blocks", 1)

    @rule(queue=queues, count=st.integers(0, 2))
    def claim_blocked(self, queue: str, count: int) -> None:
        """It takes some of what it got, runs that at once, and gives back the rest."""
        tokens, self.tokens[queue] = self.tokens[queue], []
        if tokens:
            claim = self.run(self.store.claim, queue, "blocks", count, tokens, idle=True)
            done = [Settlement(job.id, job.claim, Verb.SUCCEEDED, THREE, 0, LONG) for job in claim.jobs]
            self.run(self.store.settle, queue, "blocks", done)

    # -- what must hold -----------------------------------------------------------------------------------------

    def _waiting(self, queue: str) -> list[str]:
        infos = self.run(self.store.info, queue, self.ids[queue])
        return [info.id for info in infos if info is not None and info.state is JobState.QUEUED]

    def _is_served(self, queue: str) -> bool:
        """Whether somebody is about to claim from a queue, or has to notice first that a message was lost."""
        if self.dead or self.tokens[queue]:
            return True
        for worker in self.workers:
            at = worker.queues[queue]
            if at.messages or at.missed or (worker.free > 0 and not at.stands):
                return True
        return False

    @invariant()
    def no_job_waits_while_a_worker_stands(self) -> None:
        if not self.has_begun:
            return
        for queue in QUEUES:
            able = [worker for worker in self.workers if worker.free > 0 and worker.queues[queue].stands]
            if able and not self._is_served(queue):
                assert not self._waiting(queue), f"{queue}: a worker stands, and nobody is about to claim"

    def work_off(self) -> None:
        """All act on their messages and end their jobs, until no job is left; then all stand."""
        for _ in range(200):
            for pick in range(len(self.workers)):
                self.end(pick, Verb.SUCCEEDED)
                for queue in QUEUES:
                    self.act(pick, queue)
                self.no_job_waits_while_a_worker_stands()
            if not any(map(self._waiting, QUEUES)) and not any(worker.running for worker in self.workers):
                return
            self.notice()
        raise AssertionError("some jobs are never claimed")

    def notice(self) -> None:
        """The time is over after which a worker claims by itself; a dead one is recovered."""
        self.recover()
        for queue in QUEUES:
            self.claim_blocked(queue, 0)
        for worker in self.workers:
            for at in worker.queues.values():
                at.stands = at.stands and not at.missed

    def ended(self) -> None:
        """Nobody has to claim that was not woken, once it is noticed what was lost."""
        self.notice()
        self.work_off()


@pytest.mark.scale(minutes=10)
def test_no_job_waits_in_the_memory_store(size: Callable[[int, int], int]) -> None:
    drive(StandingMachine, in_memory(LIMITS), size(*WALKS_IN_MEMORY), 60, alike=False)


@pytest.mark.scale(minutes=10)
def test_no_job_waits_at_a_server(server: Database, app_name: str, size: Callable[[int, int], int]) -> None:
    drive(StandingMachine, on(server, app_name, LIMITS), size(*WALKS), 60, alike=False)
