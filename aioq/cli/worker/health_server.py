"""Health checks over HTTP: `/live` and `/ready`, answered in a thread of their own.

The thread does not need the worker's event loop, so it can still answer and report when that loop is blocked. It
runs a small loop of its own. However many clients come, and however slow they are, they take one thread,
`MAX_CLIENTS` descriptors and a limited share of a core. Requests are read with a deadline and a size limit, and
then answered by the standard library's http.server.
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
"""Seconds that a client has for its whole request and for reading the answer."""

MAX_CLIENTS = 16
"""The most connections at once; a probe needs one for a moment. A client that comes when there are so many
replaces the one that has been silent for the longest, so that silent clients do not lock out a probe."""

MAX_HEAD = 8192
"""The most bytes of a request line with its headers; a probe sends about 200."""

MAX_BODY = 65_536
"""The most bytes of a body that are read and dropped, so that its sender can read the answer."""

ACCEPT_PAUSE = 0.005
"""Seconds between two clients while there are `MAX_CLIENTS`: 200 a second, measured as 4 % of a core."""

ACCEPT_RETRY = 0.5
"""Seconds until the next attempt when the process has no descriptor left; asyncio waits 1 s then."""

CHILD_TIMEOUT = 2.0
"""Seconds a supervisor waits for a child's answer."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket for health checks.

    Args:
        host: a name or an address; empty for all addresses, IPv6 too where the host has it.
        port: the port; 0 for any free one.

    Raises:
        ConfigError: it is impossible to listen on the port.
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
    """Answers one request; request and answer are bytes, and there is no socket."""

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
        """Log at level debug only, because probes come every few seconds."""
        log.debug(format, *args)


class _Client:
    """One connection."""

    def __init__(self, connection: socket.socket, health: Callable[[], "asyncio.Future[Health]"]) -> None:
        self._connection = connection
        self._health = health
        self.asks = False
        self.task = asyncio.create_task(self._serve())

    def forget(self) -> None:
        """Close the connection. `_serve` has not done so if it was cancelled before its first step."""
        self._connection.close()

    async def _serve(self) -> None:
        """Read the request, answer it, and wait for the client's end; all of it within the deadline."""
        reader, writer = await asyncio.open_connection(sock=self._connection, limit=MAX_HEAD)
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                writer.write(await self._answer(reader))
                writer.write_eof()
                await writer.drain()
                with contextlib.suppress(asyncio.IncompleteReadError):  # the client has closed, as expected
                    await reader.readexactly(MAX_BODY)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            log.debug("a client of the health checks went away, or took too long")
        finally:
            # Otherwise a client that does not read the answer could keep the connection open for ever.
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
        health: returns the worker's health; called in a thread, one call at a time.
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
        """Stop answering, and close the listening socket."""
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
        """Accept clients one after the other."""
        self._listener.setblocking(False)
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError as error:
                # No descriptor is left. To try again at once would fail too, and use a whole core.
                log.debug("a client of the health checks could not be accepted: %s", error)
                await asyncio.sleep(ACCEPT_RETRY)
                continue
            client = _Client(connection, self._ask)
            self._clients[client.task] = client
            client.task.add_done_callback(self._gone)
            if len(self._clients) > MAX_CLIENTS:
                await self._make_room()

    async def _make_room(self) -> None:
        """End the connection that has been silent for the longest; before that, all get a moment to send."""
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
        """The health; requests at the same time share one answer, for a supervisor's may take `CHILD_TIMEOUT`."""
        if self._asked is None or self._asked.done():
            self._asked = asyncio.get_running_loop().run_in_executor(None, self._health)
        return asyncio.shield(self._asked)


def ask(port: int) -> Health | None:
    """The health that a worker process on this host reports about itself; None if it does not answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=CHILD_TIMEOUT)
    try:
        connection.request("GET", "/ready")
        return msgspec.json.decode(connection.getresponse().read(), type=Health)
    except (OSError, HTTPException, msgspec.MsgspecError):
        return None
    finally:
        connection.close()


def ask_all(ports: dict[int, int | None]) -> dict[int, Health | None]:
    """The health of worker processes by their numbers.

    All are asked at the same time, so ten stuck processes take as long as one.

    Args:
        ports: the port of each, by its number; None if the process does not run.
    """
    if not ports:
        return {}
    with ThreadPoolExecutor(len(ports), "aioq-health") as threads:
        return dict(zip(ports, threads.map(_ask_if_there, ports.values()), strict=True))


def _ask_if_there(port: int | None) -> Health | None:
    return None if port is None else ask(port)


def together(children: dict[int, Health | None]) -> Health:
    """The health of a supervisor: it is ready when all its worker processes are.

    It is always live. A process that is stuck is named in `reasons`; to end all processes because of one would
    crash the jobs of the others.
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
