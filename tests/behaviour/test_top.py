"""`aioq top`: driven by its keys on a screen of 80 columns and 24 lines, and once in a real terminal."""

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from importlib import util
from typing import Any

import pytest
from click.testing import CliRunner
from textual.pilot import Pilot

from aioq import App, JobState, current_job
from aioq.cli.main import cli
from aioq.cli.top.board import SHARDS_AT_ONCE, WORKER_SHARDS_AT_ONCE
from aioq.cli.top.reader import BoardReader, Selection, Tab
from aioq.cli.top.ui import Top
from aioq.errors import JobFailed
from benchmarks.monitor import monitored
from tests.behaviour.kit import SECONDS, Project, info_when
from tests.behaviour.pages import held_by
from tests.databases import Database
from tests.servers import Server

pytestmark = pytest.mark.anyio

SIZE = (80, 24)
FAST = 0.2
VARIES = [
    (r"\b([a-z]+\.)?[A-Za-z0-9]{8,16}…?(?= +shop)", "ID"),
    (r"\d\d:\d\d:\d\d UTC +every [\d.]+ s", "TIME"),
    (r"[\w.-]+-\d+-[0-9a-f]{8}", "WORKER"),
    (r"\d+\.\d", "RATE"),
    (r"[▁-█]{20}", "BARS"),
    (r"\b\d+(ms|s|m\d\ds)\b", "SPAN"),
    (r"  +", " "),
    (r"(?m) +$", ""),
]


def screen(top: Top) -> str:
    """What is on the screen."""
    strips = top.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in strips)


async def shows(pilot: Pilot[None], pattern: str, *, gone: bool = False) -> str:
    """Wait until the screen shows a pattern, or does not show it any more."""
    top = pilot.app
    assert isinstance(top, Top)
    end = time.monotonic() + SECONDS
    while (re.search(pattern, screen(top), re.MULTILINE) is None) is not gone:
        assert time.monotonic() < end, f"{pattern!r}{' stays' if gone else ''}:\n{screen(top)}"
        await pilot.pause(0.02)
    return screen(top)


def shop(name: str = "shop", **settings: Any) -> tuple[App, asyncio.Event]:
    """A shop whose event lets its shipments go on."""
    app, arrived = App(name, logs=100, **settings), asyncio.Event()

    @app.task(name="shop.charge")
    async def charge(user_id: int, *, works: list[int]) -> int:
        if not works:
            raise TimeoutError(f"the bank did not answer\x1b[2J [bold]{user_id}[/]")
        return user_id

    @app.task(name="shop.ship", queue="mail")
    async def ship(order: int) -> None:
        current_job().log(f"shipping {order}")
        current_job().progress(1, 4)
        await arrived.wait()

    return app, arrived


@asynccontextmanager
async def watching(app: App, interval: float = FAST) -> AsyncIterator[Pilot[None]]:
    top = Top(app, "redis://10.0.0.5:6379/0", interval)
    async with top.run_test(size=SIZE) as pilot:
        yield pilot
        if top.is_running:
            await pilot.press("q")


@asynccontextmanager
async def at_work(app: App) -> AsyncIterator[list[str]]:
    """A day in the shop: two payments have failed, a shipment runs; gives the ids of the three."""
    async with app.test():
        failed = [await app.send("shop.charge", user, works=[]) for user in (7, 8)]
        for handle in failed:
            with pytest.raises(JobFailed):
                await handle
        ship = await app.send("shop.ship", 1)
        await info_when(ship, lambda info: info.progress is not None)
        await app.by_name("shop.charge").options(delay=600).send(9, works=[1])
        yield [*(handle.id for handle in failed), ship.id]


def alike(text: str) -> str:
    """A screen without what differs from run to run, and without empty lines."""
    for pattern, word in VARIES:
        text = re.sub(pattern, word, text)
    return "\n".join(line for line in text.splitlines() if line.strip())


async def test_the_page_shows_the_screen() -> None:
    (block,) = held_by("test_the_page_shows_the_screen")
    assert max(map(len, block.text.splitlines())) <= SIZE[0]
    app, _ = shop()
    async with at_work(app), watching(app) as pilot:
        await app.queue("mail").pause()
        await shows(pilot, "paused")
        await pilot.press("2")
        assert alike(await shows(pilot, r"\[2 failed 2\][^$]*bank")) == alike(block.text)


