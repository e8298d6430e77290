"""A TCP proxy in front of a server, for replies that get lost."""

import asyncio
import contextlib
from typing import Self


class Proxy:
    """Passes everything on, until it is told to swallow a reply.

    Attributes:
        swallowed: set once that has happened.
    """

    def __init__(self, port: int) -> None:
        self.swallowed = asyncio.Event()
        self._port = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._to_skip = -1  # replies that still pass before the one that is swallowed; below 0 none is
        self._closed = self._closed_after = False

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self._cut()
        await asyncio.gather(*self._serving)

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def swallow_a_reply(self, *, after: int = 0, and_stay_closed: bool = False) -> None:
        """Cut all connections in place of passing on a reply of the server.

        Args:
            after: replies that pass before.
            and_stay_closed: cut every connection that comes then, too, until `reopen`.
        """
        self._to_skip, self._closed_after = after, and_stay_closed
        self.swallowed.clear()

    def reopen(self) -> None:
        """Pass everything on again."""
        self._closed = False

    def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._closed:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers |= {writer, server_writer}
        with contextlib.suppress(OSError):
            await asyncio.gather(self._requests(reader, server_writer), self._replies(server_reader, writer))

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def _replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if self._to_skip == 0:
                self._to_skip, self._closed = -1, self._closed_after
                self._cut()
                self.swallowed.set()
                return
            self._to_skip = max(self._to_skip - 1, -1)
            writer.write(data)
        writer.close()
