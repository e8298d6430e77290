"""Rules for settings: how a value is checked, and how it is read from the environment.

`aioq.config.settings.Settings` names the rule of each setting. The rules are our own and not msgspec's `Meta`, for
better errors. They say in words for this setting what is expected, with its unit. And they distinguish a value of
the wrong kind from a number that is too large to be meant.
"""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple, cast

import msgspec

from aioq.config.urls import SCHEMES, check_url, objection
from aioq.util.durations import MAX_DELAY, as_seconds
from aioq.util.naming import NAME
from aioq.util.patterns import pattern_objection
from aioq.util.printable import brief
from aioq.util.timezones import zone, zone_hint

MODULE = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
"""The pattern of a dotted path. It is compiled at its first use, so that an import takes no time for it."""


MAX_COUNT = 1_000_000_000
"""The largest count that may be set: well within a server's integers and Python's timers."""

MAX_BYTES = 256 * 1_048_576
"""The largest call or result that may be allowed. A server closes the connection on a string over 512 MiB."""

MAX_LEASE = 86_400.0
"""The longest lease, in seconds: a day. The jobs of a killed worker wait for as long as its lease."""


class Rule(NamedTuple):
    """The checks of one setting."""

    check: Callable[[object], object | None]  # returns the value to store, or None if it does not fit
    parse: Callable[[str], object]  # converts the text of an environment variable to a value for `check`
    expected: str  # the values that fit, for errors
    optional: bool = False  # whether the value may be None, and the environment variable empty
    objection: Callable[[Any], str | None] = lambda _: None  # the error about a value that `check` has returned


def _too_large(most: float, unit: str) -> Callable[[Any], str | None]:
    """The objection to a number that is too large, probably in another unit; other errors do not name it."""

    def objection(value: float) -> str | None:
        if value <= most:
            return None
        shown = f"{value:g}" if value < sys.float_info.max else f"a number of {int(value).bit_length()} bits"
        return f"{shown} is more than {most:g}{unit}, the most that is allowed; is it in another unit?"

    return objection


def integer(least: int, most: int | None = None, *, optional: bool = False, bound: int = MAX_COUNT) -> Rule:
    """The rule for a whole number."""

    def check(value: object) -> int | None:
        fits = isinstance(value, int) and not isinstance(value, bool) and least <= value <= (most or value)
        return cast("int", value) if fits else None

    expected = f"an integer >= {least}" if most is None else f"an integer from {least} to {most}"
    return Rule(check, _parse_number, expected, optional, _too_large(bound, ""))


def duration(least: float, *, above: bool = False, optional: bool = False, bound: float = MAX_DELAY) -> Rule:
    """The rule for a span of time: seconds or a timedelta."""

    def check(value: object) -> float | None:
        number = as_seconds(value)
        return None if number is None or number < least or (above and number == least) else number

    expected = f"a number of seconds {'>' if above else '>='} {least:g}"
    return Rule(check, _parse_number, expected, optional, _too_large(bound, " s"))


def _parse_number(text: str) -> int | float | str:
    # int() and float() would also accept "1_000", " 7 " and "nan". `check` refuses text that is no number.
    if re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        return int(text)
    return float(text) if re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?", text) else text


def word(pattern: str) -> Rule:
    """The rule for a name."""

    # Braces, colons and blanks are not allowed, for it becomes part of `{app:queue}`, a Redis Cluster hash tag.
    def check(value: object) -> str | None:
        return value if isinstance(value, str) and re.fullmatch(pattern, value) else None

    return Rule(check, str, "made of letters, digits, '.', '_' and '-'")


def choice(*choices: str, optional: bool = False) -> Rule:
    """The rule for one of several words, in upper or lower case."""

    def check(value: object) -> str | None:
        return value.lower() if isinstance(value, str) and value.lower() in choices else None

    return Rule(check, str, "one of " + ", ".join(choices), optional)


MOST_REPLICAS = 1000
"""The most replicas that may be asked for: no primary has as many, so a larger number is a mistake."""


def _check_replicas(value: object) -> str | int | None:
    if isinstance(value, str) and value.lower() == "all":
        return "all"
    fits = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_REPLICAS
    return cast("int", value) if fits else None


def _check_history(value: object) -> str | int | None:
    if isinstance(value, str) and value.lower() == "full":
        return "full"
    fits = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return cast("int", value) if fits else None


def _history_too_long(value: int | str) -> str | None:
    return None if isinstance(value, str) else _too_large(MAX_HISTORY, "")(value)


def _check_text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _check_path(value: object) -> str | None:
    path = str(value) if isinstance(value, PurePath) else value
    return path if isinstance(path, str) and path else None


def _check_modules(value: object) -> tuple[str, ...] | None:
    # A bare string is refused: taken as a list of letters, it would fail much later, with a less clear error.
    items = cast("Sequence[object]", value) if isinstance(value, list | tuple) else [None]
    names = tuple(item for item in items if isinstance(item, str) and re.fullmatch(MODULE, item))
    return names if len(names) == len(items) else None


