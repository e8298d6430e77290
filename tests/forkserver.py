"""Start `aioq` commands without their imports: forked from a process that has made them (`tests/forked.py`).

A start of `python -m aioq worker` takes a fifth of a second of a core, nearly all of it for the same imports,
and the suite makes hundreds. So does one of `aioq worker`, and of `python script.py`, if the script imports aioq.
Started here it is a real process all the same, with a session, an environment and an
exit code of its own. What a fork cannot have (another interpreter, its options, its locale) is started as a new
process, and so is everything where `FRESH_STARTS` is set or the system has no `pidfd_open`.
"""

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import aioq
from tests.forked import Request, popen_by

ROOT = Path(aioq.__file__).parents[1]
"""The directory of the aioq under test, which need not be the one that is installed."""

FRESH = "FRESH_STARTS"
"""The environment variable that has every command start as a process of its own from its first line on."""

FIXED_EARLY = ("PYTHON", "LC_", "LANG", "TZ", "LD_", "MALLOC_", "COVERAGE_", "GLIBC_", "OPENSSL_", "SSL_")
"""How names of variables begin that a process reads before its first line, or while it imports."""

STARTED = "tests.forkserver.Forked"
"""The audit event of a command's start. In this process, Python itself sees only that a message was sent."""

MEASURES = frozenset({"COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START"})
"""Those by which coverage has the processes measured that a test starts."""

READ_LATE = MEASURES | {"PYTHONPATH"}
"""Those that the fork reads, as `tests/forked.py` says."""

MEASURING = ("tests.measuring",)
"""What a fork imports besides where it is measured; imported once, that saves a tenth of a second a command."""


PACKAGES = ("aioq", "benchmarks")
"""Those of which `python -m` is forked; others would find modules of aioq imported before their first line."""

COMMAND = str(Path(sys.executable).with_name("aioq"))
"""The command that pip installs: a script whose first line names this interpreter."""


def can_fork(command: Sequence[str], environment: Mapping[str, str], *, any_code: bool = False) -> bool:
    """Whether a process that was forked would not differ from a new one."""
    if not hasattr(os, "pidfd_open") or os.environ.get(FRESH) or not _of_python(command, any_code=any_code):
        return False
    server = _servers.get(os.getpid())
    early = (
        _fixed_early(os.environ) if server is None else server.early
    )  # a server yet to start has what there is now
    return _fixed_early(environment) == early


def _of_python(command: Sequence[str], *, any_code: bool) -> bool:
    """Whether it is one of aioq, or a script that this interpreter runs without options."""
    if command[0] == COMMAND:
        return True
    if command[0] != sys.executable:
        return False
    if any_code and command[1] in {"-W", "-c"}:
        return True
    return command[1].endswith(".py") or (command[1] == "-m" and command[2].partition(".")[0] in PACKAGES)


def _fixed_early(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(FIXED_EARLY) and name not in READ_LATE
    }


def _measured() -> bool:
    """Whether some of what is started is to measure its coverage: this process measures its own."""
    coverage = sys.modules.get("coverage")
    return coverage is not None and coverage.Coverage.current() is not None


