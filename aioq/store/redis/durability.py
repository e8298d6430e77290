"""How a write is confirmed beyond the server's own reply: by its disk, or by its replicas.

    memory       nothing: the server has it in memory
    fsync        WAITAOF 1 0: it is in the append-only file, on disk
    replicated   WAIT: replicas have it; by default all that may be promoted (`replicas.py`)

WAIT and WAITAOF wait for the last *write of their own connection*, and return at once if there was none (Redis
pull request 11713). A repeated enqueue or settle may have nothing left to write. So each confirmation starts with
a small write of its own. Everything that was written before it, over any connection, is confirmed with it.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from aioq.errors import ServerRejectedError
from aioq.store.redis.keys import synced_key
from aioq.store.redis.replicas import Replicas, ReplicaWatch

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


Command = tuple[str | int, ...]


class Judgement(NamedTuple):
    """Whether a write is confirmed.

    Attributes:
        missing: what is missing; None if it is confirmed.
        more: the commands that wait for more than was waited for; none if that would not help.
    """

    missing: str | None
    more: Sequence[Command] = ()


class Confirmation:
    """How a write is confirmed: by the disk (this class), or by replicas.

    Attributes:
        patience_ms: how long the server may take.
        trials: the commands that it needs, with arguments with which they wait for nothing.
    """

    trials: tuple[Command, ...] = (("WAITAOF", 0, 0, 1),)

    def __init__(self) -> None:
        self.patience_ms = PATIENCE_MS

    def commands(self, key: str) -> list[Command]:
        """The commands after a write to the queue whose base key is `key`."""
        return [("SET", synced_key(key), "", "PX", MARK_MS), *self._waiting()]

    def reconnecting(self) -> None:
        """Another server may answer the next commands."""

    def judge(self, commands: Sequence[Command], replies: Sequence[Any]) -> Judgement:
        """Read the replies to these commands.

        The judgement is made at once, and not when the caller is resumed: by then another write may have changed
        what is known of the replicas, or of the primary.
        """
        del commands
        return Judgement(None if replies[-1][0] >= 1 else "did not write to its disk")

    def _waiting(self) -> list[Command]:
        return [("WAITAOF", 1, 0, self.patience_ms)]


class ReplicaConfirmation(Confirmation):
    """A write is confirmed by so many replicas."""

    trials = (("WAIT", 0, 1),)

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def judge(self, commands: Sequence[Command], replies: Sequence[Any]) -> Judgement:
        """Read how many have confirmed."""
        del commands
        return Judgement(_too_few(int(replies[-1]), self._number))

    def _waiting(self) -> list[Command]:
        return [("WAIT", self._number, self.patience_ms)]


class AllReplicasConfirmation(Confirmation):
    """A write is confirmed by all replicas that may be promoted.

    The last known number of them is waited for, and INFO, which is carried out after WAIT has returned, says
    whether there are more by now.
    """

    trials = (("WAIT", 0, 1), ("INFO", "replication"))

    def __init__(self, watch: ReplicaWatch) -> None:
        super().__init__()
        self._watch = watch
        self._waits_for = 1

    def reconnecting(self) -> None:
        """Do not wait for as many as the server before had: after a failover there is one replica fewer."""
        self._waits_for = 1

    def judge(self, commands: Sequence[Command], replies: Sequence[Any]) -> Judgement:
        """Wait again if so many have confirmed as were waited for, and INFO tells of more."""
        count, waited_for = int(replies[-2]), int(commands[-2][1])
        self._watch.update(replies[-1])
        self._waits_for = self._watch.required
        missing = _too_few(count, self._watch.required, self._watch.silent)
        return Judgement(missing, self._waiting() if missing and waited_for <= count else ())

    def _waiting(self) -> list[Command]:
        return [("WAIT", self._waits_for, self.patience_ms), ("INFO", "replication")]


def _too_few(count: int, number: int, silent: Sequence[str] = ()) -> str | None:
    if count >= number:
        return None
    if count == 0 and number == 1:
        return "has no replica that confirmed the write"
    named = f" (nothing is heard of {', '.join(silent)})" if silent else ""
    return f"has a write that {count} of {number} replicas confirmed{named}"


def confirmation(durability: Durability, replicas: Replicas, shown_url: str) -> Confirmation | None:
    """How the writes to a server are confirmed; None if its reply is enough."""
    if durability == "memory":
        return None
    if durability == "fsync":
        return Confirmation()
    return AllReplicasConfirmation(ReplicaWatch(shown_url)) if replicas == "all" else ReplicaConfirmation(replicas)


def sends_in_flight(durability: Durability) -> int:
    """How many enqueues of a queue should be in flight at once."""
    return IN_FLIGHT if durability != "memory" else 2


def settles_in_flight(durability: Durability) -> int:
    """How many settles of a queue should be in flight at once."""
    return IN_FLIGHT if durability != "memory" else 1


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
