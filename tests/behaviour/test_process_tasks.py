"""Tasks in the process pool: what they get, and that one which dies takes nothing with it.

Each test ends its worker and so shows too that the pool's processes end with it: what a test leaves running fails
it.
"""

from pathlib import Path
from typing import Any

import psutil
import pytest

from aioq import JobCancelledError, JobFailed, gather
from tests.behaviour.kit import RAISED, Process, Project, until
from tests.forkserver import FRESH

pytestmark = [pytest.mark.anyio, pytest.mark.measured]


async def start(project: Project, *arguments: str) -> tuple[Any, Process]:
    project.copy("jobs")
    tasks = project.load("jobs")
    return tasks, await project.ready_worker("jobs:app", *arguments, AIOQ_POOL_SIZE="2")


async def test_a_process_task_runs_in_another_process_with_types_and_retries(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FRESH, "1")  # here the pool's processes are new ones; in the other tests all are forked
    tasks, worker = await start(project)
    plain = await tasks.where.send(tasks.Point(3, 4))
    retried = await tasks.flaky_process.send()

    pid, job_id, point = await plain

    assert pid != worker.pid
    assert psutil.Process(worker.pid) in psutil.Process(pid).parents()
    assert job_id == plain.id
    assert point == tasks.Point(4, 3)
    assert await retried == 2
    assert await worker.stop() == 0


async def test_a_process_task_ends_its_job_itself_and_a_function_says_its_delays(project: Project) -> None:
    tasks, worker = await start(project)
    with pytest.raises(JobCancelledError, match="was cancelled: why not"):
        await (await tasks.ends_itself_in_process.send("cancel")).result(timeout=20)
    with pytest.raises(JobFailed, match="Fail: why not"):
        await (await tasks.ends_itself_in_process.send("fail")).result(timeout=20)
    assert await (await tasks.asks_a_function_in_process.send()).result(timeout=20) == 3
    assert await worker.stop() == 0


async def test_a_process_over_its_timeout_is_ended(project: Project, tmp_path: Path) -> None:
    tasks, worker = await start(project)
    started = tmp_path / "started"
    await (await tasks.where.send(tasks.Point(1, 2)))  # the timeout has no start of a process in it

    with pytest.raises(JobFailed, match=r"TimeoutError: .*timeout of 3 s"):
        await (await tasks.slow_process.send(str(started)))

    child = int(started.read_text())
    await until(lambda: not psutil.pid_exists(child), f"the end of the pool's process {child}")
    assert (await (await tasks.where.send(tasks.Point(1, 2))))[2] == tasks.Point(2, 1)
    assert await worker.stop() == 0


async def test_whatever_a_process_task_raises_is_its_own_failure(project: Project) -> None:
    tasks, worker = await start(project)

    for kind, names in RAISED.items():
        with pytest.raises(JobFailed) as caught:
            await (await tasks.raises_in_process.send(kind)).result(timeout=20)
        assert caught.value.error.type in names.split("|")
        assert "in raises_in_process" in caught.value.error.traceback

    assert (await (await tasks.where.send(tasks.Point(1, 2))))[2] == tasks.Point(2, 1)
    assert await worker.stop() == 0


async def test_a_process_that_dies_ends_only_its_own_job(project: Project) -> None:
    tasks, worker = await start(project)

    for how in ("exit", "kill", "segfault"):
        others = [await tasks.where.send(tasks.Point(number, 0)) for number in range(3)]
        dying = await tasks.dies.send(how)
        others += [await tasks.where.send(tasks.Point(number, 0)) for number in range(3, 6)]
        with pytest.raises(JobFailed, match=r"aioq\.ProcessDiedError: the process that ran the job died"):
            await dying.result(timeout=20)
        results: tuple[Any, ...] = await gather(*others, timeout=20)
        assert [result[2].y for result in results] == [0, 1, 2, 3, 4, 5]

    assert await (await tasks.add.send(1, 2)) == 3
    assert await worker.stop() == 0


async def test_a_process_task_that_still_runs_at_the_stop_is_ended_and_given_back(
    project: Project, tmp_path: Path
) -> None:
    tasks, worker = await start(project, "--shutdown-timeout", "0.1")
    started = tmp_path / "started"
    handle = await tasks.slow_process.options(timeout=0).send(str(started))
    await until(lambda: started.exists() and started.read_text(), "the start of the job")

    child = int(started.read_text())
    assert await worker.stop() == 0

    info = await handle.info()
    assert (info.state, info.interruptions, info.attempts) == ("queued", 1, 0)
    await until(lambda: not psutil.pid_exists(child), f"the end of the pool's process {child}")


