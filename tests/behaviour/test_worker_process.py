"""`aioq worker` as a process: what it shows, what it logs, what its options do."""

import json
import re
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from aioq import gather
from tests.behaviour.kit import Project, consumers, keys, until
from tests.databases import Database
from tests.servers import Login, Server

pytestmark = [pytest.mark.anyio, pytest.mark.measured]


async def loaded(project: Project) -> Any:
    project.copy("lines")
    return project.load("lines")


def rows(log: str) -> dict[str, str]:
    """The banner's rows."""
    return {name.strip(): value.strip() for name, value in re.findall(r"│([^│\n]*)│([^│\n]*)", log)}


# -- what it shows


async def test_the_banner_says_what_runs_where_with_the_password_masked(
    project: Project, start_server: Callable[..., Server]
) -> None:
    server = start_server(tcp=True, login=Login("s3cret"))
    await loaded(project)

    worker = await project.ready_worker("lines:app", "--concurrency", "7", AIOQ_URL=server.url_of(3))

    shown = rows(worker.log)
    assert shown["app"] == project.name
    assert re.fullmatch(
        rf"redis://\*\*\*@127\.0\.0\.1:{server.port}/3 \((redis|valkey) \d+\.\d+\.\d+\)", shown["server"]
    )
    assert shown["queues"] == "default, other"
    assert shown["concurrency"] == "7"
    assert shown["tasks"].startswith("lines.add, ")
    assert shown["host"].endswith(f"pid {worker.pid}")
    assert await worker.stop() == 0
    assert "s3cret" not in worker.log
    assert worker.printed == []


async def test_each_job_has_a_line_when_it_comes_and_one_when_it_ends(project: Project) -> None:
    lines = await loaded(project)
    worker = await project.ready_worker("lines:app")
    handle = await lines.add.send(10, 20)
    failing = await lines.fails.send()

    stamp = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} "
    await worker.saw(rf"{stamp}INFO +lines\.add\[{handle.id}\] received, waited \d+\.\d\ds, attempt 1$")
    await worker.saw(rf"{stamp}INFO +lines\.add\[{handle.id}\] succeeded in \d+\.\d\ds: 30$")
    await worker.saw(rf"{stamp}ERROR +lines\.fails\[{failing.id}\] failed in \d+\.\d\ds: ValueError: no way$")
    await worker.saw(r"^Traceback \(most recent call last\):$")
    await worker.saw(r"^ValueError: no way$")
    assert await worker.stop() == 0


async def test_at_warning_only_failures_are_logged(project: Project) -> None:
    lines = await loaded(project)
    worker = await project.ready_worker("lines:app", "--log-level", "warning")
    assert await gather(*await lines.add.send_many([(n, n) for n in range(20)])) == tuple(range(0, 40, 2))
    await lines.fails.send()

    await worker.saw(r"lines\.fails.*failed")
    assert await worker.stop() == 0
    assert "lines.add[" not in worker.log
    assert "INFO" not in worker.log


async def test_the_json_format_is_one_object_a_line_and_nothing_else(project: Project) -> None:
    lines = await loaded(project)
    worker = project.worker("lines:app", AIOQ_LOG_FORMAT="json")
    handle = await lines.add.send(10, 20)
    failing = await lines.fails.send()
    await worker.saw("lines.fails.*failed")
    await worker.saw("lines.add.*succeeded")
    assert await worker.stop() == 0

    records = [json.loads(line) for line in worker.lines]
    (ended,) = [
        record for record in records if record.get("job_id") == handle.id and "succeeded" in record["message"]
    ]
    assert ended["task"] == "lines.add"
    assert ended["queue"] == "default"
    assert ended["level"] == "info"
    assert ended["pid"] == worker.pid
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", ended["time"])
    (failed,) = [
        record for record in records if record.get("job_id") == failing.id and "failed" in record["message"]
    ]
    assert failed["level"] == "error"
    assert "ValueError: no way" in failed["message"] + failed.get("traceback", "")


# -- what its options do


async def test_queue_restricts_what_is_served(project: Project) -> None:
    lines = await loaded(project)
    here = await lines.add.options(queue="special").send(1, 2)
    elsewhere = await lines.add.send(3, 4)

    worker = project.worker("lines:app", "--queue", "special", "--queue", "more", "--burst")

    assert await worker.ended() == 0
    assert rows(worker.log)["queues"] == "special, more"
    assert await here == 3
    assert await elsewhere.status() == "queued"


