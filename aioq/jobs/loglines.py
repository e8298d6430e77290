"""The lines that a job has logged: how they are kept, and how they are shown."""

import logging
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from aioq.public import public
from aioq.util.introspect import is_a, traceback_of
from aioq.util.texts import cut

MAX_LINE = 4_000
"""Characters kept of a line; of a longer one the middle is left out. A guess: more than a traceback needs."""

Sink = Callable[[int, str], None]
"""Keeps a line: its level, and its text. Any thread may call it; it returns at once and raises nothing."""


@public
class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line that a job has logged.

    Attributes:
        number: its number among the job's lines, from 1 on. A gap shows that lines are not kept any more.
        at: when it was logged, in UTC by the clock of the worker's host.
        level: `debug`, `info`, `warning`, `error`, `critical`, or a number.
        text: the text, up to 4,000 characters; that of an exception ends with the traceback.
        attempt: the attempt that has logged it, 1 for the first.
    """

    number: int
    at: datetime
    level: str
    text: str
    attempt: int = 1


class _Stored(msgspec.Struct, frozen=True, array_like=True, gc=False):
    at_ms: int
    level: int
    attempt: int
    text: str


_decoder = msgspec.json.Decoder(_Stored)


def encode_line(at_ms: int, level: int, attempt: int, text: str) -> bytes:
    """A line as it is stored: as JSON, for scripts can read no other text than UTF-8."""
    return msgspec.json.encode(_Stored(at_ms, level, attempt, cut(text, MAX_LINE)))


def decode_line(number: int, line: bytes) -> LogLine:
    """A stored line; one that cannot be read is shown as it is."""
    try:
        found = _decoder.decode(line)
        at = datetime.fromtimestamp(found.at_ms / 1000, UTC)
    except (msgspec.DecodeError, ValueError, OverflowError, OSError):
        return LogLine(number=number, at=datetime.fromtimestamp(0, UTC), level="?", text=repr(line))
    name = logging.getLevelName(found.level).lower()
    level = name if name.isalpha() else str(found.level)
    return LogLine(number=number, at=at, level=level, text=found.text, attempt=found.attempt)


def text_of_line(msg: object, args: tuple[object, ...], exc_info: Any = None) -> str:
    """The text of a call of a logger, with the traceback of an exception; raises what their classes raise."""
    text = str(msg)
    if args:
        only = args[0]
        text %= only if len(args) == 1 and isinstance(only, dict) and only else args  # as `logging` does
    error = exc_info if is_a(exc_info, BaseException) else sys.exc_info()[1] if exc_info else None
    if error is not None:
        shown = traceback.format_exception(type(error), error, traceback_of(error))
        text = f"{text}\n{''.join(shown).rstrip()}"
    return text
