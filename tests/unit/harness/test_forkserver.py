"""Commands that are forked: no different from those that are started."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests import forkserver, leaks
from tests.behaviour.kit import ROOT
from tests.forkserver import COMMAND as INSTALLED
from tests.forkserver import FRESH, Forked, can_fork, pids

COMMAND = [sys.executable, "-m", "aioq"]
APP = """
import json, os, sys
from aioq import App

print("printed, \\u00e4")
seen = {
    "argv": sys.argv,
    "original": sys.orig_argv,
    "path": sys.path,
    "folder": os.getcwd(),
    "leads its session": os.getsid(0) == os.getpid(),
    "environment": sorted(os.environ),
    "files": sorted(os.listdir("/proc/self/fd"), key=int),
    "main": getattr(sys.modules["__main__"], "__file__", None),
    "streams": [(s.encoding, s.errors, s.line_buffering, s.fileno()) for s in (sys.stdin, sys.stdout, sys.stderr)],
    "name": __name__,
}
for name, value in seen.items():
    print(name, json.dumps(value), file=sys.stderr)
app = App()
"""

PARENT = """
import os, subprocess, sys
from pathlib import Path

kept, given = os.pipe()
passed = os.fdopen(os.dup2(given, 70), "w")
in_pool = "import sys; from aioq.worker.processes.child import serve; import shop; sys.exit(7)"
for arguments in (["-m", "aioq", "check", "shop:app"], ["-c", in_pool]):
    child = subprocess.Popen(
        [sys.executable, *arguments], stdin=subprocess.DEVNULL, stdout=1, stderr=subprocess.PIPE,
        env={**os.environ, "MORE": "1"}, pass_fds=[70], start_new_session=True, text=True,
    )
    print(child.communicate(timeout=20)[1], child.wait(), flush=True)
child = subprocess.Popen(
    [sys.executable, "-c", in_pool.replace("import shop", "import time; time.sleep(60)")], start_new_session=True
)
print("forked" if "forked.py" in Path(f"/proc/{child.pid}/cmdline").read_text() else "new", file=sys.stderr)
child.kill()
print(child.wait(20))
"""

LATE = """
import atexit, pickle, sys, threading

class Thing:
    pass

def say():
    print(Thing().__module__, pickle.loads(pickle.dumps(Thing)) is Thing, sys.modules["__main__"].Thing is Thing)

atexit.register(say)
threading.Thread(target=lambda: (threading.main_thread().join(), say())).start()
mine = set(globals()) - {"__annotations__", "__cached__"}  # not of each version
print(sorted(mine), __doc__, __spec__, __package__)
"""

END = """
import sys, warnings
from aioq import App

class Held:
    def __del__(self):
        print("gone", sys.is_finalizing())

async def never():
    pass

