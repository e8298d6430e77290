"""Start, stop, kill and restart real servers for the tests.

A `Server` listens on a Unix socket by default and writes no snapshots by itself. It ends with the process that
started it, however that process ends: a watcher holds the other end of a pipe and kills the server when the
pipe closes. `SERVERS` and `find` say which servers there are (see `tests/flavours.py`).
"""

import atexit
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import quote

import redis
import trustme
from redis.backoff import NoBackoff
from redis.retry import Retry

from aioq.store.redis.net.connection import ANONYMOUS
from tests.flavours import SERVERS, Missing, available, chosen, find, installed, missing, with_tls

__all__ = [
    "DATABASES",
    "NO_RETRY",
    "SERVERS",
    "Login",
    "Missing",
    "Server",
    "ServerStartError",
    "Tls",
    "available",
    "chosen",
    "find",
    "installed",
    "missing",
    "owned_pids",
    "with_tls",
]

READY_WITHIN = 20.0  # seconds; a start takes 50 ms, a busy two-core CI machine has been seen to need 5 s
STOP_WITHIN = 10.0  # seconds between SIGTERM and SIGKILL
PORT_TRIES = 5  # another process can take the port between our asking for a free one and the server's bind
SOCKET_PATH_LIMIT = 100  # bytes; the kernel's limit is 108 on Linux and 104 on macOS
NO_RETRY = Retry(NoBackoff(), 0)  # a blocking client's default of many tries hides what a test looks for
DATABASES = 16  # the numbered databases of each server


class ServerStartError(Exception):
    """A server did not come up; the message carries the end of its log."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Files of a throw-away certificate authority and of a certificate for 127.0.0.1 and localhost."""

    ca: Path
    certificate: Path
    key: Path

    @classmethod
    def make(cls, directory: Path) -> Self:
        """Write a new authority and certificate into `directory`."""
        files = cls(directory / "ca.pem", directory / "server.pem", directory / "server.key")
        authority = trustme.CA()
        certificate = authority.issue_cert("127.0.0.1", "localhost")
        authority.cert_pem.write_to_path(str(files.ca))
        certificate.cert_chain_pems[0].write_to_path(str(files.certificate))
        certificate.private_key_pem.write_to_path(str(files.key))
        return files


@dataclass(frozen=True, slots=True)
class Login:
    """How a client signs in: a password alone (`requirepass`), or a user of an ACL file with its rules.

    With a user the `default` one is off. The rules must allow PING, which tells when the server is ready.
    """

    password: str
    user: str = ""
    rules: str = "~* &* +@all"


def _socket_directory() -> Path:
    """A new private directory whose path leaves room for a socket's name under the kernel's limit."""
    directory = Path(tempfile.mkdtemp(prefix="aioq-"))
    if len(os.fsencode(directory)) + len("/s") > SOCKET_PATH_LIMIT:
        directory.rmdir()
        directory = Path(tempfile.mkdtemp(prefix="aioq-", dir="/tmp"))
    return directory


NEVER = ("--save", "31536000", "1000000000")
"""Snapshots that never come: a server that keeps nothing on disk at all is warned of by every worker."""


