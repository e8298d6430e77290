"""Every way in which a node's job ends is work for its flow, also where a script fails half-way.

The ways are those of `tests/contract/hook_probe.py`.
"""

from contextlib import suppress

import pytest

from aioq.errors import ServerError
from aioq.jobs.job import JobState
from aioq.store.contract import Settlement, Verb
from aioq.store.extra import Extra, FlowPlace
from aioq.store.flows import node_of
from aioq.store.memory import MemoryStore
from aioq.store.redis import RedisStore
from aioq.store.redis.keys import base_key
from aioq.util.clock import ManualClock
from tests.contract.flows import begun_at, step
from tests.contract.hook_probe import CASES, LIMITS, At, Case, MemoryProbe
from tests.contract.inside import MemoryInside, ServerInside
from tests.contract.kit import QUEUE, THREE, joined
from tests.contract.refusing import Refusing, commands_of, refusing
from tests.databases import Database

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=20)]

ENDS = tuple(case for case in CASES if "finish" in case.events and "back move" not in case.events)
"""Every way in which a job ends in the queue that knows its flow."""
IN_MEMORY = tuple(case for case in ENDS if case.name != "loses its call")  # there no call has a key of its own
ONE_OF_EACH_SCRIPT = tuple({case.scripts[-1]: case for case in ENDS}.values())
NODE = Extra(flow=FlowPlace("flow", 0))


def at_of(user: Refusing, queue: str) -> At:
    client, base = user.client_of(queue), base_key(user.app, queue)
    inside = ServerInside(client, base)
    gone = lambda job_id: client.delete(f"{base}:body:{job_id}")  # noqa: E731 - said once
    return At(user.full, queue, inside, MemoryProbe(), gone=gone, extra=NODE)


async def with_flow(at: At) -> None:
    """Begin the flow, in which nothing is to be done then."""
    work = await begun_at(at.store, at.queue, "flow")
    assert all(await at.store.flows.apply(at.queue, [step(work)]))


async def the_flow_knows(case: Case, at: At) -> None:
    """The end is work for the flow, and the record says how the job has ended."""
    (work,) = await at.store.flows.take(at.queue, flow_ids=["flow"])
    assert (0, case.job) in {node_of(item) for item in work.items}, at.queue
    end = next(each for each in work.ended if each.job_id == case.job)
    assert end.state is not None, at.queue
    assert end.state.ended, at.queue


@pytest.mark.parametrize("case", IN_MEMORY, ids=[case.name for case in IN_MEMORY])
async def test_an_end_is_work_for_the_flow_in_memory(case: Case) -> None:
    clock = ManualClock()
    store = MemoryStore("test", clock=clock, limits=LIMITS)
    at = At(store, QUEUE, MemoryInside(store, clock, QUEUE), MemoryProbe(), extra=NODE)
    await with_flow(at)
    await (await case.arrange(at))(store)
    await the_flow_knows(case, at)


@pytest.mark.parametrize("case", ENDS, ids=[case.name for case in ENDS])
async def test_an_end_is_work_for_the_flow(case: Case, server: Database, app_name: str) -> None:
    store = RedisStore(app_name, server.url, shown_url="server", limits=LIMITS)
    with server.client() as client:
        base = base_key(app_name, QUEUE)
        gone = lambda job_id: client.delete(f"{base}:body:{job_id}")  # noqa: E731 - said once
        at = At(store, QUEUE, ServerInside(client, base), MemoryProbe(), gone=gone, extra=NODE)
        await with_flow(at)
        await (await case.arrange(at))(store)
        await the_flow_knows(case, at)
    await store.close()


@pytest.mark.parametrize("case", ONE_OF_EACH_SCRIPT, ids=[case.name for case in ONE_OF_EACH_SCRIPT])
async def test_a_flow_learns_of_an_end_whatever_fails(case: Case, redis_server: Database, app_name: str) -> None:
    """At each command of the script: whether the call is repeated or its worker dies then."""
    async with refusing(redis_server, app_name, LIMITS) as user:
        for command in commands_of(*case.scripts):
            for dies in (False, True):
                at = at_of(user, f"{user.refuse(command)}-{dies}")
                await with_flow(at)
                act = await case.arrange(at)
                with suppress(ServerError):
                    await act(user.limited)
                await (at.recovering() if dies else act)(at.store)
                await all_ended(at)
                await the_flow_knows(case, at)


async def all_ended(at: At) -> None:
    """Another worker runs all that there is to its end."""
    await joined(at.store, "last", at.queue)
    await at.recovering()(at.store)
    for _ in range(3):
        at.inside.jump(3_700_000)
        await at.store.promote(at.queue, 100)
        jobs = (await at.store.claim(at.queue, "last", 10)).jobs
        done = [Settlement(job.id, job.claim, Verb.SUCCEEDED, THREE, 0, 60_000) for job in jobs]
        assert all(await at.store.settle(at.queue, "last", done))
        for info in await at.store.info(at.queue, [each.id for each in jobs]):
            assert info is None or info.state is JobState.SUCCEEDED
