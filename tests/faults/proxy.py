"""A TCP proxy in front of a server, for the faults of a network: resets in mid-reply, silence, latency."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

CHUNK = 65536


class Proxy:
    """Forwards connections to a port of this host, and breaks them as it is told to.

    Args:
        port: the server's.

    Attributes:
        latency: seconds by which every reply is late.
        cuts: how many replies were cut so far.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._to_cut = 0
        self._larger_than = 0
        self.latency = 0.0
        self.cuts = 0

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

    @property
    def url(self) -> str:
        """What a client connects to."""
        assert self._server is not None
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    def cut(self) -> None:
        """Reset all connections."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def cut_replies(self, count: int = 1, *, larger_than: int = 1) -> None:
        """Reset all connections in the middle of each of the next replies of more than so many bytes."""
        self._to_cut = count
        self._larger_than = larger_than

    @asynccontextmanager
    async def black_hole(self) -> AsyncIterator[None]:
        """For a while nothing passes, either way: connections stand, new ones are taken, nobody hears anything."""
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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
                if replies and self._to_cut and len(data) > self._larger_than:
                    self._to_cut -= 1
                    self.cuts += 1
                    writer.write(data[: len(data) // 2])
                    self.cut()
                    return
                writer.write(data)
                await writer.drain()
        finally:
            read.cancel()

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
