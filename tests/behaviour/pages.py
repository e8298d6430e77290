"""What the pages show of a program, to compare with what it prints; what differs from run to run is left out."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.behaviour.kit import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").glob("**/*.md"))]
_BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_VARIES = [
    (r"\x1b\[[0-9;]*m", ""),  # colours
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}", "TIME"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:[03]0Z", "TICK"),
    (r"\d{4}-\d\d-\d\d", "DAY"),
    (r"\b(Mon|Tue|Wed|Thu|Fri)(?= DAY)", "WEEKDAY"),
    (r"\[[A-Za-z0-9]{16}\]", "[ID]"),
    (r"(?<= is job )\w{16}", "ID"),
    (r"(waited|in|after) \d+\.\d\ds", r"\1 TIME"),
    (r"(redis|valkey) \d+\.\d+\.\d+", "SERVER"),
    (r"aioq \d+\.\d+\.\d+", "aioq VERSION"),
    (r"│ \S+, pid \d+", "│ HOST, pid PID"),
    (r"─+", "─"),  # a box is as wide as what is in it
    (r"[ \r]+$", ""),
    (r" +(?=│)", " "),
    (r"^ +", " "),
]


@dataclass(frozen=True)
class Block:
    """A block of a page: its language, the words behind it, and what is in it."""

    page: str
    line: int
    language: str
    marks: tuple[str, ...]
    text: str

    @property
    def id(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str | None = None) -> Iterator[Block]:
    """The blocks of one page, or of all."""
    for path in PAGES if page is None else [ROOT / page]:
        source = path.read_text()
        for match in _BLOCK.finditer(source):
            line = source.count("\n", 0, match.start()) + 1
            yield Block(str(path.relative_to(ROOT)), line, match[1], tuple(match[2].split()), match[3])


def shown_by(page: str, command: str) -> str:
    """What a page shows that a command prints: the lines between it and the next command."""
    for block in blocks(page):
        _, found, rest = block.text.partition(f"$ {command}\n")
        if found:
            return rest.partition("$ ")[0]
    raise AssertionError(f"{page} does not show {command!r}")


def alike(text: str) -> str:
    """A text without what differs from run to run: times, ids, versions, the host, and how wide a box is."""
    for pattern, word in _VARIES:
        text = re.sub(pattern, word, text, flags=re.MULTILINE)
    return text
