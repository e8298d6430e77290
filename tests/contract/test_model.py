"""A store against the model of it: random verbs, and after each step every job is where the model has it.

`model.py` says what must be, `inside.py` where things are. One machine drives one store: the one in memory, and the
one on each server. The short form is part of `make test`; `AIOQ_MODEL_EXAMPLES=1000` (see `make faults`) drives on.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from aioq.clock import ManualClock
from aioq.job import JobState, Priority, Progress
from aioq.memory_store import MemoryStore
from aioq.redis_store import RedisStore
from aioq.store import Limits, NewJob, Settlement, Store, Token, Verb
from aioq.wire import encode_result
from tests.contract.inside import Inside, MemoryInside, Places, ServerInside
from tests.contract.kit import BROKEN, CALL, CRASHED, QUEUE, REASON, THREE, Listener
from tests.contract.model import NOTICE_LIMIT, Model, shown
MODEL_EXAMPLES = 25
from tests.databases import Database
from tests.servers import available

T = TypeVar("T")

HOUR = 3_600_000
LIMITS = Limits(dead_limit=2, max_crashes=1, lease_ms=3 * HOUR // 2, dead_ttl_ms=7 * HOUR // 2)
"""A clock that jumps by hours never stands exactly at the end of one of these."""

WORKERS = ("w1", "w2", "w3")
CHANNELS = ("aioq:test:one", "aioq:test:two")
LARGE = encode_result("shop.add", "x" * NOTICE_LIMIT)

workers = st.sampled_from(WORKERS)
numbers = st.integers(1, 3)
delays = st.sampled_from([0, 0, HOUR, 2 * HOUR])
ttls = st.sampled_from([0, 3 * HOUR // 2, 9 * HOUR // 2])
outcomes = st.sampled_from([THREE, BROKEN, REASON, THREE, LARGE])


class StoreMachine(RuleBasedStateMachine):
    """A store, the model of it, and what its clients know: the claims whose replies they got, and all tokens."""

    make: Callable[[], tuple[Store, Inside, Callable[[], None]]]

    @initialize()
    def start(self) -> None:
        self.runner = asyncio.Runner()
        self.store, self.inside, self.clean = type(self).make()
        self.keeper = self.store.keeper()
        self.model = Model(LIMITS)
        self.ids: list[str] = []
        self.claims: list[tuple[str, str, int]] = []
        self.known: dict[str, set[str]] = {worker: set() for worker in WORKERS}
        self.seen: dict[str, list[Token]] = {worker: [] for worker in WORKERS}
        self.renew(WORKERS[0], "join")  # makes the queue ready to be read
        self.listeners = {channel: self.run(Listener.on(self.store, channel)) for channel in CHANNELS}

    def teardown(self) -> None:
        if not hasattr(self, "listeners"):
            return
        try:
            self.everybody_was_told_once()
        finally:
            self.run(self.store.close())
            self.keeper.close()
            self.clean()
            self.runner.close()

    def run(self, awaitable: Awaitable[T]) -> T:
        async def wait() -> T:
            return await awaitable

        return self.runner.run(wait())

    def everybody_was_told_once(self) -> None:
        """Each waiter got each outcome it was registered for, once. The end of one last job says that this is all."""
        self.run(self.store.enqueue(QUEUE, [NewJob("end", CALL)]))
        for channel in CHANNELS:
            self.run(self.store.wait(QUEUE, channel, ["end"]))
        self.run(self.store.cancel(QUEUE, ["end"], REASON, 0))
        told: Counter[tuple[str, str, bytes | None]] = Counter()
        for channel, listener in self.listeners.items():
            while not told[channel, "end", REASON]:
                told.update((channel, *pair) for pair in self.run(listener.notice()))
            del told[channel, "end", REASON]
        assert told == self.model.told

    @rule(number=numbers, priority=st.sampled_from(Priority), delay_ms=delays)
    def enqueue(self, number: int, priority: Priority, delay_ms: int) -> None:
        names = [f"job {len(self.ids) + at} ü" for at in range(number)]
        self.ids += names
        self._enqueue(names, priority, delay_ms)

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), priority=st.sampled_from(Priority), delay_ms=delays)
    def enqueue_again(self, data: st.DataObject, priority: Priority, delay_ms: int) -> None:
        """Ids that were used before, and twice the same: of jobs that are there, or have been."""
        name = data.draw(st.sampled_from(self.ids))
        self._enqueue([name, name], priority, delay_ms)

    def _enqueue(self, names: Sequence[str], priority: Priority, delay_ms: int) -> None:
        jobs = [NewJob(name, CALL, priority, delay_ms or None) for name in names]
        self.model.enqueue(jobs, self.run(self.store.enqueue(QUEUE, jobs)))

    @rule(worker=workers, mode=st.sampled_from(["join", "", "sweep"]))
    def renew(self, worker: str, mode: str) -> None:
        if mode == "join":
            renewal = self.keeper.join(QUEUE, worker)
        else:
            renewal = self.keeper.renew(QUEUE, worker, sweep=mode == "sweep")
        self.model.renew(worker, mode, renewal)
        if mode and not renewal.lost:
            places = self.inside.places()
            assert places.consumers <= places.workers, "a consumer without a worker"

    @rule(worker=workers, count=numbers, data=st.data(), lose=st.booleans())
    def claim(self, worker: str, count: int, data: st.DataObject, lose: bool) -> None:
        """With all, some or none of the worker's tokens, those that were taken already among them."""
        tokens = data.draw(st.lists(st.sampled_from(self.seen[worker]), max_size=3)) if self.seen[worker] else []
        self._claim(worker, count, tokens, None, lose=lose)

    @rule(worker=workers, count=numbers)
    def claim_what_was_missed(self, worker: str, count: int) -> None:
        self._claim(worker, count, [], frozenset(self.known[worker]))

    def _claim(
        self, worker: str, count: int, tokens: Sequence[Token], known: frozenset[str] | None, *, lose: bool = False
    ) -> None:
        claim = self.run(self.store.claim(QUEUE, worker, count, tokens, known=known))
        self.model.claim(worker, count, tokens, known, claim)
        if not lose:
            self.claims += [(worker, job.id, job.claim) for job in claim.jobs]
            self.known[worker].update(job.id for job in claim.jobs)

    def _something_waits(self) -> bool:
        return any(job.delivered is None and not job.loose for job in self.model.queued())

    @precondition(_something_waits)  # where nothing does, a server may take a tenth of a second to say so
    @rule(worker=workers)
    def block(self, worker: str) -> None:
        tokens = self.run(self.store.block(QUEUE, worker, 1))
        self.model.block(worker, tokens)
        self.seen[worker] += tokens

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), verb=st.sampled_from(Verb), outcome=outcomes, delay_ms=delays, ttl_ms=ttls)
    def settle(self, data: st.DataObject, verb: Verb, outcome: bytes, delay_ms: int, ttl_ms: int) -> None:
        self._settle(self.claims[-1], data, verb, outcome, delay_ms, ttl_ms)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), verb=st.sampled_from(Verb), thief=st.none() | workers)
    def settle_late(self, data: st.DataObject, verb: Verb, thief: str | None) -> None:
        """Under any claim there ever was, by its worker or by another one."""
        worker, job_id, claim = data.draw(st.sampled_from(self.claims))
        self._settle((thief or worker, job_id, claim), data, verb, THREE, 0, 9 * HOUR // 2)

    def _settle(
        self,
        claimed: tuple[str, str, int],
        data: st.DataObject,
        verb: Verb,
        outcome: bytes,
        delay_ms: int,
        ttl_ms: int,
    ) -> None:
        worker, job_id, claim = claimed
        settlement = Settlement(job_id, claim, verb, outcome, delay_ms, ttl_ms)
        batch = [settlement] * data.draw(st.integers(1, 2), label="times")
        for each, accepted in zip(batch, self.run(self.store.settle(QUEUE, worker, batch)), strict=True):
            self.model.settle(worker, each, accepted)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), done=st.integers(0, 9), thief=st.none() | workers)
    def progress(self, data: st.DataObject, done: int, thief: str | None) -> None:
        worker, job_id, claim = data.draw(st.sampled_from(self.claims))
        report = (job_id, claim, msgspec.msgpack.encode(Progress(done)))
        self.run(self.store.progress(QUEUE, thief or worker, [report]))
        self.model.progress(thief or worker, job_id, claim, done)

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), outcome=outcomes, ttl_ms=ttls)
    def cancel(self, data: st.DataObject, outcome: bytes, ttl_ms: int) -> None:
        names = self._some(data)
        states = self.run(self.store.cancel(QUEUE, names, outcome, ttl_ms))
        for name, state in zip(names, states, strict=True):
            self.model.cancel(name, outcome, ttl_ms, state)

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), channel=st.sampled_from(CHANNELS))
    def wait(self, data: st.DataObject, channel: str) -> None:
        names = self._some(data)
        for name, reply in zip(names, self.run(self.store.wait(QUEUE, channel, names)), strict=True):
            self.model.wait(channel, name, reply)

    def _some(self, data: st.DataObject) -> list[str]:
        return data.draw(st.lists(st.sampled_from([*self.ids, "unknown"]), min_size=1, max_size=3))

    @rule(limit=st.sampled_from([1, 2, 100]))
    def promote(self, limit: int) -> None:
        before = self._scheduled()
        promotion = self.run(self.store.promote(QUEUE, limit))
        self.model.promote(limit, promotion, before - self._scheduled())

    def _scheduled(self) -> set[str]:
        infos = self.run(self.store.info(QUEUE, self.ids))
        return {info.id for info in infos if info is not None and info.state is JobState.SCHEDULED}

    @rule(worker=workers)
    def crash(self, worker: str) -> None:
        self.inside.crash(worker)
        self.model.crash(worker)

    @rule(limit=st.sampled_from([1, 2, 100]))
    def recover(self, limit: int) -> None:
        step = self.run(self.store.recover(QUEUE, CRASHED, limit))
        self.model.recover(CRASHED, limit, step, *self._given_back(step.worker))

    @rule(worker=workers)
    def depart(self, worker: str) -> None:
        self.run(self.store.depart(QUEUE, worker))
        self.model.depart(worker, *self._given_back(worker))

    def _given_back(self, worker: str | None) -> tuple[list[str], list[Token]]:
        """What a worker no longer holds, and what is no longer delivered to it."""
        if worker is None:
            return [], []
        places = self.inside.places()
        jobs = self.model.held(worker) - places.held.get(worker, set())
        delivered = places.delivered.get(worker, set())
        return sorted(jobs), [t for t in self.model.tokens.get(worker, ()) if t not in delivered]

    @rule(hours=st.sampled_from([1, 1, 2, 4]))
    def jump(self, hours: int) -> None:
        self.inside.jump(hours * HOUR)
        self.model.jump(hours * HOUR)

    @invariant()
    def every_job_is_as_it_should_be(self) -> None:
        if not hasattr(self, "model"):
            return
        for name, info in zip(self.ids, self.run(self.store.info(QUEUE, self.ids)), strict=True):
            job = self.model.jobs.get(name)
            assert (info and shown(info)) == (job and job.shown()), name

    @invariant()
    def everything_is_in_its_place(self) -> None:
        if hasattr(self, "model"):
            check_places(self.model, self.inside.places())


