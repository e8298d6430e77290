"""Counting commands as the server sees them, apart by who sent them: a client, or a script."""

import secrets
import socket
import threading
from collections.abc import Generator, Iterable
from contextlib import contextmanager

from tests.servers import Server


class Seen:
    """What was counted. Monitoring slows the server down, so nothing is timed meanwhile."""

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
    """Count all commands while inside; the counts are complete once outside."""
    seen = Seen()
    end = secrets.token_hex(16).encode()
    with _connected(server) as connection, connection.makefile("rb") as lines:
        connection.sendall(b"MONITOR\r\n")
        lines.readline()  # +OK: whatever comes now is counted
        reader = threading.Thread(target=_read, args=(lines, end, seen), daemon=True)
        reader.start()
        try:
            yield seen
        finally:
            # The server tells its monitors of a command after it has answered it. A mark of our own comes last.
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