async def test_the_keys_find_jobs_open_them_and_change_them() -> None:
    app, arrived = shop()
    async with at_work(app) as (seven, eight, ship), watching(app) as pilot:
        first = await shows(pilot, r"shop\.ship")
        assert re.search(r"shop\.ship +mail +\d+m?s +25% +1$", first, re.MULTILINE)
        assert len(first.splitlines()) == SIZE[1]

        await pilot.press("2")
        text = await shows(pilot, seven)
        assert "TimeoutError: the bank" in text
        await pilot.press("slash", *"8[/]", "enter")
        await shows(pilot, seven, gone=True)
        await shows(pilot, r"filter: 8\[/\] \(1 of 2 looked at\); escape ends it")
        await pilot.press("enter")  # the job that is left
        text = await shows(pilot, "# ?timeline|timeline")
        assert f"job {eight}" in text
        assert "the bank did not answer\\x1b[2J [bold]8[/]" in text
        assert re.search(r"why\n it has failed at", text)
        await pilot.press("r")
        await shows(pilot, "queued again")
        await pilot.press("escape")
        assert await app.handle(eight).status() in {JobState.QUEUED, JobState.RUNNING, JobState.FAILED}
        assert len((await app.handle(eight).info()).failed_attempts) >= 1

        await pilot.press("escape")  # the filter's end
        await shows(pilot, seven)
        await pilot.press("slash", *"tsk=a", "enter")
        await shows(pilot, r"unknown name 'tsk' \(did you mean 'task'\?\)")
        await pilot.press("1")
        await shows(pilot, r"\[1 running 1\]")
        await shows(pilot, r"shop\.ship")
        await pilot.press("enter")
        assert "shipping 1" in await shows(pilot, "info +shipping")
        await pilot.press("r")
        await shows(pilot, "is running; retry needs a job that has failed")
        await pilot.press("d")
        await shows(pilot, r"delete the job mail\.\w+ \(shop\.ship\)\?")
        await pilot.press("n", "c")
        await shows(pilot, "cancel the job")
        await pilot.press("y")
        await shows(pilot, "cancelled")
        assert await app.handle(ship).status() is JobState.CANCELLED
        await pilot.press("escape", "4")
        await shows(pilot, r"\[4 scheduled 1\][^$]*9m59s|10m00s")
        await pilot.press("d", "y")
        await shows(pilot, "deleted")
        assert [job.id async for job in app.jobs(state="scheduled")] == []
        arrived.set()


async def test_the_keys_choose_a_queue_pause_it_and_show_its_workers() -> None:
    app, _ = shop()
    async with at_work(app), watching(app) as pilot:
        await shows(pilot, r"shop\.ship")
        await pilot.press("p")
        await shows(pilot, "choose a queue first")
        await pilot.press("o")
        await shows(pilot, "queues by queued jobs")
        await pilot.press("o", "tab", "down", "down")
        await shows(pilot, r"2 failed 0")  # those of mail
        await pilot.press("p")
        await shows(pilot, r"mail .* paused$|queue mail paused")
        assert (await app.queue("mail").info()).is_paused
        assert not (await app.queue("default").info()).is_paused
        await pilot.press("p")
        await shows(pilot, "queue mail resumed")
        assert not (await app.queue("mail").info()).is_paused
        await pilot.press("5")
        text = await shows(pilot, r"serves +1/\d+")
        assert re.search(r"\[5 workers 1\]", text)
        await pilot.press("enter", "r")  # the jobs' table has the keys now, and a worker is no job
        await shows(pilot, "choose a job first")
        await pilot.press("slash", *"queue=def*", "enter")
        await shows(pilot, r"^ mail", gone=True)
        await pilot.press("question_mark")
        await shows(pilot, "retry a failed job")
        await pilot.press("escape")
        await shows(pilot, "retry a failed job", gone=True)
        await pilot.resize_terminal(160, 50)
        await shows(pilot, r"out/s +in +out")
        await pilot.press("ctrl+c")
    assert pilot.app.return_code == 130


async def test_a_server_that_goes_away_is_reported_until_it_is_back(
    start_server: Callable[..., Server], app_name: str
) -> None:
    server = start_server()
    app = App(app_name, url=server.url)
    app.task(name="shop.charge")(print)
    async with app:
        await app.send("shop.charge")
        async with watching(app) as pilot:
            await shows(pilot, r"^ default +1 ")
            server.kill()
            await shows(pilot, r"cannot be reached: .*")
            await pilot.press("p", "3", "r")  # changes nothing, and ends nothing
            server.restart()
            await shows(pilot, "cannot be reached", gone=True)
            await app.send("shop.charge")
            await shows(pilot, r"^ default +[12] ")


