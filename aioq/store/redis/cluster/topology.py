"""Which node serves which slot: pure, made of what a node answers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from redis.crc import key_slot

from aioq.store.redis.net.mode import as_dict
from aioq.store.redis.net.switches import Address
from aioq.store.redis.server_check import parsed

SLOTS = 16_384
"""The slots of a cluster (Redis Cluster specification)."""


def slot_of(key: str) -> int:
    """The slot of a key or of a sharded channel: that of the text within its first braces."""
    slot: int = key_slot(key.encode())
    return slot


@dataclass(frozen=True, slots=True)
class Topology:
    """One node's view of its cluster.

    Attributes:
        primaries: by slot the node that serves it; None where none does.
        nodes: all nodes that serve a slot or stand by for one.
        epoch: of several views the one with the highest epoch is the newest.
        is_sharded: whether the node has sharded pub/sub (Redis from 7.0 on, Valkey).
    """

    primaries: Sequence[Address | None]
    nodes: frozenset[Address]
    epoch: int
    is_sharded: bool = True

    @property
    def serving(self) -> frozenset[Address]:
        """The nodes that serve a slot."""
        return frozenset(address for address in set(self.primaries) if address is not None)

    @property
    def uncovered(self) -> int:
        """How many slots nobody serves."""
        return self.primaries.count(None)


_SHARDED_SINCE = 7

NOWHERE = Topology((None,) * SLOTS, frozenset(), -1)
"""The view of who has not asked yet."""


def parse_topology(slots: Iterable[Any], info: bytes, hello: Mapping[bytes, Any], asked: Address) -> Topology:
    """The view of the node `asked`, of its replies to CLUSTER SLOTS, CLUSTER INFO and HELLO.

    HELLO tells the version; it needs no permission, as INFO does.

    A node that does not know its own address answers without a host: then it is the one that it was asked at.
    """
    primaries: list[Address | None] = [None] * SLOTS
    nodes: set[Address] = set()
    for first, last, *servers in slots:
        found = [_address_of(server, asked) for server in servers]
        nodes.update(found)
        primaries[first : last + 1] = [found[0]] * (last - first + 1)
    epoch = int(parsed(info).get("cluster_current_epoch", 0))
    major = int(hello[b"version"].partition(b".")[0])
    return Topology(tuple(primaries), frozenset(nodes), epoch, major >= _SHARDED_SINCE)


def _address_of(server: Sequence[Any], asked: Address) -> Address:
    """Where a node is, by CLUSTER SLOTS: host, port, id, and since 7.0 what else it is known by."""
    host, port, *rest = server
    if host == b"?":  # hostnames are preferred, and this node has none
        host = as_dict(rest[1]).get(b"ip") if len(rest) > 1 else None
    return (host or asked[0].encode()).decode(), int(port)


def moved(topology: Topology, slot: int, address: Address) -> Topology:
    """The same, with one slot at another node: what a MOVED says, before the cluster is asked again."""
    primaries = list(topology.primaries)
    primaries[slot] = address
    return replace(topology, primaries=tuple(primaries), nodes=topology.nodes | {address})
