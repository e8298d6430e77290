"""A shell in which the commands of a page are typed, in their order, and held against what the page shows."""

import asyncio
import io
import re
import shlex
from collections.abc import Iterable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from aioq.cli.main import main
from tests.behaviour.kit import Project
from tests.behaviour.pages import Block

ID = re.compile(r"\b[A-Za-z0-9]{16}\b")
VARIES = [
    (r"\x1b\[[0-9;]*m", ""),
    (r"\d{4}-\d\d-\d\d(T| )\d\d:\d\d:\d\d(\.\d+Z)?", "TIME"),
    (r"\b\d+ (MiB|ms|s|min|h)( \d+ (s|min|h))?", "SPAN"),
    (r"\d+\.\d+", "NUMBER"),
    (r"[\w.-]+-\d+-[0-9a-f]{8}(-\d+)?", "WORKER"),
    (r"[\w.-]+, \d+(?= )", "HOST, PID"),
    (r"\b(retry|cancel)-[0-9a-f]{12}\b", r"\1-ID"),
    (r"\b(queued|running) +│ +[01] ", r"\1 │ FEW "),  # a job that is just taken
    (r"(?m)^│ oldest +│ [^│]+│\n", ""),  # the same: a queue with no queued job has no such row
    (r"─+", "─"),
    (r" +", " "),
    (r"(?m) $", ""),
]


class Terminal(io.StringIO):
    """Standard output that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@dataclass
class Session:
    """A shell in which the page is typed.

    Attributes:
        ids: the ids of the page, and what they are in this run.
    """

    ids: dict[str, str] = field(default_factory=dict[str, str])

    def type(self, line: str) -> str:
        """Run a line; what it prints, on a terminal, and its errors, which are no terminal's: so no bar moves."""
        words = shlex.split(ID.sub(lambda found: self.ids[found[0]], line))
        if words[0] == "rm":
            Path(words[1]).unlink()
            return ""
        assert words[0] == "aioq"
        output, errors = Terminal(), io.StringIO()
        with redirect_stdout(output), redirect_stderr(errors), pytest.raises(SystemExit):
            main(words[1:])
        return output.getvalue() + errors.getvalue()

    def compare(self, line: str, printed: str, shown: str) -> None:
        """Hold what was printed against what the page shows; learn the ids."""
        expected, found = ID.findall(shown), ID.findall(printed)
        assert len(expected) == len(found), f"$ {line}\n{printed}"
        for name, value in zip(expected, found, strict=True):
            assert self.ids.setdefault(name, value) == value, f"$ {line}\n{printed}"
        shown = ID.sub(lambda each: self.ids[each[0]], shown)
        assert alike(printed) == alike(shown), f"$ {line}\n{printed}"


def alike(text: str) -> str:
    """A text without what differs from run to run."""
    for pattern, word in VARIES:
        text = re.sub(pattern, word, text)
    return text.strip()


def commands(shown: Iterable[Block]) -> list[tuple[str, str]]:
    """The lines that are typed, each with what the page shows below it."""
    text = "".join(block.text for block in shown)
    return [(line, output) for line, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE)]


def in_project(
    project: Project, shown: Iterable[Block], monkeypatch: pytest.MonkeyPatch, *, columns: int = 130
) -> None:
    """Write the page's program into a directory, go there, and start a worker."""
    (program,) = [block for block in shown if block.language == "python"]
    project.write("shop.py", program.text.replace('App("shop")', "App()"))
    project.load("shop")
    settings = {
        **project.settings,
        "AIOQ_APP": "shop:app",
        "COLUMNS": f"{columns}",
        "TERM": "xterm",
        "NO_COLOR": "1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(project.folder)
    asyncio.run(project.ready_worker("shop:app"))


def type_all(shown: Iterable[Block]) -> int:
    """Type all commands of these blocks; how many there are."""
    session = Session()
    typed = commands(block for block in shown if block.text.startswith("$ "))
    for line, output in typed:
        session.compare(line, session.type(line), output)
    return len(typed)
