"""The tests are run by several processes: who gets which, what is reported, and what goes wrong in one of them."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.side_by_side import Process, Processors, Reporter, rounds_of

ROOT = Path(__file__).parents[3]
SHOWN = {"verbose": 0, "reportchars": "fE", "durations": None}


def item(name: str, **marks: dict[str, Any]) -> Any:
    file, _, test = name.partition("::")
    found = {mark: SimpleNamespace(kwargs=given) for mark, given in marks.items()}
    return SimpleNamespace(nodeid=f"{file}::{test}", path=file, get_closest_marker=found.get)


# -- who gets which ---------------------------------------------------------------------------------------------


def waits(item: Any) -> bool:
    return item.path.startswith("waits")


def test_what_computes_fills_the_time_in_which_a_processor_is_idle_and_the_end() -> None:
    files = ["waits-1", "computes-1", "waits-2", "computes-2", "waits-3"]
    items = [item(f"{file}::{n}") for file in files for n in (1, 2)]
    [only] = rounds_of(items, 3, waits)
    taken = [items[part[0]].path for idle in (0, 1, 1, 1, 0) if (part := only.take(0, idle=bool(idle)))]

    assert taken == ["waits-1", "computes-1", "computes-2", "waits-2", "waits-3"]
    assert only.take(0, idle=False) is None


def test_the_last_fourth_of_the_processes_does_only_what_waits() -> None:
    [only] = rounds_of([item("computes-1::1"), item("waits-1::1"), item("computes-2::1")], 4, waits)

    assert only.take(4, idle=True) is None
    assert [only.take(number, idle=True) for number in (3, 3, 2, 2)] == [[1], None, [0], [2]]


def test_what_is_apart_is_handed_out_test_by_test() -> None:
    items = [item("together::1"), item("apart::1", apart={}), item("together::2"), item("apart::2", apart={})]

    assert [[*each.computing] for each in rounds_of(items, 2, waits)] == [[[0, 2], [1], [3]]]


def test_what_measures_times_comes_first_and_beside_nothing_that_computes() -> None:
    kind: dict[str, Any] = {"alone": {"waits": True}}
    items = [
        item("a::1"),
        item("a::2", alone={}),
        item("b::1", **kind),
        item("b::2", **kind),
        item("b::3", alone={}),
    ]
    found = rounds_of(items, 6, waits)

    assert [([*each.waiting, *each.computing], each.at_once) for each in found] == [
        ([[2], [3]], 2),
        ([[1], [4]], 1),
        ([[0]], 6),
    ]
    assert found[1].take(1, idle=False) is None
    assert found[1].take(0, idle=False) == [1]


def test_a_processor_is_idle_where_it_was_for_a_part_of_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    times = SimpleNamespace(idle=100.0)
    monkeypatch.setattr(Processors, "_times", staticmethod(lambda: (times.idle, times.all)))
    times.all = 500.0
    processors = Processors()
    said: list[bool] = []
    for idle, all_of_it in ((0.4, 0.9), (0.4, 1.1), (0.0, 0.5), (0.0, 0.6), (0.05, 2.0)):
        times.idle += idle
        times.all += all_of_it
        said.append(processors.idle())

    assert said == [False, True, True, False, False]


def test_a_process_that_has_ended_is_given_a_part_all_the_same() -> None:
    """It is then heard of as one that has ended while it ran the first of these tests."""
    ours, theirs = Pipe()
    theirs.close()
    process = Process(0, 1, ours)
    process.give([3, 4])

    assert [*process.part] == [3, 4]
    ours.close()


# -- what is sent -----------------------------------------------------------------------------------------------


def sent(change: dict[str, Any], **options: object) -> list[str]:
    """Which reports are sent of a test that has passed but for this; of a dictionary, its `when`."""
    hook = SimpleNamespace(pytest_report_to_serializable=lambda config, report: {"when": report.when})
    config: Any = SimpleNamespace(option=SimpleNamespace(**{**SHOWN, **options}), hook=hook)
    reporter = Reporter(config)
    for when in ("setup", "call", "teardown"):
        report: Any = pytest.TestReport(
            "a::1", ("a", 1, "1"), {}, "passed", None, when, duration=1, start=2, stop=3
        )
        vars(report).update(change)
        reporter.pytest_runtest_logreport(report)
    return ["times" if each == (7, 1, 2, 3) else each["when"] for each in reporter.of(7)]


def test_of_what_has_passed_only_the_times_of_the_call_are_sent() -> None:
    assert sent({}) == ["times"]


def test_what_has_failed_or_printed_is_sent() -> None:
    for change in (
        {"outcome": "failed"},
        {"outcome": "skipped"},
        {"sections": [("Captured log", "a line")]},
        {"user_properties": [("figure", 1)]},
        {"wasxfail": "a reason"},
    ):
        assert sent(change) == ["setup", "call", "teardown"], change


@pytest.mark.parametrize(
    "options", [{"verbose": 1}, {"reportchars": "fEP"}, {"reportchars": "A"}, {"durations": 10}]
)
def test_all_is_sent_where_all_is_shown(options: dict[str, object]) -> None:
    assert sent({}, **options) == ["setup", "call", "teardown"]


# -- what goes wrong --------------------------------------------------------------------------------------------

Run = Callable[..., subprocess.CompletedProcess[str]]
OPTIONS = [
    "-p",
    "no:randomly",
    "-p",
    "no:cacheprovider",
    "-p",
    "tests.conftest",
    "-c",
    str(ROOT / "pyproject.toml"),
]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run pytest with these files of tests, in two processes."""

    def run(*options: str, **files: str) -> subprocess.CompletedProcess[str]:
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(text)
        command = [sys.executable, "-m", "pytest", "-n", "2", *OPTIONS, *options, str(tmp_path)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, start_new_session=True
        )

    return run


