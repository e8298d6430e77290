import asyncio

import msgspec
import pytest

from aioq.errors import ServerError, ServerUnavailableError
from aioq.jobs.job import Progress
from aioq.worker.duties import progress as module
from aioq.worker.duties.progress import Reporter
from tests.unit.kit import QUEUE, running, turns, until, within

pytestmark = pytest.mark.anyio

Written = tuple[str, str, list[tuple[str, int, Progress]]]


class Noting:
    def __init__(self) -> None:
        self.written: list[Written] = []
        self.faults: list[Exception] = []
        self.stale: set[str] = set()
        self.poison: set[str] = set()
        self.begun = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def progress(self, queue: str, worker: str, reports: list[tuple[str, int, bytes]]) -> list[bool]:
        self.begun += 1
        await self.gate.wait()
        if self.faults:
            raise self.faults.pop(0)
        if not self.poison.isdisjoint(job_id for job_id, _, _ in reports):
            raise ServerError("WRONGTYPE")
        decoded = [(job_id, claim, msgspec.msgpack.decode(data, type=Progress)) for job_id, claim, data in reports]
        self.written.append((queue, worker, decoded))
        return [job_id not in self.stale for job_id, _, _ in reports]


@pytest.fixture
def store() -> Noting:
    return Noting()


@pytest.fixture
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WRITE_PAUSE", 0)


def make(store: Noting, ended: "set[str] | None" = None) -> Reporter:
    over = ended if ended is not None else set()
    return Reporter(store, lambda key: key[2] not in over)  # pyright: ignore[reportArgumentType]


async def test_of_several_reports_the_latest_is_written(store: Noting):
    reporter = make(store)
    report = reporter.reporter(QUEUE, "w", "a", 7)
    async with running(reporter.run()):
        for done in (1, 2, 3):
            report(Progress(done))
        await until(lambda: store.written)
    assert store.written == [(QUEUE, "w", [("a", 7, Progress(3))])]


async def test_reports_are_written_together_by_queue_and_worker(store: Noting):
    reporter = make(store)
    for queue, worker, job_id in (("q", "v", "a"), ("q", "w", "b"), ("q", "w", "c"), ("r", "w", "d")):
        reporter.reporter(queue, worker, job_id, 1)(Progress(1))
    async with running(reporter.run()):
        await until(lambda: len(store.written) == 3)
    assert store.written == [
        ("q", "v", [("a", 1, Progress(1))]),
        ("q", "w", [("b", 1, Progress(1)), ("c", 1, Progress(1))]),
        ("r", "w", [("d", 1, Progress(1))]),
    ]


async def test_between_two_writes_there_is_a_pause(store: Noting, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "WRITE_PAUSE", 3600)
    reporter = make(store)
    report = reporter.reporter(QUEUE, "w", "a", 1)
    async with running(reporter.run()):
        report(Progress(1))
        await until(lambda: store.written)
        report(Progress(2))
        await turns()
        assert len(store.written) == 1


@pytest.mark.usefixtures("_no_pause")
async def test_a_report_may_come_from_a_thread(store: Noting):
    reporter = make(store)
    async with running(reporter.run()):
        await asyncio.to_thread(reporter.reporter(QUEUE, "w", "a", 1), Progress(1))
        await until(lambda: store.written)
    assert store.written == [(QUEUE, "w", [("a", 1, Progress(1))])]


async def test_the_last_report_is_written_before_the_outcome(store: Noting):
    reporter = make(store)
    reporter.reporter(QUEUE, "w", "a", 1)(Progress(1))
    reporter.reporter(QUEUE, "w", "b", 1)(Progress(2))
    flushed = reporter.flush(QUEUE, "w", "a", 1)
    assert flushed is not None
    await within(asyncio.wait([flushed]))
    assert store.written == [(QUEUE, "w", [("a", 1, Progress(1))])]
    assert reporter.flush(QUEUE, "w", "a", 1) is None
    assert reporter.flush(QUEUE, "w", "b", 2) is None  # another claim


