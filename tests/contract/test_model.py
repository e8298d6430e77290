"""The memory store and a server, driven side by side by random verbs: every reply and every record is the same.

A server has its own time, so delays and ttls are nothing or hours here, and leases end by decree.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import Any

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
from aioq.job import JobInfo, Priority, Progress
from aioq.memory_store import MemoryStore
from aioq.redis_store import RedisStore
from aioq.store import Claim, Limits, NewJob, Settlement, Store, Token, Verb
from aioq.timetable import Entry, Tick
from aioq.timing import Overlap
from tests.contract.kit import BROKEN, CALL, CRASHED, LONG, REASON, THREE, Listener
from tests.databases import Database

TICKS = ("s@1", "s@2", "s@3")
IDS = ("a", "b", "c", "d e", "ü", *TICKS)
SCHEDULES = ("s", "t")
WORKERS = ("w1", "w2", "w3")
CHANNEL = "aioq:test:model"
OUTCOMES = {Verb.SUCCEEDED: THREE, Verb.FAILED: BROKEN, Verb.CANCELLED: REASON, Verb.RETRY: BROKEN}

job_ids = st.sampled_from(IDS)
workers = st.sampled_from(WORKERS)
batches = st.lists(job_ids, min_size=1, max_size=3)
hours = st.sampled_from([0, 0, LONG, 2 * LONG, 3 * LONG])
ttls = st.sampled_from([0, 9 * LONG])


class SideBySide(RuleBasedStateMachine):
    """Both stores, and what a client has seen so far: its claims and its tokens."""

    database: Database
    app: str
    names = count()

    @initialize()
    def start(self) -> None:
        limits = Limits(dead_limit=2, max_crashes=1, lease_ms=99 * LONG, tombstone_ms=LONG)
        self.queue = f"queue-{next(self.names)}"
        self.runner = asyncio.Runner()
        self.memory = MemoryStore(self.app, clock=ManualClock(), limits=limits)
        self.redis = RedisStore(self.app, self.database.url, shown_url=self.database.url, limits=limits)
        self.client = self.database.client()
        self.claims: list[tuple[str, str, int]] = []
        self.tokens: dict[str, tuple[Sequence[Token], Sequence[Token]]] = {}
        self.keepers = self.memory.keeper(), self.redis.keeper()
        self.join(WORKERS[0])  # makes the queue ready to be read
        self.listeners = [self.run(Listener.on(store, CHANNEL)) for store in (self.memory, self.redis)]

    def teardown(self) -> None:
        if not hasattr(self, "runner"):
            return
        try:
            self.told_the_same()
        finally:
            self.run(self.redis.close())
            for keeper in self.keepers:
                keeper.close()
            self.client.close()
            self.runner.close()

    def told_the_same(self) -> None:
        self.both(lambda store: store.enqueue(self.queue, [NewJob("end", CALL)]))
        self.both(lambda store: store.wait(self.queue, CHANNEL, ["end"]))
        self.both(lambda store: store.cancel(self.queue, ["end"], REASON, 0))
        told = [self.run(self.until_the_end(listener)) for listener in self.listeners]
        assert told[0] == told[1]

    async def until_the_end(self, listener: Listener) -> list[tuple[str, bytes | None]]:
        told: list[tuple[str, bytes | None]] = []
        while not told or told[-1][0] != "end":
            told += await listener.notice()
        return told

    def run(self, awaitable: Any) -> Any:
        return self.runner.run(awaitable)

    def both(self, call: Callable[[Store], Awaitable[Any]], show: Callable[[Any], Any] = lambda x: x) -> Any:
        """Call the same on both; the replies are the same."""

        async def run() -> tuple[Any, Any]:
            return await call(self.memory), await call(self.redis)

        memory, redis = self.run(run())
        assert show(memory) == show(redis)
        return memory

    @rule(
        batch=batches,
        priority=st.sampled_from(Priority),
        delay_ms=hours,
        nonce=st.sampled_from(["", "", "n1", "n2"]),
        again=st.booleans(),
    )
    def enqueue(self, batch: list[str], priority: Priority, delay_ms: int, nonce: str, again: bool) -> None:
        # A nonce belongs to one job.
        jobs = [NewJob(each, CALL, priority, delay_ms or None, nonce=nonce and nonce + each) for each in batch]
        self.both(lambda store: store.enqueue(self.queue, jobs, again=again))

    @rule(worker=workers)
    def join(self, worker: str) -> None:
        memory, redis = (keeper.join(self.queue, worker) for keeper in self.keepers)
        assert shown_renewal(memory) == shown_renewal(redis)

    @rule(worker=workers)
    def renew(self, worker: str) -> None:
        memory, redis = (keeper.renew(self.queue, worker) for keeper in self.keepers)
        assert shown_renewal(memory) == shown_renewal(redis)

    @rule(worker=workers, number=st.integers(1, 3), recheck=st.booleans(), use_tokens=st.booleans())
    def claim(self, worker: str, number: int, recheck: bool, use_tokens: bool) -> None:
        tokens = self.tokens.pop(worker, ((), ())) if use_tokens else ((), ())

        known = {job_id for _, job_id, _ in self.claims} if recheck else None

        async def call(store: Store) -> Claim:
            mine = tokens[store is self.redis]
            return await store.claim(self.queue, worker, number, mine, known=known)

        claim = self.both(call, shown_claim)
        self.claims += [(worker, job.id, job.claim) for job in claim.jobs]

    @rule(worker=workers)
    def block(self, worker: str) -> None:
        async def run() -> tuple[list[Token], list[Token]]:
            return await self.memory.block(self.queue, worker, 1), await self.redis.block(self.queue, worker, 1)

        memory, redis = self.run(run())
        assert [(t.lane, t.job_id) for t in memory] == [(t.lane, t.job_id) for t in redis]
        self.tokens[worker] = (memory, redis)

    @precondition(lambda self: self.claims)
    @rule(
        data=st.data(),
        verb=st.sampled_from(Verb),
        delay_ms=hours,
        ttl_ms=ttls,
        thief=st.none() | st.none() | workers,
        old=st.booleans(),
    )
    def settle(
        self, data: st.DataObject, verb: Verb, delay_ms: int, ttl_ms: int, thief: str | None, old: bool
    ) -> None:
        number = len(self.claims)
        at = data.draw(st.integers(0, number - 1)) if old else number - 1
        worker, job_id, claim = self.claims[at]
        settlement = Settlement(job_id, claim, verb, OUTCOMES.get(verb, BROKEN), delay_ms, ttl_ms)
        self.both(lambda store: store.settle(self.queue, thief or worker, [settlement]))

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), done=st.integers(0, 9))
    def progress(self, data: st.DataObject, done: int) -> None:
        worker, job_id, claim = data.draw(st.sampled_from(self.claims))
        report = (job_id, claim, msgspec.msgpack.encode(Progress(done)))
        self.both(lambda store: store.progress(self.queue, worker, [report]))

    @rule(batch=batches, ttl_ms=ttls)
    def cancel(self, batch: list[str], ttl_ms: int) -> None:
        self.both(lambda store: store.cancel(self.queue, batch, REASON, ttl_ms))

    @rule(batch=batches, delay_ms=hours)
    def reschedule(self, batch: list[str], delay_ms: int) -> None:
        self.both(lambda store: store.reschedule(self.queue, batch, delay_ms=delay_ms or None))

    @rule(batch=batches)
    def wait(self, batch: list[str]) -> None:
        self.both(lambda store: store.wait(self.queue, CHANNEL, batch))

    @rule()
    def promote(self) -> None:
        self.both(lambda store: store.promote(self.queue, 10), lambda p: (p.count, p.next_due_ms is None))

    @rule(
        schedule=st.sampled_from(SCHEDULES),
        deleted=st.booleans(),
        next_ms=st.sampled_from([None, 1, 2]),
        stale=st.booleans(),
    )
    def write(self, schedule: str, deleted: bool, next_ms: int | None, stale: bool) -> None:
        definition = b"" if deleted else b"definition"
        entry = Entry(
            id=schedule,
            rev=self.revision(schedule) + stale,
            definition=definition,
            envelope=CALL,
            priority=Priority.LOW,
            paused=next_ms is None,
            next_ms=next_ms,
        )
        self.both(lambda store: store.timetable.write(self.queue, [entry]))

    @rule(
        jobs=st.lists(st.sampled_from(TICKS), max_size=3),
        overlap=st.sampled_from(Overlap),
        max_runs=st.sampled_from([0, 0, 2]),
        stale=st.booleans(),
    )
    def tick(self, jobs: list[str], overlap: Overlap, max_runs: int, stale: bool) -> None:
        tick = Tick(
            id="s",
            rev=self.revision("s") - stale,
            jobs=[(job, number, number) for number, job in enumerate(jobs)],
            next_ms=5,
            overlap=overlap,
            max_runs=max_runs,
        )
        self.both(lambda store: store.timetable.tick(self.queue, [tick]))

    def revision(self, schedule: str) -> int:
        agenda = self.run(self.memory.timetable.read(self.queue, [schedule]))
        return agenda.entries[0].rev if agenda.entries else 0

    @rule()
    def end_leases(self) -> None:
        """Time passes, and nobody renews."""
        key = f"aioq:{{{self.app}:{self.queue}}}:workers"
        alive = self.client.zrangebyscore(key, "(0", "+inf")
        if alive:
            self.client.zadd(key, {str(worker): 1 for worker in alive})
        if self.queue in self.memory._queues:
            leases = self.memory._queues[self.queue]._leases
            leases._ends.update({str(worker): -1.0 for worker in alive})

    def _one_each(self) -> bool:
        """Whether no worker holds more than one job: in which order several come back is left open."""
        queue = self.memory._queues.get(self.queue)
        return queue is None or all(len(held) <= 1 for held in queue._held.values())

    @precondition(_one_each)
    @rule(limit=st.integers(1, 3))
    def recover(self, limit: int) -> None:
        self.both(
            lambda store: store.recover(self.queue, CRASHED, limit),
            lambda step: (step.worker, step.returned, list(step.buried), step.more),
        )

    @precondition(_one_each)
    @rule(worker=workers)
    def depart(self, worker: str) -> None:
        self.both(lambda store: store.depart(self.queue, worker))

    @invariant()
    def records_are_the_same(self) -> None:
        self.both(
            lambda store: store.info(self.queue, [*IDS, "unknown"]),
            lambda infos: [info and shown_info(info) for info in infos],
        )

    @invariant()
    def schedules_are_the_same(self) -> None:
        self.both(lambda store: store.timetable.read(self.queue), lambda agenda: list(agenda.entries))
        self.both(lambda store: store.timetable.due(self.queue, 1), lambda agenda: list(agenda.entries))

    @invariant()
    def the_dead_are_the_same(self) -> None:
        queue = self.memory._queues.get(self.queue)
        dead = self.client.zcard(f"aioq:{{{self.app}:{self.queue}}}:dead")
        assert dead == (0 if queue is None else len(queue._dead))


def shown_claim(claim: Claim) -> Any:
    jobs = [(j.id, j.envelope, j.claim, j.attempts, j.crashes, j.interruptions) for j in claim.jobs]
    return jobs, claim.next_due_ms is None, claim.lost


def shown_renewal(renewal: Any) -> Any:
    return renewal.lost, renewal.next_due_ms is None, renewal.expired, sorted(renewal.cancelled)


def shown_info(info: JobInfo) -> JobInfo:
    """The record with its times reduced to whether there are any."""
    times = {name: getattr(info, name) is not None for name in ("sent_at", "due_at", "started_at", "ended_at")}
    return msgspec.structs.replace(info, **times)


@pytest.mark.timeout(120)
def test_memory_and_server_agree(redis_server: Database, app_name: str) -> None:
    class Machine(SideBySide):
        database = redis_server
        app = app_name

    run_state_machine_as_test(
        Machine,
        settings=settings(
            # Without shrinking: a failure is found in seconds, but making it small takes minutes.
            phases=(Phase.explicit, Phase.generate),
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
