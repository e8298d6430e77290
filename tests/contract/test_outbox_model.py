"""Moves, cancellations and ends in any order, with calls that are repeated or come late: what holds in the end.

Three queues send jobs to each other. Readings of the outbox are kept, and delivered and removed in any order and
any number of times, as by workers that stall or lose replies. Afterwards other workers relay and run everything.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from aioq.store.contract import Limits, NewJob, Settlement, Store, Verb
from aioq.store.memory import MemoryStore
from aioq.store.outbox import DeliveryResult, Reading
from aioq.store.redis import RedisStore
from aioq.store.relay import relay
from aioq.util.clock import ManualClock
from aioq.wire.messages import decode_result_message
from tests.contract.kit import BROKEN, CALL, LONG, REASON, THREE, eventually, joined
from tests.databases import Database

LIMITS = Limits(lease_ms=LONG)
JOBS = ("one", "two", "three")
WALKS_IN_MEMORY = (100, 3_000)
WALKS = (15, 400)

VERBS = ("move", "move", "read", "deliver", "deliver", "remove", "cancel", "run", "again", "relay")
Step = tuple[str, int, int, int]
numbers = st.integers(0, 5)
steps = st.lists(
    st.tuples(
        st.sampled_from(VERBS),
        *(numbers, numbers, numbers),
    ),
    max_size=40,
)


@dataclass
class Walk:
    """One walk over three queues of a store.

    Attributes:
        store: the store.
        queues: the queues.
        channel: where waiters are notified of the end of each job; all wait at the queue to which they sent it.
        readings: what was read, with what has become of it.
        ends: how often each job came to the end of its run.
        cancelled: the jobs whose cancellation was accepted.
        notified: the outcomes of which the waiters of each job were notified.
    """

    store: Store
    queues: Sequence[str]
    channel: str
    readings: list[tuple[str, str, Reading, DeliveryResult | None]] = field(
        default_factory=list[tuple[str, str, Reading, DeliveryResult | None]]
    )
    ends: Counter[str] = field(default_factory=Counter[str])
    cancelled: set[str] = field(default_factory=set[str])
    notified: dict[str, list[bytes | None]] = field(default_factory=dict[str, list[bytes | None]])

    async def go(self, walk: Sequence[Step]) -> None:
        await self.store.inbox.listen(self.channel, self.hear, lambda: None)
        for queue in self.queues:
            await joined(self.store, "w", queue)
        for number, job in enumerate(JOBS):
            await self.store.enqueue(self.queues[number % 2], [NewJob(job, CALL, waiter=self.channel)])
        for name, *args in walk:
            await getattr(self, name)(*args)
        await self.finish()
        await self.check()
        await self.store.inbox.leave(self.channel)

    def hear(self, message: bytes) -> None:
        for job, outcome in decode_result_message(message):
            self.notified.setdefault(job, []).append(outcome)

    def pair(self, first: int, second: int) -> tuple[str, str]:
        """Two different queues."""
        source = first % 3
        return self.queues[source], self.queues[(source + 1 + second % 2) % 3]

    async def move(self, job: int, first: int, second: int) -> None:
        source, target = self.pair(first, second)
        await self.store.outbox.move(source, [JOBS[job % 3]], target)

    async def read(self, first: int, second: int, _: int) -> None:
        source, target = self.pair(first, second)
        self.readings.append((source, target, await self.store.outbox.read(source, target), None))

    async def deliver(self, which: int, *_: int) -> None:
        if self.readings:
            at = which % len(self.readings)
            source, target, reading = self.readings[at][:3]
            delivery = await self.store.outbox.deliver(target, source, reading)
            self.readings[at] = (source, target, reading, delivery)

    async def remove(self, which: int, *_: int) -> None:
        if self.readings:
            source, target, reading, delivery = self.readings[which % len(self.readings)]
            if delivery is not None:
                await self.store.outbox.remove(source, target, reading, delivery)

    async def cancel(self, job: int, queue: int, _: int) -> None:
        (state,) = await self.store.cancel(self.queues[queue % 3], [JOBS[job % 3]], REASON, 0)
        if state is not None and not state.ended:
            self.cancelled.add(JOBS[job % 3])

    async def run(self, queue: int, *_: int) -> None:
        await self.settle(self.queues[queue % 3], Verb.SUCCEEDED)

    async def again(self, queue: int, *_: int) -> None:
        await self.settle(self.queues[queue % 3], Verb.RETRY)

    async def relay(self, first: int, second: int, _: int) -> None:
        await relay(self.store.outbox, *self.pair(first, second))

    async def settle(self, queue: str, verb: Verb) -> bool:
        """Run the next job of a queue; its reply is lost, and so it is settled twice."""
        jobs = (await self.store.claim(queue, "w", 1)).jobs
        for job in jobs:
            outcome = THREE if verb is Verb.SUCCEEDED else BROKEN
            settlement = Settlement(job.id, job.claim, verb, outcome, 0, 0)
            assert await self.store.settle(queue, "w", [settlement]) == [True]
            await self.store.settle(queue, "w", [settlement])
            self.ends[job.id] += verb is Verb.SUCCEEDED
        return bool(jobs)

    async def finish(self) -> None:
        """Other workers relay and run everything."""
        for _ in range(8):
            for source in self.queues:
                for target in self.queues:
                    if source != target:
                        await relay(self.store.outbox, source, target)
            for queue in self.queues:
                while await self.settle(queue, Verb.SUCCEEDED):
                    pass

    async def check(self) -> None:
        async def all_notified() -> bool:
            return self.notified.keys() == set(JOBS)

        await eventually(all_notified)
        for job in JOBS:
            assert self.ends[job] <= 1, f"{job} ran twice"
            assert self.ends[job] == 1 or job in self.cancelled, f"{job} was lost"
            assert self.notified[job] == [THREE if self.ends[job] else REASON], "a message for each end, as it was"
        for queue in self.queues:
            assert await self.store.info(queue, JOBS) == [None] * len(JOBS), "no record stays"
            assert not (await self.store.promote(queue, 10)).relays


async def opened(make: Callable[[], Store]) -> Store:
    store = make()
    await store.open()
    return store


def drive(make: Callable[[], Store], walks: int) -> None:
    number = count()
    with asyncio.Runner() as runner:
        store = runner.run(opened(make))

        @settings(
            phases=(Phase.explicit, Phase.generate),
            max_examples=walks,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )
        @given(steps)
        def walk(drawn: list[Step]) -> None:
            name = f"q{next(number)}"
            queues = [f"{name}{letter}" for letter in "abc"]
            runner.run(Walk(store, queues, f"aioq:test:{name}").go(drawn))

        walk()
        runner.run(store.close())


@pytest.mark.scale(minutes=10)
def test_in_memory(size: Callable[[int, int], int]) -> None:
    drive(lambda: MemoryStore("test", clock=ManualClock(), limits=LIMITS), size(*WALKS_IN_MEMORY))


@pytest.mark.scale(minutes=10)
def test_on_a_server(server: Database, app_name: str, size: Callable[[int, int], int]) -> None:
    drive(lambda: RedisStore(app_name, server.url, shown_url=server.url, limits=LIMITS), size(*WALKS))