def check_places(model: Model, places: Places) -> None:
    """Every job that has not ended is in one place, and nothing is anywhere else."""
    owners = {job.owner for job in model.jobs.values() if job.state is JobState.RUNNING}
    assert places.held == {str(owner): model.held(str(owner)) for owner in owners}
    assert places.held.keys() <= places.workers, "held by nobody"
    assert places.workers == set(model.leases)
    assert places.scheduled == {job.id for job in model.scheduled()}
    assert places.delivered == {worker: set(tokens) for worker, tokens in model.tokens.items() if tokens}
    assert places.dead <= model.failed
    assert len(places.dead) <= LIMITS.dead_limit
    entries = places.waiting + Counter(t.job_id for tokens in places.delivered.values() for t in tokens)
    for job in model.jobs.values():
        queued = job.state is JobState.QUEUED
        assert entries[job.id] >= queued, f"{job.id} is in no lane"
        assert job.loose or job.state.ended or entries[job.id] == queued, f"{job.id} is in the lanes too often"


def in_memory() -> tuple[Store, Inside, Callable[[], None]]:
    clock = ManualClock()
    store = MemoryStore("test", clock=clock, limits=LIMITS)
    return store, MemoryInside(store, clock, QUEUE), lambda: None


def on(database: Database, app: str) -> Callable[[], tuple[Store, Inside, Callable[[], None]]]:
    def make() -> tuple[Store, Inside, Callable[[], None]]:
        store = RedisStore(app, database.url, shown_url=database.url, limits=LIMITS)
        client = database.client()

        def clean() -> None:
            client.flushdb()
            client.close()

        return store, ServerInside(client, f"aioq:{{{app}:{QUEUE}}}"), clean

    return make


def drive(make: Callable[[], tuple[Store, Inside, Callable[[], None]]]) -> None:
    machine: Any = type("Machine", (StoreMachine,), {"make": staticmethod(make)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            # Without shrinking: a failure is found in seconds, but making it small takes minutes.
            phases=(Phase.explicit, Phase.generate),
            max_examples=MODEL_EXAMPLES,
            stateful_step_count=50,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )


@pytest.mark.timeout(60 + MODEL_EXAMPLES)
def test_the_memory_store_is_the_model() -> None:
    drive(in_memory)


@pytest.mark.timeout(60 + MODEL_EXAMPLES)
def test_a_server_is_the_model(server: Database, app_name: str) -> None:
    drive(on(server, app_name))
