"""The stage of one measurement: a new server, a library's environment, and the processes that it starts."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil
import redis

from benchmarks.catalogue import Library
from benchmarks.contract import Setup
from benchmarks.environments import ROOT, Environment
from benchmarks.ledger import VARIABLE, Ledger
from benchmarks.plan import Plan
from tests.servers import Server

START_WITHIN = 30.0
"""Seconds that a worker may take until its first job; on a busy machine the slowest took 4."""

_SCHED = 2
"""CPUCLOCK_SCHED of Linux: with a process id, the clock of all its time on a processor, in nanoseconds."""


class VoidError(Exception):
    """A measurement does not count; the message says why."""


@dataclass(slots=True)
class Known:
    """The rates that a run has measured so far, by library, in jobs a second; later sizes follow from them."""

    bulk: dict[str, float] = field(default_factory=dict[str, float])
    drain: dict[str, float] = field(default_factory=dict[str, float])
    peers: frozenset[str] = frozenset()

    @property
    def best_peer(self) -> float | None:
        """The drain rate of the best peer."""
        rates = [rate for name, rate in self.drain.items() if name in self.peers]
        return max(rates) if rates else None


def _cpu_of(process: psutil.Process) -> float:
    """Seconds of CPU that a process has used; `/proc` counts them in hundredths only."""
    if sys.platform != "linux":
        times = process.cpu_times()
        return times.user + times.system
    return time.clock_gettime((~process.pid << 3) | _SCHED)


class Fleet:
    """Worker processes of one library."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self._process = process
        self._log = log

    def tree(self) -> list[psutil.Process]:
        """All processes of the worker."""
        with suppress(psutil.NoSuchProcess):
            top = psutil.Process(self._process.pid)
            return [top, *top.children(recursive=True)]
        return []

    def cpu(self) -> float:
        """Seconds of CPU that they have used."""
        used = 0.0
        for process in self.tree():
            with suppress(psutil.NoSuchProcess, OSError):
                used += _cpu_of(process)
        return used

    def rss(self) -> int:
        """Bytes of memory that they hold; shared pages are counted in each process."""
        held = 0
        for process in self.tree():
            with suppress(psutil.NoSuchProcess):
                held += process.memory_info().rss
        return held

    def check(self) -> None:
        """Raise an error that makes the measurement void, if the worker has ended."""
        if self._process.poll() is not None:
            raise VoidError(f"the worker ended with {self._process.returncode}: {self.tail()}")

    def tail(self) -> str:
        """The end of the worker's output, on one line."""
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return " / ".join(lines[-2:])[-300:]

    def kill(self) -> None:
        """Kill the whole process group; its server is thrown away too."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def start(command: Sequence[str], environ: Mapping[str, str], output: IO[bytes]) -> "subprocess.Popen[bytes]":
    """Start a process that leads a group of its own; all that it prints goes to one file."""
    return subprocess.Popen(
        command,
        env=environ,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


def run(command: Sequence[str], environ: Mapping[str, str], log: Path, limit: float) -> None:
    """Run a process to its end.

    Raises:
        VoidError: it failed, or took longer than `limit` seconds.
    """
    with log.open("wb") as output:
        process = start(command, environ, output)
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired as error:
        raise VoidError(f"took longer than {limit:g} s") from error
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()
    if code:
        lines = log.read_text(errors="replace").strip().splitlines() or ["no output"]
        raise VoidError(f"failed: {lines[-1][-300:]}")


@contextmanager
def fleet_of(command: Sequence[str], environ: Mapping[str, str], log: Path) -> Generator[Fleet]:
    """The worker processes that a command starts, killed at the end."""
    with log.open("wb") as output:
        process = start(command, environ, output)
    fleet = Fleet(process, log)
    try:
        yield fleet
    finally:
        fleet.kill()


class Stage:
    """All that is needed to measure one library in one workload and one round.

    Attributes:
        library: the library that is measured.
        plan: the sizes.
        known: the rates that are known so far.
        server: started for this measurement alone, without persistence.
        folder: for the files of this measurement.
    """

    def __init__(
        self, library: Library, environment: Environment, *, plan: Plan, known: Known, server: Server, folder: Path
    ) -> None:
        self.library = library
        self.environment = environment
        self.plan = plan
        self.known = known
        self.server = server
        self.folder = folder

    def environ(self, extra: Mapping[str, str], concurrency: int = 100) -> dict[str, str]:
        """The environment variables of a process of the library: those of the shell, without aioq's settings."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIOQ_")}
        return {
            **inherited,
            **Setup(self.server.url, concurrency).environ(),
            "PYTHONPATH": str(ROOT),
            **extra,
        }

    def drive(self, action: str, *, limit: float | None = None, **parameters: Any) -> dict[str, Any]:
        """Run an action of `benchmarks.driver` and return its result.

        Raises:
            VoidError: it failed, or took longer than `limit` seconds (by default the plan's patience).
        """
        answer = self.folder / "answer.json"
        command = self._driver(action, str(answer), parameters)
        try:
            run(command, self.environ({}), self.folder / "driver.log", limit or self.plan.patience)
        except VoidError as error:
            raise VoidError(f"{action} {error}") from error
        return json.loads(answer.read_text())

    @contextmanager
    def fleet(
        self, *, task: str = "noop", concurrency: int = 100, processes: int = 1, ledger: Ledger | None = None
    ) -> Generator[Fleet]:
        """Worker processes, killed at the end."""
        extra = {} if ledger is None else {VARIABLE: str(ledger.path)}
        command = self._driver("worker", "", {"task": task, "processes": processes})
        with fleet_of(command, self.environ(extra, concurrency), self.folder / "worker.log") as fleet:
            yield fleet

    @contextmanager
    def client(self) -> Generator[redis.Redis]:
        """A client of the server, for its figures."""
        with self.server.client() as client:
            yield client

    def _driver(self, action: str, answer: str, parameters: Mapping[str, Any]) -> list[str]:
        module = [str(self.environment.python), "-m", "benchmarks.driver"]
        return [*module, self.library.name, action, answer, json.dumps(parameters)]


def used_memory(client: redis.Redis) -> int:
    """The bytes that the server has allocated."""
    return int(info(client, "memory")["used_memory"])


def info(client: redis.Redis, section: str) -> dict[str, Any]:
    """A section of the server's INFO."""
    untyped: Any = client
    return untyped.info(section)


@contextmanager
def stage(library: Library, environment: Environment, plan: Plan, known: Known) -> Generator[Stage]:
    """A stage with a new server and an empty folder; both are removed at the end."""
    with tempfile.TemporaryDirectory(prefix="aioq-bench-") as name:
        folder = Path(name)
        with Server.start(plan.server, folder / "server", tcp=True) as server:
            yield Stage(library, environment, plan=plan, known=known, server=server, folder=folder)
