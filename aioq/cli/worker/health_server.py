"""Health checks over HTTP: `/live` and `/ready`, answered from a thread of their own.

The thread does not need the event loop, so a blocked one is reported and not merely unreachable. It runs a small
loop of its own: however many clients come and however slowly they speak, they take one thread, `MAX_CLIENTS`
descriptors and a bounded share of a core. What they say is read with a deadline and a bound, and then answered by
the standard library's http.server.
"""

import asyncio
import contextlib
import io
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler
from threading import Thread
from typing import Any

import msgspec

from aioq.errors import ConfigError
from aioq.util.log import logger
from aioq.worker import Health

log = logger("aioq.worker")

REQUEST_TIMEOUT = 5.0
"""Seconds a client has for all of its request, and for taking the answer."""

MAX_CLIENTS = 16
"""Connections that are held at once; a probe needs one for a moment. Who comes when all are taken gets the place
of the one that has been silent for the longest, so that silent clients keep no probe out."""

MAX_HEAD = 8192
"""Bytes of a request line with its headers; a probe sends some 200."""

MAX_BODY = 65_536
"""Bytes of a body that are read and thrown away, so that its sender gets to read the answer."""

ACCEPT_PAUSE = 0.005
"""Seconds between two clients while all places are taken: 200 a second, measured as 4 % of a core."""

ACCEPT_RETRY = 0.5
"""Seconds until the next attempt where the process has no descriptor left; asyncio waits 1 s then."""

CHILD_TIMEOUT = 2.0
"""Seconds a supervisor waits for a child's answer."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket for health checks.

    Args:
        host: a name or an address; empty for all addresses, IPv6 too where the host has it.
        port: the port; 0 for any free one.

    Raises:
        ConfigError: the port cannot be had.
    """
    try:
        if host in {"", "::"} and socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        where = f"{host or '*'}:{port}"
        raise ConfigError(f"health_port: cannot listen on {where}: {error.strerror or error}") from error


class _Answer(BaseHTTPRequestHandler):
    """Answers one request; both are bytes here, and no socket's."""

    def __init__(self, head: bytes, health: Health) -> None:
        self.rfile = io.BytesIO(head)
        self.wfile = self.answer = io.BytesIO()
        self.client_address = ("", 0)
        self._health = health
        self.handle_one_request()

    def do_GET(self) -> None:
        """Answer `/live` and `/ready`: 200 or 503, with the facts as JSON."""
        path = self.path.partition("?")[0]
        if path not in {"/live", "/ready"}:
            self._answer(404, b'{"error": "there are /live and /ready"}')
            return
        well = self._health.live if path == "/live" else self._health.ready
        self._answer(200 if well else 503, msgspec.json.encode(self._health))

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        """A probe every few seconds is nothing to log."""
        log.debug(format, *args)


class _Client:
    """One connection."""

    def __init__(self, connection: socket.socket, health: Callable[[], "asyncio.Future[Health]"]) -> None:
        self._connection = connection
        self._health = health
        self.asks = False
        self.task = asyncio.create_task(self._serve())

    def forget(self) -> None:
        """It is over: close what `_serve` has not, where it was cancelled before its first step."""
        self._connection.close()

    async def _serve(self) -> None:
        """Read the request, answer it, and see the client off; all of it within the deadline."""
        reader, writer = await asyncio.open_connection(sock=self._connection, limit=MAX_HEAD)
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                writer.write(await self._answer(reader))
                writer.write_eof()
                await writer.drain()
                with contextlib.suppress(asyncio.IncompleteReadError):  # the end, which is what is waited for
                    await reader.readexactly(MAX_BODY)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            log.debug("a client of the health checks went away, or took too long")
        finally:
            # Without this a client that takes nothing would keep the connection open for as long as it likes.
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return b"HTTP/1.0 431 Request Header Fields Too Large\r\n\r\n"
        self.asks = True
        health = await self._health()
        self.asks = False
        return _Answer(head, health).answer.getvalue()


