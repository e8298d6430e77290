"""What a test leaves running is found and ended, however it was started."""

import subprocess
import sys
import threading
from collections.abc import Callable

import psutil
import pytest

from tests import leaks
from tests.servers import Server


@pytest.fixture
def _no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "GRACE", 0.05)


@pytest.mark.usefixtures("_no_grace")
@pytest.mark.parametrize("environment", [None, {}], ids=["as it is", "environment dropped"])
def test_a_child_is_found_and_ended(environment: dict[str, str] | None) -> None:
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
