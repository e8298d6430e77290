"""What the process pool's children share with their worker and what they do not: signals, death, output, time."""

import asyncio
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from aioq import JobFailed, gather
from tests.behaviour.kit import Process, Project, until
from tests.forkserver import FRESH

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=20), pytest.mark.apart]


async def start(project: Project, *arguments: str, **settings: str) -> tuple[Any, Process]:
    project.copy("children")
    tasks = project.load("children")
    return tasks, await project.ready_worker("children:app", *arguments, **settings)


async def pids(started: Path) -> list[int]:
    """The child, and the program its task has started."""

    def written() -> list[int]:
        return [int(pid) for pid in started.read_text().split()] if started.exists() else []

    await until(lambda: len(written()) == 2, "the start of the job")
    return written()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("to", ["the process group", "every process"])
async def test_a_signal_to_all_processes_is_a_graceful_stop(
    project: Project, tmp_path: Path, number: signal.Signals, to: str
) -> None:
    """A terminal's Ctrl-C goes to the process group, systemd's SIGTERM to every process there is."""
    tasks, worker = await start(project)
    started, gate = tmp_path / "started", tmp_path / "gate"
    handle = await tasks.waits.send(str(started), str(gate))
    child, _ = await pids(started)

    os.killpg(worker.pid, number)
    if to == "every process":
        os.kill(child, number)
    await worker.saw("stopping: 1 job still runs")
    gate.touch()

    assert await handle.result(timeout=20) == -signal.SIGTERM, "the program heeds what the child does not"
    info = await handle.info()
    assert (info.attempts, info.interruptions) == (1, 0)
    assert await worker.ended() == 0
    await until(lambda: not psutil.pid_exists(child), "the end of the child")


async def test_a_killed_worker_takes_its_children_along_and_what_they_have_started(
    project: Project, tmp_path: Path
) -> None:
    tasks, worker = await start(project)
    started = tmp_path / "started"
    await tasks.waits.send(str(started), str(tmp_path / "gate"))
    running = await pids(started)

    worker.signal(signal.SIGKILL)

    await until(lambda: not any(_runs(pid) for pid in running), f"the end of {running}")


async def test_an_idle_child_ends_with_its_killed_worker(project: Project) -> None:
    tasks, worker = await start(project)
    assert await (await tasks.typed.send(1)).result(timeout=20) == 1
    (child,) = worker.children()

    worker.signal(signal.SIGKILL)

    await until(lambda: not _runs(child.pid), "the end of the child")


async def test_a_fork_of_a_task_heeds_its_signals(project: Project) -> None:
    tasks, worker = await start(project)
    assert await (await tasks.forks.send()).result(timeout=20) == signal.SIGTERM
    assert await worker.stop() == 0


@pytest.mark.parametrize("where", ["in_the_loop", "in_a_thread", "in_a_process"])
async def test_a_fork_that_its_task_does_not_end_is_no_second_worker(project: Project, where: str) -> None:
    """It would settle the job, and read the replies that its worker waits for."""
    tasks, worker = await start(project)
    codes = {"returns": 0, "raises": 1, "says": 1, "exits": 3}
    for how, code in codes.items():
        handle = await getattr(tasks, f"forks_{where}").send(how)
        assert (await handle.result(timeout=20), (await handle.info()).attempts) == (code, 1)
    assert await gather(*[await tasks.add.send(1, each) for each in range(20)]) == tuple(range(1, 21))
    await worker.saw("^ValueError: raised in the fork$")
    await worker.saw("^says$")
    assert "ERROR" not in worker.log
    assert await worker.stop() == 0


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("what", ["a turn", "a time", "a future"])
async def test_a_fork_that_awaits_ends_and_takes_nothing_from_its_worker(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, loop: str
) -> None:
    """Nor does it take a step of another job, or touch the connections in any other way."""
    if loop == "asyncio":
        project.write("uvloop.py", "raise ModuleNotFoundError")
        monkeypatch.setenv(FRESH, "1")  # what is forked has uvloop already
    tasks, worker = await start(project)
    trace, others, end = tmp_path / "trace", tmp_path / "others", tmp_path / "end"
    beside = [await tasks.steps.send(str(others), str(end)) for _ in range(3)]
    await until(others.exists)
    sends = [asyncio.create_task(_steady(tasks)) for _ in range(4)]

    for _ in range(5):
        handle = await tasks.forks_and_awaits.send(what, str(trace))
        assert (await handle.result(timeout=20), (await handle.info()).attempts) == (1, 1)

    assert [await each for each in sends] == [[2] * 100] * 4
    end.touch()
    await gather(*beside, timeout=20)
    assert set(others.read_text().split()) == {str(worker.pid)}
    assert not trace.exists()
    await worker.saw("^RuntimeError: ", times=5)
    assert await worker.stop() == 0