@dataclass(slots=True)
class _Setup:
    """What a server was started with, kept for a restart."""

    name: str
    directory: Path
    login: Login | None
    tls: Tls | None
    appendonly: bool
    extra_args: Sequence[str | Path]
    config: Path | None = None
    socket_directory: Path = field(default_factory=_socket_directory)
    port: int = 0  # 0 listens on the Unix socket only

    @property
    def socket(self) -> Path:
        return self.socket_directory / "s"

    @property
    def log(self) -> Path:
        return self.directory / "server.log"

    def command(self) -> list[str | Path]:
        binary = find(self.name)
        if binary is None:
            reason = missing(self.name)
            raise ServerStartError(f"{self.name}: {reason.reason if reason else 'gone'}")
        plain_port = 0 if self.tls else self.port
        config = [self.config] if self.config else []
        args: list[str | Path] = [binary, *config, "--dir", self.directory, "--port", str(plain_port), *NEVER]
        args += ["--bind", "127.0.0.1", "--databases", str(DATABASES)]
        args += ["--unixsocket", self.socket, "--unixsocketperm", "700"]
        args += ["--appendonly", "yes" if self.appendonly else "no"]
        args += [*self._login_args(), *self._tls_args(), *self.extra_args]
        return args

    def _login_args(self) -> list[str | Path]:
        if self.login is None:
            return []
        if not self.login.user:
            return ["--requirepass", self.login.password]
        path = self.directory / "users.acl"
        path.write_text(f"user default off\nuser {self.login.user} on >{self.login.password} {self.login.rules}\n")
        return ["--aclfile", path]

    def _tls_args(self) -> list[str | Path]:
        if self.tls is None:
            return []
        return [
            *("--tls-port", str(self.port), "--tls-auth-clients", "no"),
            *("--tls-cert-file", self.tls.certificate, "--tls-key-file", self.tls.key),
            *("--tls-ca-cert-file", self.tls.ca),
        ]

    def url(self, database: int) -> str:
        login = ""
        if self.login is not None:
            login = f"{quote(self.login.user, safe='')}:{quote(self.login.password, safe='')}@"
        if self.tls is not None:
            return f"rediss://{login}127.0.0.1:{self.port}/{database}?ssl_ca_certs={quote(str(self.tls.ca))}"
        if self.port:
            return f"redis://{login}127.0.0.1:{self.port}/{database}"
        return f"unix://{login}{self.socket}?db={database}"


