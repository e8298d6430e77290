"""The memory store's schedules and a server's, driven side by side by random verbs: every reply is the same.

What `overlap` makes of a tick depends on the job before it, so jobs are claimed, settled, moved and cancelled too.
"""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
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

from aioq.jobs.job import JobInfo, Priority
from aioq.store.contract import Claim, Limits, NewJob, Settlement, Store, Verb
from aioq.store.memory import MemoryStore
from aioq.store.redis import RedisStore
from aioq.store.schedules import Agenda, Entry, Overlap, Tick, Ticked
from aioq.util.clock import ManualClock
from tests.contract.kit import BROKEN, CALL, LONG, REASON
from tests.databases import Database

pytestmark = [pytest.mark.long(seconds=15), pytest.mark.apart]

TICKS = ("s@1", "s@2", "s@3", "s@4")
SCHEDULES = ("s", "t")
WORKER = "w"

hours = st.sampled_from([0, 0, LONG, 2 * LONG])


class SideBySide(RuleBasedStateMachine):
    """Both stores, and the claims whose outcome is not written yet."""

    database: Database
    app: str
    names = count()

    @initialize()
    def start(self) -> None:
        limits = Limits(lease_ms=99 * LONG, tombstone_ms=LONG)
        self.queue = f"queue-{next(self.names)}"
        self.runner = asyncio.Runner()
        self.loop = self.runner.get_loop()  # `Runner.run` handles SIGINT anew each time: a third of all time
        self.memory = MemoryStore(self.app, clock=ManualClock(), limits=limits)

        async def make() -> RedisStore:  # a store belongs to a loop
            return RedisStore(self.app, self.database.url, shown_url=self.database.url, limits=limits)

        self.redis = self.loop.run_until_complete(make())
        self.sends = 0
        self.claims: list[tuple[str, tuple[int, int]]] = []  # the numbers of the claim in both
        for store in (self.memory, self.redis):
            lease_client = store.lease_client()
            lease_client.join(self.queue, WORKER)
            lease_client.close()

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.loop.run_until_complete(self.redis.close())
            self.runner.close()

    def both(self, call: Callable[[Store], Awaitable[Any]], show: Callable[[Any], Any] = lambda x: x) -> Any:
        """Call the same on both; the replies are the same."""

        async def run() -> tuple[Any, Any]:
            return await call(self.memory), await call(self.redis)

        memory, redis = self.loop.run_until_complete(run())
        assert show(memory) == show(redis)
        return memory

    async def revision(self, store: Store, schedule: str) -> int:
        """Each store's own: they begin with its clock."""
        agenda = await store.timetable.read(self.queue, [schedule])
        return agenda.entries[0].rev if agenda.entries else 0

    @rule(
        schedule=st.sampled_from(SCHEDULES),
        deleted=st.sampled_from([False, False, True]),
        next_ms=st.sampled_from([None, 1, 2]),
        stale=st.sampled_from([False, False, True]),
    )
    def write(self, schedule: str, deleted: bool, next_ms: int | None, stale: bool) -> None:
        entry = Entry(
            id=schedule,
            definition=b"" if deleted else b"definition",
            envelope=CALL,
            priority=Priority.LOW,
            paused=next_ms is None,
            next_ms=next_ms,
        )

        async def write(store: Store) -> list[bool]:
            rev = await self.revision(store, schedule) + stale
            return await store.timetable.write(self.queue, [msgspec.structs.replace(entry, rev=rev)])

        self.both(write)

    @rule(
        jobs=st.lists(st.sampled_from(TICKS), max_size=3),
        overlap=st.sampled_from(Overlap),
        max_runs=st.sampled_from([0, 0, 2]),
        stale=st.sampled_from([False, False, True]),
    )
    def tick(self, jobs: list[str], overlap: Overlap, max_runs: int, stale: bool) -> None:
        tick = Tick(
            id="s",
            rev=0,
            jobs=[(job, number, number) for number, job in enumerate(jobs)],
            next_ms=5,
            overlap=overlap,
            max_runs=max_runs,
        )

        async def make(store: Store) -> Ticked:
            rev = await self.revision(store, "s") - stale
            return await store.timetable.tick(self.queue, [msgspec.structs.replace(tick, rev=rev)])

        self.both(make)

    @rule(job=st.sampled_from(TICKS))
    def enqueue(self, job: str) -> None:
        """A job of the caller's own has such an id; each send has a nonce, as `options(job_id=...)` gives it."""
        self.sends += 1
        self.both(lambda store: store.enqueue(self.queue, [NewJob(job, CALL, nonce=f"n{self.sends}")]))

    @rule(number=st.integers(1, 3))
    def claim(self, number: int) -> None:
        numbers: list[list[int]] = []

        async def take(store: Store) -> Claim:
            claim = await store.claim(self.queue, WORKER, number)
            numbers.append([job.claim for job in claim.jobs])
            return claim

        claim = self.both(take, lambda claim: ([(job.id, job.claims) for job in claim.jobs], claim.next_tick_ms))
        self.claims += [
            (job.id, (mine, its)) for job, mine, its in zip(claim.jobs, numbers[0], numbers[1], strict=True)
        ]

    @precondition(lambda self: self.claims)
    @rule(
        pick=st.integers(0, 99), verb=st.sampled_from(Verb), delay_ms=hours, ttl_ms=st.sampled_from([0, 9 * LONG])
    )
    def settle(self, pick: int, verb: Verb, delay_ms: int, ttl_ms: int) -> None:
        job_id, claims = self.claims.pop(pick % len(self.claims))

        async def settle(store: Store) -> list[bool]:
            claim = claims[store is self.redis]
            settlement = Settlement(job_id, claim, verb, BROKEN, delay_ms, ttl_ms)
            return await store.settle(self.queue, WORKER, [settlement])

        self.both(settle)

    @rule(job=st.sampled_from(TICKS), ttl_ms=st.sampled_from([0, 9 * LONG]))
    def cancel(self, job: str, ttl_ms: int) -> None:
        self.both(lambda store: store.cancel(self.queue, [job], REASON, ttl_ms))

    @rule(job=st.sampled_from(TICKS), delay_ms=hours)
    def reschedule(self, job: str, delay_ms: int) -> None:
        self.both(lambda store: store.reschedule(self.queue, [job], delay_ms=delay_ms or None))

    @invariant()
    def schedules_and_jobs_are_the_same(self) -> None:
        if not hasattr(self, "runner"):
            return
        looks: list[tuple[Callable[[Store], Awaitable[Any]], Callable[[Any], Any]]] = [
            (lambda store: store.timetable.read(self.queue), entries),
            (lambda store: store.timetable.due(self.queue, 1), entries),
            (lambda store: store.timetable.due(self.queue, 1, 1), entries),
            (lambda store: store.info(self.queue, TICKS), lambda infos: [info and shown(info) for info in infos]),
        ]

        async def look() -> list[tuple[Any, Any]]:  # the server is asked all of it at once: it is what takes time
            memory = [await call(self.memory) for call, _ in looks]
            redis = await asyncio.gather(*(call(self.redis) for call, _ in looks))
            return list(zip(memory, redis, strict=True))

        for (_, show), (memory, redis) in zip(looks, self.loop.run_until_complete(look()), strict=True):
            assert show(memory) == show(redis)


def entries(agenda: Agenda) -> list[Entry]:
    """The schedules, whatever their revisions."""
    return [msgspec.structs.replace(entry, rev=0) for entry in agenda.entries]


def shown(info: JobInfo) -> JobInfo:
    """The record with its times reduced to whether there are any."""
    times = {name: getattr(info, name) is not None for name in ("sent_at", "due_at", "started_at", "ended_at")}
    return dataclasses.replace(info, **times)  # pyright: ignore[reportArgumentType] - they are bools here


@pytest.mark.scale(minutes=10)
def test_memory_and_server_agree_on_schedules(
    redis_server: Database, app_name: str, size: Callable[[int, int], int]
) -> None:
    class Machine(SideBySide):
        database = redis_server
        app = app_name

    run_state_machine_as_test(
        Machine,
        settings=settings(
            phases=(Phase.explicit, Phase.generate),
            max_examples=size(30, 600),
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
