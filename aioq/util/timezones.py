"""Time zones: from the system's database or the package `tzdata`; UTC needs neither."""

from datetime import UTC, tzinfo
from difflib import get_close_matches
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

from aioq.util.printable import brief

UTC_NAMES = ("UTC", "Etc/UTC")
"""The names of UTC, the zone of most containers; it needs no database."""


@lru_cache(maxsize=256)
def zone(name: str) -> tzinfo:
    """The time zone of a name, from the system's database or the package `tzdata`; UTC needs neither.

    aioq takes every zone from here, because UTC has to work on a host without a database too.

    Raises:
        ValueError: this host has no zone of that name.
    """
    if name in UTC_NAMES:
        return UTC
    try:
        return ZoneInfo(name)
    # An unknown or malformed name, a directory of the database, a damaged file: each raises another error.
    except Exception as error:
        why = "" if _has_database() else f", which has no time zone database: {_INSTALL}"
        raise ValueError(f"no time zone {brief(name)} on this host{why}") from error


def zone_or_utc(name: str) -> tzinfo:
    """The time zone of a name, for showing times; UTC where this host does not know it."""
    try:
        return zone(name)
    except ValueError:
        return UTC


def zone_hint(name: str) -> str:
    """Advice about a name that `zone` refuses."""
    if not _has_database():
        return f"this host has no time zone database: {_INSTALL}"
    near = get_close_matches(name, available_timezones(), n=1)
    return f"did you mean {near[0]!r}?" if near else "use a name such as 'Asia/Shanghai'"


_INSTALL = "pip install tzdata"


def _has_database() -> bool:
    """Whether this host has a time zone database; it tries a zone that every database has."""
    try:
        ZoneInfo("Europe/London")
    except Exception:  # as in `zone`
        return False
    return True
