"""A task, or a module that is imported late, sets a handler of its own for SIGTERM: the worker still stops."""

import pytest

from aioq import JobState
from tests.behaviour.kit import Project, info_when

pytestmark = pytest.mark.anyio

TASKS = """
import asyncio
import importlib
import signal

from aioq import App

app = App()


@app.task
async def interfere(how: str) -> None:
    if how == "ignore":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif how == "loop":
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, print, "the task heard of it", flush=True)
    else:
        importlib.import_module("late")


@app.task
async def finish() -> int:
    await asyncio.sleep(1)
    return 7
"""

LATE = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit("the late module heard of it"))
"""


@pytest.mark.parametrize(("how", "said"), [("ignore", "SIG_IGN"), ("import", "the late module heard of it")])
async def test_sigterm_stops_the_worker_and_its_job_is_finished(project: Project, how: str, said: str) -> None:
    project.write("late.py", LATE)
    project.write("tasks.py", TASKS)
    tasks = project.load("tasks")
    worker = await project.ready_worker("tasks:app")
    await (await tasks.interfere.send(how))
    last = await tasks.finish.send()
    await info_when(last, lambda info: info.state is JobState.RUNNING)

    assert await worker.stop() == 0

    assert await last == 7
    assert said in worker.log
    assert "SIGTERM: a handler was set in this worker by a task or an import" in worker.log