def _check_names(value: object) -> tuple[str, ...] | None:
    items = cast("Sequence[object]", value) if isinstance(value, list | tuple) else [None]
    names = tuple(item for item in items if isinstance(item, str) and item)
    return names if len(names) == len(items) else None


def _too_long_a_name(names: tuple[str, ...]) -> str | None:
    longest = max(names, key=len, default="")
    if len(longest) <= MAX_HEADER_NAME:
        return None
    return f"{brief(longest)} has {len(longest)} characters; a name of a header has at most {MAX_HEADER_NAME}"


def _zone_objection(name: str) -> str | None:
    try:
        zone(name)
    except ValueError:
        return f"{brief(name)} must be the name of a time zone that this host knows; {zone_hint(name)}"
    return None


def _check_schedules(value: object) -> dict[str, dict[str, Any]] | None:
    return cast("dict[str, dict[str, Any]]", value) if isinstance(value, dict) else None


def _schedules_objection(schedules: dict[object, object]) -> str | None:
    # The fields of each schedule are checked where it is declared.
    wrong = next((each for each in schedules if type(schedules[each]) is not dict), None)
    return None if wrong is None else f"schedule {brief(wrong)}: expected a table, not {brief(schedules[wrong])}"


def parse_table(text: str) -> object:
    """The table that a variable of the environment has as JSON; the text where it is none.

    Raises:
        ValueError: a key is there twice; the message names it.
    """
    try:
        table = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
    _refuse_repeated_keys(text)
    return table


class _Key:
    """A key of a table in JSON. No two of them are equal, so one that comes twice is kept twice."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


def _refuse_repeated_keys(text: str | msgspec.Raw) -> None:
    try:
        table = msgspec.json.decode(text, type=dict[_Key, msgspec.Raw], dec_hook=lambda _, key: _Key(key))
    except msgspec.ValidationError:
        return  # no table
    keys: set[str] = set()
    for key, value in table.items():
        if key.text in keys:
            raise ValueError(f"the key {brief(key.text)} is there twice")
        keys.add(key.text)
        _refuse_repeated_keys(value)


def _split(text: str) -> list[str]:
    return [item.strip() for item in text.split(",")]


def _check_routes(value: object) -> dict[str, str] | None:
    return dict(cast("Mapping[str, str]", value)) if isinstance(value, Mapping) else None


def _routes_objection(routes: dict[object, object]) -> str | None:
    for pattern, queue in routes.items():
        if not isinstance(pattern, str) or not pattern:
            return f"pattern {brief(pattern)}: expected the name of a task or a pattern of names, 'shop.mail.*'"
        if (wrong := pattern_objection(pattern)) is not None:
            return f"pattern {brief(pattern)}: {wrong}"
        if not isinstance(queue, str) or not NAME.fullmatch(queue):
            wanted = "expected 1 to 128 letters, digits, '.', '_' or '-'"
            return f"the route of {brief(pattern)}: queue {brief(queue)}: {wanted}"
    return None


_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def _check_flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _parse_flag(text: str) -> bool | str:
    return _WORDS.get(text.lower(), text)


DEFAULT_HISTORY = 10_000
"""The setting `history` if none is given."""

MAX_HISTORY = 10_000_000
"""The longest history: some 300 MB of a queue's server."""

MAX_LOGS = 100_000
"""The longest log of a job: up to 400 MB if all its lines are as long as they may be."""

MAX_HEADER_NAME = 256
"""The longest name of a header that can be inherited; all headers of a job together have 16 KiB."""

FLAG = Rule(_check_flag, _parse_flag, "True or False")
HISTORY = Rule(
    _check_history,
    _parse_number,
    'an integer >= 0 or "full"',
    objection=_history_too_long,
)
LOGS = integer(0, bound=MAX_LOGS)
PATH = Rule(_check_path, str, "the path of a directory")
MODULES = Rule(_check_modules, _split, "a list of modules (separated by commas in the environment)")
HEADERS = Rule(
    _check_names,
    _split,
    "a list of names of headers (separated by commas in the environment)",
    objection=_too_long_a_name,
)
REPLICAS = Rule(_check_replicas, _parse_number, f'"all" or an integer from 1 to {MOST_REPLICAS}')
HOST = Rule(_check_text, str, "a host name or an address")
_SHOWN = ", ".join(f"{scheme}://" for scheme in SCHEMES if "+" not in scheme and scheme != "unix")
URL = Rule(
    check_url,
    str,
    f"a {_SHOWN}, unix:///path, redis+cluster:// or redis+sentinel:// URL",
    optional=True,
    objection=objection,
)
TIMEZONE = Rule(_check_text, str, "the name of a time zone, such as Asia/Shanghai", objection=_zone_objection)
SCHEDULES = Rule(
    _check_schedules, parse_table, "a table of schedules, each of them a table", True, _schedules_objection
)
ROUTES = Rule(
    _check_routes,
    parse_table,
    'a table of queues by the pattern of a task\'s name, {"shop.mail.*": "mail"}',
    True,
    _routes_objection,
)
