"""The network between the nodes of a cluster and their clients: it cuts a node off from some of them.

Each node announces a proxy in front of each of its two ports, so clients, replicas and other nodes come through
it. A node connects from an address of its own (127.0.1.<number>), by which a proxy knows it; all others are
clients. What is cut is a black hole: connections stay open, new ones are accepted, and no byte passes. The proxies
run in a thread, because starting a cluster blocks the test's event loop.

Only Linux has all of 127.0.0.0/8 as its own address, and servers know `bind-source-addr` from 7.0 on.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

CLIENTS = 0
CHUNK = 65536


@dataclass(slots=True, eq=False)
class Place:
    """A node's place in the network.

    Attributes:
        number: counted from 1.
        port: where clients and replicas reach the node.
        bus: where other nodes reach it.
        leads_to: the node's own ports, once it is started.
    """

    number: int
    port: int
    bus: int
    leads_to: tuple[int, int] = (0, 0)

    @property
    def args(self) -> list[str]:
        """The options of the node's server."""
        return [
            *("--bind-source-addr", f"127.0.1.{self.number}"),
            *("--cluster-announce-port", str(self.port), "--cluster-announce-bus-port", str(self.bus)),
        ]


@dataclass(slots=True)
class Network:
    """A network without nodes; `join` adds one. A context manager, which ends all connections."""

    _places: list[Place] = field(default_factory=list[Place])
    _cut: set[tuple[int, str]] = field(default_factory=set[tuple[int, str]])
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _connections: set["asyncio.Task[None]"] = field(default_factory=set["asyncio.Task[None]"])
    _servers: list[asyncio.Server] = field(default_factory=list[asyncio.Server])
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        assert self._thread is not None
        self._thread.join()
        self._loop.close()

    def join(self) -> Place:
        """A place for one more node, whose own ports the caller has to set."""
        return self._do(self._join())

    def cut_off(self, place: Place, *, clients: bool = False, peers: bool = False) -> None:
        """Let nothing pass any more between a node and its clients, or the other nodes, or both."""
        self._set(self._cut | {(place.number, who) for who, on in (("clients", clients), ("peers", peers)) if on})

    def heal(self) -> None:
        """Let everything pass, also what was held."""
        self._set(set())

    def _set(self, cut: set[tuple[int, str]]) -> None:
        def change() -> None:
            self._cut = cut
            self._changed.set()
            self._changed = asyncio.Event()

        self._loop.call_soon_threadsafe(change)

    def _passes(self, source: int, target: int) -> bool:
        if source == CLIENTS:
            return (target, "clients") not in self._cut
        return not {(source, "peers"), (target, "peers")} & self._cut

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    async def _join(self) -> Place:
        place = Place(len(self._places) + 1, 0, 0)
        self._places.append(place)
        place.port, place.bus = [await self._listen(place, which) for which in range(2)]
        return place

    async def _listen(self, place: Place, which: int) -> int:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._serve(place, place.leads_to[which], reader, writer)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self._servers.append(server)
        return server.sockets[0].getsockname()[1]

    async def _serve(
        self, place: Place, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        host: str = writer.get_extra_info("peername")[0]
        source = int(host.removeprefix("127.0.1.")) if host.startswith("127.0.1.") else CLIENTS

        def passes() -> bool:
            return self._passes(source, place.number)

        writers = [writer]
        pumps: list[asyncio.Task[None]] = []
        try:
            there, back = await asyncio.open_connection("127.0.0.1", port)
            writers.append(back)
            pumps += [asyncio.create_task(self._pump(*way, passes)) for way in ((reader, back), (there, writer))]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in writers:
                each.transport.abort()
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passes: Callable[[], bool]
    ) -> None:
        while data := await reader.read(CHUNK):
            while not passes():
                await self._changed.wait()
            writer.write(data)
            await writer.drain()
        while not passes():
            await self._changed.wait()

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for task in tuple(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await asyncio.sleep(0)  # an aborted transport closes its socket a turn of the loop later
