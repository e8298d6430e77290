"""Short words for what the contract tests of flows say again and again."""

from collections.abc import Sequence

from aioq.jobs.job import JobState
from aioq.store.contract import Settlement, Store, Verb
from aioq.store.extra import Extra, FlowPlace, Lock
from aioq.store.flows import FlowStart, FlowStep, FlowWork, NodeJob
from aioq.store.new_job import NewJob
from aioq.store.relay import relay
from tests.contract.kit import CALL, LONG, QUEUE, THREE, joined

FLOW, OTHER = "flow1", "post"


def job_id(index: int, flow_id: str = FLOW) -> str:
    """The id of a node's job."""
    return f"{flow_id}.{index:03}"


def node(
    index: int,
    queue: str = QUEUE,
    *,
    flow_id: str = FLOW,
    key: str = "",
    call: bytes = CALL,
    delay_ms: int | None = None,
) -> NodeJob:
    """The job of a node."""
    extra = Extra(flow=FlowPlace(flow_id, index), unique=Lock(key) if key else None)
    return NodeJob(queue, NewJob(job_id(index, flow_id), call, delay_ms=delay_ms, extra=extra))


def start(nodes: int = 3, parts: int = 1, **more: object) -> FlowStart:
    """How a flow begins."""
    return FlowStart(b"head", nodes, CALL, parts, **more)  # pyright: ignore[reportArgumentType] - of any field


async def begun(store: Store, nodes: int = 3, flow_id: str = FLOW) -> FlowWork:
    """Begin a flow of so many nodes, and take it."""
    return await begun_at(store, QUEUE, flow_id, nodes)


async def begun_at(store: Store, queue: str, flow_id: str, nodes: int = 3) -> FlowWork:
    """The same in any queue."""
    await store.flows.write(queue, flow_id, 0, [b"part"])
    assert await store.flows.begin(queue, flow_id, start(nodes))
    (work,) = await store.flows.take(queue, flow_ids=[flow_id])
    return work


async def taken(store: Store, flow_id: str = FLOW) -> FlowWork:
    """Take a flow."""
    (work,) = await store.flows.take(QUEUE, flow_ids=[flow_id])
    return work


def step(work: FlowWork, **more: object) -> FlowStep:
    """A step in a flow that does all that was taken."""
    facts = {"memo": b"memo", "nodes": work.nodes, "taken": len(work.items)} | more
    return FlowStep(flow_id=work.flow_id, rev=work.rev, **facts)  # pyright: ignore[reportArgumentType] - of any field


async def released(store: Store, *nodes: NodeJob, of: int = 3) -> FlowWork:
    """Begin a flow, release these nodes, and take it again."""
    work = await begun(store, of)
    assert all(await store.flows.apply(QUEUE, [step(work, jobs=nodes)]))
    for target in {each.queue for each in nodes} - {QUEUE}:
        await relay(store.outbox, QUEUE, target)
    return work


async def run(
    store: Store,
    queue: str = QUEUE,
    verb: Verb = Verb.SUCCEEDED,
    outcome: bytes = THREE,
    *,
    ttl_ms: int = LONG,
    worker: str = "w",
) -> Sequence[str]:
    """Run all jobs of a queue, and relay what they cause; returns their ids."""
    await joined(store, worker, queue)
    jobs = (await store.claim(queue, worker, 100)).jobs
    settled = [Settlement(job.id, job.claim, verb, outcome, ttl_ms=ttl_ms) for job in jobs]
    assert all(await store.settle(queue, worker, settled))
    if queue != QUEUE:
        await relay(store.outbox, queue, QUEUE)
    return [job.id for job in jobs]


async def ended(store: Store) -> list[tuple[int, JobState | None, bytes | None]]:
    """Take the flow: what it says of the jobs of nodes."""
    return [(each.index, each.state, each.outcome) for each in (await taken(store)).ended]
