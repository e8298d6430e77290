"""The graph of a flow as it is stored: a `Head`, and the nodes in parts. The stores do not read any of it.

    head      {"v": version, "n": name, ...}
    part k    {"v": version, "n": [node, node, ...]}     the nodes 500 k ... 500 k + 499

The names of fields are single letters, and what has its default is left out: a child of a map takes its arguments
and five bytes. The golden bytes in `tests/unit/flows/test_graph.py` pin the format. A flow of a newer version
is parked for a newer worker.

Indexes: the nodes that were added one by one come first (`Head.static`), then the children of maps whose items
were known at once, beginning at a multiple of 500 for each map. The indexes between them are no nodes (`HOLE`).
What is added while the flow runs comes after all of these.
"""

import enum
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from aioq.errors import NewerVersionError, WireError
from aioq.jobs.job import Priority
from aioq.wire.messages import EMPTY_MAP, ENCODER, UNREADABLE

VERSION = 1
"""The format this module writes."""

PART = 500
"""The most nodes of a part."""

INPUT = 97
"""The code of the extension type that stands for an input in a node's arguments. Its payload is a MessagePack int:
the position in `Node.inputs`, or `ELEMENT`."""

ELEMENT = -1
"""The payload that stands for the element of the list, in the arguments of a map."""

EMPTY_ARRAY = b"\x90"


class Kind(enum.IntEnum):
    """The kind of a node.

    `JOB` is a job. `JOIN` is none: it ends as soon as what it needs has ended, and its value is the list of the
    values of `inputs`. `MAP` has a child for each element of a list, and its value is the list of theirs. `HOLE`
    is an index that no node has.
    """

    JOB = 0
    JOIN = 1
    MAP = 2
    HOLE = 3


class Node(
    msgspec.Struct,
    frozen=True,
    omit_defaults=True,
    gc=False,
    rename={
        "name": "n",
        "kind": "k",
        "task": "t",
        "args": "a",
        "kwargs": "w",
        "options": "o",
        "queue": "q",
        "shards": "h",
        "priority": "l",
        "delay_ms": "d",
        "eta_ms": "e",
        "extra": "x",
        "after": "f",
        "inputs": "i",
        "require": "r",
        "ignore": "g",
        "always": "y",
        "when_failed": "c",
        "over": "v",
        "star": "s",
        "first": "b",
        "count": "z",
        "window": "u",
        "timeout_ms": "m",
    },
):
    """One node.

    Attributes:
        name: its name; that of a child of a map is left out, for it is the map's with a number.
        kind: what it is.
        task: the name of its task. A child of a map whose `task` is empty has the task, the options, the queue,
            the priority, the delay and the extra data of the map.
        args, kwargs: its encoded arguments; `INPUT` stands in them for results of other nodes.
        options: its encoded `CallOptions`; an empty map for none.
        queue: the queue, or shard, in which its job is run; empty for the flow's home.
        shards: for a map, over how many shards its children are spread, `queue` being the first of them.
        priority: its lane.
        delay_ms: how long after its release it is due, in milliseconds; None for at once.
        eta_ms: when it is due, in milliseconds since the Unix epoch; None for at once.
        extra: its encoded `Extra`; an empty map for none.
        after: the indexes of nodes after which it comes.
        inputs: the indexes of nodes whose results it uses, in the order of the numbers in the arguments; it comes
            after these too. Those of a grafted node count from its graft, and are negative for a node that
            was there before: -1 - index.
        require: how many of the nodes before it must be good; 0 for all. For a map, how many of its children.
        ignore: what depends on it goes on if it has failed. A map's children have that too.
        always: it runs whatever has become of the nodes before it.
        when_failed: it runs only if a node of `after` has failed or was cancelled.
        over: for a map, the index of the node whose result is the list; None if it was known at once.
        star: for a map, each element is a list: of the first positional arguments, before `args`.
        first, count: for a map over a list that was known at once, its children. For a join, the nodes
            to which its `timeout_ms` applies.
        window: for a map, how many children may be under way at once; 0 for all.
        timeout_ms: for a join, how long its nodes may take from the release of the first one on, in milliseconds.
    """

    name: str = ""
    kind: Kind = Kind.JOB
    task: str = ""
    args: msgspec.Raw = msgspec.Raw(EMPTY_ARRAY)
    kwargs: msgspec.Raw = msgspec.Raw(EMPTY_MAP)
    options: msgspec.Raw = msgspec.Raw(EMPTY_MAP)
    queue: str = ""
    shards: int = 1
    priority: Priority = Priority.NORMAL
    delay_ms: int | None = None
    eta_ms: int | None = None
    extra: msgspec.Raw = msgspec.Raw(EMPTY_MAP)
    after: tuple[int, ...] = ()
    inputs: tuple[int, ...] = ()
    require: int = 0
    ignore: bool = False
    always: bool = False
    when_failed: bool = False
    over: int | None = None
    star: bool = False
    first: int = 0
    count: int = 0
    window: int = 0
    timeout_ms: int | None = None


