"""Whether a worker does its work: `--health-port` and `aioq check`. Being there is not enough."""

import asyncio
import http.client
import json
import re
import signal
import socket
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.behaviour.kit import Process, Project, state_is, until

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=25), pytest.mark.apart]


def get(port: int, path: str) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


async def port_of(worker: Process) -> int:
    (line,) = await worker.saw("health checks are answered on port")
    found = re.search(r"on port (\d+): /live and /ready", line)
    assert found, line
    return int(found[1])


async def answers(port: int, path: str, status: int) -> dict[str, Any]:
    """Wait until the health check is answered with this status."""
    last: list[tuple[int, dict[str, Any]]] = []

    def there() -> bool:
        last[:] = [get(port, path)]
        return last[0][0] == status

    await until(there, f"{status} of {path}", lambda: str(last))
    return last[0][1]


async def answers_once_there(port: int, path: str, status: int) -> dict[str, Any]:
    """The same of a port where nobody may listen yet."""

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    await until(listens, f"somebody at port {port}")
    return await answers(port, path, status)


async def check(project: Project, *arguments: str, **settings: str) -> tuple[int, str, str]:
    """Run `aioq check`: exit code, what it printed, what it complained of."""
    process = project.python("-m", "aioq", "check", *arguments, **settings)
    code = await process.ended()
    return code, "\n".join(process.printed), process.log


async def test_ready_tells_of_the_last_fetch_of_each_queue(project: Project) -> None:
    project.copy("poison")
    worker = project.worker(
        "poison:app", "--queue", "a", "--queue", "b", "--concurrency", "7", "--health-port", "0"
    )

    body = await answers(await port_of(worker), "/ready", 200)

    assert set(body["queues"]) == {"a", "b"}
    assert all(queue["lease"] and queue["last_fetch_age"] < 10 for queue in body["queues"].values())
    assert (body["running"], body["concurrency"], body["reasons"]) == (0, 7, [])
    assert await worker.stop() == 0


async def test_a_worker_that_does_not_reach_its_server_lives_but_is_not_ready(project: Project) -> None:
    project.copy("poison")
    worker = project.worker("poison:app", AIOQ_URL="redis://127.0.0.1:1", AIOQ_HEALTH_PORT="0")
    port = await port_of(worker)

    body = await answers(port, "/ready", 503)

    assert body["reasons"] == ["it has not reached its server yet, or is still in its lifespan"]
    assert get(port, "/live")[0] == 200
    assert await worker.stop() == 0


async def test_a_supervisor_answers_for_all_its_processes(project: Project) -> None:
    project.copy("poison")
    supervisor = project.worker("poison:app", "--processes", "2", "--health-port", "0")
    port = await port_of(supervisor)
    body = await answers(port, "/ready", 200)
    assert set(body["queues"]) == {"1:default", "2:default"}

    (stopped, _) = supervisor.children()
    stopped.send_signal(signal.SIGSTOP)
    body = await answers(port, "/ready", 503)
    assert re.fullmatch(r"process \d: no answer", body["reasons"][0])
    assert get(port, "/live")[0] == 200

    stopped.send_signal(signal.SIGCONT)
    await answers(port, "/ready", 200)
    assert await supervisor.stop() == 0


async def test_the_log_names_the_one_port_that_answers_for_all_processes(project: Project) -> None:
    """A probe of Kubernetes asks one port of a container; those of the processes are the supervisor's to ask."""
    project.copy("poison")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    supervisor = project.worker("poison:app", "-p", "2", "--health-port", str(port))
    body = await answers_once_there(port, "/ready", 200)
    assert set(body["queues"]) == {"1:default", "2:default"}, "both have started"
    (line,) = await supervisor.saw("health checks")
    assert f"answered on port {port}: /live and /ready, for all 2 processes" in line

    (killed, _) = supervisor.children()
    killed.kill()
    await supervisor.saw(r"worker process \d \(pid \d+\) was killed by SIGKILL")
    await until(lambda: len(supervisor.children()) == 2, "its successor")
    body = await answers(port, "/ready", 200)
    assert set(body["queues"]) == {"1:default", "2:default"}, "at the same port"
    assert await supervisor.stop() == 0
    assert len(await supervisor.saw("health checks")) == 1


async def test_a_port_that_is_taken_ends_the_start_with_one_line(project: Project) -> None:
    project.copy("poison")
    first = project.worker("poison:app", "--health-port", "0")
    port = await port_of(first)

    second = project.worker("poison:app", "--health-port", str(port))

    assert await second.ended() == 2
    assert re.fullmatch(rf"aioq: health_port: cannot listen on 127\.0\.0\.1:{port}: .*", second.log)
    assert await first.stop() == 0


