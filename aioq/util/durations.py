"""Spans of time and moments: the forms in which a caller may give them, and their limits.

Everything that takes a delay, a timeout or a time to live takes a `Duration` and converts it once, at the edge.
Inside aioq, spans are floats of seconds.
"""

from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import TypeAlias

from aioq.errors import ConfigError
from aioq.util.printable import brief

Duration: TypeAlias = float | int | timedelta
"""A span of time: a number of seconds, or a timedelta."""


MAX_DELAY = 10 * 366 * 86_400
"""The longest span of time that may be given, in seconds: ten years. A longer one is probably in a wrong unit."""

FIRST, LAST = datetime(1900, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC) - timedelta(milliseconds=1)
"""The first and the last moment that may be given. Python's calendar ends with the year 9999; close to its ends, a
time zone or a step of a day would lead out of it. A caller who wants no limit gives no moment."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

YEARS = f"a year from {FIRST.year} to {LAST.year}"
"""This range in words, for errors."""


def clamped(value: float) -> float | None:
    """A span that was read from the server, limited to `MAX_DELAY`; None where it is no span.

    Args:
        value: in seconds; it may be NaN, infinite or negative.
    """
    return min(value, MAX_DELAY) if value >= 0 else None


def as_seconds(value: object) -> float | None:
    """Return `value` in seconds, or None if it is no duration, for callers that raise an error of their own.

    A bool is no duration although it is an int in Python: `timeout=True` is a mistake, not one second. NaN and
    infinities are not allowed either, because no timer and no server accepts them.

    Args:
        value: anything. Negative numbers are durations too: the caller checks the bounds.
    """
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # an int beyond 1.8e308
        return None
    return number if isfinite(number) else None


def seconds(value: Duration, what: str = "a duration") -> float:
    """Return `value` in seconds.

    Args:
        value: a number of seconds, or a timedelta.
        what: the name of the value in the error.

    Raises:
        ConfigError: it is neither, or not finite.
    """
    number = as_seconds(value)
    if number is None:
        msg = f"{what} must be a finite number of seconds or a timedelta, not {brief(value)}"
        raise ConfigError(msg)
    return number


def moment_ms(where: str, name: str, moment: datetime) -> int:
    """Return a moment in milliseconds since the Unix epoch.

    Args:
        where: where it is given, for the error.
        name: the name of the value in the error.
        moment: the moment.

    Raises:
        ConfigError: it has no time zone, or is out of bounds.
    """
    if moment.tzinfo is None or moment.utcoffset() is None:
        raise ConfigError(
            f"{where}: {name}={moment.isoformat()} has no time zone, so it names no moment; "
            "use datetime.now(UTC) + ... or .replace(tzinfo=...)"
        )
    if not FIRST <= moment <= LAST:
        raise ConfigError(f"{where}: {name}={moment.isoformat()}: expected {YEARS}")
    return round((moment - _EPOCH) / timedelta(milliseconds=1))
