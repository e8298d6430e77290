"""What can be read of an encoded call or outcome of which only the beginning is there."""

import contextlib


def task_in_head(call: bytes, outcome: bytes) -> str:
    """The task's name in the beginning of an encoded call, or of an encoded outcome; empty if it is not there."""
    return _text_at(call, 1) or _text_at(outcome, 2)


_ONE_BYTE, _SHORT_ARRAY, _SHORT_TEXT = range(0x80), range(0x90, 0xA0), range(0xA0, 0xC0)
_LENGTHS = {**dict.fromkeys(_SHORT_TEXT, 0), 0xD9: 1, 0xDA: 2}
"""By the first byte of a text how many bytes its length has; a short one's is in that byte (MessagePack)."""


def _text_at(head: bytes, position: int) -> str:
    """The text at a position of an array of which only the beginning is there, after items of one byte each."""
    at = position + 1
    if len(head) <= at or head[0] not in _SHORT_ARRAY or any(byte not in _ONE_BYTE for byte in head[1:at]):
        return ""
    size = _LENGTHS.get(head[at])
    if size is None:
        return ""
    start = at + 1 + size
    end = start + (int.from_bytes(head[at + 1 : start], "big") if size else head[at] - _SHORT_TEXT.start)
    with contextlib.suppress(UnicodeDecodeError):
        return head[start:end].decode() if end <= len(head) else ""
    return ""
