"""What a setting may be: checks of its value, and how it is read from the environment.

`aioq.config.settings.Settings` says which rule each setting has. They are rules of our own and not msgspec's
`Meta`: an error says what is expected in the words of the setting, with its unit, and tells a value of the wrong
kind from one that no use has.
"""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple, cast

import msgspec

from aioq.config.urls import SCHEMES, check_url, objection
from aioq.util.durations import MAX_DELAY, as_seconds
from aioq.util.naming import NAME
from aioq.util.printable import brief
from aioq.util.timezones import zone, zone_hint

MODULE = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
"""A dotted path. A string, not compiled: at the first use that costs an import nothing."""


MAX_COUNT = 1_000_000_000
"""The most of anything that is counted: what a server's integers and Python's timers take with ease."""

MAX_BYTES = 256 * 1_048_576
"""The largest call or result that may be allowed: a server takes no string over 512 MiB, and hangs up."""

MAX_LEASE = 86_400.0
"""The longest lease, in seconds: a day, which is how long the jobs of a killed worker would wait."""


class Rule(NamedTuple):
    """What one setting takes."""

    check: Callable[[object], object | None]  # returns the value to store, or None if it does not fit
    parse: Callable[[str], object]  # from the environment to a value for `check`
    expected: str  # what an error says the value must be
    optional: bool = False  # whether it may be None, and the environment variable empty
    objection: Callable[[Any], str | None] = lambda _: None  # what is wrong with a value that `check` has returned


def _too_large(most: float, unit: str) -> Callable[[Any], str | None]:
    """Objects to a value that is probably in another unit; errors about a value's kind do not name this limit."""

    def objection(value: float) -> str | None:
        if value <= most:
            return None
        shown = f"{value:g}" if value < sys.float_info.max else f"a number of {int(value).bit_length()} bits"
        return f"{shown} is more than {most:g}{unit}, the most there is; is it in another unit?"

    return objection


def integer(least: int, most: int | None = None, *, optional: bool = False, bound: int = MAX_COUNT) -> Rule:
    """A whole number."""

    def check(value: object) -> int | None:
        fits = isinstance(value, int) and not isinstance(value, bool) and least <= value <= (most or value)
        return cast("int", value) if fits else None

    expected = f"an integer >= {least}" if most is None else f"an integer from {least} to {most}"
    return Rule(check, _parse_number, expected, optional, _too_large(bound, ""))


def duration(least: float, *, above: bool = False, optional: bool = False, bound: float = MAX_DELAY) -> Rule:
    """A time: seconds or a timedelta."""

    def check(value: object) -> float | None:
        number = as_seconds(value)
        return None if number is None or number < least or (above and number == least) else number

    expected = f"a number of seconds {'>' if above else '>='} {least:g}"
    return Rule(check, _parse_number, expected, optional, _too_large(bound, " s"))


def _parse_number(text: str) -> int | float | str:
    # int() and float() alone take "1_000", " 7 " and "nan"; text that is no number is for `check` to refuse.
    if re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        return int(text)
    return float(text) if re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?", text) else text


def word(pattern: str) -> Rule:
    """A name."""

    # No braces, colons and blanks: it becomes part of `{app:queue}`, a Redis Cluster hash tag.
    def check(value: object) -> str | None:
        return value if isinstance(value, str) and re.fullmatch(pattern, value) else None

    return Rule(check, str, "made of letters, digits, '.', '_' and '-'")


def choice(*choices: str) -> Rule:
    """One of some words, in any case."""

    def check(value: object) -> str | None:
        return value.lower() if isinstance(value, str) and value.lower() in choices else None

    return Rule(check, str, "one of " + ", ".join(choices))


def _check_text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _check_path(value: object) -> str | None:
    path = str(value) if isinstance(value, PurePath) else value
    return path if isinstance(path, str) and path else None


def _check_modules(value: object) -> tuple[str, ...] | None:
    # A bare string is refused: as a list of its letters it would fail much later, with a less clear error.
    items = cast("Sequence[object]", value) if isinstance(value, list | tuple) else [None]
    names = tuple(item for item in items if isinstance(item, str) and re.fullmatch(MODULE, item))
    return names if len(names) == len(items) else None


def _zone_objection(name: str) -> str | None:
    try:
        zone(name)
    except ValueError:
        return f"{brief(name)} must be the name of a time zone that this host knows; {zone_hint(name)}"
    return None


def _check_schedules(value: object) -> dict[str, dict[str, Any]] | None:
    # What is in each of them is checked where they are declared.
    table = cast("dict[str, dict[str, Any]]", value if isinstance(value, dict) else {"": None})
    return table if all(type(each) is dict for each in table.values()) else None


def _parse_table(text: str) -> object:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _split(text: str) -> list[str]:
    return [item.strip() for item in text.split(",")]


def _check_routes(value: object) -> dict[str, str] | None:
    routes = cast("dict[object, object]", value if isinstance(value, dict) else {"": ""})
    fits = all(isinstance(each, str) and each for each in (*routes, *routes.values()))
    return cast("dict[str, str]", routes) if fits else None


def _routes_objection(routes: dict[str, str]) -> str | None:
    wrong = next((queue for queue in routes.values() if not NAME.fullmatch(queue)), None)
    return None if wrong is None else f"queue {wrong!r}: expected 1 to 128 letters, digits, '.', '_' or '-'"


PATH = Rule(_check_path, str, "the path of a directory")
MODULES = Rule(_check_modules, _split, "a list of modules (separated by commas in the environment)")
HOST = Rule(_check_text, str, "a host name or an address")
URL = Rule(check_url, str, f"a {'://, '.join(SCHEMES)}:///path URL", optional=True, objection=objection)
TIMEZONE = Rule(_check_text, str, "the name of a time zone, such as Asia/Shanghai", objection=_zone_objection)
SCHEDULES = Rule(_check_schedules, _parse_table, "a table of schedules, each of them a table", True)
ROUTES = Rule(
    _check_routes,
    _parse_table,
    'a table of queues by the pattern of a task\'s name, {"shop.mail.*": "mail"}',
    True,
    _routes_objection,
)
