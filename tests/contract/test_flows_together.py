"""Many who take steps in the same flows at once: each flow ends once, with all of its nodes."""

import asyncio

import pytest

from aioq.jobs.job import JobState
from aioq.store.contract import Store
from aioq.store.flows import FlowStep, FlowWork
from aioq.store.relay import relay
from tests.contract.flows import OTHER, job_id, node, run, start, step
from tests.contract.kit import LONG, QUEUE, THREE, Backend

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=15)]

NODES = 12
FLOWS = [f"f{n:03}" for n in range(8)]
QUEUES = (QUEUE, OTHER)


def decided(work: FlowWork) -> FlowStep:
    """Release all nodes first; note which have succeeded; end the flow with the last one."""
    new = {each.index for each in work.ended if each.state is JobState.SUCCEEDED}
    old = {n for n in range(NODES) if work.states[n : n + 1] == b"s"}
    is_last = len(old | new) == NODES
    jobs = [node(n, QUEUES[n % 2], flow_id=work.flow_id) for n in range(NODES)]
    return step(
        work,
        states=[(n, b"s") for n in new],
        jobs=[] if work.memo else jobs,
        end=(JobState.SUCCEEDED, THREE) if is_last else None,
        over=is_last,
        ttl_ms=LONG,
    )


async def take_steps(store: Store, over: list[str]) -> None:
    """Take steps until all flows are over."""
    while len(over) < len(FLOWS):
        for work in await store.flows.take(QUEUE, 3, [each for each in FLOWS if each not in over]):
            one = decided(work)
            if await store.flows.apply(QUEUE, [one]) == [True] and one.over:
                over.append(work.flow_id)
        await relay(store.outbox, *QUEUES)
        await asyncio.sleep(0)


async def work_off(store: Store, queue: str, worker: str, over: list[str]) -> None:
    """Run what a queue has, until all flows are over."""
    while len(over) < len(FLOWS):
        await run(store, queue, worker=worker)
        await asyncio.sleep(0)


async def test_each_flow_ends_once_with_all_of_its_nodes(backend: Backend) -> None:
    """Three workers of two queues settle nodes while four others take steps."""
    stores, over = [await backend.open() for _ in range(4)], list[str]()
    for name in FLOWS:
        await stores[0].flows.write(QUEUE, name, 0, [b"part"])
        await stores[0].flows.begin(QUEUE, name, start(NODES))

    workers = [work_off(stores[n], QUEUES[n % 2], f"w{n}", over) for n in range(3)]
    await asyncio.gather(*(take_steps(store, over) for store in stores), *workers)

    assert sorted(over) == FLOWS
    assert await stores[0].flows.take(QUEUE) == []
    for name in FLOWS:
        found = await stores[0].flows.read(QUEUE, name)
        assert found is not None
        assert (found.states, found.over, found.items) == (b"s" * NODES, True, [])
        assert await stores[0].flows.outcomes(QUEUE, [job_id(n, name) for n in range(NODES)]) == [THREE] * NODES
