"""Flows as the wire has them: written node by node, begun, and read."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from aioq import App
from aioq.app import internals_of
from aioq.flows.graph import ELEMENT, INPUT, Head, Kind, Node, encode_head, encode_parts
from aioq.flows.stepping import advance
from aioq.jobs.job import JobState, new_job_id
from aioq.store.contract import Store
from aioq.store.flows import FlowStart, FlowWork
from aioq.wire.messages import ENCODER, WireOutcome, decode_outcome, encode_envelope


def put(position: int = ELEMENT) -> msgspec.msgpack.Ext:
    """An input in the arguments; without a position the element of a map's list."""
    return msgspec.msgpack.Ext(INPUT, ENCODER.encode(position))


def node(task: Any, *args: object, **other: Any) -> Node:
    return Node(task=task.name, args=msgspec.Raw(ENCODER.encode(args)), **other)


def mapped(task: Any, over: int, *args: object, **other: Any) -> Node:
    return node(task, *(args or (put(),)), kind=Kind.MAP, over=over, **other)


async def store_of(app: App) -> Store:
    return await internals_of(app).store()


async def begin(app: App, home: str, nodes: Sequence[Node], sinks: Sequence[int] = (), **head: Any) -> str:
    """Begin a flow, as a client does; returns its id."""
    store, flow_id = await store_of(app), new_job_id(home)
    parts = encode_parts(nodes)
    await store.flows.write(home, flow_id, 0, parts)
    given = {"version": 1, "name": "f", "static": len(nodes), "sinks": tuple(sinks), **head}
    described = encode_head(Head(**given))
    start = FlowStart(described, len(nodes), encode_envelope("flow:f", (), {}, None), len(parts))
    assert await store.flows.begin(home, flow_id, start)
    await advance(store, home, flow_id)
    return flow_id


async def outcome_of(app: App, home: str, flow_id: str) -> WireOutcome:
    """The outcome of a flow, once it has ended."""
    store = await store_of(app)
    while True:
        (reply,) = await store.wait(home, "", [flow_id])
        if isinstance(reply, bytes):
            return decode_outcome(reply)
        await asyncio.sleep(0.005)


async def result_of(app: App, home: str, flow_id: str) -> Any:
    """The result of a flow that succeeds."""
    return msgspec.msgpack.decode((await outcome_of(app, home, flow_id)).value)


async def read(app: App, home: str, flow_id: str) -> FlowWork:
    found = await (await store_of(app)).flows.read(home, flow_id)
    assert found is not None
    return found


async def state_of(app: App, home: str, job_id: str) -> JobState | None:
    (info,) = await (await store_of(app)).info(home, [job_id])
    return None if info is None else info.state
