"""Children and the orders they carry out, without a worker and without a server."""

import asyncio
import itertools
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from aioq.worker.processes import pool
from aioq.worker.processes.pool import STARTS, Children, DiedError, NotBegunError
from aioq.worker.processes.protocol import Ending, Order, line_of, log_line
from tests.behaviour.kit import until
from tests.forkserver import ForkedPopen

pytestmark = pytest.mark.anyio

TASKS = """
import os, pathlib, time
from aioq import App, current_job

deaths = pathlib.Path({deaths!r})
if deaths.exists() and deaths.read_text():
    deaths.write_text(deaths.read_text()[1:])
    os.abort()

app = App("children-unit", url="redis://nowhere")


@app.task(executor="process")
def pid() -> int:
    return os.getpid()


class Money:
    def __init__(self, amount: int) -> None:
        self.amount = amount


app.register_type(Money, encode=lambda money: money.amount, decode=Money)


@app.task(executor="process")
def doubles(parts: list[Money]) -> list[Money]:
    return [Money(2 * part.amount) for part in parts]


@app.task(executor="process")
def misfit() -> int:
    return "no number"


@app.task(executor="process")
def dies() -> None:
    os._exit(3)


@app.task(executor="process")
def makes_a_coroutine(number: int):
    async def makes():
        return number
    return makes()


@app.task(executor="process")
def logs(number: int) -> int:
    job = current_job()
    job.log("line %d", number)
    try:
        int("none")
    except ValueError:
        job.log.exception("half \\ud800")
    return number


def double(number):
    return number * 2


doubled = app.task(executor="process")(double)


@app.task(executor="process")
def waits(started: str) -> None:
    pathlib.Path(started).write_text(str(os.getpid()))
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The children are forked: `tests/behaviour/test_process_tasks.py` has new ones."""
    monkeypatch.setattr(pool.subprocess, "Popen", ForkedPopen)


@pytest.fixture
async def children() -> AsyncIterator[Children]:
    children = Children()
    yield children
    children.close()
    await asyncio.sleep(0)  # for the sockets


@pytest.fixture
def deaths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """The tasks' module, and a function that says how many children shall die while they import it."""
    deaths = tmp_path / "deaths"  # a letter for each
    (tmp_path / "unit_children.py").write_text(TASKS.format(deaths=str(deaths)))
    monkeypatch.syspath_prepend(tmp_path)

    def die(count: int) -> None:
        deaths.write_text("x" * count)

    return die


numbers = itertools.count(1)


def order(function: str, *args: Any, module: str = "unit_children") -> Order:
    return Order(
        number=next(numbers),
        module=module,
        function=function,
        task=f"{module}.{function}",
        args=msgspec.Raw(msgspec.msgpack.encode(args)),
        kwargs=msgspec.Raw(msgspec.msgpack.encode({})),
        job_id="job",
        queue="default",
        attempt=1,
        max_attempts=1,
        crashes=0,
        headers={},
        tags=(),
        sent_at=None,
        timeout=None,
        deadline=None,
        log_level=logging.WARNING,
        own_log_level=logging.WARNING,
    )


async def pid_of(children: Children, *, keep: bool = True) -> int:
    report = await children.carry_out(order("pid"), lambda: None, keep=keep)
    return msgspec.msgpack.decode(report.value, type=int)


@pytest.mark.usefixtures("deaths")
async def test_a_child_is_kept_for_the_next_order_unless_it_is_to_be_the_jobs_own(children: Children):
    kept = await pid_of(children)
    assert await pid_of(children) == kept
    own = await pid_of(children, keep=False)
    assert own not in {kept, await pid_of(children, keep=False), os.getpid()}
    await until(lambda: not psutil.pid_exists(own), "the end of the job's own child")


@pytest.mark.usefixtures("deaths")
async def test_when_they_are_closed_idle_children_end_and_busy_ones_after_their_order(children: Children):
    idle = await pid_of(children)
    children.close()
    await until(lambda: not psutil.pid_exists(idle), "the end of the idle child")
    last = await pid_of(children)
    await until(lambda: not psutil.pid_exists(last), "the end of the other")


@pytest.mark.parametrize("count", range(STARTS))
async def test_a_child_that_dies_before_it_has_begun_is_replaced(
    children: Children, deaths: Callable[[int], None], count: int
):
    deaths(count)
    begun: list[None] = []

    report = await children.carry_out(order("pid"), lambda: begun.append(None), keep=True)

    assert report.ending is Ending.RETURNED
    assert begun == [None]


