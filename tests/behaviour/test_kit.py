"""`aioq.testing` in a user's own test suite: pytest runs anew, with what docs/testing.md shows as its files."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.behaviour.kit import ROOT
from tests.behaviour.pages import held_by

pytestmark = pytest.mark.long(seconds=20)

SECONDS = 50
SCOPE = "asyncio_default_fixture_loop_scope=function"  # pytest-asyncio warns where it is not set
FILES = {
    block.text.partition("\n")[0].removeprefix("# "): block.text
    for block in held_by("test_the_fixture_works_in_both_modes_of_pytest_asyncio_and_beside_anyio")
}

ON_A_WIDER_LOOP = """
import pytest
from shop.tasks import remind

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("number", range(2))
async def test_reminder(session, number):
    assert await (await remind.send("Ada")) == "reminded Ada"
"""

ANYIO = """
import pytest
from shop.tasks import remind

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


async def test_reminder(session):
    assert await (await remind.send("Ada")) == "reminded Ada"
"""

SYNC = """
from shop.tasks import remind


def test_reminder(session):
    handle = remind.options(delay=3600).send_sync("Ada")
    session.advance(3600)
    assert handle.result_sync() == "reminded Ada"
"""

MARKED_BY_NOBODY = """
async def test_reminder(session):
    pass
"""

ELSEWHERE = """
import asyncio

import pytest
from fastapi.testclient import TestClient
from shop.tasks import app, remind
from shop.web import api

from aioq import WrongLoopError

pytestmark = pytest.mark.asyncio


async def test_from_the_loop_of_a_thread(session):
    with pytest.raises(WrongLoopError, match="App 'shop' runs in memory on another event loop"):
        await asyncio.to_thread(TestClient(api).post, "/reminders/Ada")
    for use in (remind.send("Ada"), session.advance(1), session.drain(), app.schedules.list()):
        with pytest.raises(WrongLoopError):
            await asyncio.to_thread(asyncio.run, use)
    assert await (await remind.send("Ada")) == "reminded Ada"
"""

FAILING = """
from contextlib import asynccontextmanager

import pytest
from aioq import App
from aioq.testing import app_fixture

app = App("failing")
broken = app_fixture(app)


@app.lifespan
async def lifespan():
    raise ZeroDivisionError("at the start")
    yield


@pytest.mark.asyncio
async def test_never_begins(broken):
    pass
"""


def run(folder: Path, *options: str, **files: str) -> str:
    """Run pytest over what the page shows and further files; what it prints."""
    for name, text in (FILES | {f"{name}.py": text for name, text in files.items()}).items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly", "-q", *options]
    ran = subprocess.run(
        command,
        cwd=folder,
        env={**environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return ran.stdout + ran.stderr


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_the_fixture_works_in_both_modes_of_pytest_asyncio_and_beside_anyio(tmp_path: Path, mode: str) -> None:
    printed = run(
        tmp_path,
        *("-W", "error", "-W", "ignore:Using `httpx`", "-o", f"asyncio_mode={mode}", "-o", SCOPE),
        test_wider=ON_A_WIDER_LOOP,
        test_anyio=ANYIO,
        test_elsewhere=ELSEWHERE,
        test_sync=SYNC,
    )
    assert re.search(r"^8 passed in", printed, re.MULTILINE), printed


def test_the_fixture_works_with_anyio_alone_and_says_what_it_does_not_work_with(tmp_path: Path) -> None:
    options = ("-p", "no:asyncio", "test_anyio.py", "test_nobody.py", "test_trio.py")
    trio = ANYIO.replace('"asyncio"', '"trio"')
    printed = run(tmp_path, *options, test_anyio=ANYIO, test_nobody=MARKED_BY_NOBODY, test_trio=trio)
    assert "1 passed, 2 errors" in printed, printed
    assert "test_nobody.py::test_reminder uses an App in memory and is run by neither" in printed
    assert "have a fixture anyio_backend that returns 'asyncio'" in printed


def test_a_session_that_cannot_be_entered_says_why(tmp_path: Path) -> None:
    printed = run(tmp_path, "-o", SCOPE, "test_failing.py", test_failing=FAILING)
    assert "1 error" in printed, printed
    assert "ZeroDivisionError: at the start" in printed
