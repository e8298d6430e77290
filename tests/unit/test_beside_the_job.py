"""A job's outcome and its slot depend on its function alone, whatever the code beside it raises."""

import asyncio
import logging
import math
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from aioq import App, JobFailed, Retry, current_job, gather
from aioq.jobs.job import Progress
from aioq.store.contract import Verb
from aioq.util import log as log_module
from aioq.wire.messages import CallOptions
from aioq.worker.run.pipeline import prepare
from aioq.worker.run.settlements import classify
from tests.unit.kit import call, make_environment, make_run, within

pytestmark = pytest.mark.anyio

app = App("beside", url="redis://nowhere", concurrency=2)
FAULTS = [OSError("refused"), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()]


@app.task
async def good(x: int) -> int:
    return x


@app.task
async def logs(x: int) -> int:
    current_job().log.warning("it is %d", x)
    return x


@app.task
def logs_in_a_thread(x: int) -> int:
    current_job().log.error("it is %d", x)
    return x


@app.task
async def bad(how: str) -> None:
    raise HOSTILE[how]


@app.task(retry=Retry(2, delay=0))
async def better_the_second_time(how: str) -> int:
    if current_job().attempt == 1:
        raise HOSTILE[how]
    return 2


@dataclass
class Doc:
    how: str

    def __post_init__(self) -> None:
        if self.how in TYPES and _in_the_worker():  # the sender looks whether it arrives as it is
            raise TYPES[self.how]


def _in_the_worker() -> bool:
    return any(frame.name == "prepare" for frame in traceback.extract_stack())


TYPES: dict[str, type[BaseException]] = {
    kind.__name__: kind for kind in (SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError, RuntimeError)
}
TYPES["CancelledError"] = asyncio.CancelledError


@app.task
async def index(doc: Doc) -> str:
    return doc.how


class Unshowable:
    def __repr__(self) -> str:
        raise KeyboardInterrupt


@app.task
async def returns_what_cannot_be_shown() -> Any:
    return [Unshowable()]


@app.task
async def reports(message: str) -> int:
    current_job().progress(1, 2, MESSAGES[message])
    return 5


# -- exceptions that raise when they are looked at ----------------------------------------------------------------


def _refuse(*_: object) -> Any:
    raise SystemExit("do not look")


class _Meta(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in {"__qualname__", "__name__", "__module__", "__mro__", "__bases__"}:
            raise SystemExit("do not look")
        return super().__getattribute__(name)


def _with(**attributes: Any) -> Exception:
    return type("Odd", (Exception,), attributes)("no")


HOSTILE: dict[str, BaseException] = {
    **{
        name: _with(**{name: property(_refuse)})
        for name in ("__traceback__", "__cause__", "__context__", "__notes__", "__class__", "__suppress_context__")
    },
    **{name: _with(**{name: _refuse}) for name in ("__str__", "__repr__", "__bool__", "__eq__")},
    "__hash__": _with(__hash__=None),
    "__getattribute__": _with(__getattribute__=_refuse),
    "metaclass": _Meta("Odd", (Exception,), {})("no"),
    "exceptions": type("Odd", (ExceptionGroup,), {"exceptions": property(_refuse)})("no", [ValueError("one")]),
    "delay": type("Odd", (Retry,), {"__init__": lambda _: None, "delay": property(_refuse)})(),
}


@pytest.mark.parametrize("how", HOSTILE)
async def test_an_exception_that_cannot_be_looked_at_fails_its_job(how: str) -> None:
    async with app.test():
        with pytest.raises(JobFailed):
            await within(await bad.send(how))
        assert await within(gather(*[await good.send(number) for number in range(5)])) == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("how", [how for how in HOSTILE if how != "delay"])
async def test_and_is_followed_by_another_attempt_where_the_task_has_one(how: str) -> None:
    async with app.test():
        assert await within(await better_the_second_time.send(how)) == 2


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, -1.0, 1e308])
@pytest.mark.parametrize("field", ["delay", "max_delay", "factor"])
def test_a_rule_off_the_wire_may_hold_any_number(field: str, number: float) -> None:
    rule = msgspec.structs.replace(Retry(5).rule, **{field: number, "jitter": False})
    run = make_run(call(good.name, 1, options=CallOptions(retry=rule)), attempts=2)
    environment = make_environment(app)
    assert prepare(run, environment) is None
    run.error = ValueError("no")
    settled = classify(run, environment)
    assert settled is not None
    assert settled.verb is Verb.RETRY
    assert 0 <= settled.delay_ms <= 10 * 366 * 86_400_000


