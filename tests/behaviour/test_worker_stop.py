"""How a worker stops and what becomes of its jobs; several processes; `--reload`."""

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from aioq import gather
from tests.behaviour.kit import Process, Project, consumers, keys, state_is, until
from tests.databases import Database
from tests.forkserver import FRESH
from tests.proxies import Proxy
from tests.servers import Server

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=15), pytest.mark.measured]


async def start(project: Project, *arguments: str, **settings: str) -> tuple[Any, Process]:
    project.copy("lines")
    lines = project.load("lines")
    worker = await project.ready_worker("lines:app", *arguments, **settings)
    await (await lines.pid.send())
    await (await lines.pid.options(queue="other").send())
    return lines, worker


def assert_gone(database: Database, project: Project) -> None:
    """No worker has left a trace in the server."""
    with database.client() as client:
        for queue in ("default", "other"):
            assert consumers(client, project.name, queue) == []
        left = [key for key in keys(client, project.name) if ":workers" in key or ":held:" in key]
        assert left == []


async def test_sigterm_ends_an_idle_worker_and_leaves_no_trace(project: Project, redis_server: Database) -> None:
    _, worker = await start(project)

    assert await worker.stop() == 0

    assert_gone(redis_server, project)
    assert "WARNING" not in worker.log


async def test_sigterm_right_after_the_start_ends_the_worker(project: Project, redis_server: Database) -> None:
    project.copy("lines")
    for _ in range(3):
        worker = await project.ready_worker("lines:app")

        assert await worker.stop() == 0

    assert_gone(redis_server, project)


async def test_a_running_job_is_finished_and_what_waits_is_left_to_others(
    project: Project, redis_server: Database, tmp_path: Path
) -> None:
    lines, worker = await start(project, "--concurrency", "1")
    gate = tmp_path / "gate"
    running = await lines.hold.send(str(gate))
    await worker.saw(rf"lines\.hold\[{running.id}\] received")  # and not given back for a job of the other queue
    waiting = await lines.add.send_many([(number, 1) for number in range(5)])
    waiting += await lines.add.options(queue="other").send_many([(number, 1) for number in range(5, 10)])

    worker.signal(signal.SIGTERM)
    await worker.saw("stopping: 1 job still runs and may take up to 20 s to end; a second signal gives it back")
    other = await project.ready_worker("lines:app")
    assert await gather(*waiting, timeout=10) == tuple(range(1, 11))
    gate.touch()

    assert await worker.ended() == 0
    assert (await running)[0] == worker.pid
    infos = [await handle.info() for handle in waiting]
    assert {(info.attempts, info.crashes, info.interruptions) for info in infos} == {(1, 0, 0)}
    assert await other.stop() == 0
    assert_gone(redis_server, project)


@pytest.mark.parametrize("how", ["it takes too long", "a second signal", "a second Ctrl-C"])
async def test_a_job_that_is_not_finished_in_time_is_given_back_unharmed(
    project: Project, redis_server: Database, tmp_path: Path, how: str
) -> None:
    number = signal.SIGINT if "Ctrl-C" in how else signal.SIGTERM
    lines, worker = await start(project, "--shutdown-timeout", "0.2" if "long" in how else "60")
    gate = tmp_path / "gate"
    handle = await lines.hold.send(str(gate))
    await until(Path(f"{gate}.pid").exists)

    worker.signal(number)
    await worker.saw("stopping: 1 job still runs")
    if "second" in how:
        worker.signal(number)

    assert await worker.ended() == 0
    assert (tmp_path / "gate.cleaned").exists()
    info = await handle.info()
    assert (info.state, info.attempts, info.interruptions, info.crashes) == ("queued", 0, 1, 0)
    assert re.search(r"lines\.hold\[.*interrupted after", worker.log)
    assert "Traceback" not in worker.log
    assert_gone(redis_server, project)

    gate.touch()
    other = await project.ready_worker("lines:app")
    assert await handle.result(timeout=20) == (other.pid, 1)
    assert await other.stop() == 0


# -- several processes


def children(supervisor: Process) -> set[int]:
    return {process.pid for process in supervisor.children()}


async def test_two_processes_share_the_work_and_stop_together(
    project: Project, redis_server: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FRESH, "1")  # supervisor and children are new ones here; elsewhere all are forked
    project.copy("lines")
    lines = project.load("lines")
    supervisor = project.worker("lines:app", "--processes", "2", "--concurrency", "1")
    await supervisor.saw(r"worker process \d has pid \d+", times=2)

    pids = children(supervisor)
    ran: set[int] = set()
    for _ in range(100):
        ran |= set(await gather(*await lines.pid.send_many([() for _ in range(10)]), timeout=20))
        if ran == pids:
            break

    assert ran == pids
    assert len(pids) == 2
    assert await supervisor.stop() == 0
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
    assert_gone(redis_server, project)
    assert supervisor.log.count("│ app") == 1, "one banner for all"