@contextlib.contextmanager
def unmeasured() -> Iterator[None]:
    """Have coverage not measure what is started meanwhile."""
    kept = {name: os.environ.pop(name) for name in MEASURES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


class Fork:
    """A forked command; as much of `subprocess.Popen` as the tests use.

    Attributes:
        pid: its process id.
    """

    def __init__(
        self, command: Sequence[str], folder: Path, environment: Mapping[str, str], out: int, err: int
    ) -> None:
        self.args = list(command) if command[0] != COMMAND else [sys.executable, *command]
        sys.audit(STARTED)
        nothing = os.open(os.devnull, os.O_RDONLY)
        try:
            self.pid = _server().fork(self.args, folder, environment, (nothing, out, err))
        finally:
            os.close(nothing)

    @property
    def returncode(self) -> int | None:
        """Its exit code, once `poll` or `wait` has seen its end."""
        return _server().codes.get(self.pid)

    def poll(self) -> int | None:
        """Its exit code, the negative number of the signal that ended it, or None while it runs."""
        return _server().ended(self.pid, 0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        code = _server().ended(self.pid, timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Send it SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Forked(Fork):
    """The same, with pipes for its output.

    Attributes:
        stdout: what it prints.
        stderr: likewise.
    """

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        out, their_out = os.pipe()
        err, their_err = os.pipe()
        try:
            super().__init__(command, folder, environment, their_out, their_err)
        finally:
            for stream in (their_out, their_err):
                os.close(stream)
        self.stdout: IO[str] = os.fdopen(out, encoding="utf-8", errors="replace")
        self.stderr: IO[str] = os.fdopen(err, encoding="utf-8", errors="replace")


_Popen = subprocess.Popen
"""Python's own, also while a test has put `ForkedPopen` in its place: what forks cannot be forked."""


class _ForkServer:
    """The process that forks, and what it has reported of its forks.

    Attributes:
        early: the variables that it read before its first line, which no fork of it can have otherwise.
    """

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        script = Path(__file__).with_name("forked.py")
        environment = {name: value for name, value in os.environ.items() if name not in READ_LATE}
        with theirs:
            self.process = _Popen(
                [sys.executable, script, str(theirs.fileno()), str(ROOT), *(MEASURING if _measured() else ())],
                env=environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # no terminal: a fork keeps the buffering that is chosen here
                start_new_session=True,
            )
        self.early = _fixed_early(environment)
        self.codes: dict[int, int] = {}
        self._reported = threading.Condition()
        self._started: list[int] = []

    def fork(
        self, command: Sequence[str], folder: Path, environment: Mapping[str, str], streams: Sequence[int]
    ) -> int:
        """Fork a command; its process id."""
        return self.ask(
            {"command": list(command), "folder": str(folder), "environment": dict(environment)}, streams
        )

    def ask(self, request: Request, streams: Sequence[int]) -> int:
        """Have it fork; the process id."""
        with self._reported:
            socket.send_fds(self._control, [json.dumps(request).encode()], list(streams))
            while not self._started:
                self._hear(None)
            return self._started.pop()

    def ended(self, pid: int, timeout: float | None) -> int | None:
        """Wait for the end of a fork, as long as that; its exit code."""
        with self._reported:
            while pid not in self.codes and self._hear(timeout):
                pass
            return self.codes.get(pid)

    def _hear(self, timeout: float | None) -> bool:
        """Wait for one message."""
        if not select.select([self._control], [], [], timeout)[0]:
            return False
        message: dict[str, Any] = json.loads(self._control.recv(1000) or b'{"gone": true}')
        if "started" in message:
            self.codes.pop(message["started"], None)  # an id that is used again
            self._started.append(message["started"])
        elif "ended" in message:
            self.codes[message["ended"]] = message["code"]
        else:
            raise RuntimeError(f"the fork server has ended: {self.process.wait()}")
        return True

    def close(self) -> None:
        """End it."""
        self._control.close()
        self.process.wait()


def _fork_sibling(request: Request, streams: Sequence[int]) -> int:
    sys.audit(STARTED)
    return _server().ask({**request, "sibling": True}, streams)


def _can_fork_any(command: Sequence[str], environment: Mapping[str, str]) -> bool:
    return can_fork(command, environment, any_code=True)


ForkedPopen = popen_by(_fork_sibling, _can_fork_any)
"""A `subprocess.Popen` that forks, also what follows `-W` and `-c`, where `start_new_session` is set. It is
for tests to which it makes no difference that modules of aioq are imported already."""

_servers: dict[int, _ForkServer] = {}


def _server() -> _ForkServer:
    """This process's, started with the first command."""
    found = _servers.get(os.getpid())
    if found is None:
        found = _servers[os.getpid()] = _ForkServer()
        atexit.register(found.close)
    return found


def pids() -> set[int]:
    """The fork server's process id, which is no leak."""
    return {server.process.pid for owner, server in _servers.items() if owner == os.getpid()}