# -- arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", TYPES)
async def test_an_argument_that_raises_fails_its_job_and_no_other(how: str) -> None:
    async with app.test() as session:
        handles = await index.send_many([(Doc("a"),), (_doc(how),), (Doc("b"),)])
        with pytest.raises(JobFailed, match=how):
            await within(handles[1])
        assert await within(gather(handles[0], handles[2])) == ("a", "b")
        alone = await index.send(_doc(how))  # dispatched: on the stack of whoever brings it
        with pytest.raises(JobFailed, match=how):
            await within(alone)
        assert await within(await good.send(3)) == 3
        (worker,) = session._workers
        assert worker._duties.slots.used <= 1  # nothing runs; one may be reserved by a claim under way


def _doc(how: str) -> Doc:
    doc = Doc.__new__(Doc)
    doc.how = how
    return doc


async def test_many_jobs_that_cannot_be_begun_and_wait_for_a_slot_end_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each ends as soon as it is begun; were that done inside each other, Python's stack would end first."""
    alone = App("alone", url="redis://nowhere", concurrency=1)

    @alone.task(name="alone.index")
    async def jobs(doc: Doc) -> str:
        return doc.how

    def factory(loop: asyncio.AbstractEventLoop, work: Any, **kwargs: Any) -> Any:
        if work.__qualname__ == "Executor._execute":
            raise RuntimeError("no more tasks")
        return asyncio.Task(work, loop=loop, **kwargs)

    async with alone.test() as session:
        assert await within(await jobs.send(Doc("a"))) == "a"
        (worker,) = session._workers
        executor = worker._duties.executor
        monkeypatch.setattr(executor, "_running", {("q", "w", "held"): None})
        for number in range(1500):
            worker._duties.slots.take(1)
            executor.submit("default", "nobody", _claimed(call("alone.index", _doc("SystemExit")), str(number)))
        assert len(executor._backlog) == 1500
        executor._running.clear()
        asyncio.get_running_loop().set_task_factory(factory)
        try:
            executor._start_backlog()
            assert (len(executor._backlog), worker._duties.slots.used <= 1) == (0, True)
        finally:
            asyncio.get_running_loop().set_task_factory(None)


def _claimed(envelope: bytes, job_id: str) -> Any:
    return msgspec.structs.replace(make_run(envelope).claimed, id=job_id)


# -- logging ------------------------------------------------------------------------------------------------------


class Broken(logging.Handler):
    def __init__(self, fault: BaseException) -> None:
        super().__init__()
        self.fault = fault

    def emit(self, record: logging.LogRecord) -> None:
        raise type(self.fault)(*self.fault.args)


def _break_handlers(fault: BaseException) -> None:
    logging.getLogger("aioq").addHandler(Broken(fault))


def _break_filters(fault: BaseException) -> None:
    def refuse(_: logging.LogRecord) -> bool:
        raise type(fault)(*fault.args)

    for name in ("aioq.job", "aioq.task", "aioq.worker"):
        logging.getLogger(name).addFilter(refuse)


def _break_records(fault: BaseException) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise type(fault)(*fault.args)

    logging.setLogRecordFactory(refuse)


def _claim_fields(_: BaseException) -> None:
    before = logging.getLogRecordFactory()

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = before(*args, **kwargs)
        record.job_id = record.task = record.queue = "-"
        return record

    logging.setLogRecordFactory(factory)


