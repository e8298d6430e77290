"""Makes text from outside safe for a log or a terminal: it can neither forge a line nor control the terminal.

Task names, ids, queues and messages of exceptions come from any client that may send a job. A line break in one of
them would begin a line that looks like a record. An escape sequence would move the terminal's cursor. A direction
mark would show words in a wrong order. So such characters are shown as Python's escapes.
"""

import re
import reprlib

_UNSAFE = (
    "\x00-\x1f\x7f-\x9f"  # control characters: line breaks, ESC, and the one-byte CSI
    "\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # separators, direction, zero width
    "\ud800-\udfff"  # halves of surrogate pairs, which no encoding accepts
    "\U000e0000-\U000e007f"  # tags: invisible text
)
_ONE_LINE = re.compile(f"[{_UNSAFE}]")
_NOT_ASCII = re.compile("[^ -~]")

_HEADINGS = (
    "Traceback (most recent call last):",
    "The above exception was the direct cause of the following exception:",
    "During handling of the above exception, another exception occurred:",
)
_EXCEPTION = re.compile(r"[^\W\d][\w.]*(: .*)?", re.DOTALL)
"""The line of a traceback that names the exception. No record begins like this: a record begins with its time."""

_INDENT = "    "


MAX_BRIEF = 500
"""Characters of a value that are shown in an error. A guess: enough to recognise it."""


class _Careful(reprlib.Repr):
    """A `repr` that also accepts an integer of more than 4,300 digits, and values that contain one."""

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() <= MAX_BRIEF else f"<an integer of {x.bit_length()} bits>"


def brief(value: object) -> str:
    """The `repr` of a user's value, for an error about it; a long one is shortened. It raises nothing."""
    try:
        text = repr(value)
    except Exception:  # of its own `__repr__`, or because an integer is too long for Python to show
        text = _Careful().repr(value)
    half = MAX_BRIEF // 2
    return text if len(text) <= MAX_BRIEF else f"{text[:half]} ... {text[-half:]}"


def printable(text: str) -> str:
    r"""The text in one line: characters that are not printable are escaped, a line break as `\n`."""
    return text if text.isprintable() else _ONE_LINE.sub(_escaped, text)


def printable_lines(text: str) -> str:
    """The text of a record or a traceback, with its line breaks kept.

    Lines after the first are indented, so that none looks like another record. Only the headings of a traceback,
    and the line after its frames that names the exception, are not indented.
    """
    if text.isprintable():
        return text
    first, *others = text.replace("\r\n", "\n").split("\n")
    lines, in_frames = [printable(first)], first in _HEADINGS
    for line in others:
        inner = line.replace("\t", _INDENT)
        heading = inner in _HEADINGS
        names_it = in_frames and _EXCEPTION.fullmatch(inner) is not None
        as_it_stands = heading or names_it or inner[:2] in {"", "  "}
        lines.append(printable(inner) if as_it_stands else _INDENT + printable(inner))
        in_frames = heading or (in_frames and inner.startswith(" "))
    return "\n".join(lines)


def json_printable(text: str) -> str:
    r"""JSON text in which each unsafe character is written as `\uXXXX`; such characters are only in strings."""
    return text if text.isprintable() else _ONE_LINE.sub(_as_json, text)


def json_ascii(text: str) -> str:
    """JSON text in which every character that is not ASCII is escaped, for a stream that accepts ASCII only."""
    return _NOT_ASCII.sub(_as_json, text)


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def _as_json(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{int.from_bytes(units[at : at + 2]):04x}" for at in range(0, len(units), 2))