class HealthServer:
    """Answers health checks until the process ends or `close` is called.

    Args:
        listener: the listening socket; closed at the end.
        health: how the worker does; called in a thread, one call at a time.
    """

    def __init__(self, listener: socket.socket, health: Callable[[], Health]) -> None:
        self.port: int = listener.getsockname()[1]
        self._listener = listener
        self._health = health
        self._asked: asyncio.Future[Health] | None = None
        self._clients: dict[asyncio.Task[None], _Client] = {}
        self._loop = asyncio.SelectorEventLoop()
        self._stop = asyncio.Event()
        self._thread = Thread(target=self._run, name="aioq-health", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer no more."""
        with contextlib.suppress(RuntimeError):  # closed already
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(REQUEST_TIMEOUT)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        accepting = asyncio.create_task(self._accept())
        try:
            await self._stop.wait()
        finally:
            accepting.cancel()
            for task in tuple(self._clients):
                task.cancel()
            await asyncio.wait([accepting, *self._clients])
            self._listener.close()

    async def _accept(self) -> None:
        """Take clients, one after the other, as many as there are places for."""
        self._listener.setblocking(False)
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError as error:
                # No descriptor is left. Asked again at once, the answer is the same, and a core is spent on it.
                log.debug("a client of the health checks could not be taken: %s", error)
                await asyncio.sleep(ACCEPT_RETRY)
                continue
            client = _Client(connection, self._ask)
            self._clients[client.task] = client
            client.task.add_done_callback(self._gone)
            if len(self._clients) > MAX_CLIENTS:
                await self._make_room()

    async def _make_room(self) -> None:
        """End the connection that has been silent for the longest; first all get a moment to speak."""
        await asyncio.sleep(ACCEPT_PAUSE)
        silent = [task for task, client in self._clients.items() if not client.asks]
        for task in silent[:1] or list(self._clients)[:1]:
            task.cancel()
            await asyncio.wait([task])

    def _gone(self, task: "asyncio.Task[None]") -> None:
        self._clients.pop(task).forget()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.debug("a health check failed: %r", error)

    def _ask(self) -> "asyncio.Future[Health]":
        """The health; concurrent requests share one answer, for a supervisor's may take `CHILD_TIMEOUT`."""
        if self._asked is None or self._asked.done():
            self._asked = asyncio.get_running_loop().run_in_executor(None, self._health)
        return asyncio.shield(self._asked)


def ask(port: int) -> Health | None:
    """The health that a worker process on this host reports of itself; None where it does not answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=CHILD_TIMEOUT)
    try:
        connection.request("GET", "/ready")
        return msgspec.json.decode(connection.getresponse().read(), type=Health)
    except (OSError, HTTPException, msgspec.MsgspecError):
        return None
    finally:
        connection.close()


def ask_all(ports: dict[int, int | None]) -> dict[int, Health | None]:
    """The health of worker processes by their numbers, all asked at once: ten stuck ones take as long as one.

    Args:
        ports: by number; None where the process does not run.
    """
    if not ports:
        return {}
    with ThreadPoolExecutor(len(ports), "aioq-health") as threads:
        return dict(zip(ports, threads.map(_ask_if_there, ports.values()), strict=True))


def _ask_if_there(port: int | None) -> Health | None:
    return None if port is None else ask(port)


def together(children: dict[int, Health | None]) -> Health:
    """The health of a supervisor: it is ready when all its worker processes are.

    It is always live: a process of its that is stuck shows in `reasons`, and ending all for one would crash the
    jobs of the others.
    """
    found = {number: health or Health(ready=False, reasons=["no answer"]) for number, health in children.items()}
    return Health(
        ready=bool(found) and all(health.ready for health in found.values()),
        reasons=[f"process {number}: {reason}" for number, health in found.items() for reason in health.reasons],
        queues={f"{number}:{name}": q for number, health in found.items() for name, q in health.queues.items()},
        running=sum(health.running for health in found.values()),
        concurrency=sum(health.concurrency for health in found.values()),
        loop_lag=max((health.loop_lag for health in found.values()), default=0.0),
        refused=sum(health.refused for health in found.values()),
    )
