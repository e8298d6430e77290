"""Large flows: no call for one holds the server up, and an end costs the same as in a small flow."""

from collections.abc import Callable
from typing import Any

import pytest
import redis

from aioq.jobs.job import JobState
from aioq.store.contract import Limits, Settlement, Store, Verb
from aioq.store.flows import MOST_CHANGES, Applied, FlowWork
from aioq.store.redis import RedisStore
from aioq.store.relay import relay
from tests.contract.flows import FLOW, OTHER, begun, job_id, node, start, step, taken
from tests.contract.kit import LONG, QUEUE, REASON, THREE, joined
from tests.contract.slow_scripts import SlowScripts
from tests.databases import Database

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=20)]

NODES = 10_000
BYTES_OF_A_NODE = 250
"""The most that a node takes on the server whose job has ended, all its keys together, beside its definition."""


async def settled(store: Store, queue: str) -> int:
    """Let a worker run all jobs of a queue."""
    count = 0
    while jobs := (await store.claim(queue, "w", 500)).jobs:
        ends = [Settlement(job.id, job.claim, Verb.SUCCEEDED, THREE, ttl_ms=LONG) for job in jobs]
        for first in range(0, len(ends), 100):
            assert all(await store.settle(queue, "w", ends[first : first + 100]))
        count += len(jobs)
    return count


async def relayed(store: Store) -> None:
    await relay(store.outbox, QUEUE, OTHER)
    await relay(store.outbox, OTHER, QUEUE)


async def release(store: Store, work: FlowWork, jobs: int) -> FlowWork:
    """Release so many nodes, in steps; every second part of them in another queue."""
    for first in range(0, jobs, MOST_CHANGES):
        queue = QUEUE if first % (2 * MOST_CHANGES) else OTHER
        nodes = [node(n, queue) for n in range(first, first + MOST_CHANGES)]
        states = [(n, b">") for n in range(first, first + MOST_CHANGES, 2)]  # no two beside each other
        assert await store.flows.apply(QUEUE, [step(work, jobs=nodes, states=states)]) != [Applied.REFUSED]
        work = await taken(store)
    return work


@pytest.mark.scale(minutes=3)
async def test_no_script_takes_long_for_a_flow_of_many_nodes(
    redis_server: Database, app_name: str, size: Callable[[int, int], int]
) -> None:
    jobs = size(1_500, NODES)
    store = RedisStore(app_name, redis_server.url, shown_url="-", limits=Limits(lease_ms=LONG, history=1_000))
    await store.open()
    with redis_server.client() as client:
        slow = SlowScripts([client], quiet=False)
        parts = [b"x" * 100_000] * 20
        await store.flows.write(QUEUE, FLOW, 0, parts)
        assert await store.flows.begin(QUEUE, FLOW, start(NODES, 20))
        assert await store.flows.parts(QUEUE, FLOW, range(20)) == parts
        work = await release(store, await taken(store), jobs)
        for queue in (QUEUE, OTHER):
            await joined(store, "w", queue)
        await relayed(store)
        assert await settled(store, QUEUE) + await settled(store, OTHER) == jobs
        await relayed(store)
        await store.flows.apply(QUEUE, [step(work)])

        ended = 0
        while (work := await taken(store)).items:
            ended += len(work.ended)
            assert await store.flows.apply(QUEUE, [step(work)]) != [Applied.REFUSED]
        assert ended == jobs
        assert bytes_of(client) / jobs <= BYTES_OF_A_NODE
        assert await store.flows.read(QUEUE, FLOW) is not None
        assert len(await store.flows.listed(QUEUE, 10)) == 1

        for first in range(0, jobs, MOST_CHANGES):
            forget = [job_id(n) for n in range(first, min(first + MOST_CHANGES, jobs))]
            await store.flows.apply(QUEUE, [step(work, forget=forget, ttl_ms=LONG)])
            work = await taken(store)
        await store.flows.apply(QUEUE, [step(work, end=(JobState.SUCCEEDED, THREE), over=True, ttl_ms=LONG)])
        assert slow.found() == []
    await store.close()


def bytes_of(client: redis.Redis) -> int:
    """What the flow and its jobs take, without its definition."""
    names = [key for key in client.scan_iter(count=1_000) if ":flowparts:" not in key and f":{OTHER}}}" not in key]
    names = [key for key in names if ":job:" in key or ":flow" in key]
    untyped: Any = client
    return sum(untyped.memory_usage(name, samples=0) or 0 for name in names)


async def test_no_script_takes_long_that_cancels_many(redis_server: Database, app_name: str) -> None:
    store = RedisStore(app_name, redis_server.url, shown_url="-", limits=Limits(lease_ms=LONG, history=1_000))
    await store.open()
    with redis_server.client() as client:
        slow = SlowScripts([client], quiet=False)
        work = await release(store, await begun(store, 1_000), 1_000)
        await relay(store.outbox, QUEUE, OTHER)
        await joined(store, "w")
        assert len((await store.claim(QUEUE, "w", 250)).jobs) == 250
        for first in range(0, 1_000, MOST_CHANGES):
            cancel = [job_id(n) for n in range(first, first + MOST_CHANGES)]
            one = step(work, cancel=cancel, cancel_outcome=REASON, ttl_ms=LONG)
            assert await store.flows.apply(QUEUE, [one]) != [Applied.REFUSED]
            work = await taken(store)
        await relayed(store)
        await store.flows.apply(QUEUE, [step(work)])
        assert slow.found() == []
        states = [each and each.state for each in await store.info(QUEUE, [job_id(n) for n in range(1_000)])]
        assert states.count(JobState.CANCELLED) == 750
        assert states.count(JobState.RUNNING) == 250
    await store.close()


async def test_an_end_costs_the_same_in_a_large_flow(redis_server: Database, app_name: str) -> None:
    """Commands of the server, for the end of one node's job: in a flow of three nodes and in one of very many."""
    store = RedisStore(app_name, redis_server.url, shown_url="-", limits=Limits(lease_ms=LONG))
    await store.open()
    costs: list[int] = []
    with redis_server.client() as client:
        await joined(store, "w")
        for nodes in (3, NODES):
            flow_id = f"of-{nodes}"
            work = await begun(store, nodes, flow_id)
            await store.flows.apply(QUEUE, [step(work, jobs=[node(0, flow_id=flow_id)])])
            (job,) = (await store.claim(QUEUE, "w", 1)).jobs
            client.config_resetstat()
            await store.settle(QUEUE, "w", [Settlement(job.id, job.claim, Verb.SUCCEEDED, THREE, ttl_ms=LONG)])
            stats: Any = client.info("commandstats")
            costs.append(sum(each["calls"] for each in stats.values()))
    assert costs[0] == costs[1]
    await store.close()
