"""The two-hosts example, run as its README says: a server, a worker and a client that share nothing but a network.

Where it may (root, and `ip netns` works) each of them has a network namespace of its own, with addresses of its
own; else they are separate processes on the loopback interface. The test's id says which it was.
"""

import contextlib
import os
import pty
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.behaviour.pages import Block, alike, held_by, shown_by
from tests.conftest import PREFERENCE
from tests.servers import Login, Server, available, find

pytestmark = [pytest.mark.long(seconds=30), pytest.mark.apart]

EXAMPLE = Path(__file__).parents[2] / "examples" / "two_hosts"
PASSWORD = "between-two-hosts"
SERVER, WORKER, CLIENT = "10.77.0.1", "10.77.0.2", "10.77.0.3"
IP = shutil.which("ip") or shutil.which("ip", path="/usr/sbin:/sbin")
LONG = 40.0  # seconds; everything here takes four


class Program:
    """A process whose output is read as it comes; with a terminal, as a person sees it."""

    def __init__(
        self,
        command: Sequence[str | Path],
        environment: Mapping[str, str] | None = None,
        *,
        terminal: bool = False,
    ) -> None:
        here, there = pty.openpty() if terminal else os.pipe()
        self.process = subprocess.Popen(
            command,
            cwd=EXAMPLE,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=there,
            stderr=there,
        )
        os.close(there)
        self._output = os.fdopen(here, encoding="utf-8")
        self.lines: list[str] = []
        self._more = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def wait_for(self, *patterns: str) -> None:
        """Return once each pattern is in a line; fail if the program ends first, or after `LONG`."""
        with self._more:
            self._more.wait_for(lambda: self._ended or self._has(patterns), LONG)
        assert self._has(patterns), f"no {patterns} in:\n{self.output}"

    def wait(self) -> int:
        """Return the exit code, with all output there."""
        code = self.process.wait(LONG)
        self._reader.join(LONG)
        return code

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.wait()
        finally:
            self.process.kill()
            self.process.wait()

    def _has(self, patterns: Sequence[str]) -> bool:
        return all(re.search(pattern, self.output) for pattern in patterns)

    def _read(self) -> None:
        # A terminal that nobody has open any more gives an error, where a pipe ends.
        with self._output as lines, contextlib.suppress(OSError):
            for line in lines:
                with self._more:
                    self.lines.append(line)
                    self._more.notify_all()
        with self._more:
            self._ended = True
            self._more.notify_all()


def _ip(*arguments: str) -> None:
    assert IP is not None
    subprocess.run([IP, *arguments], check=True, capture_output=True, timeout=LONG)


@dataclass(frozen=True)
class Network:
    """Three network namespaces; the server's has a line to each of the other two."""

    prefix: str

    def name(self, host: str) -> str:
        return f"{self.prefix}-{host}"

    def build(self) -> None:
        for host in ("server", "worker", "client"):
            _ip("netns", "add", self.name(host))
            _ip("-n", self.name(host), "link", "set", "lo", "up")
        self._join("worker", WORKER)
        self._join("client", CLIENT)

    def _join(self, host: str, address: str) -> None:
        here, there = self.name("server"), self.name(host)
        _ip("-n", here, "link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", there)
        for namespace, device, local, peer in (
            (here, host, SERVER, address),
            (there, "eth0", address, SERVER),
        ):
            _ip("-n", namespace, "address", "add", local, "peer", peer, "dev", device)
            _ip("-n", namespace, "link", "set", device, "up")

    def command(self, host: str) -> list[str]:
        """What to put before a command so that it runs there."""
        assert IP is not None
        return [IP, "netns", "exec", self.name(host)]

    def remove(self) -> None:
        for host in ("server", "worker", "client"):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "delete", self.name(host))


@contextlib.contextmanager
def _network() -> Iterator[Network]:
    network = Network(f"aioq-{secrets.token_hex(3)}")
    try:
        network.build()
        yield network
    finally:
        network.remove()


def _has_namespaces() -> bool:
    if os.geteuid() != 0 or IP is None:
        return False
    try:
        with _network() as network:
            subprocess.run([*network.command("client"), "true"], check=True, capture_output=True, timeout=LONG)
    except subprocess.SubprocessError:
        return False
    return True


@dataclass(frozen=True)
class Hosts:
    """Where the programs run: what to put before their commands, and where they find the server."""

    url: str
    worker: Sequence[str]
    client: Sequence[str]


@contextlib.contextmanager
def _in_namespaces(directory: Path) -> Iterator[Hosts]:
    with _network() as network:
        name = next(name for name in PREFERENCE if name in available())
        binary = find(name)
        assert binary is not None
        options = ["--bind", SERVER, "--port", "6379", "--requirepass", PASSWORD, "--save", "", "--dir", directory]
        options += ["--appendonly", "yes"]
        server = Program([*network.command("server"), binary, *options])
        try:
            server.wait_for("Ready to accept connections")
            url = f"redis://:{PASSWORD}@{SERVER}:6379/0"
            yield Hosts(url, network.command("worker"), network.command("client"))
        finally:
            server.stop()