@pytest.fixture
def logging_put_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(log_module, "_said", set())
    factory = logging.getLogRecordFactory()
    root = logging.getLogger("aioq")
    level = root.level
    root.setLevel(logging.DEBUG)
    yield
    root.setLevel(level)
    logging.setLogRecordFactory(factory)
    for name in ("aioq", "aioq.job", "aioq.task", "aioq.worker"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).filters.clear()


@pytest.mark.usefixtures("logging_put_back")
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("break_it", [_break_handlers, _break_filters, _break_records, _claim_fields])
async def test_nothing_that_logging_does_decides_how_a_job_ends(
    break_it: Callable[[BaseException], None], fault: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    break_it(fault)
    async with app.test() as session:
        for number in range(3):  # more than there are slots
            assert await within(await good.send(number)) == number
            assert await within(await logs.send(number)) == number
            assert await within(await logs_in_a_thread.send(number)) == number
            with pytest.raises(JobFailed, match="ZeroDivisionError"):
                await within(await bad_in_a_plain_way.send())
        (worker,) = session._workers
        assert worker._duties.slots.used <= 1
    said = capsys.readouterr().err
    expected = 0 if break_it is _claim_fields else 1
    assert min(1, said.count("the line may be lost")) == expected
    assert said.count("the line may be lost") <= 4, "once for each logger, not for each job"


@app.task
async def bad_in_a_plain_way() -> float:
    return 1 / 0


async def test_a_result_that_cannot_be_shown_is_an_error_like_any_other() -> None:
    async with app.test():
        with pytest.raises(JobFailed, match="cannot be encoded"):
            await within(await returns_what_cannot_be_shown.send())
        assert await within(await good.send(1)) == 1


# -- progress, and what asyncio has of the user's -----------------------------------------------------------------


MESSAGES: dict[str, Any] = {"half": "half", "\\ud800": "\ud800", "5": 5, "None": None}


@pytest.mark.parametrize("message", MESSAGES)
async def test_a_message_that_is_no_text_ends_neither_the_job_nor_the_reports(message: str) -> None:
    async with app.test():
        handle = await reports.send(message)
        assert await within(handle) == 5
        assert (await handle.info()).progress == Progress(1.0, 2.0, message)
        assert await within(await good.send(1)) == 1


async def test_a_task_factory_that_raises_fails_what_it_refuses() -> None:
    loop = asyncio.get_running_loop()
    refusing = False

    def factory(loop: asyncio.AbstractEventLoop, work: Any, **kwargs: Any) -> Any:
        if refusing and work.__qualname__ == "Executor._execute":
            raise RuntimeError("no more tasks")
        return asyncio.Task(work, loop=loop, **kwargs)

    async with app.test():
        loop.set_task_factory(factory)
        try:
            refusing = True
            with pytest.raises(JobFailed, match="no more tasks"):
                await within(gather(*await good.send_many([(1,), (2,)])))
            refusing = False
            assert await within(gather(*await good.send_many([(1,), (2,)]))) == (1, 2)
        finally:
            loop.set_task_factory(None)


async def test_a_job_that_has_returned_has_succeeded_although_its_task_is_cancelled_then() -> None:
    """Somebody cancels every task of the loop while the job's last report is on its way."""
    async with app.test() as session:
        assert await within(await good.send(1)) == 1
        (worker,) = session._workers
        started = asyncio.Event()

        async def write(*_: Any) -> None:
            started.set()
            await asyncio.Event().wait()

        worker._duties.reporter._write = write  # pyright: ignore[reportAttributeAccessIssue]
        handle = await reports.send("half")
        await within(started.wait())
        (run,) = worker._duties.executor._running.values()
        while not run.returned:  # noqa: ASYNC110 - nothing signals it
            await asyncio.sleep(0)
        assert run.handle is not None
        run.handle.cancel()
        assert await within(handle) == 5
