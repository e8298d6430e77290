"""A lifespan that fails is the user's code: the worker says what it raised and where, with exit code 1."""

import json
import re

import pytest

from tests.behaviour.kit import Process, Project, until

pytestmark = pytest.mark.anyio

SHOP = """
from aioq import App
import database
app = App()

@app.task
async def add(x: int, y: int) -> int:
    return x + y

@app.lifespan
async def resources():
    {set_up}
    yield
    {tear_down}
"""
DATABASE = """
def connect():
    raise OSError("no database at 10.0.0.1")
"""
LINE = {"set-up": 12, "tear-down": 14}


def write(project: Project, **steps: str) -> None:
    project.write("database.py", DATABASE)
    project.write("shop.py", SHOP.format(**{"set_up": "pass", "tear_down": "pass", **steps}))


def shows_it(
    project: Project, worker: Process, when: str, *, raised: str = "OSError: no database at 10.0.0.1"
) -> None:
    """One error line, then the traceback from the lifespan on: nothing of aioq's in between."""
    (at,) = [number for number, line in enumerate(worker.lines) if " ERROR " in line]
    place = f"{project.folder}/shop.py:{LINE[when]}"
    assert worker.lines[at].endswith(
        f"the lifespan of app {project.name!r} failed in its {when} with {raised} ({place})"
    )
    assert worker.lines[at + 1] == "Traceback (most recent call last):"
    assert worker.lines[at + 2] == f'  File "{project.folder}/shop.py", line {LINE[when]}, in resources'
    assert worker.log.count("Traceback") == 1
    assert worker.lines[-1] == raised


async def test_a_set_up_that_fails(project: Project) -> None:
    write(project, set_up="database.connect()")

    worker = project.worker("shop:app")

    assert await worker.ended() == 1
    shows_it(project, worker, "set-up")
    assert "│ host" not in worker.log


async def test_a_tear_down_that_fails(project: Project) -> None:
    write(project, tear_down="database.connect()")
    database = project.load("database")
    assert database
    shop = project.load("shop")
    worker = await project.ready_worker("shop:app")
    async with shop.app:
        assert await (await shop.add.send(1, 2)).result(timeout=20) == 3

    assert await worker.stop() == 1
    shows_it(project, worker, "tear-down")


async def test_a_message_that_cannot_be_read(project: Project) -> None:
    write(project, set_up="raise database.Broken")
    project.write("database.py", "class Broken(Exception):\n    def __str__(self):\n        1 / 0\n")

    worker = project.worker("shop:app")

    assert await worker.ended() == 1
    assert "with Broken: <its message could not be read: ZeroDivisionError> (" in worker.log


async def test_as_json(project: Project) -> None:
    write(project, set_up="database.connect()")

    worker = project.worker("shop:app", "--log-format", "json")

    assert await worker.ended() == 1
    (line,) = [json.loads(line) for line in worker.lines]
    assert line["level"] == "error"
    assert f"the lifespan of app {project.name!r} failed in its set-up" in line["message"]
    assert re.search(r"in resources\n.*\n.*in connect\n", line["traceback"], re.DOTALL)


async def test_supervised_workers_are_replaced(project: Project) -> None:
    write(project, set_up="database.connect()")

    worker = project.worker("shop:app", "--processes", "2")

    await worker.saw(r"the lifespan of app .* failed in its set-up with OSError", times=4)
    await worker.saw(r"ended with exit code 1; it is replaced", times=4)
    assert await worker.stop() == 0


async def test_an_exit_of_the_users_own_is_one(project: Project) -> None:
    write(project, set_up="raise SystemExit(3)")

    worker = project.worker("shop:app")

    assert await worker.ended() == 3
    await until(lambda: not worker.running)
    assert "the lifespan of app" not in worker.log
