"""What is shown of a job: plain values, which FastAPI and `json` take, whole to the end of the job."""

import asyncio
import dataclasses
import json
import re
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pydantic
import pytest

from aioq import (
    App,
    ConfigError,
    Failure,
    JobFailed,
    JobHandle,
    JobInfo,
    JobState,
    Priority,
    Progress,
    Retry,
    WireError,
    as_completed,
    current_job,
    gather,
)
from tests.unit.kit import within

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[3]
HEADERS = {"trace": "abc"}


class Point(pydantic.BaseModel):
    x: int
    y: int = 0


app = App("shop", url="redis://nowhere")


@app.task
async def add(x: int, y: int) -> int:
    current_job().progress(1, 2, "half")
    return x + y


@app.task
async def point(x: int) -> Point:
    return Point(x=x)


@app.task
async def instants() -> tuple[datetime, ...]:
    return (datetime(2030, 1, 2, tzinfo=UTC),)


@app.task
async def fail(word: str) -> None:
    raise LookupError(word)


@app.task(retry=Retry(2, delay=60))
async def fail_again(word: str) -> None:
    raise LookupError(word)


@app.task
async def hang() -> None:
    await asyncio.Event().wait()


FULL = JobInfo(
    id="a",
    queue="mail",
    task="shop.add",
    state=JobState.FAILED,
    priority=Priority.HIGH,
    attempts=2,
    sent_at=datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC),
    progress=Progress(1.0, 2.0, "half"),
    error=Failure("LookupError", "no", "Traceback ..."),
    headers=HEADERS,
    result=[1, 2],
)


def test_it_goes_through_json() -> None:
    read: Any = json.loads(json.dumps(dataclasses.asdict(FULL), default=str))

    assert read["state"] == "failed"
    assert read["error"] == {"type": "LookupError", "message": "no", "traceback": "Traceback ..."}
    assert read["progress"] == {"done": 1.0, "total": 2.0, "message": "half", "data": None}
    assert datetime.fromisoformat(read["sent_at"]) == FULL.sent_at
    assert pydantic.TypeAdapter(JobInfo).validate_python(read) == FULL
    assert msgspec.convert(msgspec.json.decode(msgspec.json.encode(FULL)), JobInfo) == FULL


@pytest.mark.parametrize("value", [FULL, FULL.error, FULL.progress], ids=lambda value: type(value).__name__)
def test_it_is_plain_and_frozen(value: Any) -> None:
    assert dataclasses.is_dataclass(value)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, dataclasses.fields(value)[0].name, None)


async def _ended(handle: JobHandle[Any]) -> Failure | None:
    try:
        await handle
    except JobFailed as failed:
        return failed.error
    return None


# -- results


async def test_the_result_comes_where_it_is_asked_for_in_its_type() -> None:
    async with app.test():
        one, two, when = await add.send(1, 2), await point.send(3), await instants.send()
        await gather(one, two, when)
        assert (await one.info()).result is None
        assert (await one.info(result=True)).result == 3
        assert (await two.info(result=True)).result == Point(x=3)
        assert (await app.handle(two.id).info(result=True)).result == Point(x=3)
        assert (await when.info(result=True)).result == (datetime(2030, 1, 2, tzinfo=UTC),)


async def test_there_is_no_result_before_the_end_or_after_a_failure() -> None:
    async with app.test():
        later, failed = await add.options(delay=60).send(1, 2), await fail.send("no")
        await within(_ended(failed))
        assert (await later.info(result=True)).result is None
        assert (await failed.info(result=True)).result is None


async def test_a_result_of_another_type_is_an_error_there_too() -> None:
    async with app.test():
        handle = await point.send(1)
        await handle
        with pytest.raises(WireError, match="the stored result does not fit its annotation"):
            await add.handle(handle.id).info(result=True)


async def test_a_handle_of_a_task_has_the_tasks_type() -> None:
    async with app.test():
        handle = point.handle((await point.send(4)).id)
        assert (await handle, handle.added) == (Point(x=4), None)
        own = await point.options(job_id="mine", queue="other").send(5)
        assert await point.handle("mine", queue="other").result() == Point(x=5)
        assert await point.options(delay=1).handle(own.id, queue="other") == Point(x=5)


# -- errors


async def test_the_error_is_one_object_everywhere() -> None:
    async with app.test() as session:
        handle = await fail.send("seen")
        error = await within(_ended(handle))
        assert error is not None
        assert (error.type, error.message, str(error)) == ("LookupError", "seen", "LookupError: seen")
        assert "raise LookupError(word)\nLookupError: seen" in error.traceback
        assert (await handle.info()).error == error

        again = await fail_again.send("soon")
        await session.advance(0)
        info = await again.info()
        assert (info.state, info.error) == ("scheduled", Failure("LookupError", "soon"))


