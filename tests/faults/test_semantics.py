"""`docs/failure-semantics.md` says only what a test shows, and its example does what it says."""

import contextvars
import re
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from aioq import App, JobFailed, JobNotFoundError
from aioq.jobs.context import JobContext, enter_job
from tests.behaviour.pages import held_by
from tests.faults.harness import Crew, Rig

pytestmark = pytest.mark.anyio

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "failure-semantics.md"
LINK = re.compile(r"\[`([\w.]+)::(\w+)`\]\(\.\./([\w/.]+)\)")


def test_every_test_that_is_named_exists() -> None:
    named = LINK.findall(PAGE.read_text())

    assert len(named) > 20
    for file, test, path in named:
        source = DOCS.parent / path
        assert source.name == file
        assert re.search(rf"def {test}\(", source.read_text()), f"{path} has no {test}"


def test_nothing_that_looks_like_such_a_link_is_none() -> None:
    """A link that is written a little differently would not be looked at."""
    assert PAGE.read_text().count("::test") == len(LINK.findall(PAGE.read_text()))


@pytest.mark.parametrize("page", ["failure-semantics.md", "faults.md"])
def test_links_between_the_pages_lead_somewhere(page: str) -> None:
    for target, anchor in re.findall(r"\]\(([\w.-]*\.md)?(?:#([\w-]+))?\)", (DOCS / page).read_text()):
        text = (DOCS / (target or page)).read_text()
        headings = {
            re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")
            for line in text.splitlines()
            if line.startswith("#")
        }
        assert not anchor or anchor in headings, f"{target}#{anchor}"


def test_the_example_charges_once_however_often_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = held_by("test_the_example_charges_once_however_often_it_runs")
    names: dict[str, Any] = {"__name__": "shop"}
    exec(example.text, names)
    app: App = names["app"]

    for run, (job_id, cents) in enumerate([("a", 100), ("a", 100), ("b", 250)]):
        job = JobContext(job_id=job_id, task="shop.charge", queue="default", crashes=run)
        here = contextvars.copy_context()  # other tests of this process are in no job
        here.run(enter_job, job)
        here.run(app.tasks["shop.charge"].function, "alice", cents)

    with sqlite3.connect("bank.db") as bank:
        assert bank.execute("SELECT SUM(cents) FROM charges").fetchone() == (350,)
    bank.close()


async def test_an_id_is_known_only_as_long_as_its_job_is_kept(rig: Rig) -> None:
    """The page warns of it: the caller's own id, sent anew, is then another job."""
    work = rig.tasks.work

    async def send_twice(job_id: str, **options: float) -> list[bool]:
        sent: list[bool] = []
        for _ in range(2):
            handle = await work.options(job_id=job_id, **options).send(1, 0.0)
            # It may have ended, and be forgotten, before it is awaited; or it has timed out.
            with suppress(JobNotFoundError, JobFailed):
                await handle.result(timeout=20)
            sent.append(handle.added)
        return sent

    async with Crew(rig, 1).at_work():
        assert await send_twice("kept") == [True, False]
        assert await send_twice("forgotten", result_ttl=0) == [True, True]
        assert await send_twice("failed", result_ttl=0, timeout=1e-6) == [True, True]

    runs = [row.job for row in rig.runs()]
    assert (runs.count("kept"), runs.count("forgotten")) == (1, 2)
