"""`App("demo")` with nothing configured: the embedded server, across processes, restarts and odd directories."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.behaviour.kit import Project, cleared

pytestmark = [pytest.mark.anyio, pytest.mark.measured]

DEMO = """
import asyncio, sys
from aioq import App
app = App("demo")

@app.task
async def add(x: int, y: int) -> int:
    return x + y

async def main():
    if sys.argv[1] == "send":
        print((await add.send(1, 2)).id)
    elif sys.argv[1] == "ask":
        print(await app.handle(sys.argv[2]).result(timeout=20))
    else:
        print(await (await add.send(1, 2)).result(timeout=20))

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "demo"


@pytest.fixture
def demo(folder: Path) -> Iterator[Project]:
    """A directory with the smallest program there is, and no setting at all."""
    with cleared(Project(folder, None, "demo")) as project:
        del project.settings["AIOQ_NAME"]
        project.write("demo.py", DEMO)
        yield project


async def test_a_worker_and_a_client_in_one_directory_meet(demo: Project, folder: Path) -> None:
    worker = demo.worker("demo:app")
    client = demo.python("demo.py", "call")

    assert await client.ended() == 0, client.log
    assert client.printed == ["3"]
    assert await worker.stop() == 0
    assert "unix://" in worker.log
    assert (folder / ".aioq").stat().st_mode & 0o777 == 0o700


async def test_what_was_sent_is_there_after_a_restart(demo: Project) -> None:
    """No process runs between the three: the server stops with the first and starts again with each."""
    sent = demo.python("demo.py", "send")
    assert await sent.ended() == 0, sent.log
    assert await demo.worker("demo:app", "--burst").ended() == 0
    asked = demo.python("demo.py", "ask", sent.printed[0])

    assert await asked.ended() == 0, asked.log
    assert asked.printed == ["3"]


async def test_several_processes_start_at_once(demo: Project) -> None:
    worker = demo.worker("demo:app", "--processes", "2")
    clients = [demo.python("demo.py", "call") for _ in range(3)]

    for client in clients:
        assert await client.ended() == 0, client.log
        assert client.printed == ["3"]
    assert await worker.stop() == 0


async def test_a_server_that_was_killed_is_started_again(demo: Project, folder: Path) -> None:
    worker = await demo.ready_worker("demo:app")
    first = demo.python("demo.py", "call")
    assert await first.ended() == 0, first.log
    pid = int((folder / ".aioq" / "valkey.pid").read_text())

    os.kill(pid, 9)

    second = demo.python("demo.py", "call")
    assert await second.ended() == 0, second.log
    assert second.printed == ["3"]
    assert await worker.stop() == 0
    assert "Traceback" not in worker.log


class TestALongPath:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path / ("long" * 20) / ("path" * 20)

    async def test_it_makes_no_difference(self, demo: Project) -> None:
        worker = demo.worker("demo:app")
        client = demo.python("demo.py", "call")

        assert await client.ended() == 0, client.log
        assert client.printed == ["3"]
        assert await worker.stop() == 0


async def test_a_directory_that_cannot_be_written_is_one_line(demo: Project, folder: Path) -> None:
    """A file is where the directory should be made: permissions would not stop root."""
    demo.write(".aioq", "in the way")

    worker = demo.worker("demo:app")

    assert await worker.ended() == 2
    (line,) = worker.lines
    assert line.startswith("aioq: the embedded server cannot run in .aioq")
    assert "AIOQ_URL" in line
    assert "AIOQ_DATA_DIR" in line


async def test_a_read_only_directory_is_one_line(demo: Project, folder: Path) -> None:
    """Mounted read-only where this user may do that, else by its permissions."""
    os.chmod(folder, 0o500)
    command: list[str] = []
    if os.geteuid() == 0:
        script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && cd "$0" && exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", script, str(folder)]
        allowed = subprocess.run([*command, "true"], capture_output=True, check=False)  # noqa: ASYNC221
        assert allowed.returncode == 0, "cannot mount here: run this as another user"
    try:
        worker = demo.run(*command, sys.executable, "-m", "aioq", "worker", "demo:app")
        assert await worker.ended() == 2
    finally:
        os.chmod(folder, 0o700)

    (line,) = worker.lines
    assert line.startswith("aioq: the embedded server cannot run in .aioq")
    assert "Read-only file system" in line or "Permission denied" in line
    assert ".aioq" not in os.listdir(folder)
