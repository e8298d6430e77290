"""Random flows whose jobs do what a model says: which one a job is, and of which flow, its headers say."""

import asyncio
import os
import random
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from aioq import App, Flow, FlowNode, Retry, current_flow, current_job
from aioq.flows.ids import flow_of
from aioq.flows.steps import Placement
from tests.faults.graph_model import Block, Key, Scripted, digest, plain, returned
from tests.faults.ledger import Ledger
from tests.flow_model import Spec

app = App()
ledger = Ledger(os.environ["FAULTS_LEDGER"])
runs = os.open(ledger.path.with_suffix(".runs"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
encode = msgspec.json.Encoder().encode
decode_key = msgspec.json.Decoder(tuple[Any, ...]).decode


class FinalError(Exception):
    """One after which there is no further attempt."""


def note(flow_id: str, key: Key, how: str, value: object = None) -> None:
    """Write down what has become of a run."""
    os.write(runs, encode([flow_id, key, current_job().id, how, value]) + b"\n")


@app.task(retry=Retry(None, delay=0.05, never=(FinalError,)))
async def step(given: Any) -> Any:
    """Be a node: `given` are the values of those it uses, or the item of which a map has made it."""
    job = current_job()
    found = flow_of(job.id)
    assert found
    flow_id, script, key = found[0], Scripted(int(job.headers["seed"])), decode_key(job.headers["key"])
    values = given
    if "child" in job.headers:
        key, values = (*key, "c", digest(plain(given))), [given]
    ledger.started(job.id, script.seed, job.attempt, job.crashes)
    note(flow_id, key, "started")
    await asyncio.sleep(script.seconds(key))
    if job.attempt <= script.failures(key):
        raise ValueError("not yet")
    end = script.end(key, 1)
    if end == "c":
        note(flow_id, key, "c")
        await app.handle(job.id).cancel()
        await asyncio.sleep(30)
    if end != "s":
        note(flow_id, key, "f")
        raise FinalError("as it must")
    graft = script.grafts(key, 1)
    if graft is not None:
        build(current_flow(), graft, script.seed, job.headers["queues"].split(), (*key, "g"))
    value = returned(script, key, plain(values))
    note(flow_id, key, "s", value)
    return value


def build(
    flow: Flow,
    described: Sequence[Spec],
    seed: int,
    queues: Sequence[str],
    prefix: Key = (),
    blocks: Sequence[Block] = (),
) -> None:
    """Add described nodes to a flow; those of a block by a flow of their own."""
    made: dict[int, FlowNode[Any]] = {}
    index = 0
    while index < len(described):
        block = next((each for each in blocks if each.first == index), None)
        if block is None:
            made[index] = _add(flow, described[index], (*prefix, index), made, seed, queues)
            index += 1
            continue
        inner, own = app.flow(f"block {block.first}"), dict[int, FlowNode[Any]]()
        for each in range(block.first, block.first + block.number):
            own[each] = _add(inner, described[each], (each,), own, seed, queues)
        made[block.end] = flow.add(inner, after=[made[each] for each in block.after])
        index = max(block.first + block.number, block.end + 1)


def _add(
    flow: Flow, spec: Spec, key: Key, made: Mapping[int, FlowNode[Any]], seed: int, queues: Sequence[str]
) -> FlowNode[Any]:
    """Add one node."""
    chance = random.Random(repr((seed, "place", key)))
    name = ".".join(str(each) for each in key)
    headers = {"seed": str(seed), "key": encode(key).decode(), "queues": " ".join(queues)}
    task = step.options(queue=chance.choice(queues), priority=chance.choice(["high", "normal", "low"]))
    inputs = [made[each] for each in spec.inputs if each in made]
    after = [made[each] for each in spec.after if each in made]
    require = spec.require or "all"
    on_failure: Any = "ignore" if spec.ignore else "cascade"
    if spec.kind == "join":
        return flow._plan.join(inputs, Placement(name, after, require, ignore=spec.ignore))
    if spec.kind == "job":
        call = task.options(headers=headers).call([node.result for node in inputs])
        if spec.when_failed:
            where = Placement(name, after, ignore=spec.ignore, when_failed=True)
            return flow._plan.job(call, where)
        return flow.add(call, name=name, after=after, require=require, always=spec.always, on_failure=on_failure)
    given: Any = (
        [f"item {number}" for number in range(spec.children)] if spec.over is None else made[spec.over].result
    )
    child = task.options(headers={**headers, "child": "yes"})
    return flow.map(
        child, given, name=name, after=after, require=require, on_failure=on_failure, window=spec.window
    )
