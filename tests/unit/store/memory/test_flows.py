"""Flows in memory, where time is moved by hand."""

import pytest

from aioq.jobs.job import JobState
from aioq.store.contract import Limits
from aioq.store.flows import DEFINITION_KEPT_MS, HOLD_MS, FlowStart, FlowStep, FlowWork
from aioq.store.memory import MemoryStore
from aioq.util.clock import ManualClock

pytestmark = pytest.mark.anyio

START = FlowStart(b"head", 3, b"\x93\x02\xa8shop.add\x90", 1)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(clock: ManualClock) -> MemoryStore:
    return MemoryStore("shop", clock=clock, limits=Limits())


async def begun(store: MemoryStore) -> FlowWork:
    await store.flows.write("mail", "flow", 0, [b"part"])
    await store.flows.begin("mail", "flow", START)
    (work,) = await store.flows.take("mail")
    return work


def step(work: FlowWork, *, look_ms: int | None = None, over: bool = False) -> FlowStep:
    end = (JobState.FAILED, b"no") if over else None
    taken = len(work.items)
    return FlowStep(
        flow_id="flow",
        rev=work.rev,
        nodes=3,
        memo=b"",
        taken=taken,
        look_ms=look_ms,
        over=over,
        end=end,
        ttl_ms=1_000,
    )


async def test_parts_that_nobody_begins_expire(store: MemoryStore, clock: ManualClock) -> None:
    await store.flows.write("mail", "flow", 0, [b"part"])
    clock.advance(DEFINITION_KEPT_MS / 1_000 - 1)
    await store.flows.write("mail", "flow", 1, [b"more"])
    clock.advance(DEFINITION_KEPT_MS / 1_000 - 1)
    assert await store.flows.parts("mail", "flow", [0, 1]) == [b"part", b"more"]
    clock.advance(2)
    assert await store.flows.parts("mail", "flow", [0, 1]) == [None, None]


async def test_a_flow_is_held_for_some_time(store: MemoryStore, clock: ManualClock) -> None:
    work = await begun(store)
    assert await store.flows.take("mail") == []
    clock.advance(HOLD_MS / 1_000)
    (again,) = await store.flows.take("mail")
    assert again.rev == work.rev


async def test_a_flow_is_looked_at_when_it_has_asked_for_that(store: MemoryStore, clock: ManualClock) -> None:
    work = await begun(store)
    await store.flows.apply("mail", [step(work, look_ms=work.now_ms + 60_000)])
    assert (await store.promote("mail", 10)).next_due_ms == 60_000
    clock.advance(60)
    assert (await store.promote("mail", 10)).flows == ("flow",)
    assert [each.flow_id for each in await store.flows.take("mail", flow_ids=["flow"])] == ["flow"]


async def test_a_flow_that_is_over_expires(store: MemoryStore, clock: ManualClock) -> None:
    work = await begun(store)
    await store.flows.apply("mail", [step(work, over=True)])
    clock.advance(0.9)
    assert await store.flows.read("mail", "flow") is not None
    clock.advance(0.2)
    assert await store.flows.read("mail", "flow") is None
    assert await store.info("mail", ["flow"]) == [None]
    assert (await store.shards.backlog("mail")).is_empty
