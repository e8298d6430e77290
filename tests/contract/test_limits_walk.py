"""Jobs under limits in random walks: never more run than may, none is left waiting, and nothing of a key is left.

What becomes of each job is left open here; `test_limits_model.py` compares that with plain Python.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random

import msgspec
import pytest

from aioq.jobs.job import Priority
from aioq.store.contract import Claimed, Limits, NewJob, Settlement, Store, Verb
from aioq.store.extra import FAIR, Extra, LimitUse
from tests.contract.kit import BROKEN, CALL, CRASHED, LONG, QUEUE, REASON, THREE, Backend, joined

pytestmark = pytest.mark.anyio

WALKS, STEPS = 4, 150
OUTCOMES = {Verb.FAILED: BROKEN, Verb.RETRY: BROKEN, Verb.CANCELLED: REASON, Verb.CRASH: CRASHED}
LANES = (Priority.HIGH, Priority.NORMAL, Priority.LOW)
ENDS = (Verb.SUCCEEDED, Verb.FAILED, Verb.CANCELLED)
RETURNS = (Verb.RETRY, Verb.SNOOZE, Verb.INTERRUPT, Verb.CRASH, Verb.RELEASE, Verb.PARK)
GROUP_KEYS = {"group", "holders", "blocked", "tokens", "waiting"}
"""What is left of no key; a bucket goes by itself once it is full."""


@pytest.fixture
def limits() -> Limits:
    return Limits(lease_ms=LONG, max_crashes=1000)


CUSTOMER = LimitUse("customer", concurrency=1)
API = LimitUse("api", concurrency=3)
RATE = LimitUse("rate", rate=200, per_us=1_000_000, burst=2)
ORDERED = LimitUse("ordered", concurrency=1, ordered=True)
TENANT = LimitUse(FAIR, weight=2)
CHOICES = (
    (CUSTOMER,),
    (API,),
    (CUSTOMER, API),
    (RATE,),
    (CUSTOMER, API, RATE),
    (ORDERED,),
    (TENANT,),
    (TENANT, CUSTOMER, RATE),
    (ORDERED, RATE),
)


def keyed(use: LimitUse, key: str) -> LimitUse:
    """The same limit with a key, if it has one."""
    return msgspec.structs.replace(use, key="" if use.name in {"api", "rate"} else key)


@dataclass
class Walk:
    """One walk.

    Attributes:
        running: the jobs that run, by worker and id.
    """

    store: Store
    random: Random
    sent: dict[str, tuple[LimitUse, ...]] = field(default_factory=dict[str, tuple[LimitUse, ...]])
    running: dict[tuple[str, str], Claimed] = field(default_factory=dict[tuple[str, str], Claimed])

    async def send(self) -> None:
        jobs: list[NewJob] = []
        for _ in range(self.random.choice([1, 1, 2, 5])):
            uses = tuple(keyed(use, self.random.choice("ab")) for use in self.random.choice(CHOICES))
            name = f"job{len(self.sent)}"
            self.sent[name] = uses
            delay = self.random.choice([None, None, None, 1])
            extra = Extra(limits=uses)
            jobs.append(NewJob(name, CALL, priority=self.random.choice(LANES), delay_ms=delay, extra=extra))
        await self.store.enqueue(QUEUE, jobs)

    async def claim(self) -> None:
        worker = self.random.choice(["v", "w"])
        claim = await self.store.claim(QUEUE, worker, self.random.choice([1, 2, 5]))
        assert not claim.lost
        for each in claim.jobs:
            self.running[worker, each.id] = each
        self.check()

    def check(self) -> None:
        held = Counter(use.group for _, job_id in self.running for use in self.sent[job_id] if use.concurrency)
        most = {use.name: use.concurrency for uses in CHOICES for use in uses}
        for group, count in held.items():
            assert count <= most[group.split(":")[0]], (group, self.running)

    async def settle(self, *verbs: Verb) -> None:
        if not self.running:
            return
        worker, job_id = self.random.choice(sorted(self.running))
        each = self.running.pop((worker, job_id))
        verb = self.random.choice(verbs)
        delay = self.random.choice([0, 1]) if verb in {Verb.RETRY, Verb.SNOOZE, Verb.PARK} else 0
        settlement = Settlement(job_id, each.claim, verb, OUTCOMES.get(verb, THREE), delay, LONG)
        assert await self.store.settle(QUEUE, worker, [settlement]) == [True]

    async def end(self) -> None:
        await self.settle(*ENDS)

    async def give_back(self) -> None:
        await self.settle(*RETURNS)

    async def promote(self) -> None:
        await self.store.promote(QUEUE, 100)

    async def cancel(self) -> None:
        job_id = self.pick()
        if job_id and not any(job_id == each for _, each in self.running):
            await self.store.cancel(QUEUE, [job_id], REASON, LONG)

    async def delete(self) -> None:
        if job_id := self.pick():
            await self.store.operating.delete(QUEUE, [job_id], REASON)

    async def prioritize(self) -> None:
        if job_id := self.pick():
            await self.store.operating.prioritize(QUEUE, [job_id], self.random.choice(LANES))

    async def reschedule(self) -> None:
        if job_id := self.pick():
            await self.store.reschedule(QUEUE, [job_id], delay_ms=self.random.choice([None, 1]))

    async def reopen(self) -> None:
        if job_id := self.pick():
            await self.store.operating.reopen(QUEUE, [job_id])

    async def recover(self) -> None:
        worker = self.random.choice(["v", "w"])
        while (await self.store.recover(QUEUE, CRASHED, 100, dead=worker)).more:
            pass
        self.running = {place: each for place, each in self.running.items() if place[0] != worker}
        await joined(self.store, worker)

    def pick(self) -> str | None:
        return self.random.choice(sorted(self.sent)) if self.sent else None

    async def drain(self) -> None:
        """Run all jobs to their end."""
        left: list[str] = []
        for _ in range(2_000):
            while self.running:
                await self.settle(Verb.SUCCEEDED)
            await self.promote()
            await self.claim()
            states = await self.store.info(QUEUE, sorted(self.sent))
            left = [info.id for info in states if info is not None and not info.state.ended]
            if not left and not self.running:
                return
            if not self.running:
                await asyncio.sleep(0.001)  # until a rate allows the next one
        raise AssertionError(left)


def rounds(walk: Walk) -> list[Callable[[], Awaitable[None]]]:
    often = [walk.send, walk.claim, walk.claim, walk.end, walk.end, walk.give_back, walk.promote]
    seldom = [walk.cancel, walk.delete, walk.prioritize, walk.reschedule, walk.reopen, walk.recover]
    return [*often * 3, *seldom]


@pytest.mark.parametrize("seed", range(WALKS))
async def test_walk(seed: int, redis_store: Store, redis_backend: Backend) -> None:
    random = Random(seed)
    store = redis_store
    walk = Walk(store, random)
    for worker in ("v", "w"):
        await joined(store, worker)
    steps = rounds(walk)
    for _ in range(STEPS):
        await random.choice(steps)()
    await walk.drain()
    assert redis_backend.database is not None
    with redis_backend.database.client() as client:
        names = [name.split("}:", 1)[1] for name in client.scan_iter(count=10_000)]
    assert [name for name in names if name.split(":")[0] in GROUP_KEYS] == []
