"""Spans and moments as a caller may write them, and the one form in which aioq keeps spans: a float of seconds.

Everything that takes a delay, a timeout or a time to live takes a `Duration` and calls `seconds` on it once,
at the edge; inside there are only floats.
"""

from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import TypeAlias

from aioq.errors import ConfigError
from aioq.util.printable import brief

Duration: TypeAlias = float | int | timedelta
"""A span of time: a number of seconds, or a timedelta."""


MAX_DELAY = 10 * 366 * 86_400
"""The furthest anything may be put off, in seconds: ten years. Beyond is a slip of units."""

FIRST, LAST = datetime(1900, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC) - timedelta(milliseconds=1)
"""The first and the last moment that anything may be set for. Python's calendar ends with the year 9999, and at
its ends a time zone or a step of a day leads out of it; who wants no bound gives none."""

YEARS = f"a year from {FIRST.year} to {LAST.year}"
"""That in words, for errors."""


def clamped(value: float) -> float | None:
    """Return a span that came over the wire, limited to what can be set; None where it is no span.

    Args:
        value: in seconds; NaN, an infinity and a negative number may be among what is read.
    """
    return min(value, MAX_DELAY) if value >= 0 else None


def as_seconds(value: object) -> float | None:
    """Return `value` in seconds, or None if it is no duration, for callers that word their own error.

    A bool is no duration although Python calls it an int: `timeout=True` is a slip, not one second. NaN and
    the infinities are not allowed either, for no timer and no server takes them.

    Args:
        value: anything. Negative numbers are durations too: bounds are the caller's.
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
        what: what the value is for, as the error shall call it.

    Raises:
        ConfigError: it is neither, or not finite.
    """
    number = as_seconds(value)
    if number is None:
        msg = f"{what} must be a finite number of seconds or a timedelta, not {brief(value)}"
        raise ConfigError(msg)
    return number
