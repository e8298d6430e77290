"""Log records read without harm: what is in one may raise when it is put into words, or be of any type.

A record carries what users give to it: arguments whose `__str__` raises, extras that hold themselves, text that is
no Unicode. Logging shows such an error as lines of its own in the middle of the log; here the record names it.
"""

import logging
import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any, cast

MAX_DEPTH = 5
"""How deep the structure of an extra is kept; what lies deeper is shown as its `repr`. A guess."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has; all else are extras."""

_FORMATTER = logging.Formatter()

_INT_LIMIT = 2**63


def message_of(record: logging.LogRecord) -> str:
    """The record's message, or what went wrong with it."""
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
    """What was added to the record, as what JSON and MessagePack can hold; None is left out."""
    return {
        _text(name): plain(value)
        for name, value in tuple(vars(record).items())
        if name not in _STANDARD and value is not None
    }


def plain(value: Any, within: tuple[int, ...] = ()) -> Any:
    """A value as text, numbers, lists and tables; of what is none of these, its text.

    Args:
        value: anything.
        within: the ids of what it lies in.
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
    """The text; halves of a character, which no encoding takes, as escapes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return str(text)  # of a subclass, the plain one


def let_through(level: int, *, whatever: bool = False) -> None:
    """See that aioq's own lines of a level come through, whatever the user's module has done to logging.

    `logging.config.dictConfig` disables by default every logger that it does not name, and the root logger may
    have another level. A level that the user has given to the logger `aioq` is kept.

    Args:
        level: the level.
        whatever: set it in any case.
    """
    root = logging.getLogger("aioq")
    if whatever or root.level == logging.NOTSET:
        root.setLevel(level)
    for name, logger in tuple(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and (name == "aioq" or name.startswith("aioq.")):
            logger.disabled = False
