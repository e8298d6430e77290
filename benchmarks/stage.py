"""What one measurement needs: a fresh server, a library's environment, and the processes it starts."""

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import redis

from benchmarks.catalogue import Library
from benchmarks.contract import Setup
from benchmarks.environments import ROOT, Environment
from benchmarks.ledger import VARIABLE, Ledger
from benchmarks.plan import Plan
from tests.servers import Server

START_WITHIN = 30.0
"""Seconds that a worker may take to its first job; the slowest on a busy machine was seen to take 4."""


class VoidError(Exception):
    """A measurement does not count; the message says why."""


@dataclass(slots=True)
class Known:
    """What a run has learned so far, by library: rates in jobs a second, to size what follows."""

    bulk: dict[str, float] = field(default_factory=dict[str, float])
    drain: dict[str, float] = field(default_factory=dict[str, float])
    peers: frozenset[str] = frozenset()

    @property
    def best_peer(self) -> float | None:
        """The drain rate of the best peer."""
        rates = [rate for name, rate in self.drain.items() if name in self.peers]
        return max(rates) if rates else None


class Fleet:
    """Worker processes of one library."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self._process = process
        self._log = log

    def tree(self) -> list[psutil.Process]:
        """All its processes."""
        with suppress(psutil.NoSuchProcess):
            top = psutil.Process(self._process.pid)
            return [top, *top.children(recursive=True)]
        return []

    def cpu(self) -> float:
        """Seconds of CPU they have used."""
        used = 0.0
        for process in self.tree():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                used += times.user + times.system
        return used

    def rss(self) -> int:
        """Bytes of memory they hold, shared pages counted in each."""
        held = 0
        for process in self.tree():
            with suppress(psutil.NoSuchProcess):
                held += process.memory_info().rss
        return held

    def check(self) -> None:
        """Void the measurement where the worker has ended."""
        if self._process.poll() is not None:
            raise VoidError(f"the worker ended with {self._process.returncode}: {self.tail()}")

    def tail(self) -> str:
        """The end of what it has printed, on one line."""
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return " / ".join(lines[-2:])[-300:]

    def kill(self) -> None:
        """End the whole process group; the server it works on is thrown away with it."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Stage:
    """One library, one round, one workload.

    Attributes:
        library: what is measured.
        plan: how much.
        known: what the run has learned.
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
        """The environment of a process of the library: what the shell has, without settings of aioq's."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIOQ_")}
        return {
            **inherited,
            **Setup(self.server.url, concurrency).environ(),
            "PYTHONPATH": str(ROOT),
            **extra,
        }

    def drive(self, action: str, *, limit: float | None = None, **parameters: Any) -> dict[str, Any]:
        """Have the driver carry out an action, see `benchmarks.driver`.

        Raises:
            VoidError: it failed, or took longer than `limit` seconds (the plan's patience by default).
        """
        answer = self.folder / "answer.json"
        command = self._driver(action, str(answer), parameters)
        log = self.folder / "driver.log"
        with log.open("wb") as output:
            try:
                code = subprocess.run(
                    command,
                    env=self.environ({}),
                    cwd=ROOT,
                    stdout=output,
                    stderr=output,
                    timeout=limit or self.plan.patience,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired as error:
                raise VoidError(f"{action} took longer than {error.timeout:g} s") from error
        if code:
            lines = log.read_text(errors="replace").strip().splitlines() or ["no output"]
            raise VoidError(f"{action} failed: {lines[-1][-300:]}")
        return json.loads(answer.read_text())

    @contextmanager
    def fleet(
        self, *, task: str = "noop", concurrency: int = 100, processes: int = 1, ledger: Ledger | None = None
    ) -> Generator[Fleet]:
        """Worker processes, killed at the end."""
        extra = {} if ledger is None else {VARIABLE: str(ledger.path)}
        log = self.folder / "worker.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                self._driver("worker", "", {"task": task, "processes": processes}),
                env=self.environ(extra, concurrency),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        fleet = Fleet(process, log)
        try:
            yield fleet
        finally:
            fleet.kill()

    @contextmanager
    def client(self) -> Generator[redis.Redis]:
        """A client of the server, for its figures."""
        with self.server.client() as client:
            yield client

    def _driver(self, action: str, answer: str, parameters: Mapping[str, Any]) -> list[str]:
        module = [str(self.environment.python), "-m", "benchmarks.driver"]
        return [*module, self.library.name, action, answer, json.dumps(parameters)]


def used_memory(client: redis.Redis) -> int:
    """Bytes the server has allocated."""
    return int(info(client, "memory")["used_memory"])


def info(client: redis.Redis, section: str) -> dict[str, Any]:
    """A section of the server's INFO."""
    untyped: Any = client
    return untyped.info(section)


@contextmanager
def stage(library: Library, environment: Environment, plan: Plan, known: Known) -> Generator[Stage]:
    """A fresh server and an empty folder; both go at the end."""
    with tempfile.TemporaryDirectory(prefix="aioq-bench-") as name:
        folder = Path(name)
        with Server.start(plan.server, folder / "server", tcp=True) as server:
            yield Stage(library, environment, plan=plan, known=known, server=server, folder=folder)
