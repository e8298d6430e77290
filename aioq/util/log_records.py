"""Safe reading of log records: values in a record can be of any type, and may raise when they are formatted.

A record has values from users: arguments whose `__str__` raises, extras that contain themselves, text that is not
Unicode. Logging itself would print such an error between the lines of the log; here the record's line names it.
"""

import logging
import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any, cast

MAX_DEPTH = 5
"""How many levels of nesting of an extra are kept; deeper values are shown by their `repr`. A guess."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""The fields that every record has; all others are extras."""

_FORMATTER = logging.Formatter()

_INT_LIMIT = 2**63


def message_of(record: logging.LogRecord) -> str:
    """The record's message, with a note where its arguments cannot be formatted."""
    try:
        return record.getMessage()
    except BaseException as error:
        return f"{record.msg} (its arguments could not be formatted: {type(error).__qualname__})"


def traceback_of(record: logging.LogRecord) -> str:
    """The record's traceback and stack; empty where there are none."""
    text = record.exc_text or ""
    try:
        if not text and record.exc_info and record.exc_info[0] is not None:
            text = _FORMATTER.formatException(record.exc_info)
    except BaseException as error:
        text = f"(the traceback could not be formatted: {type(error).__qualname__})"
    return "\n".join(part for part in (text.rstrip(), record.stack_info) if part)


def raised_of(record: logging.LogRecord) -> str:
    """Type and message of the exception a record carries; empty where it carries none."""
    raised = record.exc_info[1] if record.exc_info else None
    return "" if raised is None else f"{type(raised).__qualname__}: {plain(raised)}"


def extras_of(record: logging.LogRecord) -> dict[str, Any]:
    """The record's extra fields in a form that JSON and MessagePack can hold; those with None are left out."""
    return {
        _text(name): plain(value)
        for name, value in tuple(vars(record).items())
        if name not in _STANDARD and value is not None
    }


def plain(value: Any, within: tuple[int, ...] = ()) -> Any:
    """A value as text, numbers, lists and dicts; anything else becomes text.

    Args:
        value: anything.
        within: the ids of the values that contain it.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value)
    if type(value) is int and -_INT_LIMIT <= value < _INT_LIMIT:
        return value
    if type(value) is float and math.isfinite(value):
        return value
    try:
        return _structure(value, (*within, id(value)) if id(value) not in within else ())
    except BaseException as error:  # whatever its own methods raise
        return f"<a {type(value).__qualname__} that cannot be shown: {type(error).__qualname__}>"


def _structure(value: Any, within: tuple[int, ...]) -> Any:
    if not 0 < len(within) <= MAX_DEPTH:
        return _text(repr(value))
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value).items()
        return {_text(str(key)): plain(each, within) for key, each in items}
    if isinstance(value, list | tuple | AbstractSet):
        return [plain(each, within) for each in cast("list[Any]", value)]
    return _text(str(value))


def _text(text: str) -> str:
    """The text, with halves of surrogate pairs escaped, because no encoding accepts them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return str(text)  # a plain `str` also for a subclass


def let_through(level: int, *, override: bool = False) -> None:
    """Make aioq's own lines of a level appear, whatever the user's module has done to logging.

    `logging.config.dictConfig` by default disables every logger that it does not name, and the root logger may
    have another level. A level that the user has given to the logger `aioq` is kept.

    Args:
        level: the level.
        override: set it even if the user has given the logger another level.
    """
    root = logging.getLogger("aioq")
    if override or root.level == logging.NOTSET:
        root.setLevel(level)
    for name, logger in tuple(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and (name == "aioq" or name.startswith("aioq.")):
            logger.disabled = False
