"""What a test leaves running is found and ended, however it was started."""

import asyncio
import multiprocessing
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path

import psutil
import pytest

from tests import leaks
from tests.servers import Server

ROOT = Path(__file__).parents[3]


@pytest.fixture
def _no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "GRACE", 0.05)


@pytest.mark.usefixtures("_no_grace")
@pytest.mark.parametrize("environment", [None, {}], ids=["as it is", "environment dropped"])
@pytest.mark.parametrize("has_proc", [leaks.HAS_PROC, False], ids=["as here", "without /proc"])
def test_a_child_is_found_and_ended(
    environment: dict[str, str] | None, has_proc: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaks, "HAS_PROC", has_proc)
    before = leaks.processes()
    child = subprocess.Popen(["/bin/sleep", "1000"], env=environment)

    assert leaks.end_new_processes(before) == [f"process {child.pid} (/bin/sleep 1000)"]
    assert not _runs(child.pid)
    child.wait()  # its exit code is lost: psutil has reaped it


@pytest.mark.usefixtures("_no_grace")
def test_a_child_of_a_child_that_died_is_found_and_ended() -> None:
    before = leaks.processes()
    program = "import subprocess as s; print(s.Popen(['/bin/sleep', '1000'], stdout=s.DEVNULL).pid)"
    said = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True).stdout

    assert leaks.end_new_processes(before) == [f"process {said.strip()} (/bin/sleep 1000)"]
    assert not _runs(int(said))


def _runs(pid: int) -> bool:
    # Where nothing reaps orphans it stays as a zombie.
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def by_fork() -> None:
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def by_a_loop() -> None:
    async def start() -> None:
        await (await asyncio.create_subprocess_exec("/bin/true")).wait()

    asyncio.run(start())


def by_multiprocessing(context: SpawnContext | ForkServerContext) -> None:
    process = context.Process(target=os.getpid)
    process.start()
    process.join()


WAYS = {
    "subprocess": lambda: subprocess.run(["/bin/true"], check=True),
    "posix_spawn": lambda: os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0),
    "spawn": lambda: os.spawnl(os.P_WAIT, "/bin/true", "true"),
    "system": lambda: os.system("true"),
    "fork": by_fork,
    "asyncio": by_a_loop,
    "multiprocessing": lambda: by_multiprocessing(multiprocessing.get_context("spawn")),
    "forkserver": lambda: by_multiprocessing(multiprocessing.get_context("forkserver")),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_start_a_process_is_noticed(way: str) -> None:
    with leaks.starts() as nothing:
        threading.Thread(target=lambda: None).start()
    with leaks.starts() as starts:
        WAYS[way]()

    assert nothing.before is None
    assert starts.before is not None
    assert os.getpid() in starts.before


LEAKY = """
import subprocess
import time

import pytest


@pytest.fixture(scope="module")
def shell():
    with subprocess.Popen(["/bin/sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as shell:
        yield shell


def said(shell, line):
    print(line, file=shell.stdin, flush=True)
    return shell.stdout.readline()


def test_first(shell):
    assert said(shell, "echo 1") == "1\\n"


def test_a_process_is_started_by_one_that_was_there_before(shell):
    assert int(said(shell, "sleep 1000 >/dev/null & echo $!"))


def test_last(shell):
    assert said(shell, "echo 1") == "1\\n"
"""


@pytest.mark.timeout(240)  # a run of pytest within one
def test_what_a_shared_process_has_started_fails_its_module(tmp_path: Path) -> None:
    (tmp_path / "test_leaky.py").write_text(LEAKY)
    options = ["-p", "no:randomly", "-p", "no:cacheprovider", "-p", "tests.conftest", "-rE"]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-c", ROOT / "pyproject.toml", tmp_path],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "3 passed, 1 error" in ran.stdout, ran.stdout
    assert "ERROR at teardown of test_last" in ran.stdout, ran.stdout
    assert re.search(r"left running: process \d+ \(sleep 1000\)", ran.stdout), ran.stdout


def test_a_server_that_runs_is_no_leak(start_server: Callable[..., Server]) -> None:
    before = leaks.processes()
    server = start_server()

    assert leaks.end_new_processes(before) == []
    assert server.alive


@pytest.mark.usefixtures("_no_grace")
def test_a_thread_is_found_unless_it_is_a_daemon() -> None:
    before = set(threading.enumerate())
    end = threading.Event()
    threads = [
        threading.Thread(target=end.wait, name="kept", daemon=False),
        threading.Thread(target=end.wait, name="daemon", daemon=True),
    ]
    for thread in threads:
        thread.start()

    found = leaks.new_threads(before)
    end.set()
    for thread in threads:
        thread.join()

    assert found == ["thread kept"]
    assert leaks.new_threads(before) == []
