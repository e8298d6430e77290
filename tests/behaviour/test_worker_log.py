"""The worker's log as its reader sees it: the lines of docs/worker.md, fields of JSON, the user's own logging."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.behaviour.kit import Process, Project, state_is, until
from tests.behaviour.pages import alike, held_by

pytestmark = pytest.mark.anyio

SHOP = """
import asyncio, logging, logging.config, os, pathlib, time
from aioq import App, Retry
app = App()

@app.task
async def add(x: int, y: int) -> int:
    await asyncio.sleep(0.5)
    return x + y

@app.task(retry=Retry(2, delay=0.2, jitter=False))
async def charge() -> None:
    raise ValueError("no such account")

@app.task
async def watch(gate: str) -> None:
    pathlib.Path(gate).touch()
    await asyncio.sleep(60)

@app.task
def says(gate: str) -> None:
    print("hello from", os.getpid())
    while not os.path.exists(gate):
        time.sleep(0.01)

@app.task(executor="process")
def says_in_child(gate: str) -> None:
    says.function(gate)

@app.task
async def blocks(gate: str) -> None:
    hold(gate)

def hold(gate: str) -> None:
    while not os.path.exists(gate):
        time.sleep(0.01)
"""

CONFIGURED = """
logging.config.dictConfig({
    "version": 1,
    "formatters": {"mine": {"format": "mine %(levelname)s %(name)s %(message)s"}},
    "handlers": {"mine": {"class": "logging.StreamHandler", "formatter": "mine"}},
    "root": {"level": "WARNING", "handlers": ["mine"]},
})
"""


async def started(project: Project, *arguments: str, more: str = "") -> tuple[Process, Any]:
    project.write("shop.py", SHOP + more)
    return await project.ready_worker("shop:app", "--shutdown-timeout", "1", *arguments), project.load("shop")


async def test_the_page_shows_what_is_logged(project: Project, tmp_path: Path) -> None:
    worker, shop = await started(project)
    async with shop.app:
        assert await (await shop.add.send(10, 20)) == 30
        await state_is(await shop.charge.send(), "failed")
        running = await shop.watch.send(str(tmp_path / "runs"))
        await until((tmp_path / "runs").exists)
        assert await running.cancel("the order was withdrawn")
        await state_is(running, "cancelled")
    assert await worker.stop() == 0

    (block,) = held_by("test_the_page_shows_what_is_logged")
    said = alike(worker.log.replace(str(project.folder), "/srv")).splitlines()
    said = [line for line in said if not line.startswith("    ~") and "^^^" not in line]
    at = -1
    for line in alike(block.text).splitlines():
        assert line in said[at + 1 :], (line, worker.log)
        at = said.index(line, at + 1)


async def test_the_facts_of_a_job_are_fields(project: Project, tmp_path: Path) -> None:
    project.write("shop.py", SHOP)
    worker, shop = project.worker("shop:app", "--log-format", "json"), project.load("shop")
    async with shop.app:
        good, bad = await shop.add.send(1, 2), await shop.charge.send()
        await state_is(bad, "failed")
        await good
        running = await shop.watch.send(str(tmp_path / "runs"))
        await until((tmp_path / "runs").exists)
        assert await running.cancel("the order was withdrawn")
        await state_is(running, "cancelled")
    assert await worker.stop() == 0

    lines = [json.loads(line) for line in worker.lines]
    jobs = (good.id, bad.id, running.id)
    of = {job: [line for line in lines if line.get("job_id") == job] for job in jobs}
    received, succeeded = of[good.id]
    assert (received["event"], received["attempt"], received["queue"]) == ("received", 1, "default")
    assert received["wait"] >= 0
    assert (succeeded["event"], succeeded["task"], succeeded["attempt"]) == ("succeeded", "shop.add", 1)
    assert succeeded["duration"] >= 0.5
    assert [line["event"] for line in of[bad.id]] == ["received", "retry", "received", "failed"]
    assert [line["attempt"] for line in of[bad.id]] == [1, 1, 2, 2]
    retry, failed = of[bad.id][1], of[bad.id][3]
    assert (retry["exception"], retry["delay"]) == ("ValueError: no such account", 0.2)
    assert failed["exception"] == "ValueError: no such account"
    assert failed["traceback"].startswith("Traceback (most recent call last):\n")
    assert failed["message"].endswith("ValueError: no such account")
    assert of[running.id][1]["reason"] == "the order was withdrawn"


@pytest.mark.parametrize("task", ["says", "says_in_child"])
@pytest.mark.parametrize("processes", ["1", "2"])
async def test_what_a_task_prints_appears_at_once(
    project: Project, tmp_path: Path, task: str, processes: str
) -> None:
    worker, shop = await started(project, "--processes", processes)
    gate = tmp_path / "gate"
    async with shop.app:
        job = await getattr(shop, task).send(str(gate))
        place = worker.lines if task == "says_in_child" else worker.printed
        await until(lambda: any(line.startswith("hello from ") for line in place), "what was printed")
        assert await job.status() == "running"
        gate.touch()
        await job
    assert await worker.stop() == 0


@pytest.mark.parametrize(
    "more",
    [
        CONFIGURED,
        "@app.lifespan\nasync def resources():\n    logging.getLogger('aioq.job')\n"
        + CONFIGURED.strip().replace("\n", "\n    ").join(["    ", "\n    yield\n"]),
    ],
    ids=["at the import", "in the lifespan"],
)
async def test_the_users_own_logging_wins_and_aioqs_lines_come_through(project: Project, more: str) -> None:
    worker, shop = await started(project, more=more)
    async with shop.app:
        assert await (await shop.add.send(1, 2)) == 3
    await worker.saw(r"^mine INFO aioq\.job shop\.add\[.*\] received")
    await worker.saw(r"^mine INFO aioq\.job shop\.add\[.*\] succeeded")
    assert await worker.stop() == 0
    assert len(await worker.saw("succeeded")) == 1, "and once"


async def test_a_blocked_loop_is_shown_from_the_users_code_on(project: Project, tmp_path: Path) -> None:
    worker, shop = await started(project)
    async with shop.app:
        job = await shop.blocks.send(str(tmp_path / "gate"))
        await worker.saw(rf"shop\.blocks\[{job.id}\] blocks the event loop")
        await worker.saw("time.sleep|while not os.path")
        (tmp_path / "gate").touch()
        await job
    assert await worker.stop() == 0
    frames = [line.strip() for line in worker.lines if line.startswith("  File ")]
    assert frames[0].endswith(", in blocks")
    assert frames[1].endswith(", in hold")
    assert not [frame for frame in frames if "asyncio" in frame or "/aioq/" in frame]


@pytest.mark.parametrize(("arguments", "times"), [(("--log-format", "json", "-p", "2"), 1), (("-p", "1"), 0)])
async def test_a_format_that_the_users_configuration_overrides_is_logged_once(
    project: Project, arguments: tuple[str, ...], times: int
) -> None:
    project.write("shop.py", SHOP + CONFIGURED)
    worker = project.worker("shop:app", "--burst", *arguments)
    assert await worker.ended() == 0
    assert worker.log.count("mine WARNING aioq.worker log_format json has no effect") == times
