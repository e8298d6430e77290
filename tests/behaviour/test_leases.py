"""What happens to jobs when a worker is away for longer than its lease, and when replies get lost."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Self

import pytest

from aioq import gather
from tests.behaviour.kit import Project, info_when, state_is
from tests.databases import Database
from tests.servers import Server

pytestmark = pytest.mark.anyio

SHORT = {"AIOQ_LEASE": "2"}  # seconds, the shortest there is


async def test_a_worker_that_was_stopped_too_long_lets_go_of_its_jobs(
    project: Project, redis_server: Database, tmp_path: Path
) -> None:
    project.copy("lines")
    lines = project.load("lines")
    first = await project.ready_worker("lines:app", **SHORT)
    gate = tmp_path / "gate"
    job = await lines.hold.send(str(gate))
    await state_is(job, "running")

    first.signal(signal.SIGSTOP)
    second = await project.ready_worker("lines:app", **SHORT)
    await second.saw(r"the lease of worker .* has ended; 1 of its jobs run again")
    info = await info_when(job, lambda info: info.state == "running" and info.crashes == 1)
    first.signal(signal.SIGCONT)
    await first.saw(r"the lease of .* was lost; what it ran is cancelled here and runs elsewhere")
    await first.saw(r"lines\.hold\[.* abandoned: the worker's lease was lost")
    gate.touch()

    assert (await job)[0] == second.pid
    assert (info.attempts, info.interruptions) == (1, 0)
    # It has joined again under a new name, with all its slots.
    second.signal(signal.SIGSTOP)
    more = await lines.add.send_many([(n, 1) for n in range(200)])
    assert await gather(*more, timeout=15) == tuple(range(1, 201))
    second.signal(signal.SIGCONT)
    assert await first.stop() == 0
    assert await second.stop() == 0


class CuttingProxy:
    """A TCP proxy that can cut all its connections in the middle of a reply."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.replies_to_cut = 0
        self.cuts = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()

    @property
    def port(self) -> int:
        assert self._server is not None
        return self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers |= {writer, server_writer}
        with contextlib.suppress(OSError):
            await asyncio.gather(
                self._copy(reader, server_writer, cutting=False), self._copy(server_reader, writer, cutting=True)
            )

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, cutting: bool) -> None:
        while data := await reader.read(65536):
            if cutting and self.replies_to_cut and len(data) > 100:  # a claim that brings jobs
                self.replies_to_cut -= 1
                self.cuts += 1
                writer.write(data[: len(data) // 2])
                self.cut()
                return
            writer.write(data)
        writer.close()


@pytest.fixture
def tcp_server(start_server: Callable[..., Server]) -> Server:
    return start_server(tcp=True)


@pytest.fixture
async def proxy(tcp_server: Server) -> AsyncIterator[CuttingProxy]:
    assert tcp_server.port is not None
    async with CuttingProxy(tcp_server.port) as proxy:
        yield proxy


async def test_claims_whose_replies_are_cut_lose_nothing_and_run_nothing_twice(
    project: Project, proxy: CuttingProxy, tcp_server: Server
) -> None:
    project.settings["AIOQ_URL"] = tcp_server.url
    project.copy("lines")
    lines = project.load("lines")
    # The lease is long: what the worker was given without hearing of it comes back by the next claim, not by it.
    settings = {"AIOQ_URL": f"redis://127.0.0.1:{proxy.port}", "AIOQ_LEASE": "60"}
    worker = await project.ready_worker("lines:app", "--concurrency", "20", **settings)
    handles = []
    for blow in range(5):
        proxy.replies_to_cut = 1
        handles += await lines.note.send_many([(f"{blow * 40 + n}\n",) for n in range(40)])
        await gather(*handles, timeout=15)

    assert proxy.cuts == 5
    assert sorted(int(line) for line in (project.folder / "notes").read_text().split()) == list(range(200))
    assert await worker.stop() == 0