# -- headers


@pytest.mark.parametrize("end", ["succeeded", "failed", "cancelled waiting", "cancelled running"])
async def test_headers_and_the_task_are_there_to_the_end(end: str) -> None:
    async with app.test() as session:
        task = {"succeeded": add.call(1, 2), "failed": fail.call("no"), "cancelled waiting": hang.call()}.get(
            end, hang.call()
        )
        delay = 60 if end == "cancelled waiting" else None
        sendable = app.by_name(task.task).options(headers=HEADERS, delay=delay)
        handle = await sendable.send(*task.args)
        if end == "cancelled running":
            await within(_state(handle, "running"))
        if end.startswith("cancelled"):
            assert await handle.cancel("enough")
        await session.drain()
        info = await handle.info()
        assert (info.state, info.task, info.headers) == (end.partition(" ")[0], task.task, HEADERS)


async def _state(handle: JobHandle[Any], state: str) -> None:
    while await handle.status() != state:  # noqa: ASYNC110 - the store has no event for it
        await asyncio.sleep(0)


async def test_headers_do_not_count_as_result() -> None:
    """`max_result` is about what a task returns: a job just within it stays so, whatever was sent along."""
    small = App("small", url="redis://nowhere", max_result=1100)

    @small.task
    async def echo(text: str) -> str:
        return text

    async with small.test():
        handle = await echo.options(headers={"long": "x" * 500}).send("y" * 1000)
        assert await handle == "y" * 1000
        assert (await handle.info()).headers == {"long": "x" * 500}


# -- timeouts and lists


async def test_timeouts_take_a_timedelta() -> None:
    short = timedelta(milliseconds=1)
    async with app.test():
        handle = await hang.send()
        with pytest.raises(TimeoutError, match=r"has no outcome after 0.001 s"):
            await handle.result(short)
        with pytest.raises(TimeoutError, match=r"1 of 1 job has no outcome after 0.001 s"):
            await gather(handle, timeout=short)
        with pytest.raises(TimeoutError, match=r"1 of 1 job has no outcome after 0.001 s"):
            _ = [each async for each in as_completed([handle], timeout=short)]
        done = await add.send(1, 2)
        assert await done.result(timeout=timedelta(seconds=30)) == 3
        assert await gather(done, timeout=timedelta(seconds=30)) == (3,)


@pytest.mark.parametrize("span", ["5", True, float("nan"), float("inf")])
async def test_what_is_no_span_of_time_is_refused(span: Any) -> None:
    async with app.test():
        handle = await add.send(1, 2)
        for wait in (handle.result(span), gather(handle, timeout=span), anext(_completed(handle, span))):
            with pytest.raises(ConfigError, match=r"timeout must be a finite number of seconds or a timedelta"):
                await wait


def _completed(handle: Any, span: Any) -> Any:
    return as_completed([handle], timeout=span)


async def test_gather_takes_one_list() -> None:
    async with app.test():
        handles = await add.send_many([(1, 2), (3, 4)])
        assert await gather(handles) == await gather(*handles) == (3, 7)
        assert await gather(tuple(handles), timeout=30) == await gather(each for each in handles) == (3, 7)
        assert await gather([]) == ()
        assert [await each async for each in as_completed(iter(handles))] == [3, 7]


async def test_what_is_no_handle_is_named() -> None:
    async with app.test():
        handle = await add.send(1, 2)
        for wrong, named in (
            (("ab",), "not str ('a')"),
            ((handle, [handle]), "not list ([<JobHandle"),
            ((handle.id, handle), "not str"),
            ((3,), "not int (3)"),
            (({handle: 1},), "not dict ({<JobHandle"),
        ):
            with pytest.raises(TypeError, match=r"gather takes job handles, or one list of them") as caught:
                await gather(*wrong)  # pyright: ignore[reportArgumentType, reportCallIssue] - that is the mistake
            assert named in str(caught.value)
        with pytest.raises(TypeError, match=r"as_completed takes job handles"):
            await anext(_completed(3, None))
        with warnings.catch_warnings(), pytest.raises(TypeError, match=r"await the send first"):
            await gather(add.send(1, 2))  # pyright: ignore[reportArgumentType, reportCallIssue] - likewise


# -- the table


def test_every_field_is_in_the_table() -> None:
    page = (ROOT / "docs" / "results.md").read_text()
    for kind in (JobInfo, Failure, Progress):
        section = page.partition(f"`{kind.__name__}`:\n")[2].partition("\n\n\n")[0].lstrip("\n")
        table = section.partition("\n\n")[0]
        shown = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
        assert shown == [field.name for field in dataclasses.fields(kind)], kind.__name__
