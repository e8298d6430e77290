"""`aioq schedules`: what an operator sees and does."""

import pytest

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
    assert await aioq(project, "list", "shop:app") == "there are no schedules"
    worker = await project.ready_worker("shop:app")
    await worker.saw("schedule morning: stored")
    await worker.saw("schedule adds: stored")

    listed = await aioq(project, "list", "shop:app")
    assert listed.index("adds") < listed.index("morning")
    for text in ("shop.report", "At 06:00 on Monday through Friday (Asia/Shanghai)", "06:00:00 CST", "Every 1 h"):
        assert text in listed

    shown = await aioq(project, "show", "shop:app", "morning")
    assert shown.count("06:00:00 CST") == 5
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
    assert log == "aioq: there is no schedule 'morning' (looked for in queue default, reports)"

    await worker.stop()
    again = await project.ready_worker("shop:app")
    await again.saw("schedule morning: was removed at run time; that stays until its declaration in code changes")


async def test_a_bad_schedule_stops_the_worker_in_one_line(project: Project) -> None:
    project.write("shop.py", SHOP.replace("0 6 * * mon-fri", "0 0 30 2 *"))
    worker = project.worker("shop:app")
    assert await worker.ended() == 2
    (line,) = worker.lines
    assert "schedule 'morning': cron='0 0 30 2 *': bad day-of-month field" in line
