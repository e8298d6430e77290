"""What raises beside a job, in logging, arguments or exceptions, ends neither the job nor its worker."""

import pytest

from aioq import JobFailed, gather
from tests.behaviour.kit import Project

pytestmark = pytest.mark.anyio


async def test_a_worker_whose_logging_raises_runs_jobs_all_the_same(project: Project) -> None:
    project.copy("beside")
    tasks, worker = project.load("beside"), project.worker("beside:app", "-c", "2", BESIDE="worker")

    for task in (tasks.fails, tasks.fails_in_a_process):
        for _ in range(3):  # more than there are slots
            with pytest.raises(JobFailed, match="OddError: an ordinary failure"):
                await (await task.send()).result(timeout=20)
    for task in (tasks.index, tasks.index_in_a_process):
        assert await (await task.send(tasks.Doc("a"))).result(timeout=20) == "a"
    assert await worker.stop() == 0

    assert (
        worker.log.count("aioq: logging a line of aioq.job raised ConnectionRefusedError; the line may be lost")
        == 1
    )
    assert worker.log.count("aioq: logging a line of aioq.task raised") == 2, (
        "once here, once in the child process"
    )


async def test_an_argument_that_raises_fails_its_job_alone(project: Project) -> None:
    project.copy("beside")
    tasks = project.load("beside")
    handles = await tasks.index.send_many(
        [(tasks.Doc(how),) for how in ("a", "exit", "interrupt", "cancelled", "b")]
    )
    in_process = await tasks.index_in_a_process.send_many([(tasks.Doc(how),) for how in ("a", "exit", "b")])
    worker = project.worker("beside:app", "-c", "2", BESIDE="worker")

    assert await gather(handles[0], handles[4], in_process[0], in_process[2], timeout=20) == ("a", "b", "a", "b")
    for handle, kind in (
        (handles[1], "SystemExit"),
        (handles[2], "KeyboardInterrupt"),
        (handles[3], "CancelledError"),
        (in_process[1], "SystemExit"),
    ):
        with pytest.raises(JobFailed, match=kind):
            await handle.result(timeout=20)
        info = await handle.info()
        assert (info.crashes, info.interruptions) == (0, 0)
    alone = await tasks.index.send(tasks.Doc("exit"))  # dispatched to the worker that waits
    with pytest.raises(JobFailed, match="SystemExit"):
        await alone.result(timeout=20)
    assert await (await tasks.index.send(tasks.Doc("c"))).result(timeout=20) == "c"
    assert await worker.stop() == 0
