"""Which node serves a queue now: asked at the start, and anew whenever an answer or a silence shows a change."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from redis.exceptions import ResponseError

from aioq.config.urls import Servers, mask_url
from aioq.errors import ServerError, ServerRejectedError, ServerUnavailableError
from aioq.store.redis.cluster.topology import NOWHERE, Address, Topology, moved, parse_topology, slot_of
from aioq.store.redis.errors import CLIENT_ERRORS, SlotUnservedError, translate
from aioq.store.redis.net.commands import Link
from aioq.store.redis.net.connection import Arg, Connection
from aioq.store.redis.net.mode import as_dict, reject_sentinel
from aioq.util.aio import end
from aioq.util.log import logger
from aioq.util.randomness import RANDOM

log = logger("aioq.redis")

ASK_WITHIN = 1.5
"""Seconds in which a node must tell its view of the cluster. A guess: far longer than an answer takes, and short
beside what a hung node may cost (a lease lasts 8 s)."""

ASKED_AT_ONCE = 4
"""How many nodes are asked at the same time, drawn by chance. So a large cluster is not asked as a whole by each
client, and a node that is cut off from the others is not alone in telling its view."""

MIN_PATIENCE = 0.1
"""The shortest time, in seconds, that the others have once one of the nodes that were asked has answered."""

REFRESH_PAUSE = 0.2
"""Seconds between the first two refreshes while something is wrong; each further pause is twice as long."""

MAX_REFRESH_PAUSE = 1.0
"""The longest of these pauses. A guess: a failover takes seconds, and a refresh costs some connections."""

CALM_AFTER = 5.0
"""Seconds without a refresh after which the pauses begin anew."""


_VIEW = ("CLUSTER", "SLOTS"), ("CLUSTER", "INFO"), ("HELLO",)
"""What a node is asked for its view of the cluster."""


class Node(Protocol):
    """What the router needs of the store that talks to one node."""

    async def close(self) -> None:
        """Close every connection."""
        ...


N = TypeVar("N", bound=Node)


class Router(Generic[N]):
    """The cluster's topology, and a store for each node that serves slots.

    Args:
        servers: the configured URL.
        shown_url: the same with its password masked.
        make: makes the store of a node; given its address and the topology.
        on_change: called after each change of the topology.
    """

    def __init__(
        self,
        servers: Servers,
        shown_url: str,
        make: Callable[[Address, Topology], N],
        on_change: Callable[[], None],
    ) -> None:
        self._servers = servers
        self._shown_url = shown_url
        self._make = make
        self._on_change = on_change
        self._topology = NOWHERE
        self._nodes: dict[Address, N] = {}
        self._refreshing: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._refreshed_at = -REFRESH_PAUSE
        self._pause = REFRESH_PAUSE
        self._first = asyncio.Lock()
        self._loop = asyncio.get_running_loop()

    @property
    def nodes(self) -> Mapping[Address, N]:
        """The stores of the nodes that serve slots, by address; all made with the topology."""
        return self._nodes

    @property
    def uncovered(self) -> int:
        """How many slots nobody serves."""
        return self._topology.uncovered

    @property
    def others(self) -> Sequence[Address]:
        """The nodes that stand by, and those that the URL names and the cluster does not."""
        known = {*self._topology.nodes, *self._servers.addresses}
        return sorted(known - self._topology.serving)

    def address_of(self, key: str) -> Address | None:
        """The address of the node that serves a key; None where none does. From any thread."""
        return self._topology.primaries[slot_of(key)]

    def node_of(self, key: str) -> N:
        """The store of the node that serves a key or channel.

        Raises:
            ServerUnavailableError: none does now.
        """
        address = self.address_of(key)
        if address is None:
            self.refresh_soon()
            raise ServerUnavailableError(
                f"{self._shown_url}: no node serves slot {slot_of(key)}, that of {key}: its node is down "
                "and not replaced yet, or no node was given it; CLUSTER SLOTS shows which"
            )
        return self._nodes[address]

    def failed(self, error: Exception) -> None:
        """Take notice of an error that a change of the topology may explain."""
        if isinstance(error, SlotUnservedError) and error.moved_to is not None:
            slot, host, port = error.moved_to
            if host and self._topology.primaries[slot] != (host, port):
                self._set(moved(self._topology, slot, (host, port)))
        self.refresh_soon()

    def failed_soon(self, error: Exception) -> None:
        """Do the same from any thread."""
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self.failed, error)

    def refresh_soon(self) -> None:
        """Begin to ask the cluster for its topology, unless that is under way."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = self._loop.create_task(self._refresh_later(), name="aioq-topology")

    @property
    def is_known(self) -> bool:
        """Whether the topology of the cluster is known."""
        return self._topology is not NOWHERE

    async def first_refresh(self) -> None:
        """Ask the cluster for its topology if nobody has; all who call this meanwhile wait for one answer.

        Raises:
            ServerError: as `refresh`.
        """
        if self._topology is NOWHERE:
            async with self._first:
                if self._topology is NOWHERE:
                    await self.refresh()

    async def refresh_now(self) -> None:
        """Ask the cluster for its topology, or wait until that is done; an error changes nothing."""
        self.refresh_soon()
        assert self._refreshing is not None
        await asyncio.wait([self._refreshing])

    async def _refresh_later(self) -> None:
        since = self._loop.time() - self._refreshed_at
        self._pause = REFRESH_PAUSE if since > CALM_AFTER else min(2 * self._pause, MAX_REFRESH_PAUSE)
        await asyncio.sleep(max(0.0, self._pause * RANDOM.uniform(0.5, 1.0) - since))
        try:
            await self.refresh()
        except ServerError as error:
            log.debug("the cluster's topology is not known: %s", error)

    async def refresh(self) -> None:
        """Ask the cluster for its topology.

        Raises:
            ServerUnavailableError: no node answers.
            ServerRejectedError: a node answers that it is no cluster, or refuses the login, and none answers well.
        """
        self._refreshed_at = self._loop.time()
        known = [*self._topology.nodes]
        RANDOM.shuffle(known)
        asked = list(dict.fromkeys([*known, *self._servers.addresses]))
        answers: list[Topology | ServerError] = []
        for first in range(0, len(asked), ASKED_AT_ONCE):
            answers += await self._answers_of(asked[first : first + ASKED_AT_ONCE])
            if any(isinstance(answer, Topology) for answer in answers):
                break
        views = [answer for answer in answers if isinstance(answer, Topology)]
        if not views:
            raise _no_view(self._shown_url, [answer for answer in answers if isinstance(answer, ServerError)])
        newest = max(views, key=lambda view: (view.epoch, -view.uncovered))
        self._set(replace(newest, is_sharded=all(view.is_sharded for view in views)))

    async def _answers_of(self, addresses: Sequence[Address]) -> list[Topology | ServerError]:
        """What these nodes answer. Once one has given its view, the others have as long again: one may hang."""
        began = self._loop.time()
        left = {self._loop.create_task(self._answer_of(address), name="aioq-ask-node") for address in addresses}
        answers: list[Topology | ServerError] = []
        until: float | None = None
        try:
            while left and (until is None or self._loop.time() < until):
                patience = None if until is None else until - self._loop.time()
                done, left = await asyncio.wait(left, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                answers += [task.result() for task in done]
                if until is None and any(isinstance(answer, Topology) for answer in answers):
                    now = self._loop.time()
                    until = now + max(now - began, MIN_PATIENCE)
        finally:
            if left:
                self._close_later(end(left))
        return answers

    async def _answer_of(self, address: Address) -> Topology | ServerError:
        try:
            return await self.view_of(address)
        except ServerError as error:
            return error

    async def view_of(self, address: Address) -> Topology:
        """The view of one node, over a connection of its own: one that is open may hang.

        It is a bare one: no library is loaded, perhaps into a replica, only to ask this.

        Raises:
            ServerError: it does not answer, or refuses.
        """
        url = self._servers.server_url(*address)
        connection: Connection | None = None
        try:
            async with asyncio.timeout(ASK_WITHIN):
                connection = await Link(url, mask_url(url)).connect()
                connection.send(*_VIEW)
                slots, info, hello = replies = [await _reply(connection) for _ in _VIEW]
                for error in replies:
                    if isinstance(error, ResponseError):
                        await reject_sentinel(partial(_answer, connection), url, mask_url(url))
                        raise error
        except ResponseError as error:
            if "cluster support disabled" in str(error):
                raise ServerRejectedError(
                    f"{mask_url(url)} is no node of a cluster; the URL of a server by itself is {mask_url(url)}"
                ) from None
            raise translate(error, mask_url(url)) from None
        except CLIENT_ERRORS as error:  # a timeout among them
            raise translate(error, mask_url(url)) from None
        finally:
            if connection is not None:
                connection.close()
        return parse_topology(slots, info, as_dict(hello), address)

    def _set(self, topology: Topology) -> None:
        if topology.primaries == self._topology.primaries:
            self._topology = topology
            return
        gone = self._nodes.keys() - topology.serving
        nodes = {address: node for address, node in self._nodes.items() if address not in gone}
        for address in topology.serving - nodes.keys():
            nodes[address] = self._make(address, topology)
        before, self._nodes = self._nodes, nodes  # at once, for the thread of the leases
        self._topology = topology
        for address in gone:
            self._close_later(before[address].close())
        self._on_change()

    def _close_later(self, close: Coroutine[Any, Any, None]) -> None:
        closing = self._loop.create_task(close, name="aioq-close-node")
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close every node's store."""
        if self._refreshing is not None:
            await end([self._refreshing])
        await asyncio.gather(*self._closing, *(node.close() for node in self._nodes.values()))
        self._nodes = {}


async def _reply(connection: Connection) -> Any:
    """The next reply, which may be an error of the server."""
    try:
        return await connection.read()
    except ResponseError as error:
        return error


async def _answer(connection: Connection, command: Sequence[Arg]) -> Any:
    connection.send(command)
    return await _reply(connection)


def _no_view(shown_url: str, errors: list[ServerError]) -> ServerError:
    """The error if no node answers well: first an error that waiting does not heal."""
    for error in errors:
        if not isinstance(error, ServerUnavailableError):
            return error
    return ServerUnavailableError(f"{shown_url}: no node answers: {'; '.join(sorted(map(str, errors)))}")
