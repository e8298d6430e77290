"""What a job stores beside its result is bounded: texts are cut with a note, headers are refused."""

import dataclasses
import json
from typing import Any

import msgspec
import pytest

from aioq import (
    App,
    ArgumentError,
    Cancel,
    ConfigError,
    Fail,
    JobCancelledError,
    JobFailed,
    Middleware,
    Progress,
    current_job,
)
from aioq.jobs.context import MAX_MESSAGE
from aioq.jobs.headers import MAX_HEADERS
from aioq.util.texts import cut
from tests.unit.kit import within

pytestmark = pytest.mark.anyio

HUGE = "m" * 5_000_000

app = App("shop", url="redis://nowhere")


@app.task
async def report(message: Any, times: int = 1) -> None:
    current_job().progress(1, 2, message * times if isinstance(message, str) else message)


@app.task
async def end(how: str) -> None:
    raise {"cancel": Cancel, "fail": Fail}[how](HUGE)


class Tagging(Middleware):
    async def send(self, call: Any, forward: Any) -> bool:
        call.headers["tag"] = "t" * MAX_HEADERS
        return await forward(call)


def test_a_text_is_cut_in_its_middle_with_a_note():
    assert cut("short", 5) == "short"
    assert cut("abcdefgh", 4) == "ab\n... 4 characters left out ...\ngh"
    assert cut("\ud800", 5) == "\\ud800"


@pytest.mark.parametrize(
    ("message", "times", "stored"),
    [("m", len(HUGE), cut(HUGE, MAX_MESSAGE)), ("m", 1000, "m" * 1000), (404, 1, "404"), (None, 1, "None")],
)
async def test_the_message_of_a_progress(message: Any, times: int, stored: str):
    async with app.test() as session:
        handle = await report.send(message, times)
        await within(session.advance(0))
        progress = (await handle.info()).progress
    assert progress is not None
    assert progress.message == stored
    assert len(progress.message) < 1100


async def test_one_that_utf_8_cannot_hold_does_not_end_its_worker():
    async with app.test() as session:

        @app.task(name="half")
        async def half() -> None:
            current_job().progress(1, message="half \ud800")

        handle = await half.send()
        await within(session.advance(0))
        progress = (await handle.info()).progress
        assert progress is not None
        assert progress.message == "half \\ud800"
    del app.tasks["half"]


async def test_reasons_and_messages_of_errors():
    async with app.test() as session:
        cancelled = await end.send("cancel")
        with pytest.raises(JobCancelledError) as reason:
            await within(cancelled)
        with pytest.raises(JobFailed) as failed:
            await within(await end.send("fail"))
        later = await report.options(delay=60).send(1)
        await later.cancel(HUGE)
        await within(session.drain())
        with pytest.raises(JobCancelledError) as asked:
            await within(later)
    for text in (str(reason.value), failed.value.error.message, str(asked.value)):
        assert "characters left out" in text
        assert len(text) < 5000
    assert len(failed.value.error.traceback) < 20_000


async def test_headers_that_are_too_large_are_refused_where_they_are_given():
    with pytest.raises(ConfigError, match=r"the headers have 16385 bytes, 'b' is the largest; at most 16384"):
        report.options(headers={"a": "1", "b": "é" * 8191})
    half = {"h" * 10: "x" * (MAX_HEADERS // 2)}
    both = report.options(headers=half).options(headers={"other": "x" * (MAX_HEADERS // 2)})
    own = App("shop", url="redis://nowhere", middleware=[Tagging()])
    tagged = own.task(report.function)
    async with app.test(), own.test():
        with pytest.raises(ArgumentError, match="the headers have"):
            await both.send(1)
        with pytest.raises(ArgumentError, match="'tag' is the largest"):
            await tagged.send(1)
        await report.options(headers=half).send(1)


@pytest.mark.parametrize(
    ("done", "total", "stored"),
    [
        (float("nan"), float("inf"), (0.0, None)),
        (-float("inf"), float("nan"), (0.0, None)),
        (10**400, 10**400, (0.0, None)),
        (3, 1e300, (3.0, 1e300)),
    ],
)
async def test_a_progress_that_is_no_number_fails_no_job_and_can_be_shown_as_json(
    done: float, total: float, stored: tuple[float, float | None]
):
    app = App("shop")

    @app.task
    async def report() -> None:
        current_job().progress(done, total)

    async with app.test():
        handle = await report.send()
        await handle
        progress = (await handle.info()).progress
    assert progress is not None
    assert (progress.done, progress.total) == stored
    assert json.dumps(dataclasses.asdict(progress), allow_nan=False)


def test_a_progress_that_another_version_has_stored_is_read_likewise():
    stored = msgspec.msgpack.encode({"done": float("inf"), "total": float("nan")})
    assert msgspec.msgpack.decode(stored, type=Progress) == Progress(0.0, None)
