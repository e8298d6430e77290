"""Logging that raises ends nothing, and is said once."""

import asyncio
import logging
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import aioq
from aioq.util import log as module
from aioq.util.log import MAX_SAID, logger, report_fault

NAME = "aioq.test-log"
log = logger(NAME)


class Broken(logging.Handler):
    """A handler that raises, as one does whose service is down."""

    def __init__(self, fault: BaseException) -> None:
        super().__init__()
        self.fault = fault

    def emit(self, record: logging.LogRecord) -> None:
        raise self.fault


@pytest.fixture
def attach(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[logging.Handler], None]]:
    monkeypatch.setattr(module, "_said", set())
    target = logging.getLogger(NAME)
    yield target.addHandler
    target.handlers.clear()
    target.filters.clear()


@pytest.mark.parametrize(
    "fault", [OSError("refused"), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), RecursionError()]
)
def test_what_a_handler_raises_is_said_once(
    attach: Callable[[logging.Handler], None], capsys: pytest.CaptureFixture[str], fault: BaseException
) -> None:
    attach(Broken(fault))
    for _ in range(3):
        log.warning("a line")
        try:
            raise ValueError("no")  # noqa: TRY301 - for `exception`
        except ValueError:
            log.exception("another")
    said = capsys.readouterr().err
    assert said.count(f"aioq: logging a line of {NAME} raised ") == 1
    assert type(fault).__name__ in said
    assert "in emit" in said


def test_filters_and_record_factories_are_the_users_too(
    attach: Callable[[logging.Handler], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise LookupError("no request")

    logging.getLogger(NAME).addFilter(refuse)
    log.warning("a line")
    logging.getLogger(NAME).filters.clear()
    monkeypatch.setattr(logging, "_logRecordFactory", refuse)
    log.warning("a line")
    assert capsys.readouterr().err.count("LookupError: no request") == 1


def test_fields_of_a_record_factory_do_not_keep_a_line_from_its_own(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = logging.getLogRecordFactory()

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = before(*args, **kwargs)
        record.job_id, record.trace = "-", "t-1"
        return record

    monkeypatch.setattr(logging, "_logRecordFactory", factory)
    log.warning("a line", extra={"job_id": "j1", "task": "add"})
    (record,) = caplog.records
    assert (record.job_id, record.task, record.trace) == ("j1", "add", "t-1")  # pyright: ignore[reportAttributeAccessIssue]


def test_a_line_names_where_it_was_said(caplog: pytest.LogCaptureFixture) -> None:
    log.warning("one")
    log.log(logging.WARNING, "two")
    try:
        raise ValueError("no")  # noqa: TRY301 - for `exception`
    except ValueError:
        log.exception("three")
    log.error("four", exc_info=KeyError("four"))
    assert [record.funcName for record in caplog.records] == ["test_a_line_names_where_it_was_said"] * 4
    assert [record.filename for record in caplog.records] == ["test_log.py"] * 4
    kinds = [record.exc_info and record.exc_info[0] for record in caplog.records]
    assert kinds == [None, None, ValueError, KeyError]


def test_what_is_not_wanted_costs_nothing(attach: Callable[[logging.Handler], None]) -> None:
    attach(Broken(AssertionError("it was asked for")))
    log.debug("a line")
    assert not log.isEnabledFor(logging.DEBUG)


def test_no_more_kinds_than_a_few_are_said(
    attach: Callable[[logging.Handler], None], capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2 * MAX_SAID):
        report_fault(NAME, type(f"Fault{number}", (Exception,), {})())
    assert capsys.readouterr().err.count("may be lost") == MAX_SAID


def test_without_a_standard_error_nothing_is_said(
    attach: Callable[[logging.Handler], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    attach(Broken(OSError("refused")))
    monkeypatch.setattr(sys, "stderr", None)
    log.warning("a line")


def test_every_module_logs_through_the_guard() -> None:
    package = Path(aioq.__file__).parent
    unguarded = [
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if re.search(r"^_?log(ger)? = logging\.getLogger\(", path.read_text(), re.MULTILINE)
    ]
    assert unguarded == [], "write `log = logger(...)` of aioq.util.log: what logging raises is to end nothing"