warnings.simplefilter("always")
app, held, never_run, file = App("shop"), Held(), never(), open(__file__)
held.itself = held
"""

pytestmark = pytest.mark.needs_host("pidfd_open")  # without it all commands are new processes


def new(command: list[str], folder: Path, environment: dict[str, str]) -> tuple[int, str, str]:
    """The exit code and the output of a new process."""
    ran = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", stdin=subprocess.DEVNULL,
        check=False, start_new_session=True,
    )  # fmt: skip
    return ran.returncode, ran.stdout, ran.stderr


def forked(command: list[str], folder: Path, environment: dict[str, str]) -> tuple[int, str, str]:
    """The same of a forked one."""
    assert can_fork(command, environment)
    process = Forked(command, folder, environment)
    with process.stdout, process.stderr:
        out, err = process.stdout.read(), process.stderr.read()
        assert process.wait(10) == process.returncode == process.poll()
    return process.wait(0), out, err


@pytest.mark.parametrize(
    "command",
    [
        [*COMMAND, "--version"],
        [*COMMAND, "worker", "--help"],
        [*COMMAND, "worker", "nope:app"],
        [*COMMAND, "worker", "broken:app"],
        [*COMMAND, "check", "shop:app"],
        [*COMMAND, "worker", "shop:app", "--nonsense"],
        [INSTALLED, "check", "shop:app"],
        [sys.executable, "inside/shop.py", "-m", "aioq"],
        [sys.executable, "broken.py"],
        [sys.executable, "late.py"],
        [sys.executable, "end.py"],
    ],
    ids=lambda command: " ".join(command[1:]),
)
def test_it_prints_what_a_new_process_prints(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "inside").mkdir()
    for file in ("shop.py", "inside/shop.py"):
        (tmp_path / file).write_text(APP)
    (tmp_path / "broken.py").write_text("def f():\n    raise SystemError('ä')\nf()\n")
    (tmp_path / "late.py").write_text(LATE)
    (tmp_path / "end.py").write_text(END)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "ONLY": "here"}

    ours = forked(command, tmp_path, environment)

    code, out, err = new(command, tmp_path, environment)
    assert ours[2].splitlines() == err.splitlines()
    assert ours == (code, out, err)
    assert out or err


def test_its_children_are_forked_too_and_differ_from_new_ones_in_nothing(tmp_path: Path) -> None:
    """They are its own: it passes them descriptors, waits for them, and learns how they have ended."""
    (tmp_path / "shop.py").write_text(APP)
    (tmp_path / "parent.py").write_text(PARENT)
    command, environment = [*COMMAND, "worker", "parent:app"], {**os.environ, "PYTHONPATH": str(ROOT)}

    ours = forked(command, tmp_path, environment)

    code, out, err = new(command, tmp_path, environment)
    # From Python 3.13 on, a traceback shows the code of `-c`, which a fork does not keep.
    out = re.sub(r'(  File "<string>", line 1, in <module>\n)(?:    .*\n)*', r"\1", out)
    assert ours[1].splitlines() == out.splitlines()
    assert ours == (code, out, err.replace("new", "forked", 1))
    assert out.count('"70"') == 2


def test_it_ends_by_a_signal_as_a_process_does(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("import time\nprint(1, flush=True)\ntime.sleep(60)\n")
    process = Forked([*COMMAND, "check", "shop:app"], tmp_path, {**os.environ, "PYTHONPATH": str(ROOT)})
    with process.stdout, process.stderr:
        assert process.stdout.readline() == "1\n"
        assert process.poll() is None
        assert process.returncode is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.send_signal(signal.SIGTERM)

        assert process.wait(10) == -signal.SIGTERM
        assert not psutil.pid_exists(process.pid)
        process.kill()  # it is gone: no error, and no other process is hit


def test_its_output_goes_nowhere_else(tmp_path: Path) -> None:
    """Two at once have pipes of their own: the end of one is seen while the other runs."""
    (tmp_path / "shop.py").write_text("import time\nprint(1, flush=True)\ntime.sleep(60)\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = Forked([*COMMAND, "check", "shop:app"], tmp_path, environment)
    second = Forked([*COMMAND, "check", "shop:app"], tmp_path, environment)
    with first.stdout, first.stderr, second.stdout, second.stderr:
        for process in (first, second):
            assert process.stdout.readline() == "1\n"
        first.kill()
        assert first.stdout.read() == ""
        assert second.poll() is None
        second.kill()
        assert [process.wait(10) for process in (first, second)] == [-signal.SIGKILL] * 2


@pytest.mark.parametrize(
    ("command", "variables"),
    [
        ([sys.executable, "-X", "dev", "-m", "aioq"], {}),
        ([sys.executable, "-X", "dev", "shop.py"], {}),
        ([sys.executable, "-m", "pytest"], {}),
        ([sys.executable, "-c", "pass"], {}),
        (["/bin/sh", "-c", "true"], {}),
        (COMMAND, {"PYTHONUTF8": "0"}),
        (COMMAND, {"LC_ALL": "tr_TR.UTF-8"}),
        (COMMAND, {"TZ": "Europe/Rome"}),
    ],
)
def test_what_a_fork_cannot_have_is_started_new(command: list[str], variables: dict[str, str]) -> None:
    assert not can_fork(command, {**os.environ, **variables})


def test_a_variable_that_has_changed_since_its_server_started_is_read_by_a_new_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forked([*COMMAND, "--version"], tmp_path, {**os.environ})
    before = {**os.environ}
    monkeypatch.setenv("TZ", "Europe/Rome")

    assert not can_fork(COMMAND, os.environ)
    assert can_fork(COMMAND, before)


def test_it_runs_the_aioq_that_the_tests_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the one that is installed: in another checkout that would be other code."""
    (tmp_path / "aioq").symlink_to(ROOT / "aioq")
    (tmp_path / "shop.py").write_text("import aioq\nprint(aioq.__file__, flush=True)\n")
    servers: dict[int, forkserver._ForkServer] = {}
    monkeypatch.setattr(forkserver, "_servers", servers)
    monkeypatch.setattr(forkserver, "ROOT", tmp_path)

    _, out, _ = forked([*COMMAND, "check", "shop:app"], tmp_path, {**os.environ, "PYTHONPATH": str(tmp_path)})

    servers[os.getpid()].close()
    assert out == f"{tmp_path / 'aioq' / '__init__.py'}\n"


def test_its_forks_are_looked_for_as_any_process(tmp_path: Path) -> None:
    forked([*COMMAND, "--version"], tmp_path, {**os.environ})  # the server runs: a fork is all that is started
    with leaks.starts() as starts:
        forked([*COMMAND, "--version"], tmp_path, {**os.environ})

    assert starts.before is not None


def test_all_can_be_started_new(monkeypatch: pytest.MonkeyPatch) -> None:
    assert can_fork(COMMAND, os.environ)
    monkeypatch.setenv(FRESH, "1")
    assert not can_fork(COMMAND, os.environ)


def test_what_is_started_is_not_measured_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COVERAGE_PROCESS_CONFIG", "{}")
    monkeypatch.delenv("COVERAGE_PROCESS_START", raising=False)
    before = dict(os.environ)
    with forkserver.unmeasured():
        assert forkserver.MEASURES.isdisjoint(os.environ)
    assert os.environ == before


def test_its_server_is_one_process_without_threads(tmp_path: Path) -> None:
    """A fork has no thread but its own: what another held would stay locked."""
    forked([*COMMAND, "--version"], tmp_path, {**os.environ})
    (pid,) = pids()
    assert psutil.Process(pid).num_threads() == 1
