"""What systemd is notified of, over a socket of the test."""

import asyncio
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from aioq.cli.worker.systemd import Notifier, State, notified

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "notify") if request.param == "path" else f"@aioq-test-{os.urandom(6).hex()}"


@pytest.fixture
def systemd(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address.replace("@", "\0"))
        listener.settimeout(5)
        yield listener


def environ(address: str, **others: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": address, **others}


async def test_what_is_notified_from_start_to_end(systemd: socket.socket, address: str) -> None:
    systemd.setblocking(False)
    loop = asyncio.get_running_loop()
    states = iter(
        [State(False, 0, "no lease"), State(True, 0, "idle"), State(True, 9, "idle"), State(True, 0, "idle")]
    )
    state, stopping = State(True, 0, "stopping"), asyncio.Event()
    variables = environ(address, WATCHDOG_USEC="20000", WATCHDOG_PID=str(os.getpid()))
    notifier = Notifier.from_environ(variables)
    assert variables == {}  # nothing that a job starts speaks for the worker

    async def look() -> State:
        return next(states, state)

    heard: list[str] = []
    async with notified(notifier, look, stopping.wait):  # pyright: ignore[reportArgumentType] - its value is not read
        while len(heard) < 4:
            heard.append((await loop.sock_recv(systemd, 999)).decode())
        stopping.set()
        while "STOPPING=1" not in heard[-1]:
            heard.append((await loop.sock_recv(systemd, 999)).decode())
    # Not while an event loop is blocked, which the third look has found.
    assert heard[:4] == [
        "STATUS=no lease\nWATCHDOG=1",
        "READY=1\nSTATUS=idle\nWATCHDOG=1",
        "WATCHDOG=1",
        "STATUS=stopping\nWATCHDOG=1",
    ]
    while heard[-1] != "STOPPING=1\nSTATUS=stopped":
        heard.append((await loop.sock_recv(systemd, 999)).decode())


async def test_nobody_asks_to_be_notified(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert Notifier.from_environ({"WATCHDOG_USEC": "1000"}) is None
    async with notified(None, lambda: pytest.fail("it looks"), lambda: pytest.fail("it waits")):
        pass
    with caplog.at_level(logging.WARNING, "aioq"):
        assert Notifier.from_environ(environ("vsock:2:1234")) is None
    assert "vsock:2:1234: this is no path and no abstract name" in caplog.text
    for others in ({}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}):
        notifier = Notifier.from_environ(environ(str(tmp_path / "nobody"), **others))
        assert notifier is not None
        assert notifier.watchdog is None
        notifier.send("READY=1")  # there is nobody, which ends nothing