@contextlib.contextmanager
def _on_loopback(directory: Path) -> Iterator[Hosts]:
    name = next(name for name in PREFERENCE if name in available())
    with Server.start(name, directory, tcp=True, login=Login(PASSWORD)) as server:
        yield Hosts(server.url, (), ())


HOW = {"network-namespaces": _in_namespaces} if _has_namespaces() else {"separate-processes": _on_loopback}


@pytest.fixture(params=HOW.values(), ids=list(HOW))
def hosts(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Hosts]:
    with request.param(tmp_path) as made:
        yield made


@pytest.fixture
def run(hosts: Hosts) -> Iterator[Callable[..., Program]]:
    """Start a program of the example on a host, as its README does; stopped when the test ends."""
    started: list[Program] = []

    def start(host: Sequence[str], *command: str, terminal: bool = False) -> Program:
        environment = {"AIOQ_URL": hosts.url, "COLUMNS": "120", "TERM": "xterm"}
        started.append(Program([*host, sys.executable, *command], environment, terminal=terminal))
        return started[-1]

    yield start
    for program in reversed(started):
        program.stop()


def plain(program: Program, hosts: Hosts) -> str:
    """What a program has said, at the address of the README's server, and without what differs from run to run."""
    address = hosts.url.rpartition("@")[2]
    return alike(program.output.replace(address, f"{SERVER}:6379/0"))


def lines_of(program: Program, hosts: Hosts) -> Counter[str]:
    return Counter(plain(program, hosts).splitlines())


def lines_shown(shown: list[Block]) -> Counter[str]:
    """The lines of the README's log."""
    (block,) = [block for block in shown if block.language == "text"]
    return Counter(alike(block.text).splitlines())


def test_two_jobs_go_to_the_other_host(hosts: Hosts, run: Callable[..., Program]) -> None:
    shown = held_by("test_two_jobs_go_to_the_other_host")
    worker = run(hosts.worker, "-m", "aioq", "worker", "proj.app:app", terminal=True)
    worker.wait_for(r"app .* proj\s", "tasks .* proj.task1.add", "proj.task2.multiply", "host .*\n.*╯")
    banner = alike(shown_by(shown, "aioq worker proj.app:app"))
    assert banner in plain(worker, hosts), "the README shows another banner"

    worker.process.send_signal(signal.SIGSTOP)  # the client does not wait for its jobs
    client = run(hosts.client, "client.py")
    assert client.wait() == 0, client.output
    worker.process.send_signal(signal.SIGCONT)
    job_ids = re.findall(r" is job (\w+)$", client.output, re.MULTILINE)
    assert len(job_ids) == 2
    assert alike(client.output) == alike(shown_by(shown, "python client.py"))

    add, multiply = (rf"proj\.task{n}\.{f}\[{job}\] " for (n, f), job in zip(TASKS, job_ids, strict=True))
    worker.wait_for(add + "received", multiply + "received")
    worker.wait_for(add + r"succeeded in 2\.\d\ds: 30\n", multiply + r"succeeded in 2\.\d\ds: 1024\n")

    later = run(hosts.client, "result.py", *job_ids)
    assert later.wait() == 0
    assert later.output == shown_by(shown, "python result.py TryXN1CuBk7CSVBr wu4ShCHXRyNpC4j2")
    assert later.output.split() == ["30", "1024"]

    worker.stop()
    assert worker.process.returncode == 0
    assert lines_shown(shown) <= lines_of(worker, hosts)
    assert PASSWORD not in worker.output + client.output + later.output


def test_the_periodic_part_runs_by_itself(hosts: Hosts, run: Callable[..., Program]) -> None:
    shown = held_by("test_the_periodic_part_runs_by_itself")
    worker = run(hosts.worker, "-m", "aioq", "worker", "proj.app:app")
    worker.wait_for("schedule add-every-30-seconds: stored", "schedule multiply-in-the-morning: stored")

    described = run(hosts.client, "-m", "aioq", "schedules", "show", "proj.app:app", "multiply-in-the-morning")
    assert described.wait() == 0
    assert "At 09:42 on Monday through Friday (Asia/Shanghai)" in described.output
    assert described.output.count("09:42:00 CST") == 5
    command = "aioq schedules show proj.app:app multiply-in-the-morning"
    assert alike(described.output) == alike(shown_by(shown, command))

    worker.wait_for(r"proj\.task1\.add\[add-every-30-seconds@\S+:[03]0Z\] succeeded in 2\.\d\ds: 13\n")
    paused = run(hosts.client, "-m", "aioq", "schedules", "pause", "proj.app:app", "add-every-30-seconds")
    assert paused.wait() == 0, paused.output
    worker.stop()
    assert worker.process.returncode == 0
    shown_lines = lines_shown(shown)
    assert len(shown_lines) == 4
    assert shown_lines <= lines_of(worker, hosts)


TASKS = ((1, "add"), (2, "multiply"))