async def _steady(tasks: Any) -> list[int]:
    return [await (await tasks.add.send(1, 1)).result(timeout=20) for _ in range(100)]


async def test_what_a_task_prints_and_logs_is_in_the_workers_log_and_its_input_is_empty(project: Project) -> None:
    tasks, worker = await start(project)
    handle = await tasks.talks.send()

    assert not await handle.result(timeout=20)

    for words in ("printed by the task", "echoed by a program", "written to descriptor 1"):
        await worker.saw(f"^{words}$")
    name = re.escape(f"children.talks[{handle.id}]")
    await worker.saw(rf"^\d{{4}}-.* WARNING {name} logged by the task, 100%$")
    await worker.saw(rf"^\d{{4}}-.* ERROR   {name} logged with a traceback$")
    await worker.saw("^ValueError: invalid literal")
    assert await (await tasks.typed.send(3)).result(timeout=20) == 3
    assert await worker.stop() == 0


async def test_a_child_logs_with_the_workers_level_and_format(project: Project) -> None:
    project.copy("children")
    tasks = project.load("children")
    worker = project.worker("children:app", "--log-format", "json", "--log-level", "error")
    handle = await tasks.talks.send()
    assert not await handle.result(timeout=20)

    (line,) = await worker.saw("logged with a traceback")
    fields = json.loads(line)

    assert (fields["logger"], fields["level"], fields["job_id"]) == ("aioq.task", "error", handle.id)
    assert fields["pid"] != worker.pid
    assert fields["exception"].startswith("ValueError: invalid literal")
    assert "ValueError: invalid literal" in fields["traceback"]
    assert "logged by the task" not in worker.log
    assert await worker.stop() == 0


async def test_arguments_and_results_that_do_not_fit_fail_without_a_retry(project: Project) -> None:
    tasks, worker = await start(project)
    wrong = await tasks.app.send("children.typed", "three")
    unencodable = await tasks.unencodable.send(1)

    with pytest.raises(JobFailed, match=r"aioq\.ArgumentError: \$\.number: expected `?int"):
        await wrong.result(timeout=20)
    with pytest.raises(
        JobFailed,
        match=r"aioq\.ResultError: the result of children\.unencodable cannot be encoded: .*got object",
    ):
        await unencodable.result(timeout=20)

    for handle in (wrong, unencodable):
        assert (await handle.info()).attempts == 1
    assert await worker.stop() == 0


@pytest.mark.parametrize("task", ["in_pool", "in_thread"])
async def test_a_job_that_waits_for_its_place_does_not_use_up_its_timeout(
    project: Project, tmp_path: Path, task: str
) -> None:
    """Four jobs of 0.7 s one after the other, each with 2 s for itself."""
    tasks, worker = await start(project, AIOQ_POOL_SIZE="1", AIOQ_THREADS="1")
    trace = tmp_path / "trace"
    handles = [await getattr(tasks, task).send(str(trace)) for _ in range(4)]

    left: tuple[float, ...] = await gather(*handles, timeout=20)

    assert all(1.5 < each <= 2 for each in left), left
    assert trace.read_text() == "ran\n" * 4
    assert await worker.stop() == 0


def _runs(pid: int) -> bool:
    """Whether a process is there and more than an entry that nobody has asked for."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
