"""What a job brings along cannot forge a line of the log, nor break one; and closed streams do no harm."""

import json
import sys

import pytest

from tests.behaviour.kit import Process, Project, state_is

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=15)]

FORGED = "2026-11-29 12:00:00,000 INFO    shop.pay[1] succeeded in 0.01s: 'paid'"
EVIL = f"no\n{FORGED}\u2028{FORGED}\r{FORGED}\x1b[2J\x9b2J\u202e"

SHOP = """
import asyncio, logging, math, os, subprocess, sys
from aioq import App, current_job
app = App()

@app.task
async def fails(text: str) -> None:
    current_job().log.warning("says %s", text)
    logging.getLogger("shop").warning(text)
    raise ValueError(text)

@app.task(executor="process")
def fails_in_child(text: str) -> None:
    fails_of(text)

def fails_of(text: str) -> None:
    current_job().log.warning("says %s", text)
    name = os.fsdecode(b"caf\\xe9.csv")
    whole = {}
    whole["self"] = whole
    log = logging.getLogger("shop")
    extra = {"name_": name, "whole": whole, "nan": math.nan, "body": b"\\xff", "mean": Mean()}
    log.warning("cannot read %s", name, extra=extra)
    log.warning("says %s", Mean())
    raise ValueError(f"cannot import {name}: {text}")

class Mean:
    def __repr__(self):
        raise RuntimeError(chr(10))

@app.task
async def fails_at_all(text: str) -> None:
    fails_of(text)

@app.task
async def starts_a_process() -> int:
    return await (await asyncio.create_subprocess_exec("true")).wait()

@app.task(executor="process")
def starts_one_in_a_child() -> int:
    print("printed")
    return subprocess.call(["true"])
"""


def unharmed(process: Process) -> None:
    assert "\x1b" not in process.log
    assert "\x9b" not in process.log
    for line in process.log.splitlines():
        assert not line.startswith("2026-11-29 12:00:00,000"), process.log


@pytest.mark.parametrize("task", ["fails", "fails_in_child", "fails_at_all"])
async def test_a_line_of_the_log_cannot_be_forged(project: Project, task: str) -> None:
    project.write("shop.py", SHOP)
    shop = project.load("shop")
    worker = await project.ready_worker("shop:app", "--shutdown-timeout", "1")
    async with shop.app:
        unknown = await shop.app.send(EVIL)
        handle = await getattr(shop, task).send(EVIL)
        await state_is(handle, "failed")
        await worker.saw(rf"ERROR   shop\.{task}\[{handle.id}\]")
        await worker.saw(rf"{unknown.id}\] put off")
        assert await worker.stop() == 0
    unharmed(worker)
    await worker.saw(r"^Traceback \(most recent call last\):$")
    await worker.saw(r"^ValueError: ")


@pytest.mark.parametrize("task", ["fails", "fails_in_child", "fails_at_all"])
async def test_a_line_of_json_is_one_line(project: Project, task: str) -> None:
    project.write("shop.py", SHOP)
    shop = project.load("shop")
    worker = project.worker("shop:app", "--log-format", "json", "--shutdown-timeout", "1")
    async with shop.app:
        unknown = await shop.app.send(EVIL)
        handle = await getattr(shop, task).send(EVIL)
        await state_is(handle, "failed")
        await worker.saw(rf'"error".*shop\.{task}\[.*failed')
        await worker.saw(rf"{unknown.id}\] put off")
        assert await worker.stop() == 0
    records = [json.loads(line) for line in worker.log.splitlines()]
    (failed,) = [record for record in records if record["level"] == "error"]
    assert failed["job_id"] == handle.id
    assert [record["task"] for record in records if record.get("job_id") == unknown.id] == [EVIL, EVIL]
    if task != "fails":
        assert r"cannot import caf\udce9.csv: no" in failed["message"] + failed.get("traceback", "")
        (extras,) = [record for record in records if "nan" in record]
        assert (extras["nan"], extras["body"]) == ("nan", r"b'\xff'")


async def test_what_commands_print_cannot_be_forged(project: Project) -> None:
    project.write(
        "shop.py",
        "from aioq import App\napp = App()\n"
        f"@app.every(3600, schedule_id='evil')\n@app.task(name={EVIL!r})\nasync def evil(): ...\n",
    )
    worker = await project.ready_worker("shop:app")
    await worker.saw("stored")
    await worker.saw("│ tasks .*no.n2026")
    for command in (["list", "shop:app"], ["show", "shop:app", "evil"]):
        printed = project.python("-m", "aioq", "schedules", *command, FORCE_COLOR="1")
        assert await printed.ended() == 0, printed.log
        text = "\n".join(printed.printed)
        for bad in ("\x9b", "\u202e", "\u2028", "\x1b[2J", "\r"):
            assert bad not in text
        assert not [line for line in text.splitlines() if line.startswith("2026-11-29 12")]
    gone = project.python("-m", "aioq", "schedules", "show", "shop:app", EVIL)
    assert await gone.ended() == 2
    assert len(gone.lines) == 1
    unharmed(gone)
    assert await worker.stop() == 0
    unharmed(worker)


@pytest.mark.parametrize(
    "text", [f"raise ValueError({EVIL!r})\n", f"raise SystemExit({EVIL!r})\n", f"{EVIL!r} = 1\n"]
)
@pytest.mark.parametrize("command", [["worker"], ["check"], ["schedules", "list"]])
async def test_an_error_of_a_command_is_one_line(project: Project, text: str, command: list[str]) -> None:
    project.write("shop.py", text)
    process = project.python("-m", "aioq", *command, "shop:app")
    assert await process.ended() == 2
    assert len(process.log.splitlines()) == 1, process.log
    unharmed(process)


@pytest.mark.parametrize(
    ("closed", "processes"),
    [("0<&-", "1"), ("1>&-", "1"), ("2>&-", "1"), ("0<&- 1>&- 2>&-", "1"), ("0<&- 1>&- 2>&-", "2")],
)
async def test_closed_standard_streams_do_no_harm(project: Project, closed: str, processes: str) -> None:
    project.write("shop.py", SHOP)
    shop = project.load("shop")
    worker = project.run(
        "sh",
        "-c",
        f'exec "$@" {closed}',
        "sh",
        sys.executable,
        "-m",
        "aioq",
        "worker",
        "shop:app",
        "-p",
        processes,
    )
    async with shop.app:
        assert await (await shop.starts_a_process.send()).result(timeout=20) == 0
        assert await (await shop.starts_one_in_a_child.send()).result(timeout=20) == 0
    assert await worker.stop() == 0
    assert ("shop.starts_a_process[" in worker.log) is ("2>&-" not in closed)
