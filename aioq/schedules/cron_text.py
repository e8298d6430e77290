"""A cron line in plain English.

cronsim describes a line field by field: "At 00:00 on the 31th day of month". This module rewords what a person
would not say or could misunderstand, and adds the seconds.
"""

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeAlias

from cronsim import CronSim

_ANY = datetime(2000, 1, 1)  # cronsim requires a moment even where it only describes
_NUMBERS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")
_NUMBER = rf"(?:{'|'.join(_NUMBERS)}|\d+th)"
_HOUR = _MINUTE = 60  # minutes, seconds
_MONTH, _WEEK = set(range(1, 32)), set(range(7))
_FEW = 6  # up to this many seconds are listed
_WEEKDAY = r"(?:Sun|Mon|Tues|Wednes|Thurs|Fri|Satur)day"

Replacement: TypeAlias = str | Callable[[re.Match[str]], str]


def words(fields: str, seconds: Sequence[int]) -> str:
    """A cron line in words: `At 06:00 on Monday through Friday`, `Every 20 seconds`.

    Args:
        fields: its five fields; they must be valid.
        seconds: the seconds of a minute at which it runs, in order.
    """
    try:
        text = _simplified(fields).explain()
    except (ValueError, IndexError, AttributeError, NotImplementedError):
        text = fields  # valid, but with a value that cronsim has no words for
    for pattern, change in _CHANGES:
        text = re.sub(pattern, change, text)
    return text if tuple(seconds) == (0,) else _with_seconds(text, seconds)


def _simplified(fields: str) -> CronSim:
    """The line, without its day fields if they allow every day: in `1-31 * mon` one of them is enough."""
    line = CronSim(fields, _ANY)
    if line.day_and or not (line.days >= _MONTH or line.weekdays >= _WEEK):
        return line
    minute, hour, _, month, _ = fields.split()
    return CronSim(f"{minute} {hour} * {month} *", _ANY)


def ordinal(number: int) -> str:
    """The number as an ordinal: 1st, 2nd, 3rd, 4th, 11th, 21st."""
    teen = number % 100 // 10 == 1
    return f"{number}{'th' if teen else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


def _number(text: str) -> int:
    return _NUMBERS.index(text) + 1 if text in _NUMBERS else int(text.removesuffix("th"))


def _minutes(match: re.Match[str]) -> str:
    """`Every 2 minutes` for every second minute; only for a step that divides an hour: others start again at 0."""
    step = _number(match[1])
    return f"Every {step} minutes" if _HOUR % step == 0 else match[0]


def _as_figures(match: re.Match[str]) -> str:
    return ordinal(_number(match[0]))


_CHANGES: tuple[tuple[str, Replacement], ...] = (
    (rf"^Every ({_NUMBER}) minute(?: of every hour|(?= from \d\d:))", _minutes),
    (r"\bsecond minute", "2nd minute"),  # not to be taken for seconds
    (r"^At every ", "Every "),
    (r" in every month from ", " from "),
    (r" past every ", " of every "),
    (r" minute from (\d+) through ", r" minute from minute \1 through "),
    (r"\bday of (month|week)", r"day of the \1"),
    (
        r"day of the month from (\d+) through (\d+)",
        lambda match: f"day of the month from the {ordinal(int(match[1]))} through the {ordinal(int(match[2]))}",
    ),
    # `*/10` in the day field is the 1st, the 11th, the 21st and the 31st: so the text says where the count begins.
    (rf"(every {_NUMBER} day of the month)(?! from)", r"\1 from the 1st"),
    (rf"(every {_NUMBER} day of the week)(?! from)", r"\1 from Sunday"),
    (r" if it's on ", " if it's "),
    (rf" and on ({_WEEKDAY})(?=$| in)", r" and on every \1"),
    (r"^(At \d\d:\d\d(?:,? (?:and )?\d\d:\d\d)*) (in every|from) ", r"\1 every day \2 "),
    (rf"(?<=the )(?:{'|'.join(_NUMBERS)})\b(?! {_WEEKDAY})|\b\d+th\b", _as_figures),
)
"""Patterns in cronsim's text and their replacements, applied in this order."""


def _with_seconds(text: str, seconds: Sequence[int]) -> str:
    words = _seconds(seconds)
    if text.startswith("Every minute"):
        rest = text.removeprefix("Every minute")
        of = "" if words.startswith("every") and " from " not in words else " of every minute"
        return f"{words[0].upper()}{words[1:]}{of}{rest}"
    if len(seconds) == 1 and text.startswith("At ") and ":" in text:
        return re.sub(r"\b\d\d:\d\d\b", lambda match: f"{match[0]}:{seconds[0]:02}", text)
    return f"{text}, {words}{' of the minute' if words.startswith('every') else ''}"


def _seconds(seconds: Sequence[int]) -> str:
    first, last, count = seconds[0], seconds[-1], len(seconds)
    step = seconds[1] - first if count > 1 else _MINUTE
    evenly = list(seconds) == list(range(first, last + 1, step))
    if count > 1 and evenly and first == 0 and step * count == _MINUTE:
        return "every second" if step == 1 else f"every {step} seconds"
    if not evenly or count <= (_FEW if step > 1 else 2):
        return _listed(seconds)
    return f"every {'' if step == 1 else ordinal(step) + ' '}second from {first} through {last}"


def _listed(seconds: Sequence[int]) -> str:
    *head, last = (str(second) for second in seconds)
    if not head:
        return f"at second {last}"
    return f"at seconds {head[0]} and {last}" if len(head) == 1 else f"at seconds {', '.join(head)}, and {last}"
