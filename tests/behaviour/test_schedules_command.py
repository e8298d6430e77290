"""`aioq schedules`: what an operator sees and does."""

import io
import re
from datetime import UTC, datetime, time, timedelta

import pytest
from rich.console import Console

from aioq.cli.schedules import facts, print_list
from aioq.schedules.info import Schedule
from aioq.schedules.timing import Definition
from tests.behaviour.kit import Project

pytestmark = pytest.mark.anyio

SHOP = """
from aioq import App

app = App(timezone="Asia/Shanghai")


@app.cron("0 6 * * mon-fri", schedule_id="morning", overlap="one")
@app.task(name="shop.report", queue="reports")
async def report() -> str:
    return "done"


@app.task(name="shop.add")
async def add(x: int, y: int) -> int:
    return x + y


app.schedule("adds", add.call(5, 8), every=3600, max_runs=3, jitter=90)
"""


async def aioq(project: Project, *arguments: str, code: int = 0) -> str:
    """Run `aioq schedules`; what it printed, or its error."""
    process = project.python("-m", "aioq", "schedules", *arguments)
    assert await process.ended() == code, process.log
    return process.log if code else "\n".join(process.printed)


async def test_an_operators_day(project: Project) -> None:
    project.write("shop.py", SHOP)
    assert await aioq(project, "list", "shop:app") == "", "nothing that a pipe would take for a schedule"
    worker = await project.ready_worker("shop:app")
    await worker.saw("schedule morning: stored")
    await worker.saw("schedule adds: stored")

    adds, morning = (line.split("\t") for line in (await aioq(project, "list", "shop:app")).splitlines())
    assert [*adds[:4], adds[5]] == ["adds", "shop.add", "Every 1 h", "Asia/Shanghai", "active, from code"]
    assert morning[:4] == ["morning", "shop.report", "At 06:00 on Monday through Friday", "Asia/Shanghai"]
    run = datetime.fromisoformat(morning[4])
    assert (run.time(), run.utcoffset()) == (time(6), timedelta(hours=8))

    shown = await aioq(project, "show", "shop:app", "morning")
    assert shown.count("06:00:00 CST (Asia/Shanghai)") == 5
    for text in ("0 6 * * mon-fri", "reports", "misfire last, overlap one", "active, from code"):
        assert text in shown
    shown = await aioq(project, "show", "shop:app", "adds")
    for text in ("0 of 3", "up to 90 s"):
        assert text in shown
    assert shown.count(":00:00 CST") == 3, "no more runs than there will be"

    assert "paused, from code" in await aioq(project, "pause", "shop:app", "morning")
    assert "active, from code" in await aioq(project, "resume", "shop:app", "morning")

    job_id = await aioq(project, "run", "shop:app", "adds")
    await worker.saw(rf"shop\.add\[{job_id}\] succeeded in .*: 13")

    removed = await aioq(project, "remove", "shop:app", "morning")
    assert removed == "removed morning; code declares it, and it comes back when its declaration changes"
    assert "morning" not in await aioq(project, "list", "shop:app")
    log = await aioq(project, "show", "shop:app", "morning", code=2)
    assert log == "aioq: there is no schedule 'morning' (looked for in queue default, reports); there are: adds"

    await worker.stop()
    again = await project.ready_worker("shop:app")
    await again.saw("schedule morning: was removed at run time; that stays until its declaration in code changes")


async def test_a_bad_schedule_stops_the_worker_in_one_line(project: Project) -> None:
    project.write("shop.py", SHOP.replace("0 6 * * mon-fri", "0 0 30 2 *"))
    worker = project.worker("shop:app")
    assert await worker.ended() == 2
    (line,) = worker.lines
    assert "schedule 'morning': cron='0 0 30 2 *': its dates never come" in line


NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
LONG = Schedule(
    id="shop.reports.every_workday",
    queue="reports",
    task="shop.reports.every_workday",
    cron="0 6 * * mon-fri",
    tz="America/Argentina/Buenos_Aires",
    description="At 06:00 on Monday through Friday",
    next_at=NOON,
    asked_at=NOON - timedelta(hours=1),
    definition=Definition(cron="0 6 * * mon-fri", tz="America/Argentina/Buenos_Aires"),
)
DUE = Schedule(
    id="posts",
    queue="mail",
    task="shop.post",
    every=60,
    description="Every 1 min",
    next_at=NOON,
    asked_at=NOON + timedelta(seconds=90),
    definition=Definition(every_ms=60_000),
)


def printed(schedules: list[Schedule], width: int, *, terminal: bool) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, highlight=False)
    print_list(console, schedules, plain=not terminal)
    assert isinstance(console.file, io.StringIO)
    return re.sub(r"\x1b\[[\d;]*m", "", console.file.getvalue()).splitlines()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_list_in_a_terminal_folds_anything_but_the_id(width: int) -> None:
    lines = printed([LONG, DUE], width, terminal=True)
    assert sum(f" {LONG.id} " in line for line in lines) >= 1
    if width >= 80:
        assert max(map(len, lines)) <= width
    if width >= 200:
        assert "Tue 2026-11-24 09:00:00 -03 (America/Argentina/Buenos_Aires)" in "\n".join(lines)


def test_a_list_in_a_pipe_is_one_line_each_at_any_width() -> None:
    assert printed([LONG, DUE], 20, terminal=False) == [
        f"{LONG.id}\t{LONG.task}\tAt 06:00 on Monday through Friday\tAmerica/Argentina/Buenos_Aires"
        "\t2026-11-24T09:00:00-03:00\tactive, put at run time",
        "posts\tshop.post\tEvery 1 min\tUTC\t2026-11-24T12:02:00+00:00\tdue, put at run time",
    ]


def test_a_schedule_without_ticks_is_reported() -> None:
    shown = dict(facts(DUE))
    assert shown["due since"] == "Tue 2026-11-24 12:00:00 UTC: no worker makes its ticks"
    assert shown["next runs"].splitlines()[0] == "Tue 2026-11-24 12:02:00 UTC"
    assert "due since" not in dict(facts(LONG))
    late = Schedule(**{**{name: getattr(DUE, name) for name in DUE.__struct_fields__}, "asked_at": NOON})
    assert "due since" not in dict(facts(late)), "some worker may be about to make it"
