"""A call for a flow that fails half-way, at each command: whoever goes on, all comes out the same.

Each command that a script uses is refused to its user in turn; afterwards the same call is made by one who may do
everything, or somebody else takes the flow.
"""

from contextlib import suppress
from typing import Any

import pytest

from aioq.errors import ServerError
from aioq.jobs.job import JobState
from aioq.store.contract import Limits, Settlement, Store, Verb
from aioq.store.extra import Extra
from aioq.store.flows import FlowStep, FlowWork, node_of
from aioq.store.relay import relay
from tests.contract.flows import FLOW, begun_at, job_id, node, start, step
from tests.contract.kit import BROKEN, LONG, REASON, THREE, joined
from tests.contract.refusing import Refusing, commands_of, refusing
from tests.databases import Database

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=15)]

LIMITS = Limits(lease_ms=LONG, history=100, stats=True)
LARGE = b"\x93\x02\xa1a" + b"x" * 2_000


def keys(at: Refusing, queue: str) -> set[str]:
    """The keys of a queue that are about flows and jobs, and have no expiry."""
    base = f"aioq:{{{at.app}:{queue}}}:"
    client = at.client_of(queue)
    found = {key for key in client.scan_iter(f"{base}*") if client.pttl(key) == -1}  # pyright: ignore[reportUnknownVariableType]
    ours = ("flow", "job", "body", "waiting")
    return {name for key in found if (name := str(key).removeprefix(base)).startswith(ours)}


async def take(store: Store, queue: str) -> FlowWork:
    """Take the flow, whoever holds it."""
    while not (works := await store.flows.take(queue, flow_ids=[FLOW], hold_ms=0)):
        pass
    return works[0]


async def run(store: Store, queue: str) -> list[str]:
    """Run all jobs of a queue."""
    await joined(store, "w", queue)
    jobs = (await store.claim(queue, "w", 100)).jobs
    settled = [Settlement(job.id, job.claim, Verb.SUCCEEDED, THREE, ttl_ms=LONG) for job in jobs]
    assert all(await store.settle(queue, "w", settled))
    return [job.id for job in jobs]


async def test_to_begin_a_flow(redis_server: Database, app_name: str) -> None:
    begins = start(3, extra=Extra(tags=("red",)), waiter="me")
    async with refusing(redis_server, app_name, LIMITS) as at:
        for command in commands_of("flow_write", "flow_begin"):
            queue = at.refuse(command)
            with suppress(ServerError):
                await at.limited.flows.write(queue, FLOW, 0, [b"part"])
            with suppress(ServerError):
                await at.limited.flows.begin(queue, FLOW, begins)

            await at.full.flows.write(queue, FLOW, 0, [b"part"])
            await at.full.flows.begin(queue, FLOW, begins)

            work = await take(at.full, queue)
            assert (work.rev, work.items, work.states, work.parts) == (1, ["begin"], b"...", 1), command
            assert work.state is JobState.WAITING, command
            assert [each.flow_id for each in await at.full.flows.listed(queue, 5)] == [FLOW], command
            names = {f"{each}:{FLOW}" for each in ("flow", "flowparts", "flowstates", "flowwork", "job")}
            assert keys(at, queue) == {*names, "flows", "waiting"}, command


async def test_what_a_begin_has_left_that_is_not_repeated_is_removed(
    redis_server: Database, app_name: str
) -> None:
    async with refusing(redis_server, app_name, LIMITS) as at:
        for command in commands_of("flow_begin"):
            queue = at.refuse(command)
            await at.full.flows.write(queue, FLOW, 0, [b"part"])
            with suppress(ServerError):
                await at.limited.flows.begin(queue, FLOW, start(3))
                continue  # it is not used, or its error is ignored

            await at.full.flows.take(queue, flow_ids=[FLOW])
            if await at.full.flows.read(queue, FLOW) is None:
                assert keys(at, queue) == set(), command
                assert await at.full.info(queue, [FLOW]) == [None], command
                await at.full.flows.begin(queue, FLOW, start(3))
            assert (await at.full.flows.read(queue, FLOW)) is not None, command