class Server:
    """One running server process. Make it with `Server.start`; it is a context manager that stops it.

    Nothing here is asynchronous: a start or stop blocks the caller for some tens of milliseconds.
    """

    def __init__(self, setup: _Setup) -> None:
        self._setup = setup
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self._kept: redis.Redis | None = None

    @classmethod
    def start(
        cls,
        name: str,
        directory: Path,
        *,
        tcp: bool = False,
        login: Login | None = None,
        tls: Tls | None = None,
        appendonly: bool = False,
        extra_args: Sequence[str | Path] = (),
        choose_port: Callable[[], int] | None = None,
        config: Path | None = None,
    ) -> Self:
        """Start a server and return once it answers PING.

        Args:
            name: one of `SERVERS`.
            directory: for its data and its log; made if it is not there.
            tcp: listen on a free port of 127.0.0.1 too, and give that in `url`; else on a Unix socket only.
            login: what a client must present; nothing by default.
            tls: speak TLS on that port (implies `tcp`); only a flavour with `tls` can.
            appendonly: keep the data in an append-only file, so that `restart` finds it again.
            extra_args: more of the server's own command line options.
            choose_port: gives the port to listen on, and another one where that was taken; `free_port` by default.
            config: a configuration file, which the server may rewrite; the other options stand above it.

        Raises:
            ServerStartError: it is not installed here, or did not answer within `READY_WITHIN` seconds.
        """
        directory.mkdir(parents=True, exist_ok=True)
        server = cls(_Setup(name, directory, login, tls, appendonly, extra_args, config))
        tries = PORT_TRIES if tcp or tls else 1
        for attempt in range(1, tries + 1):
            server._setup.port = (choose_port or free_port)() if tcp or tls else 0
            try:
                server._launch()
            except ServerStartError as error:
                if attempt == tries or "Address already in use" not in str(error):
                    shutil.rmtree(server._setup.socket_directory, ignore_errors=True)
                    raise
            else:
                break
        return server

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def name(self) -> str:
        """Which of `SERVERS` it is."""
        return self._setup.name

    @property
    def url(self) -> str:
        """What a client connects to, login and all, for database 0."""
        return self.url_of(0)

    def url_of(self, database: int) -> str:
        """What a client connects to for one of the numbered databases."""
        return self._setup.url(database)

    @property
    def socket(self) -> Path:
        """The Unix socket; it is there whether or not the server listens on a port too."""
        return self._setup.socket

    @property
    def login(self) -> Login | None:
        """What a client must present."""
        return self._setup.login

    @property
    def port(self) -> int:
        """The port on 127.0.0.1, or 0 where it listens on the Unix socket only."""
        return self._setup.port

    @property
    def log(self) -> str:
        """What the server has printed so far, over all its restarts."""
        return self._setup.log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """The process id; RuntimeError when it is not running."""
        if self._process is None:
            raise RuntimeError(f"{self.name} is not running")
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process is there; False as soon as it ended, whoever ended it."""
        return self._process is not None and self._process.poll() is None

    def owned_pids(self) -> set[int]:
        """The processes that belong to this server and so are not a test's leak."""
        return {process.pid for process in (self._process, self._watcher) if process is not None}

    def client(self, database: int = 0, *, single_connection: bool = False) -> redis.Redis:
        """A blocking client that does not retry, for a test to look at the server with."""
        return redis.Redis.from_url(
            self.url_of(database),
            decode_responses=True,
            socket_connect_timeout=READY_WITHIN,
            socket_timeout=READY_WITHIN,
            retry=NO_RETRY,
            single_connection_client=single_connection,
            **ANONYMOUS,  # to find its version, the library reads a file for every connection
        )

    @property
    def kept_client(self) -> redis.Redis:
        """One for what is asked after each test: its connection, to database 0, stays open until the server ends.

        To make a client and its connection takes ten times as long as to ask.
        """
        if self._kept is None:
            self._kept = self.client(single_connection=True)
        return self._kept

    def stop(self) -> None:
        """End it with SIGTERM, then SIGKILL after `STOP_WITHIN` seconds. Its data stays; its socket goes."""
        self._end(signal.SIGTERM)
        shutil.rmtree(self._setup.socket_directory, ignore_errors=True)

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would; `restart` brings it back."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Start it again with the same options, address and data, after a SIGTERM if it still runs."""
        self._end(signal.SIGTERM)
        self._setup.socket_directory.mkdir(mode=0o700, exist_ok=True)
        self._launch()

    def _launch(self) -> None:
        with self._setup.log.open("ab") as log:
            log_start = log.tell()
            # A session of its own: Ctrl-C ends the tests first, which then end the server.
            self._process = subprocess.Popen(
                self._setup.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._watcher = _watch(self._process.pid, self._setup.socket_directory)
        _live.add(self)
        try:
            self._wait_until_ready()
        except BaseException as error:
            self._end(signal.SIGKILL)
            if not isinstance(error, redis.RedisError | TimeoutError):
                raise
            with self._setup.log.open(errors="replace") as log:
                log.seek(log_start)
                tail = "".join(log.readlines()[-20:])
            raise ServerStartError(f"{self.name} did not start: {error}\n{tail}") from error

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_WITHIN
        while True:
            try:
                with self.client() as client:
                    client.ping()
                    return
            except redis.AuthenticationError:
                raise
            except (redis.ConnectionError, redis.TimeoutError) as error:
                if not self.alive:
                    raise TimeoutError("the process ended") from error
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no PONG within {READY_WITHIN:g} s") from error
            # A server gives no signal when it starts to listen, so this is the one place that has to poll.
            time.sleep(0.01)

    def _end(self, how: signal.Signals) -> None:
        process, watcher = self._process, self._watcher
        self._process = self._watcher = None
        if self._kept is not None:
            self._kept.close()
            self._kept = None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(how)
                process.send_signal(signal.SIGCONT)  # a test may have stopped it
            try:
                process.wait(STOP_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if how is signal.SIGTERM:  # then it has written one for all that
                (self._setup.directory / "dump.rdb").unlink(missing_ok=True)
        if watcher is not None:
            watcher.kill()  # only now: until here it waits
            watcher.communicate()
        _live.discard(self)


_live: set[Server] = set()


def owned_pids() -> set[int]:
    """The processes of every server this process runs."""
    return {pid for server in _live for pid in server.owned_pids()}


@atexit.register
def _stop_all() -> None:
    for server in list(_live):
        server.stop()


def _watch(pid: int, socket_directory: Path) -> subprocess.Popen[bytes]:
    """A shell that waits for this process to be gone, however it ends, and then takes the server with it."""
    script = 'read -r _; kill -KILL "$1"; rm -rf -- "$2"'
    return subprocess.Popen(
        ["/bin/sh", "-c", script, "watcher", str(pid), socket_directory],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
