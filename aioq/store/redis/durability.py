"""How a write is confirmed beyond the server's own reply: by its disk, or by a replica.

    memory       nothing: the server has it in memory
    fsync        WAITAOF 1 0: it is in the append-only file, on disk
    replicated   WAIT 1: at least one replica has it

WAIT and WAITAOF wait for the last *write of their own connection*, and return at once if there was none (Redis
pull request 11713). A repeated enqueue or settle may have nothing left to write. So each confirmation starts with
a small write of its own. Everything that was written before it, over any connection, is confirmed with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from aioq.errors import ServerRejectedError, ServerUnavailableError
from aioq.store.redis.keys import synced_key

Durability = Literal["memory", "fsync", "replicated"]

PATIENCE_MS = 5_000
"""How long the server may take to confirm. Five times the longest time that `appendfsync everysec` takes, and less
than the time after which a reply counts as lost. A write that is not confirmed is repeated until
`send_timeout`."""

MARK_MS = 1_000
"""How long the small write of a confirmation is kept."""

WAITAOF_SINCE = (7, 2)
"""The first Redis that has WAITAOF; every Valkey has it."""

IN_FLIGHT = 8
"""The most batches of one verb in flight if each waits for a disk: with one fsync a second, one batch at a time
would bring only 500 jobs a second. A guess: eight batches still take little memory."""


@dataclass(frozen=True, slots=True)
class Confirmation:
    """How a write is confirmed.

    Attributes:
        command: the command that is sent after the write.
        unconfirmed: the error's text if the server does not confirm in time.
    """

    command: tuple[str | int, ...]
    unconfirmed: str

    def commands(self, key: str) -> list[tuple[str | int, ...]]:
        """The commands after a write to the queue whose base key is `key`; the last reply is the confirmation."""
        return [("SET", synced_key(key), "", "PX", MARK_MS), self.command]

    def check(self, reply: Any, shown_url: str) -> None:
        """Check that the reply confirms the write.

        Raises:
            ServerUnavailableError: it does not, at least not yet.
        """
        count = cast("list[int]", reply)[0] if isinstance(reply, list) else int(reply)
        if count < 1:
            raise ServerUnavailableError(f"{shown_url} {self.unconfirmed} within {PATIENCE_MS / 1000:g} s")


_CONFIRMATIONS: Mapping[Durability, Confirmation] = {
    "fsync": Confirmation(("WAITAOF", 1, 0, PATIENCE_MS), "did not write to its disk"),
    "replicated": Confirmation(("WAIT", 1, PATIENCE_MS), "has no replica that confirmed the write"),
}


def confirmation(durability: Durability) -> Confirmation | None:
    """How writes are confirmed; None if the server's reply is enough."""
    return _CONFIRMATIONS.get(durability)


def sends_in_flight(durability: Durability) -> int:
    """How many enqueues of a queue should be in flight at once."""
    return IN_FLIGHT if durability in _CONFIRMATIONS else 2


def settles_in_flight(durability: Durability) -> int:
    """How many settles of a queue should be in flight at once."""
    return IN_FLIGHT if durability in _CONFIRMATIONS else 1


def require_fsync(product: str, version: tuple[int, ...], policy: str | None, shown_url: str) -> None:
    """Check that a server confirms a write only when it is on its disk.

    Valkey 9.1 answers WAITAOF before its fdatasync unless `appendfsync` is `always` (seen with strace on 9.1.2:
    with `everysec` the answer came up to a second before the call). So `always` is required there.

    Args:
        product: `redis` or `valkey`.
        version: its version.
        policy: its `appendfsync`; "off" without an append-only file; None if CONFIG GET is not permitted.
        shown_url: the server's URL, for the errors.

    Raises:
        ServerRejectedError: it does not; the message says what to change.
    """
    what = f'durability="fsync": {shown_url} ({product} {".".join(map(str, version))})'
    if product == "redis" and version[:2] < WAITAOF_SINCE:
        raise ServerRejectedError(f"{what} has no WAITAOF; it needs Redis 7.2 or newer")
    if policy == "off":
        raise ServerRejectedError(f"{what} has no append-only file; start it with --appendonly yes")
    if policy == "no":
        raise ServerRejectedError(f"{what} never syncs by itself (appendfsync no); set it to always or everysec")
    if product == "valkey" and policy != "always":
        setting = policy or "unknown, CONFIG GET is not permitted"
        raise ServerRejectedError(
            f"{what} says that data is on disk before it is, unless appendfsync is always; it is {setting}"
        )
