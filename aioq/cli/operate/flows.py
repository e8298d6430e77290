"""`aioq flows`: finds flows. `aioq flow`: draws one with its nodes, cancels it, or runs what has failed again."""

import asyncio
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from aioq.app import App
from aioq.cli.operate.output import Column, moment, print_facts, print_items, print_json, span
from aioq.cli.operate.questions import confirm
from aioq.cli.targets import AppTarget, find_app
from aioq.flows.handle import FlowHandle
from aioq.flows.queries import FlowInfo
from aioq.flows.views import FlowGraph, GraphNode, NodeState
from aioq.util.plural import counted
from aioq.util.printable import printable


def run(target: AppTarget, *, filters: Mapping[str, Any], limit: int, as_json: bool) -> None:
    """Carry out `aioq flows`."""
    app, _ = find_app(target)

    async def found() -> Sequence[FlowInfo]:
        async with app:
            return await app.flows(**filters).list(limit)

    flows = asyncio.run(found())
    print_items(flows, COLUMNS, as_json=as_json)
    if not flows and not as_json:
        click.echo("no flow matches", err=True)


def run_one(target: AppTarget, *, verb: str | None, reason: str, is_confirmed: bool, as_json: bool) -> None:
    """Carry out `aioq flow`."""
    app, (flow_id,) = find_app(target, "the flow's ID")
    if verb == "cancel":
        confirm(f"cancel the flow {printable(flow_id)}?", is_confirmed=is_confirmed)

    async def carry_out() -> int:
        async with app:
            return await _carry_out(app, flow_id, verb, reason, as_json=as_json)

    sys.exit(asyncio.run(carry_out()))


async def _carry_out(app: App, flow_id: str, verb: str | None, reason: str, *, as_json: bool) -> int:
    handle = app.flow_handle(flow_id)
    if verb is None:
        graph = await handle.graph()
        print_json([graph]) if as_json else _show(graph)
        return 0
    done = await _change(handle, verb, reason)
    state = await handle.status()
    if as_json:
        print_json([{"id": flow_id, "done": done, "state": state}])
    elif done:
        click.echo(f"{printable(flow_id)} {'is being cancelled' if verb == 'cancel' else 'is run again'}")
    else:
        needs = "one that has not ended" if verb == "cancel" else "one that has failed"
        click.echo(f"aioq: flow {printable(flow_id)} is {state}: this needs {needs}", err=True)
    return 0 if done else 1


async def _change(handle: FlowHandle[Any], verb: str, reason: str) -> bool:
    return await (handle.cancel(reason) if verb == "cancel" else handle.retry())


def _show(graph: FlowGraph) -> None:
    ended = sum(node.state.ended for node in graph.nodes)
    facts = [
        ("flow", graph.name),
        ("state", graph.state.value),
        ("ended", f"{ended} of {counted(len(graph.nodes), 'node')}"),
    ]
    print_facts(graph.id, facts)
    for line in drawing(graph):
        click.echo(line)


def drawing(graph: FlowGraph) -> Iterator[str]:
    """The nodes as a tree: each stands below one that it waits for; the others that it waits for are named."""
    below: dict[str, list[GraphNode]] = {}
    depths = _depths(graph)
    for node in graph.nodes:
        parent = max(node.waits_for, key=lambda name: depths[name], default="")
        below.setdefault(parent, []).append(node)
    tree = list(_tree(below, "", ""))
    width = max((len(branch) + len(node.name) for branch, node, _ in tree), default=0)
    for branch, node, parent in tree:
        others = [name for name in node.waits_for if name != parent]
        more = f"  after {', '.join(others)} too" if others else ""
        name = printable(f"{branch}{node.name}".ljust(width))
        yield f"{name}  {_MARKS[node.state]} {node.state:<9}  {printable(_details(node) + more)}".rstrip()


def _tree(
    below: Mapping[str, Sequence[GraphNode]], parent: str, indent: str
) -> Iterator[tuple[str, GraphNode, str]]:
    """Each node with the lines in front of it, and the one that it stands below."""
    todo = [(parent, indent, iter(below.get(parent, ())), len(below.get(parent, ())))]
    while todo:
        name, space, nodes, left = todo.pop()
        node = next(nodes, None)
        if node is None:
            continue
        todo.append((name, space, nodes, left - 1))
        is_root, is_last = not name, left == 1
        yield "" if is_root else space + ("└─ " if is_last else "├─ "), node, name
        further = below.get(node.name, ())
        todo.append(
            (node.name, "" if is_root else space + ("   " if is_last else "│  "), iter(further), len(further))
        )


def _depths(graph: FlowGraph) -> Mapping[str, int]:
    """How many nodes come before each one, along the longest way."""
    depths = dict.fromkeys((node.name for node in graph.nodes), 0)
    changed = True
    while changed:  # as often as the graph is deep: nodes mostly stand behind those that they wait for
        changed = False
        for node in graph.nodes:
            depth = max((depths[name] + 1 for name in node.waits_for), default=0)
            if depth > depths[node.name]:
                depths[node.name], changed = depth, True
    return depths


def _details(node: GraphNode) -> str:
    if node.children is not None:
        parts = ", ".join(f"{number} {state}" for state, number in node.children.items())
        return f"{sum(node.children.values())} children" + (f": {parts}" if parts else "")
    took = ""
    if node.started_at is not None and node.ended_at is not None:
        took = span((node.ended_at - node.started_at).total_seconds())
    failed = node.error.summary if node.error is not None and node.state is not NodeState.SUCCEEDED else ""
    return "  ".join(filter(None, [node.task if node.kind == "job" else node.kind, took, failed]))


def _ended(nodes: Mapping[NodeState, int]) -> str:
    """How many nodes have ended."""
    return f"{sum(number for state, number in nodes.items() if state.ended)} of {sum(nodes.values())}"


_MARKS: Mapping[NodeState, str] = {
    NodeState.WAITING: "·",
    NodeState.SCHEDULED: "~",
    NodeState.QUEUED: "~",
    NodeState.RUNNING: ">",
    NodeState.SUCCEEDED: "+",
    NodeState.FAILED: "!",
    NodeState.CANCELLED: "x",
    NodeState.DROPPED: "x",
    NodeState.SKIPPED: "-",
}

COLUMNS: Sequence[Column[FlowInfo]] = (
    Column("id", lambda info: info.id, whole=True),
    Column("flow", lambda info: info.name),
    Column("queue", lambda info: info.queue, whole=True),
    Column("state", lambda info: info.state.value, whole=True),
    Column("ended", lambda info: _ended(info.nodes), whole=True),
    Column("begun (UTC)", lambda info: moment(info.begun_at), whole=True),
)