async def test_where_none_can_begin_the_order_is_given_up(children: Children, deaths: Callable[[int], None]):
    deaths(STARTS)
    with pytest.raises(NotBegunError, match="each of 3 processes for it died before it could begin"):
        await children.carry_out(order("pid"), pytest.fail, keep=True)


@pytest.mark.usefixtures("deaths")
async def test_a_child_that_dies_after_it_has_begun_takes_its_order_along(children: Children):
    with pytest.raises(DiedError):
        await children.carry_out(order("dies"), lambda: None, keep=True)
    assert await pid_of(children) != os.getpid()


@pytest.mark.usefixtures("deaths")
async def test_an_idle_child_that_was_killed_is_not_asked(children: Children):
    first = await pid_of(children)
    psutil.Process(first).kill()
    assert await pid_of(children) != first


@pytest.mark.usefixtures("deaths")
async def test_a_cancelled_order_ends_its_child(children: Children, tmp_path: Path):
    started = tmp_path / "started"
    begun = asyncio.Event()
    work = asyncio.create_task(children.carry_out(order("waits", str(started)), begun.set, keep=True))
    await begun.wait()
    await until(lambda: started.exists() and started.read_text(), "the start")

    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work

    await until(lambda: not psutil.pid_exists(int(started.read_text())), "the end of the child")


@pytest.mark.usefixtures("deaths")
async def test_a_child_knows_the_registered_types_and_holds_results_against_their_annotation(children: Children):
    report = await children.carry_out(order("doubles", [20, 1]), lambda: None, keep=True)
    assert (report.ending, msgspec.msgpack.decode(report.value)) == (Ending.RETURNED, [40, 2])
    report = await children.carry_out(order("misfit"), lambda: None, keep=True)
    assert report.ending is Ending.BAD_RESULT
    assert "misfit': the result does not fit its annotation int: $: expected int, got str; got str" in report.text


@pytest.mark.usefixtures("deaths")
@pytest.mark.parametrize(("function", "value"), [("makes_a_coroutine", 21), ("double", 42)])
async def test_a_coroutine_is_awaited_and_a_task_may_have_another_name_in_its_module(
    children: Children, function: str, value: int
):
    report = await children.carry_out(order(function, 21), lambda: None, keep=True)
    assert (report.ending, msgspec.msgpack.decode(report.value)) == (Ending.RETURNED, value)


@pytest.mark.usefixtures("deaths")
@pytest.mark.parametrize(
    ("module", "function", "words"),
    [
        ("no_such_module", "pid", "No module named"),
        ("unit_children", "app", "has no task 'unit_children.app' in"),
    ],
)
async def test_what_cannot_be_found_is_reported_and_not_begun(
    children: Children, module: str, function: str, words: str
):
    report = await children.carry_out(order(function, module=module), pytest.fail, keep=True)
    assert report.ending is Ending.UNREADY
    assert report.failure is not None
    assert words in report.failure.message


def test_a_record_is_the_same_after_its_way(caplog: pytest.LogCaptureFixture):
    logger = logging.getLogger("aioq.task")
    record = logger.makeRecord(
        "aioq.task",
        logging.WARNING,
        "tasks.py",
        7,
        "%s at 100%%",
        ("\udcff",),
        None,
        extra={"job_id": "j", "o": {}},
    )

    log_line(line_of(record))

    (found,) = caplog.records
    assert found.getMessage() == "\\udcff at 100%"
    assert (found.name, found.levelno, found.created) == ("aioq.task", logging.WARNING, record.created)
    assert (found.pathname, found.lineno, vars(found)["job_id"]) == ("tasks.py", 7, "j")


async def test_what_a_job_logs_comes_back_line_by_line_if_it_is_kept(
    children: Children, deaths: Callable[[int], None]
) -> None:
    deaths(0)
    lines: list[tuple[int, str]] = []

    def keep(level: int, text: str) -> None:
        lines.append((level, text))

    kept = msgspec.structs.replace(order("logs", 7), keeps_lines=True)
    report = await children.carry_out(kept, lambda: None, keep=True, lines=keep)
    assert report.ending is Ending.RETURNED
    assert lines[0] == (logging.INFO, "line 7")
    level, text = lines[1]
    assert (level, len(lines)) == (logging.ERROR, 2)
    assert text.startswith("half \\ud800\nTraceback")
    assert text.endswith("'none'")

    await children.carry_out(order("logs", 8), lambda: None, keep=True, lines=keep)  # the same child
    assert len(lines) == 2, "nobody keeps them"