async def test_a_process_that_dies_is_replaced_and_its_job_runs_again(project: Project, tmp_path: Path) -> None:
    project.copy("lines")
    lines = project.load("lines")
    supervisor = project.worker("lines:app", "--processes", "2", AIOQ_LEASE="2")
    gate = tmp_path / "gate"
    handle = await lines.hold.send(str(gate))
    mark = tmp_path / "gate.pid"
    await until(lambda: mark.exists() and mark.read_text())
    victim = int(mark.read_text())
    mark.unlink()

    psutil.Process(victim).kill()

    await supervisor.saw(rf"ERROR +worker process \d \(pid {victim}\) was killed by SIGKILL; it is replaced")
    gate.touch()  # not before: the victim would end the job
    await supervisor.saw(r"worker process \d has pid", times=3)
    pid, attempt = await handle.result(timeout=20)
    info = await handle.info()
    assert pid != victim
    assert (attempt, info.attempts, info.crashes, info.interruptions) == (1, 1, 1, 0)
    assert len(children(supervisor)) == 2
    await supervisor.saw(r"worker .* has died; 1 of its jobs run again")
    assert await supervisor.stop() == 0


async def test_the_children_of_a_killed_supervisor_stop_by_themselves(
    project: Project, redis_server: Database
) -> None:
    project.copy("lines")
    lines = project.load("lines")
    supervisor = project.worker("lines:app", "--processes", "2")
    await supervisor.saw(r"worker process \d has pid", times=2)
    await (await lines.pid.send())
    pids = children(supervisor)

    psutil.Process(supervisor.pid).kill()

    await until(lambda: not [pid for pid in pids if psutil.pid_exists(pid)], f"the end of {pids}")
    assert_gone(redis_server, project)


async def test_a_burst_of_two_processes_ends(project: Project) -> None:
    project.copy("lines")
    lines = project.load("lines")
    handles = await lines.add.send_many([(number, number) for number in range(50)])

    assert await project.worker("lines:app", "--burst", "--processes", "2").ended() == 0

    assert await gather(*handles) == tuple(range(0, 100, 2))


# -- reload

VERSION = "from aioq import App\napp = App()\n@app.task(name='version')\ndef version() -> int:\n    return {}\n"


async def test_reload_runs_the_new_code_and_survives_a_broken_one(project: Project) -> None:
    project.write("code.py", VERSION.format(1))
    shop = project.load("code").app

    async def answer() -> int:
        return await (await shop.send("version")).result(timeout=20)

    worker = project.worker("code:app", "--reload", AIOQ_LEASE="2")
    assert await answer() == 1

    project.write("code.py", VERSION.format(22))
    await worker.saw("code.py changed; restarting")
    await worker.saw(r"worker process 1 has pid", times=2)
    await until(lambda: worker.log.count("│ host") == 2, detail=lambda: worker.log)
    assert await answer() == 22

    project.write("code.py", VERSION.format("(broken"))
    await worker.saw(r"aioq: module 'code' has a syntax error: .*line 5")
    await worker.saw("waiting for a change")
    handle = await shop.send("version")

    project.write("code.py", VERSION.format(333))
    assert await handle.result(timeout=20) == 333
    assert await worker.stop() == 0
    assert "Traceback" not in worker.log


@pytest.mark.parametrize("task", ["stubborn", "stubborn_thread", "stubborn_thread_of_the_loop"])
async def test_a_function_that_never_ends_does_not_keep_the_worker(project: Project, task: str) -> None:
    project.write(
        "stubborn.py",
        """
import asyncio, threading
from aioq import App
app = App()

@app.task
async def stubborn():
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

@app.task
def stubborn_thread():
    threading.Event().wait()

@app.task
async def stubborn_thread_of_the_loop():
    await asyncio.to_thread(threading.Event().wait)
""",
    )
    module = project.load("stubborn")
    worker = await project.ready_worker("stubborn:app", "--shutdown-timeout", "0.2")
    handle = await getattr(module, task).send()
    await state_is(handle, "running")

    assert await worker.stop() == 0

    assert "left behind" in worker.log
    info = await handle.info()
    assert (info.state, info.interruptions) == ("queued", 1)


@pytest.mark.alone(waits=True)
@pytest.mark.parametrize("signals", [1, 2])
async def test_a_server_that_does_not_answer_does_not_keep_the_worker(
    project: Project, start_server: Callable[..., Server], signals: int
) -> None:
    """Container engines give a process ten seconds as a rule."""
    server = start_server(tcp=True)
    assert server.port is not None
    async with Proxy(server.port) as proxy:
        project.settings["AIOQ_URL"] = proxy.url
        _, worker = await start(project)
        proxy.hold()
        begun = time.monotonic()
        worker.signal(signal.SIGTERM)
        if signals > 1:
            worker.signal(signal.SIGINT)  # another one: two pending signals of one kind are one

        assert await worker.ended() == 0
        took = time.monotonic() - begun

    assert took < (9 if signals == 1 else 5), f"it took {took:.1f} s"
    assert "could not deregister from the server" in worker.log
    assert "Traceback" not in worker.log
