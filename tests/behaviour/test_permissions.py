"""A user of the server with few permissions: the documented rules do, and whatever is missing is named."""

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest

from aioq import App, ServerRejectedError
from aioq.app import internals_of
from tests.behaviour.kit import ROOT, Project
from tests.behaviour.pages import held_by
from tests.servers import Login, Server, available

pytestmark = pytest.mark.anyio

TASKS = """
import asyncio
from aioq import App, current_job
from aioq.app import internals_of

app = App()


@app.every(1)
async def ticks() -> None:
    pass


@app.task
async def add(x: int, y: int) -> int:
    current_job().progress(1, 2)
    return x + y


@app.task
async def wait() -> None:
    await asyncio.sleep(60)
"""


@pytest.mark.parametrize("name", available())
async def test_the_documented_rules_are_enough_for_everything(
    project: Project, start_server: Callable[..., Server], name: str
) -> None:
    (block,) = held_by("test_the_documented_rules_are_enough_for_everything")
    documented = block.text.removeprefix("ACL SETUSER shop on >secret ").strip()
    server = start_server(name, login=Login("secret", user="shop", rules=f"+ping {documented}"))
    project.settings["AIOQ_URL"] = server.url
    project.write("jobs.py", TASKS)
    worker = await project.ready_worker("jobs:app", "--log-level", "warning")
    jobs = project.load("jobs")
    async with jobs.app:
        assert await (await jobs.add.send(1, 2)).result(timeout=20) == 3
        later = await jobs.add.options(delay=0.1, priority="high").send(3, 4)
        assert await later.result(timeout=20) == 7
        running = await jobs.wait.send()
        await running.cancel()
        with pytest.raises(Exception, match="cancelled"):
            await running.result(timeout=20)
        (schedule,) = await jobs.app.schedules.list()
        assert schedule.runs >= 0
    check = project.python("-m", "aioq", "check", "jobs:app")
    assert await check.ended() == 0, check.log
    doctor = project.python("-m", "aioq", "doctor", "jobs:app")
    assert await doctor.ended() == 0, doctor.printed
    assert not [line for line in worker.lines if re.search("WARNING|ERROR|NOPERM", line)], worker.log
    assert await worker.stop() == 0
    async with App(project.name, url=server.url, durability="replicated", replicas=1) as app:
        await (await internals_of(app).store()).open(thorough=True)
    async with App(project.name, url=server.url, durability="replicated") as app:
        store = await internals_of(app).store()
        with pytest.raises(ServerRejectedError, match=r"is missing: ACL SETUSER <user> \+info"):
            await store.open(thorough=True)


async def test_a_user_of_one_application_needs_its_keys_and_channels_only(
    project: Project, start_server: Callable[..., Server]
) -> None:
    page = re.search(
        r"keys `(\S+)` and the channels `(\S+)`", (ROOT / "docs/worker.md").read_text().replace("\n", " ")
    )
    assert page is not None
    patterns, channels = (pattern.replace("<app>", project.name) for pattern in page.groups())
    server = start_server(login=Login("secret", user="shop", rules=f"~{patterns} resetchannels &{channels} +@all"))
    project.settings["AIOQ_URL"] = server.url
    project.write("jobs.py", TASKS)
    worker = await project.ready_worker("jobs:app", "--log-level", "warning")
    jobs = project.load("jobs")
    async with jobs.app:
        assert await (await jobs.add.send(1, 2)).result(timeout=20) == 3
    assert await worker.stop() == 0
    assert "NOPERM" not in worker.log


NO_CHANNELS = "~aioq:* resetchannels +@all"
MISSING = [(NO_CHANNELS, "'&aioq:*'"), ("~aioq:* &* +@all -xadd", "+xadd"), ("~other:* &* +@all", "'~aioq:*'")]


@pytest.mark.parametrize(("rules", "grant"), MISSING, ids=["channels", "a command", "keys"])
async def test_a_worker_and_a_check_name_what_is_missing(
    project: Project, start_server: Callable[..., Server], rules: str, grant: str
) -> None:
    server = start_server(login=Login("secret", user="shop", rules=rules))
    project.settings["AIOQ_URL"] = server.url
    project.copy("mill")
    processes = [project.worker("mill:app"), project.python("-m", "aioq", "check", "mill:app")]
    for process in processes:
        assert await process.ended() != 0
        assert "refused a command to this user" in process.log
        assert grant in process.log
        assert "Traceback" not in process.log


async def test_a_worker_and_the_doctor_name_commands_that_the_server_does_not_have(
    project: Project, start_server: Callable[..., Server]
) -> None:
    """As some services that speak the protocol; `docs/scaling.md` names them."""
    lacks = [("XPENDING", ""), ("SSCAN", "")]
    server = start_server(extra_args=[word for each in lacks for word in ("--rename-command", *each)])
    project.settings["AIOQ_URL"] = server.url
    project.copy("mill")
    said = "does not have SSCAN, XPENDING, without which aioq cannot work"
    for process in (project.worker("mill:app"), project.python("-m", "aioq", "doctor", "mill:app")):
        assert await process.ended() != 0
        text = "\n".join([*process.lines, *process.printed])
        assert said in text
        assert "docs/scaling.md" in text
        assert "Traceback" not in text


async def test_awaiting_a_job_without_permission_to_subscribe_fails_at_once(
    start_server: Callable[..., Server], app_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """And the server is not asked fifty times a second."""
    server = start_server(login=Login("secret", user="shop", rules=NO_CHANNELS))
    async with App(app_name, url=server.url) as app:
        handle = await app.send("x")
        for _ in range(20):
            with pytest.raises(ServerRejectedError, match=r"channel.*&aioq"):
                await handle.result(timeout=10)
        with server.client() as client:
            stats: Any = client.info("stats")
            await asyncio.sleep(1)
            later: Any = client.info("stats")
        assert later["total_connections_received"] - stats["total_connections_received"] <= 3
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1