async def test_the_last_report_waits_for_an_earlier_one_that_is_on_its_way(store: Noting):
    """Else the outcome might come before one of them, and the earlier one after the later one."""
    reporter = make(store)
    report = reporter.reporter(QUEUE, "w", "a", 1)
    async with running(reporter.run()):
        store.gate.clear()
        report(Progress(1))
        await until(lambda: store.begun == 1)
        report(Progress(2))
        flushed = reporter.flush(QUEUE, "w", "a", 1)
        assert flushed is not None
        await turns()
        assert store.begun == 1
        store.gate.set()
        await within(asyncio.wait([flushed]))
    assert store.written == [(QUEUE, "w", [("a", 1, Progress(1))]), (QUEUE, "w", [("a", 1, Progress(2))])]


async def test_what_a_job_reports_that_has_ended_is_dropped(store: Noting):
    """A thread goes on after its job was cancelled: what it reports may come after the last report was written."""
    ended: set[str] = set()
    reporter = make(store, ended)
    report, other = (reporter.reporter(QUEUE, "w", job_id, 1) for job_id in "ab")
    report(Progress(1))
    other(Progress(1))
    ended.add("a")  # between its report and the write
    async with running(reporter.run()):
        await asyncio.to_thread(report, Progress(2))
        assert reporter.flush(QUEUE, "w", "a", 1) is None
        await until(lambda: store.written)
        await turns()
    assert store.written == [(QUEUE, "w", [("b", 1, Progress(1))])]


@pytest.mark.usefixtures("_no_pause")
async def test_an_outage_costs_reports_and_nothing_else(store: Noting):
    store.faults = [ServerUnavailableError("down")] * 2
    reporter = make(store)
    report = reporter.reporter(QUEUE, "w", "a", 1)
    report(Progress(1))
    flushed = reporter.flush(QUEUE, "w", "a", 1)
    assert flushed is not None
    await within(asyncio.wait([flushed]))
    assert flushed.exception() is None
    async with running(reporter.run()):
        report(Progress(2))
        await until(lambda: not store.faults)
        report(Progress(3))
        await until(lambda: store.written)
    assert store.written == [(QUEUE, "w", [("a", 1, Progress(3))])]


async def test_a_report_that_the_fence_refuses_is_counted_and_said(
    store: Noting, caplog: pytest.LogCaptureFixture
) -> None:
    store.stale = {"old"}
    reporter = make(store)
    async with running(reporter.run()):
        reporter.reporter(QUEUE, "w", "old", 1)(Progress(1))
        reporter.reporter(QUEUE, "w", "mine", 1)(Progress(1))
        await until(lambda: reporter.refused)
    assert reporter.refused == 1
    assert [record.getMessage() for record in caplog.records] == [
        "queue mail: the progress of job old was refused: it is no longer held by w"
    ]


@pytest.mark.usefixtures("_no_pause")
async def test_a_report_that_the_server_refuses_keeps_no_other_from_being_stored(
    store: Noting, caplog: pytest.LogCaptureFixture
):
    store.poison = {"j3", "j5"}
    reporter = make(store)
    for number in range(8):
        reporter.reporter(QUEUE, "w", f"j{number}", number)(Progress(number, 8))
    async with running(reporter.run()):
        await until(lambda: len(caplog.records) == 2)
    stored = [job_id for _, _, reports in store.written for job_id, _, _ in reports]
    assert stored == [f"j{number}" for number in range(8) if number not in {3, 5}]
    assert [record.getMessage() for record in caplog.records] == [
        f"queue {QUEUE}: the progress of job {job_id} was refused: WRONGTYPE" for job_id in ("j3", "j5")
    ]
    assert reporter.refused == 0


@pytest.mark.usefixtures("_no_pause")
async def test_an_outage_amid_the_halves_costs_reports_and_nothing_else(store: Noting):
    reporter = make(store)
    async with running(reporter.run()):
        store.faults = [ServerError("WRONGTYPE"), ServerUnavailableError("gone")]
        for number in range(2):
            reporter.reporter(QUEUE, "w", f"j{number}", number)(Progress(number, 2))
        await until(lambda: not store.faults)
        reporter.reporter(QUEUE, "w", "j2", 2)(Progress(1, 2))
        await until(lambda: store.written)
    assert [reports[0][0] for _, _, reports in store.written] == ["j2"]
