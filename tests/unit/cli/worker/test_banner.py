"""What a worker shows at its start."""

import io

import pytest

from aioq.cli.worker import banner
from aioq.store.diagnosis import ServerInfo


class Stream(io.StringIO):
    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize("terminal", [False, True], ids=["log", "terminal"])
def test_a_person_sees_a_box_and_a_log_has_plain_lines(terminal: bool, monkeypatch: pytest.MonkeyPatch):
    stream = Stream(terminal=terminal)
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("COLUMNS", "80")
    server = ServerInfo("redis://***@host", "redis", "8.2.1")
    names = [f"shop.task{number}" for number in range(22)]
    banner.show_banner(
        version="1.2", app="shop", server=server, queues=["a", "b"], concurrency=5, processes=2, tasks=names
    )
    shown = stream.getvalue()
    assert ("╭" in shown) is terminal
    for words in ("aioq 1.2", "redis://***@host (redis 8.2.1)", "a, b", "5 x 2 processes", "... and 2 more"):
        assert words in shown
    if not terminal:
        assert "\x1b" not in shown
        assert all(len(line.split("│")) == 3 for line in shown.splitlines()[1:])