async def test_burst_runs_what_there_is_and_what_that_sends_and_ends(project: Project) -> None:
    lines = await loaded(project)
    sent = await lines.spread.send(5)
    retried = await lines.third_time_lucky.send()
    failing = await lines.fails.send()
    later = await lines.add.options(delay=3600).send(1, 2)

    worker = project.worker("lines:app", "--burst")

    assert await worker.ended() == 0
    assert (project.folder / "notes").read_text() == "543210"
    assert await sent is None
    assert await retried == 3
    assert await failing.status() == "failed"
    assert await later.status() == "scheduled"


@pytest.mark.alone
async def test_burst_with_nothing_to_do_ends_at_once(project: Project) -> None:
    """It used to sit out a blocking read whose wake-up had come too early."""
    await loaded(project)
    project.write(
        "main.py",
        "from lines import app\n@app.lifespan\nasync def mark():\n    open('started', 'w').close()\n    yield",
    )
    worker = project.worker("main:app", "--burst", AIOQ_LEASE="60")
    started = project.folder / "started"
    await until(started.exists, "the start of its lifespan")

    begun = time.monotonic()
    assert await worker.ended() == 0
    assert time.monotonic() - begun < 2.5


async def test_settings_come_from_the_environment(project: Project) -> None:
    await loaded(project)

    worker = await project.ready_worker(
        "lines:app", AIOQ_CONCURRENCY="11", AIOQ_DEFAULT_QUEUE="first", AIOQ_LOG_LEVEL="error"
    )

    assert rows(worker.log)["concurrency"] == "11"
    assert rows(worker.log)["queues"] == "first, other"
    assert await worker.stop() == 0
    assert "INFO" not in worker.log


async def test_a_module_alone_is_enough_where_it_has_one_app(project: Project) -> None:
    await loaded(project)

    assert await (await project.ready_worker("lines")).stop() == 0


async def test_modules_of_imports_bring_their_tasks(project: Project) -> None:
    project.write("app/__init__.py", "")
    project.write("app/main.py", "from aioq import App\napp = App(imports=['app.mail', 'app.shop'])\n")
    for name in ("mail", "shop"):
        project.write(
            f"app/{name}.py", "from app.main import app\n@app.task\ndef work() -> str:\n    return __name__\n"
        )

    worker = await project.ready_worker("app.main:app")

    assert "app.mail.work" in worker.log
    assert "app.shop.work" in worker.log
    assert await worker.stop() == 0


async def test_the_help_names_every_option(project: Project) -> None:
    helped = project.worker("--help")

    assert await helped.ended() == 0
    shown = "\n".join(helped.printed)
    for option in ("queue", "concurrency", "processes", "burst", "reload", "log-level", "log-format"):
        assert f"--{option}" in shown


# -- Ctrl-C


async def test_ctrl_c_ends_a_worker_without_a_traceback(project: Project, redis_server: Database) -> None:
    lines = await loaded(project)
    worker = await project.ready_worker("lines:app")
    assert await (await lines.add.send(1, 2)) == 3

    worker.signal(signal.SIGINT)

    assert await worker.ended() == 0
    assert "Traceback" not in worker.log
    with redis_server.client() as client:
        assert consumers(client, project.name) == []
        assert [key for key in keys(client, project.name) if ":workers" in key or ":held:" in key] == []


@pytest.mark.parametrize("when", ["while its module is imported", "while it connects"])
async def test_ctrl_c_during_the_start_shows_no_traceback(project: Project, when: str) -> None:
    project.write(
        "slow.py",
        "import pathlib, time\nfrom aioq import App\napp = App()\n"
        + ("pathlib.Path('importing').touch()\ntime.sleep(60)\n" if "imported" in when else ""),
    )
    settings = {"AIOQ_URL": "redis://127.0.0.1:1"} if "connects" in when else {}
    worker = project.worker("slow:app", **settings)
    if "imported" in when:
        await until((project.folder / "importing").exists)
    else:
        await worker.saw("trying again")

    worker.signal(signal.SIGINT)

    code = await worker.ended()
    assert "Traceback" not in worker.log
    assert code in {0, 130, -signal.SIGINT}