async def test_check_finds_the_workers_of_this_host(project: Project) -> None:
    project.copy("poison")
    code, printed, complaint = await check(project, "poison:app")
    assert (code, complaint) == (1, "aioq check: no worker on this host serves queue default")

    worker = await project.ready_worker("poison:app")
    await until(lambda: "received" in worker.log or "│ host" in worker.log)
    await (await project.load("poison").pid.send())  # it has its lease by now
    code, printed, complaint = await check(project, "poison:app")
    assert (code, complaint) == (0, "")
    queue, worker_id, lease, fetched = printed.split("\t")  # a line for a worker, on a pipe
    assert queue == "default"
    assert f"-{worker.pid}-" in worker_id
    assert lease.endswith(" s left")
    assert fetched.endswith(" s ago")
    assert await check(project, "poison:app", "--queue", "default", "--queue", "mail", "--quiet") == (
        1,
        "",
        "aioq check: no worker on this host serves queue mail",
    )

    assert await worker.stop() == 0
    assert (await check(project, "poison:app", "--quiet"))[0] == 1


@pytest.mark.parametrize("concurrency", ["10", "1"])
async def test_a_worker_that_is_there_but_does_not_fetch_is_not_well(
    project: Project, tmp_path: Path, concurrency: str
) -> None:
    """Its lease is renewed all the time: that is not what is asked. Nor are its slots, be they all taken."""
    project.copy("poison")
    tasks = project.load("poison")
    worker = project.worker("poison:app", "--concurrency", concurrency, AIOQ_LEASE="2")
    await (await tasks.pid.send())
    assert (await check(project, "poison:app", "--max-age", "2.5", "--quiet"))[0] == 0

    gate = tmp_path / "gate"
    handle = await tasks.blocks_until.send(str(gate))
    await worker.saw(r"blocks the event loop, for ([3-9]|\d\d)")
    code, _, complaint = await check(project, "poison:app", "--max-age", "2.5", "--quiet")
    gate.touch()

    assert code == 1
    assert re.fullmatch(
        r"aioq check: queue default: the last fetch of \S+ was \d+\.\d s ago, over 2\.5 s", complaint
    )
    await state_is(handle, "succeeded")
    assert await worker.stop() == 0


@pytest.mark.parametrize(
    ("arguments", "settings", "line"),
    [
        (("nowhere:app",), {}, r"aioq: no module 'nowhere' in .*"),
        (
            ("poison:app",),
            {"AIOQ_URL": "redis://127.0.0.1:1"},
            r"aioq: redis://127\.0\.0\.1:1 cannot be reached: .*",
        ),
    ],
)
async def test_what_check_cannot_look_at_is_one_line(
    project: Project, arguments: tuple[str, ...], settings: dict[str, str], line: str
) -> None:
    project.copy("poison")
    code, printed, complaint = await check(project, *arguments, **settings)
    assert (code, printed) == (2, "")
    assert re.fullmatch(line, complaint)


@pytest.mark.parametrize("processes", ["1", "2"])
async def test_slow_clients_take_neither_the_core_nor_the_descriptors_of_a_worker(
    project: Project, processes: str
) -> None:
    """150 clients that send a byte now and then, and come again when they are thrown out."""
    project.copy("poison")
    worker = project.worker("poison:app", "--processes", processes, "--health-port", "0")
    port = await port_of(worker)
    await answers(port, "/ready", 200)
    process = psutil.Process(worker.pid)
    clients: list[socket.socket] = []

    def trickle() -> None:
        for number in range(150):
            if number >= len(clients):
                clients.append(socket.create_connection(("127.0.0.1", port), timeout=10))
            try:
                clients[number].send(b"G")
            except OSError:
                clients[number].close()
                clients[number] = socket.create_connection(("127.0.0.1", port), timeout=10)

    before, busy, begun = process.num_fds(), sum(process.cpu_times()[:2]), time.monotonic()
    most = 0
    for _ in range(5):
        await asyncio.to_thread(trickle)
        assert (await asyncio.to_thread(get, port, "/ready"))[0] == 200
        most = max(most, process.num_fds() - before)
    share = (sum(process.cpu_times()[:2]) - busy) / (time.monotonic() - begun)
    for client in clients:
        client.close()

    assert most <= 40
    assert share < 0.5
    assert await worker.stop() == 0
