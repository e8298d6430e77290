from typing import Any

import msgspec
import pytest

from aioq.store.extra import Extra
from aioq.store.redis.diagnosis.records import FIELDS, Origin, origin_of
from aioq.wire.messages import VERSION, encode_envelope
from tests.records import FIELDS as NAMES

CALL = encode_envelope("shop.add", (1, 2), {}, None)


def header(length: int) -> bytes:
    """How a string of this length begins; its header is the shortest that there is."""
    encoded = msgspec.msgpack.encode("x" * length)
    return encoded[: len(encoded) - length]


def packed(job: bytes | bool, **fields: Any) -> bytes:
    """A record as the server packs it: what is in a string need not be UTF-8."""
    record: list[Any] = [job, 1, *([False] * (len(NAMES) - 2))]
    for name, value in fields.items():
        record[NAMES.index(name)] = value
    encoded = [msgspec.Raw(msgspec.msgpack.encode(each)) for each in record]
    if isinstance(job, bytes):
        encoded[0] = msgspec.Raw(header(len(job)) + job)
    return msgspec.msgpack.encode(encoded)


def test_there_are_as_many_fields_as_the_scripts_have():
    assert len(NAMES) == FIELDS


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        (packed(CALL), Origin.KNOWN),
        (packed(False, state="succeeded", outcome="..."), Origin.KNOWN),
        (packed(True, state="running"), Origin.KNOWN),
        (packed(CALL, extra=Extra(tags=("a",))), Origin.KNOWN),
        (msgspec.msgpack.encode([False, 1]), Origin.KNOWN),
        (packed(CALL, state="dreaming"), Origin.NEWER),
        (packed(CALL, extra={"fleet": [1]}), Origin.NEWER),
        (msgspec.msgpack.encode([*msgspec.msgpack.decode(packed(True)), 1]), Origin.NEWER),
        (packed(msgspec.msgpack.encode([VERSION + 1, "shop.add"])), Origin.NEWER),
        (packed(msgspec.msgpack.encode([VERSION - 1, "shop.add", []])), Origin.UNREADABLE),
        (packed(b"\xff\xfe"), Origin.UNREADABLE),
        (b"", Origin.UNREADABLE),
        (b"hello", Origin.UNREADABLE),
        (msgspec.msgpack.encode([]), Origin.UNREADABLE),
        (msgspec.msgpack.encode({"job": 1}), Origin.UNREADABLE),
        (packed(CALL, extra="x"), Origin.UNREADABLE),
    ],
)
def test_who_has_written_a_record(text: bytes, origin: Origin):
    assert origin_of(text) is origin


@pytest.mark.parametrize("size", [1, 40, 300, 70_000])
def test_a_call_is_read_whatever_its_length(size: int):
    call = encode_envelope("shop.add", ("x" * size,), {}, None)
    assert origin_of(packed(call)) is Origin.KNOWN
