"""The lines that jobs log: written in batches, in their order, and kept while the server is away."""

import asyncio
import logging
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from aioq.errors import ServerError, ServerUnavailableError
from aioq.jobs.context import JobContext, KeptJobLogger, enter_job
from aioq.jobs.loglines import decode_line
from aioq.store.story import MOST_LINES, LoggedLines
from aioq.worker.duties import logs as module
from aioq.worker.duties.logs import LogWriter
from tests.unit.kit import QUEUE, running, until

pytestmark = pytest.mark.anyio


class Noting:
    """A store that notes the lines; `story` and `operating` are itself."""

    def __init__(self) -> None:
        self.calls: list[dict[str, list[str]]] = []
        self.faults: list[Exception] = []
        self.operating = self.story = self

    async def log(self, queue: str, worker: str, logged: list[LoggedLines]) -> list[bool]:
        assert (queue, worker) == (QUEUE, "w")
        await asyncio.sleep(0)
        if self.faults:
            raise self.faults.pop(0)
        self.calls.append({each.job_id: [decode_line(1, line).text for line in each.lines] for each in logged})
        return [True] * len(logged)

    def lines(self, job_id: str) -> list[str]:
        return [line for call in self.calls for line in call.get(job_id, [])]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Noting:
    monkeypatch.setattr(module, "WRITE_PAUSE", 0)
    monkeypatch.setattr(module, "RETRY_PAUSE", 0)
    return Noting()


def make(store: Noting, most: int = 1_000, *, all_loggers: bool = False) -> LogWriter:
    return LogWriter(store, most, all_loggers=all_loggers)  # pyright: ignore[reportArgumentType]


def run_of(job_id: str) -> Any:
    claimed = SimpleNamespace(id=job_id, claim=7)
    return SimpleNamespace(key=(QUEUE, "w", job_id), queue=QUEUE, worker="w", claimed=claimed, attempt=1)


async def test_lines_are_written_in_their_order_whatever_thread_they_come_from(store: Noting) -> None:
    writer = make(store)
    one, two = writer.lines_of(run_of("a")), writer.lines_of(run_of("b"))
    async with running(writer.run()):
        for number in range(3):
            one(logging.INFO, f"a{number}")
            thread = threading.Thread(target=two, args=(logging.INFO, f"b{number}"))
            thread.start()
            thread.join()
        await until(lambda: len(store.lines("a")) + len(store.lines("b")) == 6)
        assert writer.flush(QUEUE, "w", "a", 7) is None, "all is written"
        assert writer.flush(QUEUE, "w", "none", 7) is None
    assert (store.lines("a"), store.lines("b")) == (["a0", "a1", "a2"], ["b0", "b1", "b2"])


async def test_the_last_lines_are_written_at_the_end_of_the_job(store: Noting) -> None:
    writer = make(store)
    lines = writer.lines_of(run_of("a"))
    for number in range(MOST_LINES + 1):
        lines(logging.INFO, str(number))
    flushing = writer.flush(QUEUE, "w", "a", 7)
    assert flushing is not None
    await flushing
    assert [len(call["a"]) for call in store.calls] == [MOST_LINES, 1]


async def test_while_the_server_is_away_the_last_lines_are_kept(store: Noting) -> None:
    writer = make(store, most=3)
    lines = writer.lines_of(run_of("a"))
    store.faults = [ServerUnavailableError("gone"), ServerUnavailableError("gone")]
    for number in range(5):
        lines(logging.INFO, str(number))
    async with running(writer.run()):
        await until(lambda: store.lines("a") == ["2", "3", "4"])


async def test_lines_that_the_server_refuses_are_dropped(store: Noting, caplog: pytest.LogCaptureFixture) -> None:
    writer = make(store)
    lines = writer.lines_of(run_of("a"))
    store.faults = [ServerError("OOM")]
    lines(logging.INFO, "lost")
    async with running(writer.run()):
        await until(lambda: not store.faults)
        lines(logging.INFO, "kept")
        await until(lambda: store.lines("a") == ["kept"])
    assert "1 log line was dropped: OOM" in caplog.text


async def test_what_other_loggers_say_in_a_job_is_its_own(store: Noting) -> None:
    writer = make(store, all_loggers=True)
    lines = writer.lines_of(run_of("a"))

    async def job() -> None:
        context = JobContext(job_id="a", task="t", queue=QUEUE, lines=lines)
        enter_job(context)
        assert isinstance(context.log, KeptJobLogger)
        logging.getLogger("library").warning("%s is slow", "it")
        logging.getLogger("aioq.worker").warning("not the job's")
        context.log("own")

    async with running(writer.run()):
        await asyncio.sleep(0)
        await asyncio.create_task(job())
        logging.getLogger("library").warning("outside")
        await until(lambda: store.lines("a") == ["library: it is slow", "own"])
