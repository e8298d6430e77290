"""The stored form of a flow's graph."""

import msgspec
import pytest

from aioq.errors import NewerVersionError, WireError
from aioq.flows.graph import (
    PART,
    Head,
    Kind,
    Node,
    decode_head,
    decode_part,
    encode_head,
    encode_part,
    encode_parts,
)
from aioq.jobs.job import Priority

RAW = msgspec.Raw(b"\x91\x01")
FULL = Node(
    name="parse",
    kind=Kind.MAP,
    task="shop.parse",
    args=RAW,
    kwargs=msgspec.Raw(b"\x81\xa1x\x02"),
    options=msgspec.Raw(b"\x81\xa7timeout\x03"),
    queue="mail",
    shards=4,
    priority=Priority.HIGH,
    delay_ms=5,
    eta_ms=6,
    extra=msgspec.Raw(b"\x81\xa4tags\x91\xa2eu"),
    after=(1, 2),
    inputs=(3, 4),
    require=1,
    ignore=True,
    always=True,
    when_failed=True,
    over=3,
    star=True,
    first=500,
    count=7,
    window=8,
    timeout_ms=9,
)
GOLDEN_NODE = (
    b"\xde\x00\x18\xa1n\xa5parse\xa1k\x02\xa1t\xaashop.parse\xa1a\x91\x01\xa1w\x81\xa1x\x02"
    b"\xa1o\x81\xa7timeout\x03\xa1q\xa4mail\xa1h\x04\xa1l\xa4high\xa1d\x05\xa1e\x06"
    b"\xa1x\x81\xa4tags\x91\xa2eu\xa1f\x92\x01\x02\xa1i\x92\x03\x04\xa1r\x01\xa1g\xc3\xa1y\xc3\xa1c\xc3"
    b"\xa1v\x03\xa1s\xc3\xa1b\xcd\x01\xf4\xa1z\x07\xa1u\x08\xa1m\x09"
)


def test_the_bytes_of_a_part_are_pinned() -> None:
    data = b"\x82\xa1v\x01\xa1n\x92" + GOLDEN_NODE + b"\xde\x00\x01\xa1a\x91\x01"
    assert encode_part([FULL, Node(args=RAW)]) == data
    assert decode_part(data) == [FULL, Node(args=RAW)]


def test_the_bytes_of_a_head_are_pinned() -> None:
    head = Head(1, "ingest", 3, (2,), 60_000, 1000, {"a": "b"})
    data = (
        b"\x87\xa1v\x01\xa1n\xa6ingest\xa1s\x03\xa1r\x91\x02\xa1m\xcd\xea\x60\xa1t\xcd\x03\xe8\xa1h\x81\xa1a\xa1b"
    )
    assert encode_head(head) == data
    assert decode_head(data) == head


def test_a_child_of_a_map_takes_little_beside_its_arguments() -> None:
    assert len(encode_part([Node(args=RAW)] * PART)) < PART * (len(RAW) + 6)


def test_nodes_are_stored_in_parts() -> None:
    nodes = [Node(name=str(index)) for index in range(PART + 1)]
    parts = encode_parts(nodes)
    assert [len(decode_part(part)) for part in parts] == [PART, 1]
    assert [node for part in parts for node in decode_part(part)] == nodes
    assert encode_parts([]) == []


@pytest.mark.parametrize("data", [b"\x82\xa1v\x02\xa1n\x90", b"\x82\xa1v\x02\xa1n\xa1?"])
def test_what_a_newer_version_has_written_is_parked(data: bytes) -> None:
    for decode in (decode_head, decode_part):
        with pytest.raises(NewerVersionError, match="format 2"):
            decode(data)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x90", b"\x82\xa1v\x00\xa1n\x90", b"\x82\xa1v\x01\xa1n\x07"])
def test_malformed_bytes_are_an_error(data: bytes) -> None:
    for decode in (decode_head, decode_part):
        with pytest.raises(WireError, match="not "):
            decode(data)


def test_fields_that_are_not_known_are_passed_over() -> None:
    assert decode_part(b"\x82\xa1v\x01\xa1n\x91\x82\xa1a\x91\x01\xa1Z\x01") == [Node(args=RAW)]
