"""`aioq.store.redis.history`: what entries of the history hold, and what is no entry of aioq's."""

import msgspec
import pytest

from aioq.store.contract import Limits, Settlement, Verb
from aioq.store.history import End, RunReport
from aioq.store.redis.history import parse_rows, report_args

REPORTS = [RunReport("add", 0.5, 0.25), RunReport("buy", -1.0, -1.0, "ValueError: no")]


def entry(reports: list[RunReport], **other: bytes) -> tuple[bytes, list[bytes]]:
    """An entry of jobs that have succeeded, as the server has it."""
    settlements = [Settlement("", 0, Verb.SUCCEEDED, report=report) for report in reports]
    about, rows, _ = report_args(settlements, Limits(history=10, stats=True))
    ids = msgspec.msgpack.encode([f"{number}" for number in range(len(reports))])
    fields = {"by": b"w", "ids": ids, "ends": b"s" * len(reports), "about": about, "rows": rows, **other}
    return b"7-1000", [part for name, value in fields.items() for part in (name.encode(), value)]


@pytest.mark.parametrize("reports", [REPORTS[:1], REPORTS[1:], REPORTS, [REPORTS[0]] * 3])
def test_what_was_sent_is_read(reports: list[RunReport]) -> None:
    found = parse_rows([entry(reports)])
    assert [row.report for row in found] == reports
    assert [row.number for row in found] == [*range(8 - len(reports), 8)]
    assert {(row.end, row.worker, row.at_ms) for row in found} == {(End.SUCCEEDED, "w", 1000)}


@pytest.mark.parametrize("size", [0, 8, 14, 15, 17, 28])
def test_rows_of_another_length_are_of_another_version(size: int) -> None:
    assert parse_rows([entry(REPORTS, rows=bytes(size))]) == []


@pytest.mark.parametrize("name", ["by", "ids", "ends", "about", "rows"])
def test_an_entry_that_was_added_by_hand_is_passed_over(name: str) -> None:
    assert parse_rows([entry(REPORTS, **{name: b"\xff"}), entry(REPORTS[:1])])[-1].report == REPORTS[0]
