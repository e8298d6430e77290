"""The page of the command line: each command on it is run, in its order, and prints what the page shows."""

import asyncio
import io
import re
import shlex
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field

import pytest

from aioq.cli.main import main
from tests.behaviour.kit import Project
from tests.behaviour.pages import Block, held_by

ID = re.compile(r"\b[A-Za-z0-9]{16}\b")
VARIES = [
    (r"\x1b\[[0-9;]*m", ""),
    (r"\d{4}-\d\d-\d\d(T| )\d\d:\d\d:\d\d(\.\d+Z)?", "TIME"),
    (r"\b\d+ (MiB|ms|s|min|h)( \d+ (s|min|h))?", "SPAN"),
    (r"\d+\.\d+", "NUMBER"),
    (r"[\w.-]+-\d+-[0-9a-f]{8}(-\d+)?", "WORKER"),
    (r"[\w.-]+, \d+(?= )", "HOST, PID"),
    (r"\b(retry|cancel)-[0-9a-f]{12}\b", r"\1-ID"),
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


def commands(shown: list[Block]) -> list[tuple[str, str]]:
    """The lines that are typed, each with what the page shows below it."""
    text = "".join(block.text for block in shown)
    return [(line, output) for line, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE)]


SHOWN = held_by("test_every_command_prints_what_the_page_shows")


@pytest.fixture
def shell(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The page's program in a directory, and this process there too."""
    (program,) = [block for block in SHOWN if block.language == "python"]
    project.write("shop.py", program.text.replace('App("shop")', "App()"))
    project.load("shop")
    settings = {**project.settings, "AIOQ_APP": "shop:app", "COLUMNS": "130", "TERM": "xterm", "NO_COLOR": "1"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(project.folder)
    return project


def test_every_command_prints_what_the_page_shows(shell: Project) -> None:
    asyncio.run(shell.ready_worker("shop:app"))
    session = Session()
    typed = commands([block for block in SHOWN if block.text.startswith("$ ")])
    assert len(typed) > 15
    for line, shown in typed:
        session.compare(line, session.type(line), shown)


def test_completion_is_click_s(project: Project) -> None:
    (block,) = held_by("test_completion_is_click_s")
    (variable,) = re.findall(r"(\w+)=bash_source", block.text)
    process = project.python("-m", "aioq", **{variable: "bash_source"})
    asyncio.run(process.ended())
    assert "complete -o nosort -F _aioq_completion aioq" in "\n".join(process.printed)
