"""A TCP proxy in front of a server, whose faults are switched on and off by the test. It runs on the test's loop."""

import asyncio
import contextlib
import socket
import struct
from types import TracebackType
from typing import Self

CHUNK = 65_536


class Proxy:
    """Forwards what comes to `port` to a port of this host.

    Args:
        target: the port of the server.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._passing = asyncio.Event()
        self._passing.set()
        self._cutting = False
        self._pumps: set[asyncio.Task[None]] = set()
        self.resets = 0

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1."""
        return self._server.sockets[0].getsockname()[1]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    def hold(self) -> None:
        """Pass nothing on; connections stay as they are, and new ones are accepted."""
        self._passing.clear()

    def let_go(self) -> None:
        """Pass on what was held, and all that comes."""
        self._passing.set()

    def cut_replies(self, on: bool) -> None:
        """Pass on half of each reply, and reset its connection."""
        self._cutting = on

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pump = asyncio.current_task()
        assert pump is not None
        self._pumps.add(pump)
        try:
            await self._connect(reader, writer)
        except OSError:
            _reset(writer)
        finally:
            self._pumps.discard(pump)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._target)
        ways = [
            asyncio.create_task(self._pump(reader, to_server, replies=False)),
            asyncio.create_task(self._pump(from_server, writer, replies=True)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            to_server.close()
            writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replies: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                await self._passing.wait()
                if replies and self._cutting:
                    writer.write(data[: len(data) // 2])
                    await writer.drain()
                    self.resets += 1
                    _reset(writer)
                    return
                writer.write(data)
                await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with an RST instead of a FIN: the other end sees its connection reset."""
    sock: socket.socket = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
