"""What README.md and docs/ say: their programs run, their tables hold what there is, their links lead somewhere.

A block of Python is marked by its info string: `python runnable` is run as it stands, `python runnable worker` is
saved as `tasks.py` and run beside `aioq worker tasks:app`. Both must end with exit code 0, and print what the next
`$ python tasks.py` on the page shows.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from aioq.cli.main import cli
from aioq.config import Settings
from aioq.options import NAMES
from aioq.registry import TASK_OPTIONS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").glob("**/*.md"))]
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LONG = 50.0  # seconds
AIOQ = Path(sys.executable).with_name("aioq")  # the command, as the pages print it


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    marks: tuple[str, ...]
    text: str

    @property
    def id(self) -> str:
        return f"{self.page}:{self.line}"


def _blocks() -> Iterator[Block]:
    for page in PAGES:
        source = page.read_text()
        for match in BLOCK.finditer(source):
            line = source.count("\n", 0, match.start()) + 1
            yield Block(str(page.relative_to(ROOT)), line, match[1], tuple(match[2].split()), match[3])


PYTHON = [block for block in _blocks() if block.language == "python"]
RUNNABLE = [block for block in PYTHON if block.marks]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A working directory with a short path, as the embedded server's socket is in it."""
    folder = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


def _run(folder: Path, *command: str) -> str:
    """What a program of the embedded server's user prints; it must succeed."""
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, capture_output=True, text=True, timeout=LONG, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("block", RUNNABLE, ids=lambda block: block.id)
def test_a_program_runs(block: Block, folder: Path) -> None:
    assert block.marks in {("runnable",), ("runnable", "worker")}
    (folder / "tasks.py").write_text(block.text)
    if block.marks == ("runnable",):
        _run(folder, "tasks.py")
        return
    with (folder / "worker.log").open("wb") as log:
        command = [AIOQ, "worker", "tasks:app"]
        worker = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        printed = _run(folder, "tasks.py")
    finally:
        worker.terminate()
        try:
            worker.wait(LONG)
        finally:
            worker.kill()
    assert worker.returncode == 0, (folder / "worker.log").read_text()
    assert printed == _shown_after(block)


def _shown_after(block: Block) -> str:
    """What the page says that the program prints; nothing if it does not say."""
    later = [other for other in _blocks() if other.page == block.page and other.line > block.line]
    shown = [other.text for other in later if other.text.startswith("$ python tasks.py\n")]
    return shown[0].partition("\n")[2] if shown and "print(" in block.text else ""


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.id)
def test_a_piece_of_python_is_python(block: Block) -> None:
    # Fragments show `await` outside of a function.
    compile(block.text, block.id, "exec", flags=0x2000)  # ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


def test_the_quickstart_is_the_first_program(folder: Path) -> None:
    """`examples/quickstart.py`, as its docstring says."""
    shutil.copy(ROOT / "examples" / "quickstart.py", folder)
    worker = subprocess.Popen(
        [AIOQ, "worker", "quickstart:app", "--log-level", "error"],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert _run(folder, "quickstart.py") == "3\n"
    finally:
        worker.terminate()
        worker.wait(LONG)


def _rows(page: str, cells_after: int) -> dict[str, list[str]]:
    """The rows of a page's tables whose first cell is code and followed by so many others: those by the first."""
    rows: dict[str, list[str]] = {}
    for line in (ROOT / page).read_text().splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == cells_after + 1 and cells[0].startswith("`"):
            rows[cells[0].strip("`")] = cells[1:]
    return rows


def test_every_setting_is_in_the_table_with_its_default() -> None:
    rows = _rows("docs/configuration.md", 3)
    for field in msgspec.structs.fields(Settings):
        environment, default, meaning = rows.pop(field.name)
        assert environment == f"`AIOQ_{field.name.upper()}`"
        assert default == _shown(field.default), field.name
        assert meaning
    assert rows == {}


def _shown(default: object) -> str:
    if default in (None, (), ""):
        return "none"
    return str(int(default)) if isinstance(default, int | float) else f"`{default}`"


def test_every_option_of_a_task_and_of_a_call_is_in_the_table() -> None:
    rows = _rows("README.md", 4)
    assert {name for name, cells in rows.items() if cells[0] == "✓"} == set(TASK_OPTIONS)
    assert {name for name, cells in rows.items() if cells[1] == "✓"} == set(NAMES)


@pytest.mark.parametrize("page", ["README.md", "docs/worker.md"])
def test_every_option_of_the_worker_is_in_the_table(page: str) -> None:
    said = CliRunner().invoke(cli, ["worker", "--help"]).output
    options = set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", said, re.MULTILINE)) - {"--help"}
    shown = re.findall(r"^\| (?:`-\w`, )?`(--[\w-]+)", (ROOT / page).read_text(), re.MULTILINE)
    assert set(shown) == options


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        assert not target.startswith("http"), "pages outside move; there is none to be kept yet"
        assert (page.parent / target).exists(), target
