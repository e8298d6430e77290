"""The verdict on ledgers written by hand: each case must be able to fail, so each fault must be able to show."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.ledger import Ledger, Row, percentile, verdict

ROOT = Path(__file__).parents[2]

ACCEPTED = Row("accepted", 0.0, "a", 1)
SUCCEEDED = Row("outcome", 99.0, "a", 1, how="succeeded")


def start(at: float, pid: int = 7) -> Row:
    return Row("started", at, "a", 1, pid)


def end(at: float, pid: int = 7, how: str = "ok") -> Row:
    return Row("ended", at, "a", 1, pid, how=how)


def kill(at: float, pid: int = 7, *held: str) -> Row:
    return Row("fault", at, pid=pid, how="kill", held=held)


GOOD = [ACCEPTED, start(1), end(2), SUCCEEDED]


def test_a_job_that_ran_once_is_nothing_but_accepted() -> None:
    found = verdict(GOOD)

    assert found.words == {"accepted": 1, "lost": 0, "duplicated": 0, "recovered": 0, "unexpected": 0}
    assert (found.in_flight, found.reruns) == (0, ())


@pytest.mark.parametrize(
    "rows",
    [
        [ACCEPTED],
        [ACCEPTED, start(1)],
        [ACCEPTED, start(1), kill(1.5)],
        [ACCEPTED, start(1), end(2)],
        [ACCEPTED, Row("outcome", 3, "a", 1, how="missing")],
    ],
    ids=["never ran", "never ended", "killed and not run again", "no outcome came", "the server does not know it"],
)
def test_an_accepted_job_without_an_outcome_is_lost(rows: list[Row]) -> None:
    assert verdict(rows).lost == {"a"}


def test_a_send_that_was_not_confirmed_may_be_lost() -> None:
    found = verdict([Row("unconfirmed", 0.0, "a", 1)])

    assert (found.accepted, found.lost, found.unexpected) == (0, frozenset(), ())


def test_a_job_that_was_cut_and_ran_again_is_recovered_and_not_duplicated() -> None:
    found = verdict([ACCEPTED, start(1), kill(3), start(8, pid=8), end(9, pid=8), SUCCEEDED])

    assert (found.recovered, found.duplicated, found.unexpected) == ({"a"}, frozenset(), ())
    assert (found.in_flight, found.reruns) == (1, (5,))


def test_a_job_that_ended_before_the_kill_and_ran_again_is_duplicated_which_the_kill_explains() -> None:
    """Its function had returned, the server had not heard of it: the held list says so."""
    found = verdict([ACCEPTED, start(1), end(2), kill(3, 7, "a"), start(8, pid=8), end(9, pid=8), SUCCEEDED])

    assert (found.duplicated, found.recovered, found.unexpected) == ({"a"}, {"a"}, ())
    assert found.in_flight == 1


@pytest.mark.parametrize(("how", "back"), [("kill", False), ("stop", True)])
def test_a_process_that_was_stopped_may_run_its_jobs_again_itself(how: str, back: bool) -> None:
    rows = [ACCEPTED, start(1), Row("fault", 3, pid=7, how=how), start(8), end(9), SUCCEEDED]

    assert bool(verdict(rows).recovered) is back
    assert bool(verdict(rows).reruns) is back


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([*GOOD, start(3, pid=8), end(4, pid=8)], "came to its end 2 times and no fault touched it"),
        ([*GOOD, kill(3), start(4, pid=8)], "started 2 times where 1 are explained"),
        ([ACCEPTED, start(1), start(1, pid=8), end(2), end(2), SUCCEEDED], "started 2 times"),
        ([start(1), end(2)], "ran and was never accepted"),
        ([*GOOD, Row("outcome", 100, "a", 1, how="failed")], "had the outcomes failed, succeeded"),
        ([ACCEPTED, start(1), end(2, how="ValueError"), SUCCEEDED], "succeeded and never came to its end"),
    ],
    ids=["twice", "a kill that held nothing", "side by side", "from nowhere", "two outcomes", "out of thin air"],
)
def test_what_no_fault_explains_is_unexpected(rows: list[Row], words: str) -> None:
    assert any(words in text for text in verdict(rows).unexpected)


def test_retries_and_interruptions_explain_further_runs() -> None:
    rows = [ACCEPTED, start(1), end(2, how="ValueError"), start(3), end(4, how="CancelledError")]

    assert verdict([*rows, start(5, pid=8), end(6, pid=8), SUCCEEDED]).unexpected == ()


def test_one_number_under_two_ids_was_enqueued_twice() -> None:
    assert verdict([*GOOD, Row("started", 3, "b", 1, 8)]).enqueued_twice == {1}
    assert verdict([*GOOD, Row("started", 3, "b", 2, 8)]).enqueued_twice == frozenset()


def test_two_kills_of_one_job_make_two_reruns() -> None:
    rows = [ACCEPTED, start(1), kill(2), start(5, pid=8), kill(6, 8), start(10, pid=9), end(11, pid=9), SUCCEEDED]

    found = verdict(rows)

    assert (sorted(found.reruns), found.in_flight, found.unexpected) == ([3, 4], 2, ())


def test_percentiles() -> None:
    assert percentile([], 0.99) == 0
    assert percentile([3], 0.99) == 3
    assert percentile(range(1, 101), 0.99) == 99
    assert percentile(range(1, 11), 0.5) == 5


WRITER = """
import os, sys
from tests.faults.ledger import Ledger
ledger = Ledger(sys.argv[1])
for number in range(500):
    ledger.started(f"{os.getpid()}-{number}", number, 1, 0)
sys.stdout.write("written\\n")
sys.stdout.flush()
sys.stdin.read()
"""


def test_what_several_processes_write_is_whole_even_of_one_that_is_killed(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    command = [sys.executable, "-c", WRITER, str(ledger.path)]
    writers = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for _ in range(3)
    ]
    for writer in writers:
        with writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"written\n"
            writer.send_signal(signal.SIGKILL)

    rows = ledger.rows()
    ledger.close()

    assert len({row.job for row in rows}) == 1500
    assert [row.at for row in rows] == sorted(row.at for row in rows)


def test_a_row_that_is_being_written_is_not_read_yet(tmp_path: Path) -> None:
    """Another process may have got its write half-way into the file."""
    ledger = Ledger(tmp_path / "ledger")
    ledger.write(ACCEPTED)
    whole = ledger.path.read_bytes()
    with ledger.path.open("ab") as file:
        file.write(whole[:-3])

    assert ledger.rows() == [ACCEPTED]

    with ledger.path.open("ab") as file:
        file.write(whole[-3:])
    assert ledger.rows() == [ACCEPTED, ACCEPTED]


def test_the_rows_since_a_position_are_each_read_once(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    ledger.accepted("a", 1)
    position = ledger.path.stat().st_size
    assert ledger.since(position) == ([], position)

    ledger.accepted("b", 2)
    with ledger.path.open("ab") as file:
        file.write(b'{"what":"accep')
    rows, position = ledger.since(position)
    assert [row.job for row in rows] == ["b"]

    with ledger.path.open("ab") as file:
        file.write(b'ted","at":1.0,"job":"c"}\n')
    rows, position = ledger.since(position)
    assert [row.job for row in rows] == ["c"]
    assert ledger.since(position) == ([], position)
    ledger.close()
