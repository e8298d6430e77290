"""The options of the fault suite, and what its cases are given.

`--faults-full` runs the cases at their full size (`make faults`), else they run in their short form;
`--faults-seed N` repeats a run; `--faults-scale X` runs that share of the full size; `--faults-only R12,R13` runs
these cases; `--faults-figures DIR` is where the figures are gathered for `tests/faults/report.py`.

A case is a test with `@pytest.mark.fault("R1", fault="...", passes="...", minutes=6)`: the words of its line in
the report, and what its full form may take at most; `variant` where one case has several tests.
"""

import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.behaviour.kit import Project, cleared
from tests.conftest import PREFERENCE
from tests.databases import Database
from tests.faults.figures import Case, Record, Report, line
from tests.faults.harness import Rig
from tests.faults.ledger import Ledger
from tests.servers import available

DEFAULT_SEED = 20261124
_PASSED = pytest.StashKey[bool]()
_LINE = "fault figures"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption("--faults-full", action="store_true", default=False, help="the full form of the fault cases")
    group.addoption("--faults-scale", type=float, default=1.0, help="the share of the full form's sizes")
    group.addoption("--faults-seed", type=int, default=DEFAULT_SEED, help="repeats a run of the fault cases")
    group.addoption("--faults-only", default="", help="the fault cases to run, separated by commas")
    group.addoption("--faults-figures", type=Path, default=None, help="a directory to gather the figures in")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(case, fault, passes, minutes, variant): a case of the fault suite")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A full form has its own time limit. Leave out what is not asked for."""
    only = set(_option(config, "faults_only", "").split(",")) - {""}
    known = {mark.args[0] for item in items if (mark := item.get_closest_marker("fault")) is not None}
    if only - known:
        raise pytest.UsageError(
            f"--faults-only: no case {', '.join(sorted(only - known))}, only {', '.join(known)}"
        )
    if only:
        items[:] = [each for each in items if (mark := each.get_closest_marker("fault")) and mark.args[0] in only]
    for item in items:
        mark = item.get_closest_marker("fault")
        if mark is not None and _option(config, "faults_full", False):
            item.add_marker(pytest.mark.timeout(mark.kwargs["minutes"] * 60))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    report = yield
    if report.when == "call":
        item.stash[_PASSED] = report.passed
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the figures of the cases that ran."""
    reports = [each for kind in ("", "error") for each in terminalreporter.stats.get(kind, ())]
    lines = {str(text) for each in reports for name, text in getattr(each, "user_properties", ()) if name == _LINE}
    if lines:
        terminalreporter.section(_LINE)
    for text in sorted(lines):
        terminalreporter.write_line(text)


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    """How large the case is to be, and its chance."""
    config = request.config
    return Case(
        full=_option(config, "faults_full", False),
        scale=_option(config, "faults_scale", 1.0),
        seed=_option(config, "faults_seed", DEFAULT_SEED),
    )


@pytest.fixture
def report(request: pytest.FixtureRequest, case: Case) -> Iterator[Report]:
    """Where the case writes its figures: `report.add(lost=0, ...)`."""
    node = request.node
    mark = node.get_closest_marker("fault")
    about = mark.kwargs if mark else {}
    record = Record(
        case=mark.args[0] if mark else node.originalname,
        variant=node.callspec.id if hasattr(node, "callspec") else about.get("variant", ""),
        fault=about.get("fault", ""),
        passes=about.get("passes", ""),
        test=f"{Path(node.path).name}::{node.originalname}",
        seed=case.seed,
        full=case.full,
        scale=case.scale,
        server=next(name for name in PREFERENCE if name in available()),
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        commit=commit(),
    )
    report = Report(record, _option(request.config, "faults_figures", None))
    yield report
    text = line(report.close(passed=node.stash.get(_PASSED, False)))
    print(text)  # noqa: T201 - shown where the test fails
    node.user_properties.append((_LINE, text))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """The case's ledger."""
    ledger = Ledger(tmp_path / "ledger")
    yield ledger
    ledger.close()


@pytest.fixture
def make_rig(tmp_path: Path, ledger: Ledger, app_name: str) -> Iterator[Callable[..., Rig]]:
    """Make a rig that uses the server at a URL; once a case."""
    rigs: list[Rig] = []

    def make(url: str, module: str = "work") -> Rig:
        rigs.append(Rig(Project(tmp_path / "project", url, app_name), ledger, module))
        return rigs[-1]

    yield make
    for rig in rigs:
        with cleared(rig.project):
            rig.clear()


@pytest.fixture
def rig(redis_server: Database, make_rig: Callable[[str], Rig]) -> Rig:
    """A rig on the `redis_server`."""
    return make_rig(redis_server.url)


@cache
def commit() -> str:
    """The commit that is checked out, and a plus if files differ from it; empty outside of a repository."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return found.stdout.strip()


def _option(config: pytest.Config, name: str, default: Any) -> Any:
    # Where only `tests` was named, this file is read after the command line was: then the defaults hold.
    return config.getoption(name, default)
