"""Counting commands as the server sees them, apart by who sent them: a client, or a script."""

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager

from tests.servers import Server


class Seen:
    """What was counted so far. Monitoring slows the server down, so nothing is timed meanwhile."""

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
    """Count all commands while inside."""
    seen = Seen()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(server.socket))
        connection.sendall(b"MONITOR\r\n")
        stream = connection.makefile("rb")
        stream.readline()  # +OK: whatever comes now is counted
        reader = threading.Thread(target=_read, args=(stream, seen), daemon=True)
        reader.start()
        try:
            yield seen
        finally:
            connection.shutdown(socket.SHUT_RDWR)
            reader.join()
            stream.close()


def _read(stream: "socket.SocketIO", seen: Seen) -> None:
    try:
        for line in stream:
            seen.feed(line)
    except OSError:
        return