SHARED = """
import os, pytest

@pytest.fixture(scope="session")
def shared():
    yield os.getpid()
    raise RuntimeError("it cannot be ended")

@pytest.fixture(scope="module")
def of_the_file():
    yield [os.getpid()]

def test_it(shared, of_the_file):
    of_the_file.append(1)

def test_it_again(shared, of_the_file):
    print("it was printed")
    assert of_the_file == [shared, 2]
"""
DIES = """
import os

def test_before(): ...

def test_dies():
    os._exit(3)

def test_after(tmp_path):
    assert tmp_path.exists()
"""


@pytest.mark.timeout(240)  # a run of pytest within one
def test_what_fails_is_reported_and_what_is_left_goes_on(run: Run) -> None:
    ran = run(test_dies=DIES, test_shared=SHARED)

    assert ran.returncode == 1
    assert re.search(r"=+ 3 failed, 3 passed in", ran.stdout), ran.stdout
    assert re.search(r"^E +assert \[\d+, 1\] == \[\d+, 2\]$", ran.stdout, re.MULTILINE), ran.stdout
    assert "it was printed" in ran.stdout
    assert re.search(r"_ test_dies _+\n\[gw\d\].*\n.* has ended with exit code 3\n", ran.stdout), ran.stdout
    assert re.search(r"_ the end of gw\d _+\n", ran.stdout), ran.stdout
    assert "RuntimeError: it cannot be ended" in ran.stdout


NOTES_FAILURES = """
import pathlib

def pytest_runtest_logreport(report):
    if report.failed and hasattr(report, "node"):  # in the process that shows the results
        pathlib.Path(__file__).with_name("noted").touch()
"""
WAITS = """
import pathlib, time

def test_before():
    while not pathlib.Path(__file__).with_name("noted").exists():
        time.sleep(0.01)

def test_after(): ...
"""


@pytest.mark.timeout(240)
def test_a_run_ends_with_the_first_failure_or_with_ctrl_c(run: Run) -> None:
    first = run("-x", conftest=NOTES_FAILURES, test_fails="def test_it(): assert False\n", test_waits=WAITS)

    assert "stopping after 1 failures" in first.stdout, first.stdout
    assert re.search(r"=+ 1 failed in", first.stdout), first.stdout

    interrupts = (
        f"import os, signal, time\n\ndef test_it():\n    os.killpg(0, {signal.SIGINT:d})\n    time.sleep(30)\n"
    )
    second = run("-k", "test_it", test_fails=interrupts)
    assert "! KeyboardInterrupt !" in second.stdout, second.stdout
    assert second.returncode == pytest.ExitCode.INTERRUPTED
