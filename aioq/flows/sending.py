"""Sends flows: each call is encoded as that of any job, the whole is stored in parts, and then it begins.

Until it begins, nothing of it runs. A sender that dies before that leaves parts which nobody looks at; the server
deletes them after an hour. Of a map over an iterator that is given with the flow, one part is in memory at a time.
"""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence, Sized
from typing import Any, cast

import msgspec
from msgspec.structs import replace

from aioq.errors import ArgumentError
from aioq.flows.building import Plan, required, result_type_of
from aioq.flows.checks import find_circle
from aioq.flows.encoding import Element, NodeEncoder
from aioq.flows.graph import PART, VERSION, Head, Kind, Node, encode_head, encode_part
from aioq.flows.handle import FlowHandle, known_nodes
from aioq.flows.ids import node_id
from aioq.flows.node import NodeResult, Planned, ReadOnce
from aioq.flows.options import FlowOptions
from aioq.flows.stepping import advance
from aioq.jobs.context import JobContext, job_here
from aioq.jobs.job import new_job_id
from aioq.jobs.middleware import Outgoing
from aioq.jobs.shards import queue_of_shard
from aioq.producer.call import Call
from aioq.producer.carried import inherited
from aioq.producer.many import ManySender
from aioq.producer.send_middleware import inward
from aioq.producer.sender import Route
from aioq.store.extra import Extra
from aioq.store.flows import FlowStart
from aioq.wire.messages import ENCODER, CallOptions, encode_envelope

Write = Callable[[str, str, int, Sequence[bytes]], Awaitable[None]]
"""Stores parts: the home, the flow, the number of the first part, the parts."""

HOLE = Node(kind=Kind.HOLE)
"""What stands at an index that no node has."""

HOLE_STATE, WAITS = b"k", b"."

ANY_NUMBER = 1 << 30
"""How many children a map may have whose width is not known."""


class FlowSender(ManySender):
    """A sender that sends flows too."""

    async def send_flow(self, flow: Plan, options: FlowOptions, result: Sequence[Planned]) -> FlowHandle[Any]:
        """Send a flow.

        Args:
            flow: its nodes.
            options: its options.
            result: the nodes whose results are that of the flow.

        Raises:
            ArgumentError: it has no nodes, they wait for each other in a circle, or an argument cannot be sent.
            ConfigError: a node needs more others to succeed than it waits for.
        """
        home = await self._home_of(flow)
        sending = self.sending(flow, home, job_here(), new_job_id(home))
        nodes = await sending.static()
        store = (await self._clients.get()).store.flows
        parts, states = await sending.children(nodes, store.write)
        head = Head(
            VERSION,
            flow.name,
            len(nodes),
            tuple(node.index for node in result),
            options.timeout_ms,
            options.ttl_ms,
            options.headers,
        )
        start = FlowStart(
            encode_head(head),
            len(states),
            self._envelope(flow.name, options),
            parts,
            Extra(options.tags) if options.tags else None,
            states=bytes(states),
        )
        await store.begin(sending.home, sending.flow_id, start)
        handle: FlowHandle[Any] = FlowHandle(
            self._source,
            sending.flow_id,
            sending.home,
            result_type_of(result),
            added=True,
            _known=known_nodes(flow),
        )
        await advance((await self._clients.get()).store, sending.home, sending.flow_id)
        return handle

    def flow_handle(self, flow_id: str, queue: str | None = None) -> FlowHandle[Any]:
        """A handle of a flow that any process has sent."""
        return FlowHandle(self._source, flow_id, None, _named=queue)

    def default_flow_ttl_ms(self) -> int:
        """How long a flow is kept after its end by default, in milliseconds."""
        ttl = self._settings.flow_ttl
        return round((self._settings.result_ttl if ttl is None else ttl) * 1000)

    def sending(self, flow: Plan, home: str, job: JobContext | None, flow_id: str) -> "Sending":
        """What encodes and stores the nodes of a flow, or of what a job adds to one."""
        return Sending(self, flow, home, job, flow_id)

    async def node_of_call(
        self,
        call: Call[Any],
        job: JobContext | None,
        job_id: str,
        *,
        flow: str,
        user: Planned,
        encoder: NodeEncoder,
    ) -> Node:
        """The node of a call, without what it comes after.

        Args:
            call: the call.
            job: the job within which the flow is sent; None for none.
            job_id: the id that the node's job will have.
            flow: the flow's name, for errors.
            user: the node, or the map of which it is a child.
            encoder: encodes its arguments.
        """
        if job is not None:
            call = replace(call, options=inherited(call.options, job, self._settings.inherit_headers))
        if self._middleware:
            call = await self._through_layers(call, job_id, f"flow {flow!r}: node {user.name!r}")
        route = self._route_of(call)
        route = route.of_call(call.args, call.kwargs) if route.is_keyed else route
        encoded = encoder.encode(flow, user, route, call.args, call.kwargs)
        template = _template(route, await self._shard_for(route))
        return replace(template, args=encoded.args, kwargs=encoded.kwargs, inputs=encoded.inputs)

    async def map_template(self, call: Call[Any], job: JobContext | None) -> Node:
        """What the children of a map have in common, without arguments; its queue is the first shard."""
        if job is not None:
            call = replace(call, options=inherited(call.options, job, self._settings.inherit_headers))
        route = self._route_of(call)
        await self._shard_for(route)
        number = (await self._clients.get()).table[route.queue].number
        return replace(_template(route, route.queue), shards=max(number, 1))

    def encoder(self, flow: Plan) -> NodeEncoder:
        """What encodes the calls of a flow."""
        return NodeEncoder(self._own, flow.index_of)

    def _route_of(self, call: Call[Any]) -> Route:
        """The route of a call; children of a map all have the same."""
        recent = self._recent
        if recent is None or recent.options is not call.options or recent.signature is not call.signature:
            recent = self._recent = self.route(call.task, call.signature, call.options)
        return recent

    _recent: Route | None = None

    async def _home_of(self, flow: Plan) -> str:
        """The queue, or shard of it, in which a flow is stored: that of its first call."""
        call = next((node.call for node in flow.nodes if node.call is not None), None)
        if call is None:
            raise ArgumentError(f"flow {flow.name!r} has no nodes: add some, flow.add(task.call(...))")
        return await self._shard_for(self.route(call.task, call.signature, call.options))

    async def _through_layers(self, call: Call[Any], job_id: str, where: str) -> Call[Any]:
        """A call as the middleware sends it."""
        sent: list[Outgoing] = []

        async def last(outgoing: Outgoing) -> bool:
            sent.append(outgoing)
            return True

        queue = self.queue_of(call.task, call.options)
        await inward(self._middleware, last)(
            Outgoing(
                *(job_id, queue_of_shard(queue), call.task),
                *(tuple(call.args), dict(call.kwargs), dict(call.options.headers)),
            )
        )
        if not sent:
            raise ArgumentError(
                f"{where}: a middleware did not forward its call; a flow is sent whole or not at all"
            )
        out = sent[-1]
        options = call.options.merged(type(call.options)(headers=out.headers), where)
        return replace(call, args=out.args, kwargs=out.kwargs, options=options)

    def _envelope(self, name: str, options: FlowOptions) -> bytes:
        headers = options.headers
        return encode_envelope(f"flow:{name}", (), {}, CallOptions(headers=headers) if headers else None)


