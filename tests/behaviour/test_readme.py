"""What README.md and docs/ say: their programs run, their tables hold what there is.

A block of Python is marked by its info string: `python runnable` is run as it is, `python runnable worker` is
saved as `tasks.py` and run beside `aioq worker tasks:app`. Both must end with exit code 0, and print what the next
`$ python tasks.py` on the page shows.
"""

import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from aioq import (
    App,
    JobContext,
    JobHandle,
    JobQuery,
    JobState,
    Limiter,
    Middleware,
    Operation,
    Outcome,
    OutcomeKind,
    QueueHandle,
    Task,
    WorkerInfo,
    WorkerQuery,
)
from aioq.cli.main import cli
from aioq.cli.worker.banner import show_banner
from aioq.config.settings import Settings
from aioq.jobs.options import NAMES
from aioq.limiters.manager import Limiters
from aioq.operate.limits import JobLimits
from aioq.operate.operations import Operations
from aioq.operate.unique import UniqueKeys
from aioq.schedules.declare import NAMES as SCHEDULE_OPTIONS
from aioq.schedules.timing import Definition, Misfire
from aioq.store.diagnosis import ServerInfo
from aioq.store.schedules import Overlap
from aioq.tasks.registry import TASK_OPTIONS
from aioq.worker.health import Health, QueueHealth
from tests.behaviour.kit import ROOT, Process
from tests.behaviour.pages import PAGES, Block, blocks, held_by
from tests.forkserver import COMMAND, FRESH

OUTSIDE = ("https://keepachangelog.com/en/1.1.0/", "https://semver.org/spec/v2.0.0.html")
PYTHON = [block for block in blocks() if block.language == "python"]
PROGRAMS = held_by("test_a_program_runs")
RUNNABLE = [block for block in PROGRAMS if block.marks]

pytestmark = pytest.mark.anyio


@pytest.fixture
def folder() -> Iterator[Path]:
    """A working directory with a short path, as the embedded server's socket is in it."""
    folder = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@contextmanager
def _running(folder: Path, *command: str) -> Iterator[Process]:
    """Run a command of the embedded server's user."""
    process = Process(command, folder, {**os.environ})
    try:
        yield process
    finally:
        process.clear()


async def _run(folder: Path, *command: str) -> list[str]:
    """What a program of the embedded server's user prints; it must succeed."""
    with _running(folder, sys.executable, *command) as program:
        assert await program.ended() == 0, [*program.printed, program.log]
        return program.printed


@pytest.mark.parametrize("block", RUNNABLE, ids=lambda block: block.id)
async def test_a_program_runs(block: Block, folder: Path) -> None:
    assert block.marks in {("runnable",), ("runnable", "worker")}
    (folder / "tasks.py").write_text(block.text)
    if block.marks == ("runnable",):
        await _run(folder, "tasks.py")
        return
    with _running(folder, COMMAND, "worker", "tasks:app") as worker:
        printed = await _run(folder, "tasks.py")
        assert await worker.stop() == 0, worker.log
    assert printed == _shown_after(block)


def _shown_after(block: Block) -> list[str]:
    """What the page says that the program prints; nothing if it does not say."""
    if "print(" not in block.text:
        return []
    later = [other for other in PROGRAMS if other.page == block.page and other.line > block.line]
    assert later, "it prints, and the page does not show what"
    assert later[0] not in RUNNABLE, "it prints, and the page does not show what"
    return later[0].text.removeprefix("$ python tasks.py\n").splitlines()


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.id)
def test_a_piece_of_python_is_python(block: Block) -> None:
    # Fragments show `await` outside of a function.
    compile(block.text, block.id, "exec", flags=0x2000)  # ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


