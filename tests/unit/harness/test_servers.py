"""The servers that the other tests run on: each starts, says what it is, keeps its data over a restart."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import redis
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import NoPermissionError

from tests import leaks, servers
from tests.databases import Database, foreign_keys
from tests.servers import NO_RETRY, SERVERS, Login, Server, ServerStartError, available

StartServer = Callable[..., Server]

each_server = pytest.mark.parametrize("name", available())


@each_server
def test_answers_ping_with_the_version_it_is_named_after(name: str, start_server: StartServer) -> None:
    with start_server(name).client() as client:
        assert client.ping()
        info = client.info("server")

    # Valkey says 7.2 in redis_version, for clients that look there.
    version = info.get("valkey_version", info["redis_version"])
    assert version.startswith(f"{SERVERS[name].version}.")


@each_server
def test_restart_keeps_what_the_append_only_file_has(name: str, start_server: StartServer) -> None:
    server = start_server(name, appendonly=True, extra_args=["--appendfsync", "always"])
    address, pid = server.url, server.pid
    with server.client() as client:
        client.set("kept", "yes")

    server.kill()
    server.restart()

    assert (server.url, server.pid) != (address, pid)
    assert server.url == address
    with server.client() as client:
        assert client.get("kept") == "yes"


@each_server
def test_restart_without_append_only_file_starts_empty(name: str, start_server: StartServer) -> None:
    server = start_server(name)
    with server.client() as client:
        client.set("kept", "no")

    server.restart()

    with server.client() as client:
        assert client.dbsize() == 0


@each_server
def test_a_kill_is_noticed(name: str, start_server: StartServer) -> None:
    server = start_server(name)
    with server.client() as client:
        client.ping()
        os.kill(server.pid, signal.SIGKILL)
        psutil.Process(server.pid).wait(10)

        assert not server.alive
        with pytest.raises(redis.ConnectionError):
            client.ping()


@each_server
def test_a_port_of_its_own_and_a_password(name: str, start_server: StartServer) -> None:
    server = start_server(name, tcp=True, login=Login("pass/word"))

    assert server.url == f"redis://:pass%2Fword@127.0.0.1:{server.port}/0"
    with redis.Redis(port=server.port, retry=NO_RETRY) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    with redis.Redis(port=server.port, retry=NO_RETRY, password="pass/word") as client:
        assert client.ping()


@each_server
def test_a_user_with_rules(name: str, start_server: StartServer) -> None:
    server = start_server(name, login=Login("secret", user="jobs", rules="~aioq:* &* +@all -flushall"))

    with server.client() as client:
        assert client.acl_whoami() == "jobs"
        with pytest.raises(NoPermissionError):
            client.flushall()
        with pytest.raises(NoPermissionError):
            client.set("other", 1)


def test_tls(start_tls_server: StartServer) -> None:
    server = start_tls_server()

    assert server.url.startswith(f"rediss://127.0.0.1:{server.port}/0?")
    with server.client() as client:
        assert client.ping()
    with redis.Redis(port=server.port, retry=NO_RETRY) as plain, pytest.raises(redis.ConnectionError):
        plain.ping()


def test_stop_leaves_nothing_but_the_data(start_server: StartServer) -> None:
    server = start_server()
    pids, directory = server.owned_pids(), server.socket.parent

    server.stop()

    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert not directory.exists()
    assert not server.alive
    with pytest.raises(RuntimeError, match="not running"):
        _ = server.pid


def test_a_server_that_cannot_start_says_why(start_server: StartServer) -> None:
    with pytest.raises(ServerStartError, match="no-such-option"):
        start_server(extra_args=["--no-such-option", "1"])


def test_a_stopped_process_is_ended_too(start_server: StartServer) -> None:
    server = start_server()
    process = psutil.Process(server.pid)
    process.suspend()

    server.stop()

    assert not process.is_running()


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = (
        "import os, sys, pathlib; from tests.servers import Server; "
        f"server = Server.start({available()[-1]!r}, pathlib.Path(sys.argv[1])); "
        "print(server.pid, server.socket.parent, flush=True); os.kill(os.getpid(), 9)"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(servers.__file__).parents[1],
    )
    said, _ = owner.communicate()

    assert owner.returncode == -signal.SIGKILL
    pid, directory = said.split()
    _wait_gone(int(pid))
    assert leaks.end_new_processes(set()) == []
    assert not Path(directory).exists()


def _wait_gone(pid: int) -> None:
    try:
        psutil.Process(pid).wait(10)
    except psutil.NoSuchProcess:
        return


def test_keys_of_another_app_are_found_in_any_database(redis_server: Database, app_name: str) -> None:
    with redis_server.client() as client:
        client.set(f"aioq:{{{app_name}:mail}}:jobs", 1)
        client.set(f"aioq:{{{app_name}}}:schedules", 1)
        client.set(f"aioq:{{{app_name}x:mail}}:jobs", 1)
    with redis_server.server.client(0) as client:
        client.set("loose", 1)

    number = redis_server.number
    expected = [f"{number}/aioq:{{{app_name}x:mail}}:jobs", "0/loose"]
    assert foreign_keys(redis_server, app_name) == sorted(expected)
    with redis_server.client() as client:
        assert client.info("keyspace") == {}


@pytest.mark.anyio
async def test_each_server_serves_an_async_client(server: Database, app_name: str) -> None:
    async with AsyncRedis.from_url(server.url) as client:
        key = f"aioq:{{{app_name}:q}}"
        await client.set(key, "own keys may stay")
        assert await client.get(key) == b"own keys may stay"
