import os
import socket
import subprocess
import sys

import pytest

LINES = """
import sys
from aioq.util.standard_streams import print_at_once
print_at_once()
for stream in (sys.stdout, sys.stderr):
    print("one", 2, file=stream)
    print("shown", end="", file=stream, flush=True)
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_printed_line_is_one_write(unbuffered: str) -> None:
    """A datagram is as long as the write that sent it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        subprocess.run(
            [sys.executable, "-c", LINES],
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stdout=theirs.fileno(),
            stderr=theirs.fileno(),
            check=True,
        )
        ours.setblocking(False)
        written: list[bytes] = []
        while len(written) < 4:
            written.append(ours.recv(1000))
        with pytest.raises(BlockingIOError):
            ours.recv(1000)
    assert written == [b"one 2\n", b"shown", b"one 2\n", b"shown"]
