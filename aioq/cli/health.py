"""Health checks over HTTP: `/live` and `/ready`, answered from a thread of their own.

The thread does not need the event loop, so a blocked one is told of and not merely unreachable. The serving is the
standard library's http.server, which is enough for a probe every few seconds.
"""

import logging
import socket
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, cast

import msgspec

from aioq.errors import ConfigError
from aioq.worker import Health

log = logging.getLogger("aioq.worker")

REQUEST_TIMEOUT = 5.0
"""Seconds a client may take for its request."""

CHILD_TIMEOUT = 2.0
"""Seconds a supervisor waits for a child's answer."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket for health checks.

    Args:
        host: the address; empty for all of them, IPv6 too where the host has it.
        port: the port; 0 for any free one.

    Raises:
        ConfigError: the port cannot be had.
    """
    try:
        if not host and socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server((host, port))
    except OSError as error:
        where = f"{host or '*'}:{port}"
        raise ConfigError(f"health_port: cannot listen on {where}: {error.strerror or error}") from error


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, listener: socket.socket, health: Callable[[], Health]) -> None:
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.health = health

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is no trouble of ours."""
        log.debug("a health check from %s failed", client_address)


class _Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_TIMEOUT

    def do_GET(self) -> None:
        """Answer `/live` and `/ready`: 200 or 503, with the facts as JSON."""
        path = self.path.partition("?")[0]
        if path not in {"/live", "/ready"}:
            self._answer(404, b'{"error": "there are /live and /ready"}')
            return
        health = cast("_Server", self.server).health()
        well = health.live if path == "/live" else health.ready
        self._answer(200 if well else 503, msgspec.json.encode(health))

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        """A probe every few seconds is nothing to log."""
        log.debug(format, *args)


class HealthServer:
    """Answers health checks until the process ends or `close` is called.

    Args:
        listener: the listening socket; closed at the end.
        health: tells how the worker does; called in a thread.
    """

    def __init__(self, listener: socket.socket, health: Callable[[], Health]) -> None:
        self.port: int = listener.getsockname()[1]
        self._server = _Server(listener, health)
        # The thread sleeps in select; the poll interval only matters to a shutdown, which `close` does without.
        thread = Thread(target=self._server.serve_forever, args=(3600.0,), name="aioq-health", daemon=True)
        thread.start()

    def close(self) -> None:
        """Answer no more."""
        self._server.server_close()


def ask(port: int) -> Health | None:
    """The health that a worker process on this host tells of itself; None where it does not answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=CHILD_TIMEOUT)
    try:
        connection.request("GET", "/ready")
        return msgspec.json.decode(connection.getresponse().read(), type=Health)
    except (OSError, HTTPException, msgspec.MsgspecError):
        return None
    finally:
        connection.close()


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