class Head(
    msgspec.Struct,
    frozen=True,
    omit_defaults=True,
    gc=False,
    rename={
        "version": "v",
        "name": "n",
        "static": "s",
        "sinks": "r",
        "timeout_ms": "m",
        "ttl_ms": "t",
        "headers": "h",
    },
):
    """What is known of a flow beside its nodes.

    Attributes:
        version: the format's version.
        name: the flow's name.
        static: how many nodes come before the children of maps: they are read whenever the flow goes on.
        sinks: the nodes whose values make the flow's result: the value of one, a list of those of several.
        timeout_ms: how long the flow may take, in milliseconds; None for any time.
        ttl_ms: how long it is kept after its end, in milliseconds.
        headers: what its sender sent along, for its jobs too.
    """

    version: int
    name: str = ""
    static: int = 0
    sinks: tuple[int, ...] = ()
    timeout_ms: int | None = None
    ttl_ms: int = 86_400_000
    headers: dict[str, str] | None = None


class _Part(msgspec.Struct, frozen=True, gc=False, rename={"version": "v", "nodes": "n"}):
    version: int
    nodes: list[Node]


class _Versioned(msgspec.Struct, frozen=True, gc=False, rename={"version": "v"}):
    version: int = 0


VersionedT = TypeVar("VersionedT", Head, _Part)

_HEAD = msgspec.msgpack.Decoder(Head)
_PART = msgspec.msgpack.Decoder(_Part)
_ANY = msgspec.msgpack.Decoder(_Versioned)


def encode_head(head: Head) -> bytes:
    """The bytes of a head."""
    return ENCODER.encode(head)


def decode_head(data: bytes) -> Head:
    """Read a head.

    Raises:
        NewerVersionError: it was written by a newer aioq.
        WireError: the bytes are no head.
    """
    return _decode("the head of a flow", _HEAD, data)


def encode_part(nodes: Sequence[Node]) -> bytes:
    """The bytes of a part."""
    assert len(nodes) <= PART
    return ENCODER.encode(_Part(VERSION, list(nodes)))


def encode_parts(nodes: Sequence[Node]) -> list[bytes]:
    """All nodes in parts."""
    return [encode_part(nodes[start : start + PART]) for start in range(0, len(nodes), PART)]


def decode_part(data: bytes) -> list[Node]:
    """Read a part.

    Raises:
        NewerVersionError: it was written by a newer aioq.
        WireError: the bytes are no part.
    """
    return _decode("a part of a flow", _PART, data).nodes


def _decode(what: str, decoder: "msgspec.msgpack.Decoder[VersionedT]", data: bytes) -> VersionedT:
    try:
        found = decoder.decode(data)
    except UNREADABLE as error:
        version, why = _peek_version(data), str(error)
    else:
        if found.version == VERSION:
            return found
        version, why = found.version, f"version {found.version}"
    if version > VERSION:
        raise NewerVersionError(
            f"{what} is of format {version}, this aioq knows up to {VERSION}; upgrade this process"
        )
    raise WireError(f"not {what} ({why}): {data[:40]!r}")


def _peek_version(data: bytes) -> int:
    try:
        return _ANY.decode(data).version
    except UNREADABLE:
        return 0
