"""A password that is changed while a worker runs: it is not ready, says so once, and heals when that is undone."""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from tests.behaviour.kit import Project, until
from tests.servers import Login, Server

pytestmark = pytest.mark.anyio


TASKS = """
from aioq import App

app = App()


@app.task
async def add(x: int, y: int) -> int:
    return x + y


@app.every(3600)
async def hourly() -> None:
    pass
"""


def ready(port: int) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def connections(admin: Any) -> int:
    return admin.info("stats")["total_connections_received"]


@pytest.mark.parametrize("user", ["shop", ""], ids=["a user's", "requirepass"])
async def test_a_worker_waits_until_its_password_is_right_again(
    project: Project, start_server: Callable[..., Server], user: str
) -> None:
    server = start_server(login=Login("first", user=user))
    project.settings["AIOQ_URL"] = server.url
    project.write("mill.py", TASKS)
    worker = await project.ready_worker("mill:app", "--health-port", "0", AIOQ_LEASE="2")
    (line,) = await worker.saw("health checks are answered on port")
    port = int(re.search(r"port (\d+)", line)[1])  # pyright: ignore[reportOptionalSubscript]
    await until(lambda: ready(port)[0] == 200)
    with server.client() as admin:
        change = (
            (lambda password: admin.execute_command("ACL", "SETUSER", user, "resetpass", f">{password}"))
            if user
            else (lambda password: admin.config_set("requirepass", password))
        )
        declared = f"aioq:{{{project.name}:default}}:declared"
        await until(lambda: admin.exists(declared))  # the last thing that it does at its start
        change("second")
        for kind in ("normal", "pubsub"):
            admin.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

        await until(lambda: ready(port)[0] == 503)
        assert "refused the login" in ready(port)[1]["reasons"][0]
        before = connections(admin)
        await until(lambda: connections(admin) > before + 5)  # it tries again
        assert worker.running
        await worker.saw("WARNING")
        assert len([line for line in worker.lines if "WARNING" in line]) == 1, worker.log

        change("first")
        await until(lambda: ready(port)[0] == 200)
    mill = project.load("mill")
    async with mill.app:
        assert await (await mill.add.send(1, 2)).result(timeout=20) == 3
    assert len([line for line in worker.lines if re.search("WARNING|ERROR", line)]) == 2, worker.log
    assert "Traceback" not in worker.log
    assert await worker.stop() == 0
