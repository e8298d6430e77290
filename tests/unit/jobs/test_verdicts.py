"""`raise Cancel("why")` and `raise Fail("why")`: what becomes of the job, wherever they are raised."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from aioq import App, Cancel, Fail, JobCancelledError, JobContext, JobFailed, JobState, Middleware, Retry, Snooze
from aioq.jobs.verdicts import asked_by
from aioq.testing import MemorySession
from tests.unit.kit import within

pytestmark = pytest.mark.anyio


class Gate(Middleware):
    async def run(self, job: JobContext, forward: Callable[[], Awaitable[Any]]) -> Any:
        if "gate" in job.headers:
            raise VERDICTS[job.headers["gate"]]("at the gate")
        return await forward()


VERDICTS: dict[str, type[Cancel] | type[Fail]] = {"cancel": Cancel, "fail": Fail}

app = App("shop", url="redis://nowhere", middleware=[Gate()])
runs: list[int] = []


@app.task(retry=Retry(attempts=None, delay=0))
async def coroutine(verdict: str) -> None:
    runs.append(1)
    raise VERDICTS[verdict]("why not")


@app.task(retry=5)
def thread(verdict: str) -> None:
    runs.append(1)
    raise VERDICTS[verdict]("why not")


@app.task(retry=Retry(5, on=(Fail, Cancel)))
async def group(verdict: str) -> None:
    runs.append(1)

    async def child() -> None:
        raise VERDICTS[verdict]("why not")

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(child())
        tasks.create_task(asyncio.sleep(60))


@pytest.fixture
async def session() -> AsyncIterator[MemorySession]:
    runs.clear()
    async with app.test() as session:
        yield session


@pytest.mark.parametrize("task", [coroutine, thread, group])
async def test_a_cancel_ends_the_job_as_cancelled_with_its_reason(session: MemorySession, task: Any):
    handle = await task.send("cancel")
    with pytest.raises(JobCancelledError, match=r"was cancelled: why not$"):
        await within(handle)
    assert (await handle.status(), len(runs)) == (JobState.CANCELLED, 1)


@pytest.mark.parametrize("task", [coroutine, thread, group])
async def test_a_fail_is_the_last_attempt_whatever_the_rule(session: MemorySession, task: Any):
    handle = await task.send("fail")
    with pytest.raises(JobFailed, match="why not") as caught:
        await within(handle)
    assert (caught.value.error.type, caught.value.error.message) == ("aioq.Fail", "why not")
    assert (await handle.status(), len(runs)) == (JobState.FAILED, 1)


async def test_middleware_may_end_a_job_too(session: MemorySession):
    with pytest.raises(JobCancelledError, match="at the gate"):
        await within(await coroutine.options(headers={"gate": "cancel"}).send("fail"))
    with pytest.raises(JobFailed, match="at the gate"):
        await within(await coroutine.options(headers={"gate": "fail"}).send("cancel"))
    assert runs == []


def test_a_reason_may_be_anything_that_has_a_text():
    assert (Cancel().reason, Cancel(404).reason, str(Fail(None))) == ("", "404", "None")


FAIL, CANCEL, ERROR = Fail("no account"), Cancel("withdrawn"), KeyError("x")


@pytest.mark.parametrize(
    ("leaves", "kind", "reason"),
    [
        ([FAIL], Fail, "no account"),
        ([FAIL, ERROR], Fail, "no account"),
        ([FAIL, CANCEL, Retry()], Fail, "no account"),
        ([FAIL, ExceptionGroup("", [Fail("nor address")])], Fail, "no account; nor address"),
        ([CANCEL], Cancel, "withdrawn"),
        ([CANCEL, Retry(), Snooze(1)], Cancel, "withdrawn"),
        ([CANCEL, ERROR], Fail, "the job was cancelled, but with another error in the same group"),
    ],
)
def test_what_a_group_asks_for(leaves: list[Exception], kind: type, reason: str):
    group = ExceptionGroup("", leaves)
    asked = asked_by(group)
    assert isinstance(asked, (Cancel, Fail))
    assert (type(asked), asked.reason) == (kind, reason)
    assert (asked in leaves) or asked.__cause__ is group, "no error of the group is lost"


def test_what_asks_for_nothing_stays_as_it_is():
    group = ExceptionGroup("", [ERROR, Retry()])
    assert asked_by(group) is group
    assert asked_by(ERROR) is ERROR
    assert asked_by(FAIL) is FAIL
