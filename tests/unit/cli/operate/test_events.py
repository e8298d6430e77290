"""In which order the events and the lines of a job are printed."""

from datetime import UTC, datetime, timedelta

import pytest

from aioq.cli.operate.events import in_order
from aioq.jobs.events import Event, EventKind
from aioq.jobs.loglines import LogLine

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
KINDS = {"s": EventKind.SENT, "b": EventKind.STARTED, "r": EventKind.RETRIED, "f": EventKind.FAILED}


def at(ms: int) -> datetime:
    return BEGIN + timedelta(milliseconds=ms)


def event(text: str) -> Event:
    """An event from its letter and when it was, in ms: `b2`."""
    return Event(kind=KINDS[text[0]], at=at(int(text[1:])), queue="mail", error=text)


def line(text: str) -> LogLine:
    """A line from its attempt and when it was: `1:2`."""
    attempt, _, ms = text.partition(":")
    return LogLine(number=1, at=at(int(ms)), level="info", text=text, attempt=int(attempt))


@pytest.mark.parametrize(
    ("events", "lines", "expected"),
    [
        ("", "", ""),
        ("s0 b2 f9", "", "s0 b2 f9"),
        ("", "1:1 1:2", "1:1 1:2"),
        ("s0 b2 f9", "1:3 1:8", "s0 b2 1:3 1:8 f9"),
        ("s2 b2 f2", "1:2 1:2", "s2 b2 1:2 1:2 f2"),
        ("s0 b1 r2 b2 f2", "1:2 2:2", "s0 b1 1:2 r2 b2 2:2 f2"),
        ("b1 r1 b1 r1 b1 f1", "3:1", "b1 r1 b1 r1 b1 3:1 f1"),
        ("b5 f9", "1:1", "1:1 b5 f9"),  # the clock of the worker's host is behind
        ("b1 f2", "1:3", "b1 f2 1:3"),
    ],
)
def test_a_line_stands_within_its_run(events: str, lines: str, expected: str) -> None:
    found = in_order([event(each) for each in events.split()], [line(each) for each in lines.split()])
    assert " ".join(each.error if isinstance(each, Event) else each.text for each in found) == expected
