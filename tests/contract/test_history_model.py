"""The history, the statistics and live events against plain lists, after any steps."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from aioq.store.contract import Claimed, Limits, NewJob, Settlement, Store, Verb
from aioq.store.events import LiveKind, Position
from aioq.store.history import COUNTER_OF, SENT, TOTAL, End, RunReport, run_times
from aioq.store.memory import MemoryStore
from aioq.store.redis import RedisStore
from aioq.util.clock import ManualClock
from tests.contract.kit import BROKEN, CALL, LONG, REASON, THREE
from tests.databases import Database

LIMITS = Limits(lease_ms=LONG, history=1_000, stats=True, max_crashes=1)
TASK = "shop.add"
WALKS_IN_MEMORY = (60, 2_000)
WALKS = (10, 300)

ENDS = {Verb.SUCCEEDED: End.SUCCEEDED, Verb.FAILED: End.FAILED, Verb.CANCELLED: End.CANCELLED}
VERBS = (*ENDS, Verb.RETRY, Verb.INTERRUPT, Verb.SNOOZE, Verb.RELEASE, Verb.CRASH)
Step = tuple[str, int, Verb]
steps = st.lists(
    st.tuples(
        st.sampled_from(
            ("send", "send", "take", "take", "settle", "settle", "again", "cancel", "reopen", "delete")
        ),
        st.integers(0, 3),
        st.sampled_from(VERBS),
    ),
    max_size=40,
)


@dataclass
class Walk:
    """One walk over a queue, and what it has to leave behind.

    Attributes:
        store: the store.
        queue: the queue.
        queued: the ids of the jobs that are queued, and how often each has crashed.
        running: the jobs that the worker has.
        cancelling: those of them whose cancellation was asked for.
        failed: the ids of the dead jobs.
        rows: what the history has to have.
        live: the live events that there have to be.
        ran: how many settled runs had begun.
        last: the last settlement.
    """

    store: Store
    queue: str
    queued: dict[str, int] = field(default_factory=dict[str, int])
    running: dict[str, Claimed] = field(default_factory=dict[str, Claimed])
    cancelling: set[str] = field(default_factory=set[str])
    failed: list[str] = field(default_factory=list[str])
    rows: list[tuple[str, End]] = field(default_factory=list[tuple[str, End]])
    live: Counter[tuple[LiveKind, str]] = field(default_factory=Counter[tuple[LiveKind, str]])
    ran: int = 0
    last: Settlement | None = None
    numbers: "count[int]" = field(default_factory=count)

    async def go(self, drawn: list[Step]) -> None:
        await asyncio.to_thread(self.store.lease_client().join, self.queue, "w")
        begun = (await self.store.operating.story.events(self.queue, None, listens=True)).last
        for what, number, verb in drawn:
            await {
                "send": self.send,
                "take": self.take,
                "settle": self.settle,
                "again": self.again,
                "cancel": self.cancel,
                "reopen": self.reopen,
                "delete": self.delete,
            }[what](number, verb)
        await self.compare(begun)

    async def send(self, number: int, _: Verb) -> None:
        ids = [f"j{next(self.numbers)}" for _ in range(number + 1)]
        assert await self.store.enqueue(self.queue, [NewJob(each, CALL) for each in ids]) == [True] * len(ids)
        self.queued |= dict.fromkeys(ids, 0)
        self.live.update((LiveKind.SENT, each) for each in ids)

    async def take(self, number: int, _: Verb) -> None:
        for job in (await self.store.claim(self.queue, "w", number + 1)).jobs:
            assert self.queued.pop(job.id) == job.crashes
            self.running[job.id] = job
            self.live[LiveKind.STARTED, job.id] += 1

    async def settle(self, number: int, verb: Verb) -> None:
        if not self.running:
            return
        job = list(self.running.values())[number % len(self.running)]
        outcome = {Verb.SUCCEEDED: THREE, Verb.CANCELLED: REASON}.get(verb, BROKEN)
        self.last = Settlement(job.id, job.claim, verb, outcome, 0, LONG, RunReport(TASK, 0.5, 0.25))
        assert await self.store.settle(self.queue, "w", [self.last]) == [True]
        del self.running[job.id]
        end, crashes = ENDS.get(verb), job.crashes
        if job.id in self.cancelling and verb not in {Verb.SUCCEEDED, Verb.FAILED}:
            end = End.CANCELLED
        elif verb is Verb.RETRY:
            end = End.RETRIED
        elif verb is Verb.CRASH:
            crashes += 1
            end = End.FAILED if crashes > LIMITS.max_crashes else End.CRASHED
        self.cancelling.discard(job.id)
        if end is not None:
            self.rows.append((job.id, end))
            self.ran += 1
        if end is End.FAILED:
            self.failed.append(job.id)
        elif end not in ENDS.values():
            self.queued[job.id] = crashes

    async def again(self, _: int, __: Verb) -> None:
        """The last settle once more, as after a lost reply: nothing is written twice."""
        if self.last is not None and self.last.job_id not in self.running:
            await self.store.settle(self.queue, "w", [self.last])

    async def cancel(self, number: int, _: Verb) -> None:
        every = [*self.queued, *self.running]
        if every:
            job_id = every[number % len(every)]
            await self.store.cancel(self.queue, [job_id], REASON, LONG)
            if self.queued.pop(job_id, None) is None:
                self.cancelling.add(job_id)
            else:
                self.rows.append((job_id, End.CANCELLED))

    async def reopen(self, number: int, _: Verb) -> None:
        if self.failed:
            job_id = self.failed.pop(number % len(self.failed))
            await self.store.operating.reopen(self.queue, [job_id])
            self.queued[job_id] = 0

    async def delete(self, number: int, _: Verb) -> None:
        if self.queued:
            job_id = list(self.queued)[number % len(self.queued)]
            await self.store.operating.delete(self.queue, [job_id], REASON)
            del self.queued[job_id]
            self.rows.append((job_id, End.CANCELLED))

    async def compare(self, begun: Position) -> None:
        rows = await self.store.history.rows(self.queue, 1_000, after=0)
        assert [(row.job_id, row.end) for row in rows] == self.rows
        assert {row.report.task for row in rows} <= {TASK}
        newest = await self.store.history.rows(self.queue, 1_000)
        assert newest == rows[::-1]
        for row in rows[1:3]:
            assert (
                await self.store.history.rows(self.queue, 1_000, after=row.number) == rows[rows.index(row) + 1 :]
            )
            assert (
                await self.store.history.rows(self.queue, 1_000, before=row.number)
                == rows[rows.index(row) - 1 :: -1]
            )

        tasks = (await self.store.history.statistics(self.queue)).day.tasks
        found, ends = tasks.get(TASK, Counter[int]()), Counter(end for _, end in self.rows)
        assert {end: found[place] for end, place in COUNTER_OF.items() if found[place]} == dict(ends)
        assert (found[TOTAL], run_times(found).total()) == (len(self.rows), self.ran)
        sent = sum(times for (what, _), times in self.live.items() if what is LiveKind.SENT)
        assert tasks.get("", Counter[int]())[SENT] == sent

        part = await self.store.operating.story.events(self.queue, begun, listens=True)
        if not any(part.is_cut):
            assert Counter((each.what, each.job_id) for each in part.live) == +self.live
            assert [row.job_id for row in part.rows] == [job_id for job_id, _ in self.rows]


def drive(make: Callable[[], Store], walks: int) -> None:
    number = count()

    async def opened() -> Store:
        store = make()
        await store.open()
        return store

    with asyncio.Runner() as runner:
        store = runner.run(opened())

        @settings(
            max_examples=walks,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            phases=(Phase.explicit, Phase.generate, Phase.shrink),
        )
        @given(steps)
        def walk(drawn: list[Step]) -> None:
            runner.run(Walk(store, f"q{next(number)}").go(drawn))

        walk()
        runner.run(store.close())


@pytest.mark.scale(minutes=10)
def test_in_memory(size: Callable[[int, int], int]) -> None:
    drive(lambda: MemoryStore("test", clock=ManualClock(), limits=LIMITS), size(*WALKS_IN_MEMORY))


@pytest.mark.scale(minutes=10)
def test_on_a_server(server: Database, app_name: str, size: Callable[[int, int], int]) -> None:
    drive(lambda: RedisStore(app_name, server.url, shown_url=server.url, limits=LIMITS), size(*WALKS))
