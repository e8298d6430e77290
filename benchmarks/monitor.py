"""Counts commands as the server sees them, separately for clients and for scripts."""

import secrets
import socket
import threading
from collections.abc import Generator, Iterable
from contextlib import contextmanager

from tests.servers import Server


class Seen:
    """The counts. Monitoring slows the server down, so nothing is timed at the same time."""

    def __init__(self) -> None:
        self.by_clients = 0
        self.by_scripts = 0

    def feed(self, line: bytes) -> None:
        """Count one line of MONITOR: `+time [database source] "COMMAND" ...`."""
        start = line.find(b"[")
        if start < 0:
            return
        source = line[start : line.find(b"]", start)]
        if source.endswith(b" lua"):
            self.by_scripts += 1
        else:
            self.by_clients += 1


@contextmanager
def monitored(server: Server) -> Generator[Seen]:
    """Count all commands within this context; the counts are complete after it."""
    seen = Seen()
    end = secrets.token_hex(16).encode()
    with _connected(server) as connection, connection.makefile("rb") as lines:
        connection.sendall(b"MONITOR\r\n")
        lines.readline()  # +OK: all that follows is counted
        reader = threading.Thread(target=_read, args=(lines, end, seen), daemon=True)
        reader.start()
        try:
            yield seen
        finally:
            # The server reports a command to monitors after it has answered it. So our own mark comes last.
            with _connected(server) as other:
                other.sendall(b"ECHO %s\r\n" % end)
                other.recv(64)
            reader.join()


def _connected(server: Server) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(server.socket))
    return connection


def _read(lines: Iterable[bytes], end: bytes, seen: Seen) -> None:
    for line in lines:
        if end in line:
            return
        seen.feed(line)
