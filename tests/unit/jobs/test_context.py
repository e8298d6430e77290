import asyncio
import contextvars
import logging
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from aioq.errors import AioqError, ArgumentError
from aioq.jobs.context import JobContext, NoJobError, attach, current_job, enter_job
from aioq.jobs.job import Progress

pytestmark = pytest.mark.anyio


def make(**given: object) -> JobContext:
    return JobContext(**{"job_id": "j1", "task": "shop.add", "queue": "mail", **given})  # pyright: ignore[reportArgumentType]


# -- the current job --------------------------------------------------------------------------------------------


def test_outside_a_job_there_is_none():
    with pytest.raises(NoJobError, match="no job is running here; current_job\\(\\) works inside a task run by"):
        contextvars.Context().run(current_job)
    assert issubclass(NoJobError, AioqError)


async def test_a_job_is_seen_by_what_it_starts_and_by_nothing_else():
    job = make()

    async def run() -> tuple[JobContext, JobContext, JobContext]:
        enter_job(job)
        child = asyncio.create_task(asyncio.sleep(0, None))
        await child
        return current_job(), await asyncio.to_thread(current_job), await asyncio.create_task(_ask())

    async def _ask() -> JobContext:
        return current_job()

    assert await asyncio.create_task(run()) == (job, job, job)
    with pytest.raises(NoJobError):
        current_job()


async def test_jobs_side_by_side_do_not_see_each_other():
    both_in = asyncio.Barrier(2)

    async def run(job: JobContext) -> JobContext:
        enter_job(job)
        await both_in.wait()
        return current_job()

    one, two = make(job_id="1"), make(job_id="2")
    assert await asyncio.gather(run(one), run(two)) == [one, two]


# -- what it tells ----------------------------------------------------------------------------------------------


def test_the_defaults():
    job = make()
    assert (job.id, job.task, job.queue) == ("j1", "shop.add", "mail")
    assert (job.attempt, job.max_attempts, job.crashes) == (1, 1, 0)
    assert (job.headers, job.sent_at, job.deadline, job.state) == ({}, None, None, None)
    assert job.cancel_requested is False
    assert job.time_left() is None


def test_the_time_left_is_counted_to_the_deadline():
    left = make(deadline=datetime.now(UTC) + timedelta(seconds=60)).time_left()
    assert left is not None
    assert 50 < left <= 60
    late = make(deadline=datetime.now(UTC) - timedelta(seconds=60)).time_left()
    assert late is not None
    assert late <= -60


# -- progress ---------------------------------------------------------------------------------------------------


def test_progress_is_reported_in_floats():
    reports: list[Progress] = []
    job = make(report=reports.append)
    job.progress(1)
    job.progress(2, 4, "half")
    assert reports == [Progress(1.0), Progress(2.0, 4.0, "half")]
    assert isinstance(reports[1].total, float)


def test_progress_goes_where_the_worker_attached_it():
    reports: list[Progress] = []
    job = make()
    attach(job, reports.append)
    thread = threading.Thread(target=job.progress, args=(3,))
    thread.start()
    thread.join()
    assert reports == [Progress(3.0)]


@pytest.mark.parametrize("given", [("half",), (1, "two"), (None,)])
def test_progress_is_in_numbers(given: Any):
    job = make(report=lambda _: None)
    text = r"progress\(.*\): done and total are numbers; a text goes in message="
    with pytest.raises(ArgumentError, match=text):
        job.progress(*given)


def test_that_more_than_all_is_done_is_logged_once(caplog: pytest.LogCaptureFixture):
    reports: list[Progress] = []
    job = make(report=reports.append)
    for done, total in ((3, 3), (0.1 + 0.2, 0.3), (5, None), (5, float("nan")), (4, 3), (5, 3)):
        job.progress(done, total)
    assert len(reports) == 6, "each is reported all the same"
    (record,) = caplog.records
    assert record.getMessage() == "shop.add[j1] progress: 4 of 3 is more than all"
    assert (record.levelname, record.filename) == ("WARNING", "test_context.py")


def test_without_a_way_to_the_worker_progress_says_so():
    with pytest.raises(NoJobError, match="job j1 runs in a process pool, where progress cannot be reported"):
        make().progress(1)


# -- log --------------------------------------------------------------------------------------------------------


def test_the_log_names_the_job(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "aioq.task")
    make().log.info("sold %d", 3, extra={"shop": "x"})
    (record,) = caplog.records
    assert record.getMessage() == "shop.add[j1] sold 3"
    assert (record.name, record.job_id, record.task, record.shop) == ("aioq.task", "j1", "shop.add", "x")  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("job_id", ["100%", "%d-7", "%(x)s", "50%sure"])
def test_the_log_takes_any_job_id(caplog: pytest.LogCaptureFixture, job_id: str):
    caplog.set_level(logging.INFO, "aioq.task")
    log = make(job_id=job_id).log
    log.info("plain 5%")
    log.info("sold %d", 3)
    assert [record.getMessage() for record in caplog.records] == [
        f"shop.add[{job_id}] plain 5%",
        f"shop.add[{job_id}] sold 3",
    ]


def test_the_logger_is_made_once():
    job = make()
    assert job.log is job.log