class Terminal:
    """A real terminal in which a command runs; what it prints is collected."""

    def __init__(self, project: Project, *arguments: str, **settings: str) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", SIZE[1], SIZE[0], 0, 0))
        self.before = termios.tcgetattr(slave)
        self._slave = slave
        self.printed = b""
        environ = {**project.environ, **project.settings, "TERM": "xterm-256color", **settings}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "aioq", "top", *arguments],
            cwd=project.folder,
            env={name: value for name, value in environ.items() if name != "COLUMNS"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while more := os.read(self.master, 65_536):
                self.printed += more

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def saw(self, pattern: bytes) -> None:
        """Wait until it has printed this."""
        end = time.monotonic() + SECONDS
        while re.search(pattern, self.printed) is None:
            assert time.monotonic() < end, self.printed.decode(errors="replace")
            time.sleep(0.01)

    def ended(self) -> int:
        """Its exit code; the terminal is as it was."""
        code = self.process.wait(SECONDS)
        self.saw(rb"\x1b\[\?1049l.*\x1b\[\?25h")  # the screen of before, with a cursor
        assert termios.tcgetattr(self._slave) == self.before
        assert b"\x1b[?1003l" in self.printed, "the mouse is free again"
        return code

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._slave)
        self._reader.join(SECONDS)
        os.close(self.master)


@pytest.fixture
def terminal(project: Project) -> Iterator[Callable[..., Terminal]]:
    project.write("shop.py", "from aioq import App\napp = App()\n@app.task\nasync def charge(): ...\n")
    opened: list[Terminal] = []

    def start(*arguments: str, **settings: str) -> Terminal:
        opened.append(Terminal(project, *arguments, **settings))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


def test_in_a_terminal_it_ends_by_a_key_or_a_signal_and_leaves_all_as_it_was(
    terminal: Callable[..., Terminal],
) -> None:
    by_key, by_signal = terminal("shop:app"), terminal(AIOQ_APP="shop:app", NO_COLOR="1")
    by_key.saw(rb" default .*no worker")
    by_signal.saw(rb" default .*no worker")
    by_key.type(b"/dq\r")  # all at once, as over a slow line: the q is a part of the filter
    by_key.saw(rb"filter: dq")
    by_key.type(b"q")
    by_signal.process.send_signal(signal.SIGTERM)
    assert by_key.ended() == 0
    assert by_signal.ended() == 143
    colours = rb"\x1b\[[\d;]*\b(3[0-8]|4[0-8]|9[0-7]|10[0-7])\b[\d;]*m"
    assert re.search(colours, by_key.printed), "no worker is to be noticed"
    assert re.search(colours, by_signal.printed) is None


def test_where_it_cannot_be_shown_one_line_says_why(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: str) -> str:
        result = CliRunner().invoke(cli, ["top", *arguments])
        assert result.exit_code == 2
        (line,) = result.output.splitlines()
        return line

    assert "aioq top needs a terminal; elsewhere: aioq queues" in said("shop:app")
    for interval in ("0.1", "nan", "inf"):
        assert f"--interval {interval}: expected 0.2 to 3600 seconds" in said("--interval", interval)
    monkeypatch.setattr(util, "find_spec", lambda _: None)
    monkeypatch.setattr("aioq.cli.top.command.find_spec", lambda _: None)
    assert "aioq top needs the textual package: pip install 'aioq[top]'" in said("shop:app")


async def test_a_refresh_sends_a_bounded_number_of_commands(redis_server: Database, app_name: str) -> None:
    app = App(app_name, url=redis_server.url, queues={"wide": {"shards": 30}})
    app.task(name="shop.charge", queue="wide")(print)
    async with app:
        for _ in range(3):
            await app.send("shop.charge")
        small = BoardReader(App(f"{app_name}-small", url=redis_server.url))
        reader, counts = BoardReader(app), list[int]()
        for tab in (Tab.RUNNING, Tab.RUNNING, Tab.QUEUED):
            with monitored(redis_server.server) as seen:
                await reader.refresh(Selection(tab=tab))
            counts.append(seen.by_clients)
        async with small._app:
            await small.refresh(Selection())
            with monitored(redis_server.server) as seen:
                await small.refresh(Selection())
        # 31 queues and shards, of which 20 are counted each time: six commands; and the workers of five.
        assert counts[1] == 6 * SHARDS_AT_ONCE + WORKER_SHARDS_AT_ONCE
        assert counts[2] <= counts[1] + 7 * 3  # to look into three lanes, and the jobs of three shards at the most
        assert seen.by_clients == 6 + 1
