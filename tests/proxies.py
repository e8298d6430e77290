"""A TCP proxy in front of a server: a network that loses and cuts replies, resets, delays and falls silent."""

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass
from typing import Self

CHUNK = 65536


@dataclass(slots=True)
class _Cut:
    """One reply that is to be cut.

    Attributes:
        skip: replies that pass before it.
        larger_than: those of so many bytes or fewer pass.
        share: how much of it passes.
        stay_closed: whether connections that come then are reset, too.
    """

    skip: int = 0
    larger_than: int = 0
    share: float = 0.5
    stay_closed: bool = False


class Proxy:
    """Forwards connections to a port of this host, and breaks them on request.

    Args:
        port: the server's.

    Attributes:
        latency: seconds by which every reply is late.
        resets: how many replies were cut so far.
        swallowed: set once a reply that was to be swallowed has been.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._cutting = self._closed = False
        self._next: _Cut | None = None
        self.latency = 0.0
        self.resets = 0
        self.swallowed = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in tuple(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await asyncio.sleep(0)  # an aborted transport closes its socket a turn of the loop later

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1."""
        assert self._server is not None
        return self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        """What a client connects to."""
        return f"redis://127.0.0.1:{self.port}/0"

    def cut(self) -> None:
        """Reset all connections."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def cut_replies(self, on: bool) -> None:
        """From now on pass on half of each reply, and reset its connection; or no longer."""
        self._cutting = on

    def cut_next_reply(self, *, larger_than: int = 1) -> None:
        """Pass on half of the next reply of more than so many bytes, and reset all connections."""
        self._next = _Cut(larger_than=larger_than)

    def swallow_a_reply(self, *, after: int = 0, and_stay_closed: bool = False) -> None:
        """Reset all connections in place of passing on a reply of the server.

        Args:
            after: replies that pass before.
            and_stay_closed: reset every connection that comes then, too, until `reopen`.
        """
        self.swallowed.clear()
        self._next = _Cut(skip=after, share=0.0, stay_closed=and_stay_closed)

    def reopen(self) -> None:
        """Take connections again."""
        self._closed = False

    def lead_to(self, port: int) -> None:
        """Forward new connections to another server; open ones go on to the one before."""
        self._port = port

    def hold(self) -> None:
        """A black hole: connections stay open, new ones are accepted, and no byte passes, either way."""
        self._open.clear()

    def let_go(self) -> None:
        """Pass on what was held, and all that comes."""
        self._open.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._closed:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._port)
            pair = {writer, server_writer}
            self._writers |= pair
            for each in pair:
                _reset_when_aborted(each)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(reader, server_writer, replies=False))
                    group.create_task(self._pump(server_reader, writer, replies=True))
            except* OSError:
                pass
            finally:
                self._writers -= pair
                for each in pair:
                    each.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replies: bool) -> None:
        late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        read = asyncio.create_task(self._read(reader, late, replies=replies))
        loop = asyncio.get_running_loop()
        try:
            while True:
                due, data = await late.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                await self._open.wait()
                if not data:
                    writer.close()
                    return
                if replies and self._is_cut(writer, data):
                    return
                writer.write(data)
                await writer.drain()
        finally:
            read.cancel()

    def _is_cut(self, writer: asyncio.StreamWriter, data: bytes) -> bool:
        if self._cutting:
            self.resets += 1
            writer.write(data[: len(data) // 2])
            writer.transport.abort()
            return True
        cut = self._next
        if cut is None or len(data) <= cut.larger_than:
            return False
        if cut.skip:
            cut.skip -= 1
            return False
        self.resets += 1
        self._next, self._closed = None, cut.stay_closed
        writer.write(data[: int(len(data) * cut.share)])
        self.cut()
        if not cut.share:
            self.swallowed.set()
        return True

    async def _read(
        self, reader: asyncio.StreamReader, late: asyncio.Queue[tuple[float, bytes]], *, replies: bool
    ) -> None:
        loop = asyncio.get_running_loop()
        data = b"begin"
        while data:
            try:
                data = await reader.read(CHUNK)
            except OSError:
                data = b""
            late.put_nowait((loop.time() + (self.latency if replies else 0.0), data))


def _reset_when_aborted(writer: asyncio.StreamWriter) -> None:
    """Have an abort send a reset, as a host does that has lost its connections, and not an orderly end."""
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
