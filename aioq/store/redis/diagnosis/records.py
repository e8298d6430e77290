"""Which version of aioq has written a job's record: pure."""

import enum

import msgspec

from aioq.errors import NewerVersionError, WireError
from aioq.jobs.job import JobState
from aioq.store.extra import Extra
from aioq.wire.messages import decode_envelope

FIELDS = 23
"""How many fields a record has at most. `lua/lib/record.lua` defines them."""

_JOB, _STATE, _EXTRA = 0, 4, 20
_LEAST = 2
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Origin(enum.Enum):
    """Who has written a record: a version that this one can read; a newer one; an older one, or no aioq at all."""

    KNOWN = enum.auto()
    NEWER = enum.auto()
    UNREADABLE = enum.auto()


def origin_of(text: bytes) -> Origin:
    """Who has written a record."""
    try:
        fields = msgspec.msgpack.decode(text, type=list[msgspec.Raw])
        state = msgspec.msgpack.decode(fields[_STATE], type=str | bool) if len(fields) > _STATE else False
        extra = _names(fields[_EXTRA]) if len(fields) > _EXTRA else set[str]()
    except _UNREADABLE:
        return Origin.UNREADABLE
    if len(fields) < _LEAST:
        return Origin.UNREADABLE
    is_known_state = not state or state in {*JobState, "moving", "moved"}
    if len(fields) > FIELDS or not is_known_state or not extra <= set(Extra.__struct_fields__):
        return Origin.NEWER
    return _origin_of_envelope(_content(bytes(fields[_JOB])))


def _origin_of_envelope(envelope: bytes | None) -> Origin:
    """The same of a call; None where the record has none, or has it in another key."""
    if envelope is None:
        return Origin.KNOWN
    try:
        decode_envelope(envelope)
    except NewerVersionError:
        return Origin.NEWER
    except WireError:
        return Origin.UNREADABLE
    return Origin.KNOWN


def _names(raw: msgspec.Raw) -> set[str]:
    """The names in the further data of a job; none if it has none."""
    found = msgspec.msgpack.decode(raw, type=dict[str, msgspec.Raw] | bool)
    return set[str]() if isinstance(found, bool) else set(found)


_SHORT = range(0xA0, 0xC0)
_HEADERS = {0xD9: 2, 0xDA: 3, 0xDB: 5}
"""By the first byte of a longer string how long its header is (MessagePack specification)."""


def _content(raw: bytes) -> bytes | None:
    """The content of a MessagePack string; None for another type. The server packs bytes too as strings."""
    if raw[0] in _SHORT:
        return raw[1:]
    length = _HEADERS.get(raw[0])
    return None if length is None else raw[length:]