async def test_the_quickstart_is_the_first_program(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`examples/quickstart.py`, as its docstring says; processes are new, those of pages forked."""
    monkeypatch.setenv(FRESH, "1")
    shutil.copy(ROOT / "examples" / "quickstart.py", folder)
    with _running(folder, COMMAND, "worker", "quickstart:app", "--log-level", "error") as worker:
        assert await _run(folder, "quickstart.py") == ["3"]
        assert await worker.stop() == 0, worker.log


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
    if isinstance(default, bool):
        return str(default).lower()
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
        # Pages outside move: there are but those that the changelog's form asks for, and the sources of what
        # docs/scaling.md says of managed services.
        is_outside = page.name == "CHANGELOG.md" and target in OUTSIDE
        is_source = page.name == "scaling.md" and target.startswith("https://")
        assert is_outside or is_source or (page.parent / target).exists(), target


def test_the_banner_is_that_of_the_page(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = held_by("test_the_banner_is_that_of_the_page")
    monkeypatch.setattr(socket, "gethostname", lambda: "worker-1")
    monkeypatch.setattr(os, "getpid", lambda: 4711)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    show_banner(
        version="0.1.0",
        app="shop",
        server=ServerInfo("redis://***@redis:6379/0", "redis", "8.2.1"),
        queues=["default", "mail"],
        concurrency=100,
        processes=1,
        tasks=["shop.tasks.add", "shop.tasks.total"],
    )
    said = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().err)
    assert [line.rstrip() for line in said.splitlines()] == block.text.splitlines()


def test_the_settings_of_the_readme_are_settings() -> None:
    defaults = {field.name: field.default for field in msgspec.structs.fields(Settings)}
    shown = {name: cells for name, cells in _rows("README.md", 3).items() if name in defaults}
    assert len(shown) == 8
    words = {
        "a day": 86400,
        "8 s": 8,
        "no limit": None,
        "none": (),
        "the embedded server": None,
        "`memory`": "memory",
        "`all`": "all",
    }
    for name, (environment, default, _) in shown.items():
        assert environment == f"`AIOQ_{name.upper()}`"
        assert words.get(default, default) in (defaults[name], str(defaults[name])), name


def test_every_option_of_a_schedule_is_in_the_table() -> None:
    rows = _rows("docs/scheduling.md", 2)
    names = {part.strip("` ") for name in rows for part in name.split(",")}
    assert names == set(SCHEDULE_OPTIONS)
    assert {name: cells[1] for name, cells in rows.items() if name in {"misfire", "misfire_cap", "overlap"}} == {
        "misfire": f"`{Misfire.LAST.value}`",
        "misfire_cap": str(next(f.default for f in msgspec.structs.fields(Definition) if f.name == "misfire_cap")),
        "overlap": f"`{Overlap.ALLOW.value}`",
    }


def _names(page: str, heading: str) -> set[str]:
    """The names in the first cells of the tables below a heading."""
    section = (ROOT / page).read_text().partition(f"\n{heading}\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(\w+)", cell)}


def test_what_a_job_has_is_in_the_table() -> None:
    public = {name for name in dir(JobContext) if not name.startswith("_")}
    assert _names("docs/tasks.md", "## The current job") == public


def test_every_hook_and_every_kind_of_outcome_is_named() -> None:
    assert _names("docs/tasks.md", "## Middleware") == {
        name for name in dir(Middleware) if not name.startswith("_")
    }
    page = (ROOT / "docs" / "tasks.md").read_text()
    named = page.partition("`OutcomeKind`:")[2].partition("`final`")[0]
    assert set(re.findall(r"`([A-Z_]+)`", named)) == {kind.name for kind in OutcomeKind}
    assert all(f"`{field}`" in page for field in dir(Outcome) if not field.startswith("_"))


def test_the_states_of_a_job_are_named() -> None:
    row = next(line for line in (ROOT / "docs/results.md").read_text().splitlines() if "a `JobState`:" in line)
    assert set(re.findall(r"`(\w+)`", row.partition("a `JobState`:")[2])) == {state.value for state in JobState}


def test_what_the_health_checks_answer_is_named() -> None:
    page = (
        (ROOT / "docs/worker.md")
        .read_text()
        .partition("Both come with the facts as JSON:")[2]
        .partition("\n\n")[0]
    )
    fields = {*Health.__struct_fields__, *QueueHealth.__struct_fields__} - {"queues"}
    assert set(re.findall(r"`(\w+)`", page)) == fields


def test_every_sync_method_is_in_the_table() -> None:
    table, _, more = (ROOT / "docs/sync.md").read_text().partition("They take the same")
    there = {name for kind in (App, Task, JobHandle) for name in dir(kind) if name.endswith("_sync")}
    assert there | {"gather_sync"} == set(re.findall(r"\w+_sync\b", table))
    operators = more.partition("\n- ")[0]
    kinds = (
        JobQuery,
        QueueHandle,
        Operation,
        Operations,
        WorkerQuery,
        WorkerInfo,
        UniqueKeys,
        Limiter,
        Limiters,
        JobLimits,
    )
    theirs = {name for kind in kinds for name in dir(kind) if re.fullmatch(r"[a-z]\w*_sync", name)}
    assert theirs == set(re.findall(r"\w+_sync\b", operators))


def test_the_figures_of_the_readme_are_those_of_the_benchmark() -> None:
    measured = (ROOT / "benchmarks" / "results" / "README.md").read_text().splitlines()
    table = (ROOT / "README.md").read_text().partition("\n## Speed\n")[2].partition("\n\nRates are")[0]
    rows = [row.replace("*", "").strip("| ").split(" | ") for row in table.splitlines() if row.startswith("| ")][
        1:
    ]
    assert len(rows) == 10
    for library, *figures in rows:
        own = " ".join(line for line in measured if line.startswith(f"| {library} |"))
        assert [figure for figure in figures if f" {figure} " not in own] == [], library