class Sending:
    """One flow on its way to the server.

    Attributes:
        home: the queue in which it is stored.
        flow_id: its id.
    """

    def __init__(self, sender: FlowSender, flow: Plan, home: str, job: JobContext | None, flow_id: str) -> None:
        self._sender = sender
        self._flow = flow
        self._job = job
        self._encoder = sender.encoder(flow)
        self.home = home
        self.flow_id = flow_id

    async def static(self) -> list[Node]:
        """The nodes that were added one by one; the children of maps come later.

        Raises:
            ArgumentError: some wait for each other in a circle.
            ConfigError: one requires more others than it waits for.
        """
        flow = self._flow
        nodes = [await self._node(node) for node in flow.nodes]
        circle = find_circle([_waits(node) for node in nodes])
        if circle:
            names = " -> ".join(f"{flow.nodes[at].name!r}" for at in [*circle, circle[0]])
            raise ArgumentError(f"flow {flow.name!r}: nodes wait for each other in a circle: {names}")
        for at, (node, mine) in enumerate(zip(nodes, flow.nodes, strict=True)):
            if not mine.is_given:
                there = len(_waits(node)) if mine.kind is not Kind.MAP else ANY_NUMBER
                nodes[at] = replace(node, require=self._required(mine, there))
        return nodes

    def _required(self, mine: Planned, there: int) -> int:
        return required(f"flow {self._flow.name!r}: node {mine.name!r}", mine.require, there)

    async def _node(self, mine: Planned) -> Node:
        placed: dict[str, Any] = {
            "name": mine.name,
            "kind": mine.kind,
            "after": tuple(mine.after),
            "ignore": mine.ignore,
            "always": mine.always,
            "when_failed": mine.when_failed,
        }
        call = mine.call
        if call is None:
            placed |= {"timeout_ms": mine.timeout_ms, "first": mine.first, "count": mine.count}
            return Node(**placed, inputs=tuple(mine.inputs))
        if mine.kind is Kind.JOB:
            return replace(await self._encoded(mine, call, mine.index), **placed)
        template = await self._sender.map_template(call, self._job)
        placed |= {"star": mine.star, "window": mine.window}
        if isinstance(mine.items, NodeResult):
            made = call if mine.star or mine.make is None else mine.make(Element())
            node = await self._encoded(mine, made, mine.index)
            over = self._flow.index_of(mine.items.node, mine)
            template = replace(template, args=node.args, kwargs=node.kwargs, inputs=node.inputs, over=over)
        return replace(template, **placed)

    async def _encoded(self, mine: Planned, call: Call[Any], index: int) -> Node:
        job_id = node_id(self.flow_id, index)
        flow, encoder = self._flow.name, self._encoder
        return await self._sender.node_of_call(call, self._job, job_id, flow=flow, user=mine, encoder=encoder)

    async def children(self, nodes: list[Node], write: Write) -> tuple[int, bytearray]:
        """Store the definition; that of the children of maps over given items first, one part after the other.

        Returns:
            How many parts there are, and the states with which the nodes begin.
        """
        flow = self._flow
        states = bytearray(WAITS * len(nodes))
        first = _parts(len(nodes))
        given = [at for at, mine in enumerate(flow.nodes) if mine.is_given]
        if self._is_small(given):
            return await self._in_one_part(nodes, given, write)
        for at in given:
            mine = flow.nodes[at]
            states += HOLE_STATE * (first * PART - len(states))
            count = 0
            async for part in self._children_of(mine, nodes[at], first * PART):
                rest = [HOLE] * (PART - len(part)) if at != given[-1] else []
                await write(self.home, self.flow_id, first + count // PART, [encode_part([*part, *rest])])
                count += len(part)
            need = self._required(mine, count)
            nodes[at] = replace(nodes[at], first=first * PART, count=count, require=need)
            states += WAITS * count
            first += _parts(count)
        if len(states) > len(nodes):
            nodes = [*nodes, *[HOLE] * (_parts(len(nodes)) * PART - len(nodes))]
        parts = [encode_part(nodes[start : start + PART]) for start in range(0, len(nodes), PART)]
        await write(self.home, self.flow_id, 0, parts)
        return first, states

    def _is_small(self, given: list[int]) -> bool:
        """Whether one part has room for all, the children of maps too, as far as that is known now."""
        items = [self._flow.nodes[at].items for at in given]
        return all(isinstance(each, Sized) for each in items) and (
            len(self._flow.nodes) + sum(len(each) for each in items if isinstance(each, Sized)) <= PART
        )

    async def _in_one_part(self, nodes: list[Node], given: list[int], write: Write) -> tuple[int, bytearray]:
        """The same where one part has room for all: no node stands for nothing.

        So a job that is one of thousands may add a map of its own to their flow.
        """
        children: list[Node] = []
        for at in given:
            mine, first = self._flow.nodes[at], len(nodes) + len(children)
            async for part in self._children_of(mine, nodes[at], first):
                children += part
            count = len(nodes) + len(children) - first
            nodes[at] = replace(nodes[at], first=first, count=count, require=self._required(mine, count))
        both = [*nodes, *children]
        parts = [encode_part(both[start : start + PART]) for start in range(0, len(both), PART)]
        await write(self.home, self.flow_id, 0, parts)
        return len(parts), bytearray(WAITS * len(both))

    async def _children_of(self, mine: Planned, template: Node, first: int) -> AsyncIterator[list[Node]]:
        """The children of a map over given items, at most as many at a time as a part has."""
        part: list[Node] = []
        number = first
        where = f"flow {self._flow.name!r}: node {mine.name!r}"
        async for item in _each(mine.items.take(where) if isinstance(mine.items, ReadOnce) else mine.items):
            node = await self._encoded(mine, cast("Any", mine.make)(item), number)
            part.append(_as_child(node, template))
            number += 1
            if len(part) == PART:
                yield part
                part = []
        if part:
            yield part


def _parts(count: int) -> int:
    """How many parts so many nodes take."""
    return -(-count // PART)


def _waits(node: Node) -> set[int]:
    """The nodes that a node waits for."""
    return {*node.after, *node.inputs, *([] if node.over is None else [node.over])}


def _template(route: Route, queue: str) -> Node:
    """What is the same for all nodes of a route."""
    options = route.options
    node = Node(
        task=route.task,
        queue=queue,
        priority=route.priority,
        delay_ms=options.delay_ms,
        eta_ms=options.eta_ms,
    )
    if route.wire is not None:
        node = replace(node, options=msgspec.Raw(ENCODER.encode(route.wire)))
    if route.extra is not None:
        node = replace(node, extra=msgspec.Raw(ENCODER.encode(route.extra)))
    return node


def _as_child(node: Node, template: Node) -> Node:
    """A child of a map: what it has in common with the map is left out."""
    same = (node.options, node.extra, node.priority, node.delay_ms, node.eta_ms)
    if same == (template.options, template.extra, template.priority, template.delay_ms, template.eta_ms):
        return Node(args=node.args, kwargs=node.kwargs, inputs=node.inputs)
    return replace(node, ignore=template.ignore)


async def _each(items: object) -> AsyncIterator[Any]:
    """The items of an iterable, also of an asynchronous one."""
    if isinstance(items, AsyncIterable):
        async for item in cast("AsyncIterable[Any]", items):
            yield item
    else:
        for item in cast("Iterable[Any]", items):
            yield item
