"""The worker's log, as text and as JSON: one record is one record, whatever is in it."""

import io
import json
import logging
import logging.config
import math
import sys
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from aioq.cli.logging import JsonFormatter, TextFormatter, set_up_logging
from aioq.util.log_records import let_through
from aioq.worker.processes.protocol import ChildLogRecord, frame, line_of, log_line, read_message
from tests.loggers import put_back


class Mean:
    """Raises whatever is asked of it."""

    def __str__(self) -> str:
        raise SystemExit("no text")

    __repr__ = __str__


class MeanError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def circle() -> dict[str, Any]:
    whole: dict[str, Any] = {"many": []}
    whole["many"] += [whole] * 100
    return whole


def record(
    message: str = "says %s", *args: Any, error: BaseException | None = None, name: str = "aioq.task", **extra: Any
) -> logging.LogRecord:
    info = None if error is None else (type(error), error, error.__traceback__)
    return logging.getLogger(name).makeRecord(name, logging.ERROR, "shop.py", 7, message, args, info, extra=extra)


def raised(error: BaseException) -> BaseException:
    try:
        raise error  # noqa: TRY301 - it is to have a traceback
    except BaseException as caught:
        return caught


RECORDS = {
    "plain": record("hello"),
    "surrogate": record("cannot import %s", "caf\udce9.csv", path="caf\udce9.csv"),
    "surrogate in an error": record("no", error=raised(ValueError("caf\udce9"))),
    "line breaks": record("a\nb\u2028c\x85d %s", "e\r\nf\x9b"),
    "argument that raises": record("says %s", Mean()),
    "arguments that do not fit": record("says %d %d", 1),
    "error that raises": record("no", error=raised(MeanError())),
    "no error": logging.makeLogRecord(
        {"name": "x", "msg": "m", "levelno": 40, "levelname": "ERROR", "exc_info": (None, None, None)}
    ),
    "bytes": record("hello", body=b"\xff\n"),
    "numbers": record("hello", nan=math.nan, inf=-math.inf, big=10**400, small=-(2**70), ok=1.5),
    "objects": record("hello", mean=Mean(), plain=object(), kind=Mean, deep=[{"a": [{"b": [{"c": [[]]}]}]}]),
    "circle": record("hello", circle=circle()),
    "keys": record("hello", table={1: 2, None: 3, "\udcff": 4, "mean": {Mean(): 1}}, also={5, 6}),
    "names that are taken": record("hello", level="mine", time="mine", pid="mine", logger="mine"),
    "not a text": record(12, name="shop"),  # pyright: ignore[reportArgumentType]
}


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("name", RECORDS)
def test_a_record_is_one_line_of_json(name: str, ascii_only: bool) -> None:
    line = JsonFormatter(ascii_only=ascii_only).format(RECORDS[name])
    assert len(line.splitlines()) == 1
    fields = json.loads(line, parse_constant=pytest.fail)
    assert msgspec.json.decode(line.encode()) == fields
    assert fields["level"] == "error"
    assert fields["time"] != "mine"
    assert fields["pid"] != "mine"


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_is_one_line_and_its_traceback_as_text(name: str) -> None:
    first, *others = TextFormatter().format(RECORDS[name]).splitlines()
    assert first[:4].isdigit()
    assert not [line for line in others if line[:1].isdigit()]


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_of_a_child_arrives(name: str, caplog: pytest.LogCaptureFixture) -> None:
    message = read_message(frame(line_of(RECORDS[name]))[4:])
    assert isinstance(message, ChildLogRecord)
    log_line(message)
    (found,) = caplog.records
    here = json.loads(JsonFormatter().format(RECORDS[name]))
    there = json.loads(JsonFormatter().format(found))
    assert there["message"] == here["message"]
    assert there.get("traceback") == here.get("traceback")
    assert there.get("exception") == here.get("exception")


