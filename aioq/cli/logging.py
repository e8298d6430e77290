"""The worker's log: lines for people, or one JSON object a line for machines.

Logged text cannot forge a line of either form, because `aioq.util.printable` escapes it. Neither formatter raises.
"""

import logging
import os
import sys
from datetime import UTC, datetime
from typing import TextIO

import msgspec

from aioq.util.log_records import extras_of, let_through, message_of, plain, raised_of, traceback_of
from aioq.util.printable import json_ascii, json_printable, printable, printable_lines

_COLOURS = {
    logging.DEBUG: "\x1b[2m",
    logging.INFO: "\x1b[32m",
    logging.WARNING: "\x1b[33m",
    logging.ERROR: "\x1b[31m",
    logging.CRITICAL: "\x1b[1;31m",
}
_FAINT, _PLAIN = "\x1b[2m", "\x1b[0m"


class TextFormatter(logging.Formatter):
    """Formats a record as time, level and message, with the logger's name if it is not one of aioq's.

    Args:
        colour: whether to use colours, for a terminal.
    """

    def __init__(self, *, colour: bool = False) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """The record in one line, and its traceback in further lines."""
        time, level = self.formatTime(record), f"{printable(record.levelname):7}"
        if self._colour:
            time = f"{_FAINT}{time}{_PLAIN}"
            level = f"{_COLOURS.get(record.levelno, '')}{level}{_PLAIN}"
        said = message_of(record)
        if record.name != "aioq" and not record.name.startswith("aioq."):
            said = f"{printable(record.name)}: {said}"
        if trace := traceback_of(record):
            said = f"{said}\n{trace}"
        return f"{time} {level} {printable_lines(said)}"


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON, with its extras as further fields. The time is UTC, as in RFC 3339.

    Args:
        ascii_only: whether the stream accepts ASCII only.
    """

    def __init__(self, *, ascii_only: bool = False) -> None:
        super().__init__()
        self._finish = json_ascii if ascii_only else json_printable

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": plain(record.levelname.lower()),
            "logger": plain(record.name),
            "message": plain(message_of(record)),
            "pid": record.process,
        }
        if raised := raised_of(record):
            fields["exception"] = raised
        if trace := traceback_of(record):
            fields["traceback"] = plain(trace)
        fields |= {name: value for name, value in extras_of(record).items() if name not in fields}
        return self._finish(msgspec.json.encode(fields).decode())


def set_up_logging(level: str, log_format: str, *, explicit: bool = False) -> bool:
    """Send the log to standard error.

    The set-up of the user's own module takes precedence: handlers and level of the root logger are left as they
    are, and so is a level of the logger `aioq`. But aioq's own lines appear, whatever the root logger's level is.

    Args:
        level: debug, info, warning, error or critical.
        log_format: text or json.
        explicit: whether the level was given on the command line; then it always holds for aioq's lines.

    Returns:
        Whether lines have the format that was asked for; False if the user's handlers decide that.
    """
    root = logging.getLogger()
    number = logging.getLevelNamesMapping()[level.upper()]
    let_through(number, override=explicit)
    if root.handlers:
        return False
    if explicit or root.level == logging.WARNING:  # its default level
        root.setLevel(number)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(log_format, sys.stderr))
    root.addHandler(handler)
    return True


def _formatter(log_format: str, stream: TextIO) -> logging.Formatter:
    if log_format == "json":
        return JsonFormatter(ascii_only=not str(getattr(stream, "encoding", "")).lower().startswith("utf"))
    return TextFormatter(colour=_shows_colour(stream))


def _shows_colour(stream: TextIO) -> bool:
    """Whether to use colours. By no-color.org and force-color.org, a variable counts if it is not empty."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (stream.isatty() and os.environ.get("TERM") != "dumb")
