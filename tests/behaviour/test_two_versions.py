"""Two versions of the code, or of aioq, side by side in a rolling deployment: limits and batches."""

import asyncio
import os
import re
import shutil
from pathlib import Path

import pytest

import aioq
from aioq import JobState, gather
from tests.behaviour.kit import Project, until

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=15)]

CODE = """
import asyncio, os
from pathlib import Path
import aioq
from aioq import App, Batch, BatchItem, Limit

app, here = App(concurrency=10), Path(__file__).parent
(here / f"aioq of {os.getpid()}").write_text(aioq.__file__)


def note(text: str) -> None:
    with (here / "ledger").open("a") as ledger:
        ledger.write(text + " ")


@app.task(name="sync", limits=[Limit("customer", by="customer", concurrency=NUMBER)])
async def sync(customer: int, gate: str) -> str:
    note("+VERSION")
    while not (here / gate).exists():
        await asyncio.sleep(0.01)
    note("-VERSION")
    return "VERSION"


@app.task(name="plain")
async def plain() -> str:
    return "VERSION"


@app.task(name="together", batch=Batch(size=3, wait=60))
async def together(items: list[BatchItem[int]]) -> list[str]:
    return [f"VERSION of {len(items)}" for _ in items]
"""
"""An App whose limit lets NUMBER jobs of a customer run; its jobs return which VERSION has run them."""


def write(project: Project, version: str, number: int) -> str:
    """The code of a version; returns the name of its module."""
    text = CODE.replace("VERSION", version).replace("NUMBER", str(number))
    project.write(f"{version}.py", text)
    return version


def rows(project: Project) -> list[str]:
    """The starts and ends of the runs so far."""
    path = project.folder / "ledger"
    return path.read_text().split() if path.exists() else []


def at_once(project: Project) -> int:
    """How many run now."""
    return sum(1 if each[0] == "+" else -1 for each in rows(project))


async def stays(number: int, project: Project) -> None:
    """So many run, and a while later still so many: nothing would tell of one more but its start."""
    await until(lambda: at_once(project) == number, f"{number} that run")
    await asyncio.sleep(0.3)
    assert at_once(project) == number


async def test_the_numbers_of_the_code_that_was_started_last_count(project: Project) -> None:
    old = await project.ready_worker(f"{write(project, 'old', 2)}:app")
    first = project.load("old")
    handles = [await first.sync.send(7, "first") for _ in range(5)]
    await stays(2, project)

    new = await project.ready_worker(f"{write(project, 'new', 3)}:app")
    await new.saw(
        "limit 'customer': it said concurrency=2 until now; with the next job, what this code says counts"
    )
    second = project.load("new")
    handles.append(await second.sync.send(7, "first"))
    await stays(3, project)
    handles.append(await first.sync.send(7, "first"))  # what the old code says counts no more
    await stays(3, project)
    (limit,) = await first.app.limits.list()
    assert (limit.concurrency, limit.changed) == (3, False)

    project.write("first", "")
    assert len(await gather(handles)) == 7
    again = await project.ready_worker("old:app")  # as after a crash: it is the newest declaration then
    await again.saw("with the next job, what this code says counts: concurrency=2")
    await first.app.aclose()
    await second.app.aclose()
    for worker in (old, new, again):
        assert await worker.stop() == 0


def forget(file: Path, pattern: str, instead: str, times: int) -> None:
    text, count = re.subn(pattern, instead, file.read_text(), flags=re.MULTILINE)
    assert count == times
    file.write_text(text)


@pytest.fixture
def aioq_of_before(tmp_path: Path) -> Path:
    """A copy of aioq that knows neither limits nor batches."""
    found = tmp_path / "before"
    shutil.copytree(Path(aioq.__file__).parent, found / "aioq", ignore=shutil.ignore_patterns("__pycache__"))
    library = found / "aioq/store/redis/lua/lib"
    forget(library / "record.lua", r"^    (?:limits|batch) = .*\n", "", times=2)
    text_shapes = library / "record_text_limited.lua"  # records under limits as text
    forget(
        text_shapes, r"^(function LimitText.(?:parts|begin_first|read_first)\(.*\n)", r"\1  do return nil end\n", 3
    )
    return found


async def test_a_worker_of_an_older_aioq_gives_back_what_it_does_not_know(
    project: Project, aioq_of_before: Path
) -> None:
    path = os.pathsep.join([str(aioq_of_before), str(project.folder)])
    module = write(project, "new", 1)
    # With an option it is not forked from a process that has imported the aioq at hand.
    command = ("-X", "utf8", "-m", "aioq", "worker", "new:app")
    before = project.python(*command, PYTHONPATH=path, AIOQ_POLL_INTERVAL="0.2")
    await before.saw("│ host")
    assert str(aioq_of_before) in (project.folder / f"aioq of {before.pid}").read_text()
    code = project.load(module)
    project.write("gate", "")
    limited = [await code.sync.send(number % 2, "gate") for number in range(4)]
    batched = await code.together.send_many([(number,) for number in range(3)])
    assert await code.plain.send() is not None
    await before.saw("this version of aioq cannot read the record of job")
    states = {await each.status() for each in (*limited, *batched)}
    assert states <= {JobState.QUEUED, JobState.WAITING, JobState.SCHEDULED}, "none is lost or run"

    after = await project.ready_worker("new:app", AIOQ_POLL_INTERVAL="0.2")
    assert await before.stop() == 0
    assert await gather(limited) == ("new",) * 4
    assert await gather(batched) == ("new of 3",) * 3
    await code.app.aclose()
    assert await after.stop() == 0
