"""What a step in a flow notes for the next one, beside the states of the nodes. The stores do not read it."""

import enum

import msgspec

from aioq.errors import NewerVersionError, WireError
from aioq.wire.messages import ENCODER, UNREADABLE

VERSION = 1
"""The format this module writes."""


class Stage(enum.IntEnum):
    """How far a flow is: not begun, running, being set back for another run, ended and being forgotten, over."""

    NEW = 0
    RUNNING = 1
    AGAIN = 2
    ENDED = 3
    OVER = 4


class Children(msgspec.Struct, array_like=True, gc=False):
    """The children of a map that has begun: their indexes follow each other.

    Attributes:
        node: the map.
        first: the first child.
        count: how many there are.
        released: how many of them were released.
        added: whether they were added when the map began.
    """

    node: int
    first: int
    count: int
    released: int = 0
    added: bool = False


class Graft(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Nodes that a running node has added.

    Attributes:
        node: the node that has added them.
        base: the index of the first one.
        first: the number of the part in which they begin.
        count: how many there are.
    """

    node: int
    base: int
    first: int
    count: int


class Memo(
    msgspec.Struct,
    omit_defaults=True,
    rename={
        "version": "v",
        "stage": "s",
        "deadline_ms": "d",
        "sweep_ms": "w",
        "cancel": "c",
        "timed_out": "t",
        "broken": "b",
        "searched": "k",
        "maps": "m",
        "grafts": "g",
        "offers": "o",
        "errors": "e",
        "runs": "r",
        "retries": "n",
        "deadlines": "l",
        "stopped": "p",
        "failed": "f",
    },
):
    """What the next step is to know.

    Attributes:
        version: the format's version.
        stage: how far the flow is.
        deadline_ms: when the flow's time is over, in milliseconds since the Unix epoch; 0 for never.
        sweep_ms: when jobs whose records have vanished are looked for next, in the same unit.
        cancel: why the flow was cancelled; None if it was not.
        timed_out: whether it was, because its time was over.
        broken: why it could not go on; empty if it could.
        searched: whether all nodes have been looked at since a job was last running.
        maps: the children of the maps that have begun.
        grafts: what was added while the flow ran.
        offers: by node what its attempts want to add: the first part, and how many nodes.
        errors: by node the type and the message of its error, where no job's outcome has it.
        runs: by node how often it was set back for another run; nodes that were not set back may be left out.
        retries: how often the flow was retried.
        deadlines: by join when the time of its nodes is over.
        stopped: the joins for which it is over.
        failed: whether the flow has ended without success.
    """

    version: int = VERSION
    stage: Stage = Stage.NEW
    deadline_ms: int = 0
    sweep_ms: int = 0
    cancel: str | None = None
    timed_out: bool = False
    broken: str = ""
    searched: bool = False
    maps: list[Children] = []
    grafts: list[Graft] = []
    offers: dict[int, list[tuple[int, int]]] = {}
    errors: dict[int, tuple[str, str]] = {}
    runs: bytes = b""
    retries: int = 0
    deadlines: dict[int, int] = {}
    stopped: list[int] = []
    failed: bool = False

    def run_of(self, index: int) -> int:
        """The number of a node's run; the first one is 1."""
        return self.runs[index] + 1 if index < len(self.runs) else 1


class _Versioned(msgspec.Struct, frozen=True, gc=False, rename={"version": "v"}):
    version: int = VERSION


_MEMO = msgspec.msgpack.Decoder(Memo)
_ANY = msgspec.msgpack.Decoder(_Versioned)


def encode_memo(memo: Memo) -> bytes:
    """The bytes of a memo."""
    return ENCODER.encode(memo)


def decode_memo(data: bytes) -> Memo:
    """Read a memo; there is none before the first step.

    Raises:
        NewerVersionError: it was written by a newer aioq.
        WireError: the bytes are no memo.
    """
    if not data:
        return Memo()
    try:
        version = _ANY.decode(data).version
        if version > VERSION:
            raise NewerVersionError(
                f"the memo of a flow is of format {version}, this aioq knows up to {VERSION}; upgrade this process"
            )
        return _MEMO.decode(data)
    except UNREADABLE as error:
        raise WireError(f"not the memo of a flow ({error}): {data[:40]!r}") from None
