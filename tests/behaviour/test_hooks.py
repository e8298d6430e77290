"""The hooks of middleware in a real worker: threads, processes, schedules, and the worker's own start and end."""

import pytest

from aioq import JobCancelledError, JobFailed
from tests.behaviour.kit import Project, until

pytestmark = pytest.mark.anyio

TASKS = """
import os

from aioq import App, Cancel, Middleware, Retry, current_job


class Notes(Middleware):
    def note(self, *words):
        with open("notes", "a") as file:
            print(os.getpid(), *words, file=file)

    async def send(self, call, forward):
        call.headers["by"] = "middleware"
        return await forward(call)

    async def settled(self, job, outcome):
        self.note(job.task, job.attempt, outcome.kind, outcome.final, type(outcome.error).__name__, outcome.result)

    async def worker_started(self):
        self.note("started")

    async def worker_stopped(self):
        self.note("stopped")


app = App(middleware=[Notes()])


@app.task(name="thread")
def thread() -> int:
    return 7


@app.task(name="process", executor="process", retry=Retry(2, delay=0))
def process() -> None:
    raise KeyError("x")


@app.task(name="called_off", executor="process")
def called_off() -> None:
    raise Cancel("why")


@app.every(3600, schedule_id="ticking")
@app.task(name="ticked")
async def ticked() -> str:
    return current_job().headers["by"]
"""


def notes(project: Project) -> list[str]:
    return (project.folder / "notes").read_text().splitlines()


async def test_a_worker_notes_each_attempt_once_and_its_own_start_and_end(project: Project) -> None:
    project.write("tasks.py", TASKS)
    tasks = project.load("tasks")
    worker = await project.ready_worker("tasks:app")
    assert await (await tasks.thread.send()) == 7
    with pytest.raises(JobFailed):
        await (await tasks.process.send()).result(timeout=30)
    with pytest.raises(JobCancelledError, match="why"):
        await (await tasks.called_off.send()).result(timeout=30)
    assert await (await tasks.app.schedules.run_now("ticking")).result(timeout=30) == "middleware"
    await until(lambda: len(notes(project)) == 6, "the last attempt's note")
    assert await worker.stop() == 0

    assert notes(project) == [
        f"{worker.pid} {line}"
        for line in (
            "started",
            "thread 1 succeeded True NoneType 7",
            "process 1 retry False RemoteError None",
            "process 2 failed True RemoteError None",
            "called_off 1 cancelled True RemoteError None",
            "ticked 1 succeeded True NoneType middleware",
            "stopped",
        )
    ]
