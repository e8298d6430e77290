"""The cursor of a page: where each list continues, in a text that no one has to understand. Pure."""

import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping

import msgspec

from aioq.errors import ConfigError
from aioq.jobs.job import JobState
from aioq.store.operating import ListPosition, TimeSpan
from aioq.util.printable import brief

ListPositions = Mapping[tuple[str, JobState], ListPosition | None]
"""By queue and state where a list continues; None for its end."""

_CHECKSUM = 4


class _Cursor(msgspec.Struct, frozen=True, array_like=True):
    """A cursor on the wire.

    Attributes:
        query: the fingerprint of the query's filters.
        span: the times between `since` and `until`, which are those of the first page.
        positions: by queue and state where a list continues; the lists that were not begun are not in it.
    """

    query: bytes
    span: tuple[int | None, int | None]
    positions: dict[str, dict[JobState, ListPosition | None]] = msgspec.field(name="places")


_DECODER = msgspec.msgpack.Decoder(_Cursor)


def encode_cursor(query: bytes, span: TimeSpan, positions: ListPositions) -> str:
    """The text of a cursor.

    Args:
        query: the fingerprint of the query's filters.
        span: the times between `since` and `until`.
        positions: where each list continues.
    """
    by_queue: dict[str, dict[JobState, ListPosition | None]] = {}
    for (queue, state), position in positions.items():
        by_queue.setdefault(queue, {})[state] = position
    packed = msgspec.msgpack.encode(_Cursor(query, (span.since_ms, span.until_ms), by_queue))
    return urlsafe_b64encode(packed + _checksum(packed)).decode().rstrip("=")


def decode_cursor(text: object, query: bytes) -> tuple[TimeSpan, ListPositions]:
    """The times of a query, and where each list continues.

    Raises:
        ConfigError: the text is no cursor, or that of another query.
    """
    try:
        raw = urlsafe_b64decode(str(text) + "=" * (-len(str(text)) % 4))
        packed, checksum = raw[:-_CHECKSUM], raw[-_CHECKSUM:]
        found = _DECODER.decode(packed) if checksum == _checksum(packed) else None
    except (ValueError, msgspec.DecodeError):
        found = None
    if found is None:
        raise ConfigError(
            f"app.jobs: cursor={brief(text)}: expected the cursor of a page, as page.cursor gives it"
        )
    if found.query != query:
        raise ConfigError(
            "app.jobs: the cursor belongs to a query with other filters, or of another order; "
            "use it with those of its page"
        )
    positions = {
        (queue, state): position for queue, states in found.positions.items() for state, position in states.items()
    }
    return TimeSpan(*found.span), positions


def _checksum(packed: bytes) -> bytes:
    return zlib.crc32(packed).to_bytes(_CHECKSUM, "big")
