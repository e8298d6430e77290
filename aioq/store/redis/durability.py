"""What a write waits for beyond the server's own reply: its disk, or a replica.

    memory       nothing: the server has it in memory
    fsync        WAITAOF 1 0: it is in the append-only file, on disk
    replicated   WAIT 1: at least one replica has it

WAIT and WAITAOF wait for the last *write of their own connection*, and answer at once where there was none (Redis
pull request 11713). A repeated enqueue or settle may find that there is nothing left to write; so each
confirmation starts with a small write of its own, and what was written before it, over whichever connection, is
confirmed with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from aioq.errors import ServerRejectedError, ServerUnavailableError
from aioq.store.redis.keys import synced_key

Durability = Literal["memory", "fsync", "replicated"]

PATIENCE_MS = 5_000
"""How long the server may take to confirm. Five times what `appendfsync everysec` takes at most, and below the
time after which a reply counts as lost; a write that is not confirmed is repeated until `send_timeout`."""

MARK_MS = 1_000
"""How long the small write of a confirmation is kept."""

WAITAOF_SINCE = (7, 2)
"""The first Redis that has WAITAOF; every Valkey has it."""

IN_FLIGHT = 8
"""Batches of one verb under way at once where each waits for a disk: with one fsync a second, one batch at a time
would carry 500 jobs a second. A guess: eight keep the memory they hold small."""


@dataclass(frozen=True, slots=True)
class Confirmation:
    """How a write is confirmed.

    Attributes:
        command: what is sent after the write.
        unconfirmed: what is said where the server does not confirm in time.
    """

    command: tuple[str | int, ...]
    unconfirmed: str

    def commands(self, key: str) -> list[tuple[str | int, ...]]:
        """What is sent after a write to the queue whose base key is `key`; the last reply is the confirmation."""
        return [("SET", synced_key(key), "", "PX", MARK_MS), self.command]

    def check(self, reply: Any, shown_url: str) -> None:
        """See that the reply confirms.

        Raises:
            ServerUnavailableError: it does not, so far.
        """
        count = cast("list[int]", reply)[0] if isinstance(reply, list) else int(reply)
        if count < 1:
            raise ServerUnavailableError(f"{shown_url} {self.unconfirmed} within {PATIENCE_MS / 1000:g} s")


_CONFIRMATIONS: Mapping[Durability, Confirmation] = {
    "fsync": Confirmation(("WAITAOF", 1, 0, PATIENCE_MS), "did not write to its disk"),
    "replicated": Confirmation(("WAIT", 1, PATIENCE_MS), "has no replica that confirmed the write"),
}


def confirmation(durability: Durability) -> Confirmation | None:
    """How writes are confirmed, None where the server's reply is enough."""
    return _CONFIRMATIONS.get(durability)


def require_fsync(product: str, version: tuple[int, ...], policy: str | None, shown_url: str) -> None:
    """See that a server can be trusted to say when something is on its disk.

    Valkey 9.1 answers WAITAOF before its fdatasync unless `appendfsync` is `always` (seen with strace on 9.1.2:
    with `everysec` the answer came up to a second before the call), so there nothing but `always` will do.

    Args:
        product: `redis` or `valkey`.
        version: its version.
        policy: its `appendfsync`; "off" without an append-only file; None where CONFIG GET is not permitted.
        shown_url: the server, for the errors.

    Raises:
        ServerRejectedError: it cannot, and what can be done.
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
