"""Scripts that take a server too long, by its SLOWLOG."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis

WITHIN_MS = 50
"""The longest time of a script."""


class SlowScripts:
    """Notes commands that take servers longer than `WITHIN_MS`, from now on.

    SLOWLOG shows what a command takes by the clock. Where other processes want the processors too, that is mostly
    the time for which the server has none. So there a command counts only if it took too long without all of that
    time, which Linux notes of each process.

    Args:
        clients: one of each server.
        quiet: whether the machine has nothing else to do: each command in SLOWLOG counts.
    """

    def __init__(self, clients: Sequence[redis.Redis], *, quiet: bool) -> None:
        self._quiet = quiet
        self._servers: list[tuple[redis.Redis, int, float]] = []
        for client in clients:
            client.config_set("slowlog-log-slower-than", WITHIN_MS * 1000)
            client.slowlog_reset()
            info: Any = client.info("server")
            self._servers.append((client, info["process_id"], _waited_ms(info["process_id"])))

    def found(self) -> list[str]:
        """Those that took too long so far: how long, and which."""
        found: list[str] = []
        for client, process, before in self._servers:
            entries: Any = client.slowlog_get(1_000)
            waited_ms = 0.0 if self._quiet else _waited_ms(process) - before
            took = [(each["duration"] / 1000, each["command"]) for each in entries]
            found += [f"{ms:.1f} ms: {what[:80]}" for ms, what in took if ms - waited_ms > WITHIN_MS]
        return found


def _waited_ms(process: int) -> float:
    """For how long a process has been ready to run without a processor."""
    path = Path(f"/proc/{process}/schedstat")
    return int(path.read_text().split()[1]) / 1e6 if path.exists() else 0.0
