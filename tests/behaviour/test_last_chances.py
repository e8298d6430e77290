"""A job whose workers have died as often as they may: its run in a process of its own is as one in the worker."""

import re
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from aioq import JobFailed
from tests.behaviour.kit import Process, Project

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=15), pytest.mark.apart]


async def start(project: Project, **settings: str) -> tuple[Any, Process]:
    project.copy("chances")
    tasks = project.load("chances")
    # The supervisor of several processes gives a dead one's jobs back at once.
    return tasks, project.worker("chances:app", "--processes", "2", AIOQ_MAX_CRASHES="1", **settings)


async def test_it_knows_says_and_prints_what_it_would_in_the_worker(project: Project, tmp_path: Path) -> None:
    tasks, worker = await start(project)
    flag = tmp_path / "flag"
    before = datetime.now(UTC)
    handle = await tasks.about.options(headers={"wrap": "yes"}).send(str(flag))

    outcome = await tasks.app.handle(handle.id).result(timeout=30)

    (found,) = outcome  # wrapped by the middleware
    pid = found["pid"]
    assert str(pid) != flag.read_text()
    assert found["session"] == f"session of {pid}"
    assert found["state"] == f"state of {pid}"
    assert found["crashes"] == 1
    assert abs((found["sent_at"] - before).total_seconds()) < 20
    assert 20 < found["left"] <= 30
    await worker.saw(f"^printed in {pid}$")
    await worker.saw("^echoed$")
    await worker.saw(rf"^\d{{4}}-.* INFO    {re.escape(f'chances.about[{handle.id}]')} logged in {pid}$")
    assert await worker.stop() == 0


async def test_a_result_of_another_type_than_promised_is_a_failure(project: Project, tmp_path: Path) -> None:
    tasks, worker = await start(project)
    handle = await tasks.wrong_type.send(str(tmp_path / "flag"))

    with pytest.raises(JobFailed, match="ResultError") as caught:
        await handle.result(timeout=30)

    assert "str" in caught.value.error.message
    assert "int" in caught.value.error.message
    assert (await handle.info()).state == "failed"
    assert await worker.stop() == 0


async def test_what_cannot_be_encoded_or_raised_ends_it_as_in_the_worker(project: Project, tmp_path: Path) -> None:
    tasks, worker = await start(project)

    handle = await tasks.unencodable.send(str(tmp_path / "first"))
    with pytest.raises(JobFailed, match=r"ResultError: the result of chances\.unencodable cannot be encoded"):
        await handle.result(timeout=30)
    assert (await handle.info()).attempts == 1

    handle = await tasks.stops_iterating.send(str(tmp_path / "second"))
    with pytest.raises(JobFailed, match="RuntimeError: coroutine raised StopIteration"):
        await handle.result(timeout=30)
    assert await worker.stop() == 0


async def test_where_the_app_cannot_be_set_up_twice_it_runs_in_the_worker(
    project: Project, tmp_path: Path
) -> None:
    """The lifespan takes what its worker has already: no fault of the job."""
    project.copy("chances")
    tasks = project.load("chances")
    settings = {"AIOQ_MAX_CRASHES": "1", "AIOQ_LEASE": "2", "LOCKED": str(tmp_path / "lock")}
    first = project.worker("chances:app", **settings)
    handle = await tasks.where.send(str(tmp_path / "flag"))
    assert await first.ended() == -signal.SIGKILL

    second = project.worker("chances:app", **settings)

    assert await handle.result(timeout=30) == (second.pid, f"session of {second.pid}")
    name = re.escape(f"chances.where[{handle.id}]")
    await second.saw(
        rf"WARNING {name} gets no process of its own, .*cannot be set up a second time: BlockingIOError"
    )
    assert await second.stop() == 0


async def test_one_that_kills_its_worker_there_is_buried_all_the_same(project: Project, tmp_path: Path) -> None:
    project.copy("chances")
    tasks = project.load("chances")
    settings = {"AIOQ_MAX_CRASHES": "1", "AIOQ_LEASE": "2", "LOCKED": str(tmp_path / "lock")}
    handle = await tasks.always_crashes.send()
    for _ in range(2):
        assert await project.worker("chances:app", **settings).ended() == -signal.SIGKILL

    last = project.worker("chances:app", **settings)

    with pytest.raises(JobFailed, match="WorkerCrashed"):
        await handle.result(timeout=30)
    assert await last.stop() == 0