def test_the_fields() -> None:
    fields = json.loads(JsonFormatter().format(record("%s", 1, error=raised(ValueError("no\nway")), job_id="j")))
    assert fields["message"] == "1"
    assert fields["exception"] == "ValueError: no\nway"
    assert fields["traceback"].startswith("Traceback (most recent call last):\n")
    assert fields["job_id"] == "j"
    fields = json.loads(JsonFormatter().format(RECORDS["bytes"]))
    assert fields["body"] == r"b'\xff\n'"
    fields = json.loads(JsonFormatter().format(RECORDS["surrogate"]))
    assert fields["message"] == r"cannot import caf\udce9.csv"
    fields = json.loads(JsonFormatter().format(RECORDS["argument that raises"]))
    assert fields["message"] == "says %s (its arguments could not be formatted: SystemExit)"


def test_a_line_of_another_library_names_it() -> None:
    assert TextFormatter().format(record("hello", name="httpx")).endswith("ERROR   httpx: hello")
    assert TextFormatter().format(record("hello", name="aioqueue\n1")).endswith(r"ERROR   aioqueue\n1: hello")
    assert TextFormatter().format(record("hello", name="aioq.job")).endswith("ERROR   hello")


# -- setting it up


class Stream(io.StringIO):
    encoding = "utf-8"

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture
def untouched() -> Iterator[None]:
    """Logging as Python starts with it, and as it was afterwards."""
    with put_back():
        root = logging.getLogger()
        root.handlers[:] = []
        root.setLevel(logging.WARNING)
        logging.getLogger("aioq").setLevel(logging.NOTSET)
        yield


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("terminal", "variables", "coloured"),
    [
        (False, {}, False),
        (True, {}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (True, {"TERM": "dumb"}, False),
        (False, {"FORCE_COLOR": "1"}, True),
        (False, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_colour(
    terminal: bool, variables: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    stream = Stream(terminal=terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    logging.getLogger().handlers[:] = []  # pytest's own
    set_up_logging("info", "text")
    logging.getLogger("aioq.job").warning("evil \x1b[2J")
    assert ("\x1b[33mWARNING" in stream.getvalue()) is coloured
    assert "\x1b[2J" not in stream.getvalue()


@pytest.mark.usefixtures("untouched")
def test_the_users_configuration_wins_and_keeps_aioqs_lines(caplog: pytest.LogCaptureFixture) -> None:
    stream = Stream(terminal=False)
    logging.getLogger("aioq.job")
    logging.config.dictConfig(
        {
            "version": 1,
            "formatters": {"mine": {"format": "mine %(name)s %(message)s"}},
            "handlers": {"mine": {"class": "logging.StreamHandler", "formatter": "mine", "stream": stream}},
            "root": {"level": "ERROR", "handlers": ["mine"]},
        }
    )
    assert logging.getLogger("aioq.job").disabled
    set_up_logging("info", "text")
    logging.getLogger("aioq.job").info("received")
    logging.getLogger("aioq.job").debug("nothing")
    logging.getLogger("httpx").warning("nothing")
    assert stream.getvalue() == "mine aioq.job received\n"
    assert logging.getLogger().level == logging.ERROR
    assert len(logging.getLogger().handlers) == 1


@pytest.mark.usefixtures("untouched")
def test_a_level_of_the_users_wins_unless_the_command_line_says_another() -> None:
    root, ours = logging.getLogger(), logging.getLogger("aioq")
    root.setLevel(logging.DEBUG)
    ours.setLevel(logging.ERROR)
    set_up_logging("info", "json")
    assert (root.level, ours.level) == (logging.DEBUG, logging.ERROR)
    root.handlers[:] = []
    set_up_logging("warning", "json", explicit=True)
    assert (root.level, ours.level) == (logging.WARNING, logging.WARNING)


@pytest.mark.usefixtures("untouched")
def test_what_a_lifespan_disables_comes_back() -> None:
    logging.getLogger("aioq.worker").disabled = True
    logging.getLogger("shop").disabled = True
    let_through(logging.INFO)
    assert not logging.getLogger("aioq.worker").disabled
    assert logging.getLogger("shop").disabled
    logging.getLogger("shop").disabled = False
