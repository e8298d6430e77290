"""The fixtures of the behaviour tests: a project in a directory, and real processes that run in it.

A `Project` is what a user has: a directory with modules, and an environment with `AIOQ_URL` and `AIOQ_NAME`. Its
modules run in worker processes, and `load` makes the same module one of the test's own process, to send from.
"""

import asyncio
import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from unittest import mock

import psutil
import redis

import aioq
from aioq.store.redis.keys import LANES
from tests.forkserver import Forked, can_fork

SECONDS = 20.0  # the most that anything waited for here may take; a worker's start takes half a second
PROJECTS = Path(__file__).parent / "projects"
ROOT = Path(aioq.__file__).parents[1]

# What `raises` of projects/jobs.py can raise, and what its failure is called. A coroutine that raises
# StopIteration raises RuntimeError: that is Python's own rule.
RAISED = {
    "SystemExit": "SystemExit",
    "KeyboardInterrupt": "KeyboardInterrupt",
    "GeneratorExit": "GeneratorExit",
    "StopIteration": "StopIteration|RuntimeError",
    "StopAsyncIteration": "StopAsyncIteration|RuntimeError",
    "CancelledError": "asyncio.exceptions.CancelledError",
    "Unspeakable": "jobs.UnspeakableError",
    "ExceptionGroup": "ExceptionGroup",
    "BaseExceptionGroup": "BaseExceptionGroup",
}


class Process:
    """A process, with what it prints line by line."""

    def __init__(self, command: Iterable[str], folder: Path, environ: dict[str, str]) -> None:
        self.lines: list[str] = []  # of standard error
        self.printed: list[str] = []  # of standard output
        self._process = start(list(command), folder, environ)
        pairs = ((self._process.stderr, self.lines), (self._process.stdout, self.printed))
        self._readers = [threading.Thread(target=_collect, args=pair, daemon=True) for pair in pairs]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def children(self) -> list[psutil.Process]:
        """The processes that it has started, each with a session of its own (what forks them has none)."""
        return [each for each in psutil.Process(self.pid).children() if os.getsid(each.pid) == each.pid]

    @property
    def log(self) -> str:
        """Standard error so far."""
        return "\n".join(self.lines)

    async def saw(self, pattern: str, *, times: int = 1) -> list[str]:
        """Wait until that many lines of standard error match, and return those that do."""

        def matching() -> list[str]:
            return [line for line in self.lines if re.search(pattern, line)]

        def enough() -> bool:
            return len(matching()) >= times

        await until(lambda: enough() or not self.running, f"{pattern!r} in the log", lambda: self.log)
        for reader in () if self.running else self._readers:
            reader.join(SECONDS)
        assert enough(), f"ended without {times} x {pattern!r}:\n{self.log}"
        return matching()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def ended(self) -> int:
        """Wait until it ends by itself, and return its exit code."""
        await until(lambda: not self.running, "the end of the process", lambda: self.log)
        for reader in self._readers:
            reader.join(SECONDS)
        code = self._process.returncode
        assert code is not None
        return code

    async def stop(self) -> int:
        """End it with SIGTERM, and return its exit code."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    def clear(self) -> None:
        """Kill it if it is still there, and let go of its pipes."""
        self._process.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join(SECONDS)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()


class Project:
    """A user's directory."""

    def __init__(self, folder: Path, url: str | None, name: str) -> None:
        self.folder = folder
        self.name = name
        self.environ = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
        self.settings = {"AIOQ_NAME": name} if url is None else {"AIOQ_NAME": name, "AIOQ_URL": url}
        self._processes: list[Process] = []
        self._loaded: dict[str, Any] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, file: str, text: str) -> Path:
        """Write a file of the project."""
        path = self.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def copy(self, name: str) -> None:
        """Take a module of `projects/` into the project."""
        self.write(f"{name}.py", (PROJECTS / f"{name}.py").read_text())

    def load(self, name: str) -> Any:
        """Import a module of the project into this process, its App as it is in the project's environment."""
        path = self.folder / f"{name}.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        self._loaded[name] = sys.modules.get(name)
        sys.modules[name] = module
        with mock.patch.dict(os.environ, self.settings):
            spec.loader.exec_module(module)
        return module

    def run(self, *command: str, folder: str = ".", **settings: str) -> Process:
        """Start a process in a directory of the project; the keywords are environment variables."""
        environ = {**self.environ, **self.settings, **settings}
        self._processes.append(Process(command, self.folder / folder, environ))
        return self._processes[-1]

    def python(self, *arguments: str, **settings: str) -> Process:
        """Start Python."""
        return self.run(sys.executable, *arguments, **settings)

    def worker(self, *arguments: str, **settings: str) -> Process:
        """Start `aioq worker`."""
        return self.python("-m", "aioq", "worker", *arguments, **settings)

    async def ready_worker(self, *arguments: str, **settings: str) -> Process:
        """Start `aioq worker`, and wait until it has shown its banner."""
        worker = self.worker(*arguments, **settings)
        await worker.saw(r"│ host")
        return worker

    def clear(self) -> None:
        """Kill what still runs, and forget what was loaded."""
        for process in self._processes:
            process.clear()
        for name, before in self._loaded.items():
            sys.modules.pop(name, None)
            if before is not None:
                sys.modules[name] = before


async def until(
    condition: Callable[[], object], what: str = "the condition", detail: Callable[[], str] = str
) -> None:
    """Wait until the condition holds; only for what gives no signal of its own."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, f"{what} did not come within {SECONDS:g} s:\n{detail()}"
        await asyncio.sleep(0.01)


async def info_when(handle: aioq.JobHandle[Any], holds: Callable[[aioq.JobInfo], bool]) -> aioq.JobInfo:
    """Wait until what the server knows of a job fulfils a condition."""
    end = time.monotonic() + SECONDS
    while not holds(info := await handle.info()):
        assert time.monotonic() < end, f"it stayed at {info}"
        await asyncio.sleep(0.01)
    return info


async def state_is(handle: aioq.JobHandle[Any], *states: str) -> aioq.JobInfo:
    """Wait until a job is in one of these states."""
    return await info_when(handle, lambda info: info.state in states)


def keys(client: redis.Redis, name: str) -> list[str]:
    """The keys of an app."""
    return sorted(key for key in client.scan_iter(count=1000) if key.startswith(f"aioq:{{{name}:"))


def consumers(client: redis.Redis, name: str, queue: str = "default") -> list[str]:
    """The consumers of all lanes of a queue."""
    base = f"aioq:{{{name}:{queue}}}"
    lanes = [key for key in (f"{base}:{lane}" for lane in LANES) if client.exists(key)]
    return [consumer["name"] for lane in lanes for consumer in client.xinfo_consumers(lane, "aioq")]


def start(command: Sequence[str], folder: Path, environ: dict[str, str]) -> subprocess.Popen[str] | Forked:
    """Start a process with pipes for its output; forked, if that is no different."""
    if can_fork(command, environ):
        return Forked(command, folder, environ)
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )


@contextmanager
def cleared(project: Project) -> Iterator[Project]:
    """The project for a while; nothing of it runs afterwards."""
    try:
        yield project
    finally:
        project.clear()


def _collect(pipe: IO[str], lines: list[str]) -> None:
    for line in pipe:
        lines.append(line.rstrip("\n"))  # noqa: PERF401 - each line is to be seen as it comes