KEPT = """
import contextvars
import logging
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from aioq import App, current_job

app = App(logs=20, logs_from="all", max_crashes=1)


def write(number: int) -> int:
    current_job().log("line %d", number)
    logging.getLogger("library").warning("no route")
    try:
        int("none")
    except ValueError:
        logging.getLogger("library").exception("it broke")
    return os.getpid()


@app.task(executor="process")
def in_the_pool(number: int) -> int:
    return write(number)


@app.task
async def on_its_last_chance(number: int) -> int:
    pid = write(number)
    if current_job().crashes == 0:
        os._exit(1)
    return pid


@dataclass
class Talks:
    number: int

    def __post_init__(self) -> None:
        logging.getLogger("library").warning("decoded %d", self.number)


@app.task(executor="process")
def given_to_the_pool(talks: Talks) -> int:
    current_job().log("given %d", talks.number)
    return os.getpid()


@app.task
async def given(talks: Talks) -> int:
    current_job().log("given %d", talks.number)
    return os.getpid()


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)


def log_late(folder: Path, job, context) -> None:
    for when in ("idle", "busy"):
        wait_for(folder / when)
        job.log("late: %s", when)
        context.run(logging.getLogger("library").warning, "late, in its context: %s", when)
        logging.getLogger("library").warning("late, in no context: %s", when)
        (folder / f"{when}.logged").touch()


@app.task(executor="process")
def leaves_a_thread(folder: str) -> int:
    job = current_job()
    job.log("its own")
    args = (Path(folder), job, contextvars.copy_context())
    threading.Thread(target=log_late, args=args, daemon=True).start()
    return os.getpid()


@app.task(executor="process")
def lets_it_log(folder: str) -> int:
    (Path(folder) / "busy").touch()
    wait_for(Path(folder) / "busy.logged")
    current_job().log("its own too")
    return os.getpid()
"""


async def test_what_a_task_logs_in_another_process_is_kept_with_its_job(project: Project) -> None:
    project.write("kept.py", KEPT)
    tasks = project.load("kept")
    async with tasks.app:
        worker = await project.ready_worker("kept:app")
        handle = await tasks.in_the_pool.send(7)
        assert await handle.result(timeout=20) != worker.pid
        line, warning, error = await handle.logs()
        assert [(each.level, each.text) for each in (line, warning)] == [
            ("info", "line 7"),
            ("warning", "library: no route"),
        ]
        assert error.level == "error"
        assert error.text.startswith("library: it broke\nTraceback")
        assert error.text.endswith("'none'")
        assert await worker.stop() == 0


async def test_what_is_logged_before_the_function_is_called_is_kept_with_no_job(project: Project) -> None:
    project.write("kept.py", KEPT)
    tasks = project.load("kept")
    async with tasks.app:
        worker = await project.ready_worker("kept:app", AIOQ_POOL_SIZE="1")
        handles = [
            await task.send(tasks.Talks(number))
            for number, task in enumerate([tasks.given_to_the_pool, tasks.given_to_the_pool, tasks.given])
        ]
        for number, handle in enumerate(handles):
            await handle.result(timeout=20)
            assert [each.text for each in await handle.logs()] == [f"given {number}"]
            await worker.saw(f"decoded {number}")
        assert await worker.stop() == 0


async def test_a_job_on_its_last_chance_keeps_its_lines_too(project: Project) -> None:
    project.write("kept.py", KEPT)
    tasks = project.load("kept")
    async with tasks.app:
        # The supervisor of several processes gives a dead one's jobs back at once.
        worker = project.worker("kept:app", "--processes", "2")
        handle = await tasks.on_its_last_chance.send(7)
        await handle.result(timeout=20)
        assert "gets no process of its own" not in worker.log
        assert [each.text.partition("\n")[0] for each in await handle.logs()] == [
            "line 7",
            "library: no route",
            "library: it broke",
        ]
        assert await worker.stop() == 0


async def test_what_a_thread_logs_after_its_task_has_ended_is_kept_with_no_other_job(
    project: Project, tmp_path: Path
) -> None:
    project.write("kept.py", KEPT)
    tasks = project.load("kept")
    async with tasks.app:
        worker = await project.ready_worker("kept:app", AIOQ_POOL_SIZE="1")
        first = await tasks.leaves_a_thread.send(str(tmp_path))
        child = await first.result(timeout=20)
        (tmp_path / "idle").touch()
        await until((tmp_path / "idle.logged").exists, "the lines of the thread while its process is idle")

        second = await tasks.lets_it_log.send(str(tmp_path))
        assert await second.result(timeout=20) == child

        assert [each.text for each in await first.logs()] == ["its own"]
        assert [each.text for each in await second.logs()] == ["its own too"]
        for how in ("late", "late, in its context", "late, in no context"):
            for when in ("idle", "busy"):  # the worker's own log has them all
                await worker.saw(f"{how}: {when}")
        assert await worker.stop() == 0
