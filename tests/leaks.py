"""What a test left running: processes it started, directly or not, and threads that keep Python alive."""

import contextlib
import os
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil

from tests import forkserver as commands
from tests import servers

GRACE = 3.0  # seconds for what is just ending; costs nothing when nothing is left

# Inherited by everything a test starts, so that a process whose parent died is still known as this run's. Not
# AIOQ_*: those are aioq's settings, and one it does not know is an error.
_MARK = "TEST_RUN_OF_AIOQ"


def mark() -> None:
    """Take a mark of one's own, which all that this process starts will have."""
    os.environ[_MARK] = secrets.token_hex(8)


mark()

HAS_PROC = Path("/proc/self/environ").exists()


STARTS = frozenset(
    {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", commands.STARTED}
)
"""What Python's audit calls the start of a process, and what `tests.forkserver` does. Where `multiprocessing` does
not fork, its starts have no name there; `BaseProcess.start` is watched for them."""


@dataclass(slots=True, eq=False)
class Starts:
    """Whether this process starts others for a while.

    Attributes:
        before: the ids of all processes there were before the first start; None while there was none.
    """

    before: set[int] | None = None


_watched: list[Starts] = []


@contextlib.contextmanager
def starts() -> Iterator[Starts]:
    """Watch for the start of processes by this one, in whatever thread."""
    watched = Starts()
    _watched.append(watched)
    try:
        yield watched
    finally:
        _watched.remove(watched)


def _note() -> None:
    for watched in _watched:
        if watched.before is None:
            watched.before = processes()


def _audit(event: str, _: tuple[Any, ...]) -> None:
    if event in STARTS:
        _note()


_start = BaseProcess.start


def _noted_start(self: BaseProcess) -> None:
    _note()
    _start(self)


sys.addaudithook(_audit)
BaseProcess.start = _noted_start


def processes() -> set[int]:
    """The ids of all processes there are, to compare with later."""
    return set(psutil.pids())


def end_new_processes(before: set[int]) -> list[str]:
    """Kill the processes of this run that are not in `before`, and say which they were."""
    new = set(psutil.pids()) - before - servers.owned_pids() - commands.pids() - _of_python()
    ours = [process for pid in new if (process := _ours(pid)) is not None]
    _, alive = psutil.wait_procs(ours, GRACE)
    described = [_describe(process) for process in alive]
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, GRACE)
    return described


def new_threads(before: set[threading.Thread]) -> list[str]:
    """The non-daemon threads that are not in `before` and do not end within the grace."""
    deadline = time.monotonic() + GRACE
    left: list[str] = []
    for thread in set(threading.enumerate()) - before:
        if not thread.daemon:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                left.append(f"thread {thread.name}")
    return left


def _ours(pid: int) -> psutil.Process | None:
    """The process, if it runs and is this run's: by its mark, or by descent where the mark was dropped."""
    with contextlib.suppress(psutil.Error, OSError):
        if _is_marked(pid) or _descends(pid):
            process = psutil.Process(pid)
            # Of a zombie only the exit code waits.
            return None if process.status() == psutil.STATUS_ZOMBIE else process
    return None


# Where tests run side by side, nearly all new processes are those of others. To ask psutil about one takes five
# times as long, since it makes sure of the age of each of its ancestors.


def _is_marked(pid: int) -> bool:
    if not HAS_PROC:
        return psutil.Process(pid).environ().get(_MARK) == os.environ[_MARK]
    return f"{_MARK}={os.environ[_MARK]}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def _descends(pid: int) -> bool:
    while pid > 1:
        pid = _parent(pid)
        if pid == os.getpid():
            return True
    return False


def _parent(pid: int) -> int:
    if not HAS_PROC:
        return psutil.Process(pid).ppid()
    return int(
        Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1]
    )  # what stands before is its name


def _of_python() -> set[int]:
    """The helpers that multiprocessing starts once and keeps until Python ends."""
    pids = (resource_tracker._resource_tracker._pid, forkserver._forkserver._forkserver_pid)  # pyright: ignore[reportAttributeAccessIssue]
    return {pid for pid in pids if pid is not None}


def _describe(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return f"process {process.pid} ({' '.join(process.cmdline())[:200]})"
    return f"process {process.pid}"