async def test_to_take_a_flow(redis_server: Database, app_name: str) -> None:
    async with refusing(redis_server, app_name, LIMITS) as at:
        for command in commands_of("flow_take"):
            queue = at.refuse(command)
            await at.full.flows.write(queue, FLOW, 0, [b"part"])
            await at.full.flows.begin(queue, FLOW, start(3))
            with suppress(ServerError):
                await at.limited.flows.take(queue, flow_ids=[FLOW], hold_ms=1)
            assert (await take(at.full, queue)).items == ["begin"], command


@pytest.mark.parametrize("by", ["the same", "another"])
async def test_to_apply_a_step(redis_server: Database, app_name: str, by: str) -> None:
    async with refusing(redis_server, app_name, LIMITS) as at:
        for command in commands_of("flow_apply"):
            queue = at.refuse(command)
            other = f"{queue}-2"
            await at.full.flows.write(queue, FLOW, 0, [b"part"])
            await at.full.flows.begin(queue, FLOW, start(4))

            def decided(work: FlowWork, here: str = queue, there: str = other) -> FlowStep:
                nodes = [node(0, here), node(1, here, call=LARGE, delay_ms=1), node(2, there, call=LARGE)]
                states = [(0, b">>"), (2, b">")]
                return step(work, jobs=nodes, states=states, parts={1: b"more"}, further=["more"], look_ms=LONG)

            one = decided(await take(at.full, queue))
            with suppress(ServerError):
                await at.limited.flows.apply(queue, [one])
            if by == "the same":
                await at.full.flows.apply(queue, [one])
            elif (work := await take(at.full, queue)).rev == one.rev:
                assert all(await at.full.flows.apply(queue, [decided(work)])), command

            work = await take(at.full, queue)
            assert (work.rev, work.states, work.parts, work.memo) == (2, b">>>.", 2, b"memo"), command
            assert set(work.items) - {"begin"} == {"more"}, command  # words may come twice
            await relay(at.full.outbox, queue, other)
            ran = await run(at.full, other)
            while len(ran) < 3:
                await at.full.promote(queue, 10)
                ran += await run(at.full, queue)
            assert sorted(ran) == [job_id(n) for n in range(3)], command
            await relay(at.full.outbox, other, queue)
            work = await take(at.full, queue)
            ended = {node_of(item) for item in work.items} - {None}
            assert ended == {(n, job_id(n)) for n in range(3)}, command
            assert {each.state for each in work.ended} == {JobState.SUCCEEDED}, command


async def applied(at: Refusing, queue: str, facts: dict[str, Any], by: str) -> None:
    """Apply a step, which is refused, and go on as whoever does that."""
    one = step(await take(at.full, queue), **facts)
    with suppress(ServerError):
        await at.limited.flows.apply(queue, [one])
    if by == "the same":
        await at.full.flows.apply(queue, [one])
        return
    works = await at.full.flows.take(queue, flow_ids=[FLOW], hold_ms=0)
    if works and works[0].rev == one.rev:
        assert all(await at.full.flows.apply(queue, [step(works[0], **facts)]))


@pytest.mark.parametrize("by", ["the same", "another"])
async def test_to_end_a_flow(redis_server: Database, app_name: str, by: str) -> None:
    """One of its jobs is cancelled, which goes on in another queue; the records expire, and nothing stays."""
    async with refusing(redis_server, app_name, LIMITS) as at:
        for command in commands_of("flow_apply", "flow_take"):
            queue = at.refuse(command)
            other = f"{queue}-2"
            work = await begun_at(at.full, queue, FLOW)
            jobs = [node(0, queue, call=LARGE), node(1, other)]
            await at.full.flows.apply(queue, [step(work, jobs=jobs)])
            await relay(at.full.outbox, queue, other)
            both = [job_id(n) for n in range(2)]
            facts: dict[str, Any] = {"cancel": both, "cancel_outcome": REASON, "ttl_ms": LONG}

            for more in ({}, {"forget": both, "end": (JobState.FAILED, BROKEN), "over": True}):
                await applied(at, queue, facts | more, by)
                await relay(at.full.outbox, queue, other)
                await relay(at.full.outbox, other, queue)
            # What was refused after the step itself is done by the next one who is asked.
            await at.full.flows.take(queue, flow_ids=[FLOW])
            assert await at.full.wait(queue, "me", [FLOW]) == [BROKEN], command
            assert await at.full.wait(queue, "me", both) == [REASON, REASON], command
            assert keys(at, queue) == set(), command
            assert not [each for each in at.client.scan_iter(f"*{queue}*") if ":flowwork:" in str(each)], command
