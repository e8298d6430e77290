"""What a scene of R5 calls lost: a job without an outcome long after the cause's end, however long it lasted."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from aioq import JobInfo, JobNotFoundError
from tests.behaviour.kit import Project
from tests.faults.harness import Rig
from tests.faults.ledger import Ledger
from tests.faults.test_server_errors import Figures, Scene, judge

pytestmark = pytest.mark.anyio


class Job:
    """A job, and its handle: it ends after the cause, which lasts longer than any time that was set before it."""

    id = "a"

    def __init__(self) -> None:
        self.over = asyncio.Event()

    async def send(self, number: int) -> "Job":
        assert number == 1
        return self

    async def result(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as a handle has it
        if timeout is not None:
            raise TimeoutError
        await self.over.wait()

    async def info(self) -> JobInfo:
        raise JobNotFoundError("it is gone", self.id)


@pytest.fixture
async def scene(tmp_path: Path, ledger: Ledger) -> AsyncIterator[Scene]:
    rig = Rig(Project(tmp_path / "project", "memory://", "scene"), ledger)
    yield Scene(rig, cast("Any", None), tmp_path)
    rig.clear()


async def test_a_job_that_a_long_cause_holds_up_is_not_lost(scene: Scene) -> None:
    job = Job()
    number, going = scene.go(job)
    await asyncio.sleep(0)
    job.over.set()

    await scene.ended(set())

    assert going.done()
    assert (scene.errors, scene.results.keys(), scene.rig.verdict().lost) == ({}, {number}, frozenset())


async def test_a_job_without_an_outcome_after_the_cause_is_lost(scene: Scene) -> None:
    number, going = scene.go(Job())

    await scene.ended(set(), limit=0.05)

    assert going.done()
    assert (scene.errors.keys(), scene.results, scene.rig.verdict().lost) == ({number}, {}, {"a"})


async def test_of_a_lost_job_is_said_what_the_server_knows(scene: Scene) -> None:
    scene.go(Job())
    figures = Figures()

    await scene.ended(set(), limit=0.05)
    await judge(scene, figures, excused=set())

    assert figures.failings()[0] == "1 jobs are lost"
    assert figures.other == [
        "job 1 (a): TimeoutError('nothing came within 0.05 s'); the server does not know it",
    ]


async def test_a_job_that_the_cause_has_taken_is_excused(scene: Scene) -> None:
    number, _ = scene.go(Job())
    figures = Figures()

    await scene.ended(set(), limit=0.05)
    await judge(scene, figures, excused={number})

    assert (figures.lost, figures.failings()) == (0, [])


async def test_a_send_without_an_answer_after_the_cause_is_one_that_failed(scene: Scene) -> None:
    class Nowhere(Job):
        async def send(self, number: int) -> Job:
            await self.over.wait()
            return self

    number, _ = scene.go(Nowhere())

    await scene.ended(set(), limit=0.05)

    assert (scene.errors.keys(), scene.handles, scene.rig.verdict().accepted) == ({number}, {}, 0)


async def test_for_a_deleted_job_nobody_waits(scene: Scene) -> None:
    scene.go(Job())
    await asyncio.sleep(0)

    await scene.ended({"a"})

    assert (scene.errors, scene.results) == ({}, {})
