"""Text of others made fit for a log or a terminal: nothing in it looks like a line of our own, or acts on either.

Task names, ids, queues and messages of exceptions come from any client that may send a job. A line break in one of
them would begin a line that looks like a record, an escape sequence would move a terminal's cursor, a direction
mark would show words in another order than they are in. So such characters are shown as Python writes them in
text.
"""

import re
import reprlib

_UNSAFE = (
    "\x00-\x1f\x7f-\x9f"  # control characters: line breaks, ESC, and the one-byte CSI
    "\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # line separators, direction, nothing
    "\ud800-\udfff"  # halves of a character, which no encoding takes
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
"""The line of a traceback that names what was raised. No record begins like this: each begins with its time."""

_INDENT = "    "


MAX_BRIEF = 500
"""Characters of a value that are shown in an error. A guess: enough to recognise it."""


class _Careful(reprlib.Repr):
    """`repr` of what Python's own refuses: an integer of more than 4,300 digits, and what holds one."""

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() <= MAX_BRIEF else f"<an integer of {x.bit_length()} bits>"


def brief(value: object) -> str:
    """`repr` of a user's value, for an error that refuses it; raises nothing, and keeps the ends of a long one."""
    try:
        text = repr(value)
    except Exception:  # its own `__repr__`, or an integer that is too long for Python to show
        text = _Careful().repr(value)
    half = MAX_BRIEF // 2
    return text if len(text) <= MAX_BRIEF else f"{text[:half]} ... {text[-half:]}"


def printable(text: str) -> str:
    r"""The text in one line: what is no printable character is escaped, a line break as `\n`."""
    return text if text.isprintable() else _ONE_LINE.sub(_escaped, text)


def printable_lines(text: str) -> str:
    """The text of a record or a traceback, which keeps its line breaks.

    Lines after the first begin with white space, so that none can be taken for another record. Only the headings
    of a traceback, and the line that names the exception after its frames, stay where Python puts them.
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
    r"""JSON in which each such character is written as `\uXXXX`; they can only be in strings."""
    return text if text.isprintable() else _ONE_LINE.sub(_as_json, text)


def json_ascii(text: str) -> str:
    """The same in ASCII, for a stream that takes nothing else."""
    return _NOT_ASCII.sub(_as_json, text)


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def _as_json(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{int.from_bytes(units[at : at + 2]):04x}" for at in range(0, len(units), 2))
