"""The rows of the tables, as texts."""

from datetime import UTC, datetime

import msgspec

from aioq.cli.top.board import Board, QueueView, ShardState
from aioq.cli.top.rows import (
    BARS_FROM,
    fitted,
    job_columns,
    note_of,
    progress_of,
    queue_columns,
    rates_line,
    served_by,
    short,
    short_rate,
    short_span,
    table_lines,
    worker_columns,
)
from aioq.errors import Failure
from aioq.jobs.job import JobInfo, JobState, Progress
from aioq.operate.overview import ShardReading
from aioq.operate.registered import Registration
from aioq.store.leases import WorkerLease
from aioq.store.pauses import PausePeriod, Pauses
from aioq.worker.about import About, WorkerFigures

AT = datetime(2026, 1, 1, tzinfo=UTC)
NOW_MS = round(AT.timestamp() * 1000) + 75_000


def test_numbers_and_times_are_short() -> None:
    numbers = {0: "0", 99_999: "99999", 100_000: "100k", 1_250_000: "1.2M", 25_000_000: "25M", 3 * 10**12: "3.0T"}
    assert {number: short(number) for number in numbers} == numbers
    assert [short_rate(rate) for rate in (0, 0.25, 99.94, 250.4, 250_000)] == ["0.0", "0.2", "99.9", "250", "250k"]
    spans = {None: "", 0.01: "10ms", 12.7: "12s", 200: "3m20s", 7_500: "2h05m", 270_000: "3d03h", 10**7: "115d"}
    assert {seconds: short_span(seconds) for seconds in spans} == spans


def test_texts_are_fitted_by_what_a_terminal_shows() -> None:
    assert fitted("ab", 4) == "ab  "
    assert fitted("ab", 4, is_number=True) == "  ab"
    assert fitted("abcdef", 4) == "abc…"
    assert fitted("漢字漢字", 6) == "漢字 …"
    assert fitted("", 0) == ""


def test_every_line_is_as_wide_as_the_terminal_and_holds_no_control_characters() -> None:
    jobs = [
        JobInfo(
            id=f"id{number}" * 20,
            queue="mail",
            task="a\x1b[2Jb",
            state=state,
            sent_at=AT,
            started_at=AT,
            ended_at=AT,
            due_at=AT,
            error=Failure("E", "no\nline"),
        )
        for number, state in enumerate(JobState)
    ]
    for width in (80, 200):
        for state in JobState:
            heading, lines = table_lines(jobs, job_columns(state, NOW_MS), lambda job: job.id, width)
            assert {len(line) for line in (heading, *lines.values())} == {width}
            assert all(line.isprintable() for line in lines.values())
            assert "a\\x1b[2Jb" in lines[jobs[0].id]
    failed = table_lines(jobs, job_columns(JobState.FAILED, NOW_MS), lambda job: job.id, 80)[1]
    assert "1m15s E: no\\nline" in failed[jobs[0].id]


def test_a_queue_shows_what_is_to_be_noticed() -> None:
    def view(pauses: Pauses, workers: list[WorkerLease] | None) -> QueueView:
        reading = ShardReading(counts={JobState.QUEUED: 120_000}, minutes=None, pauses=pauses)
        return QueueView("mail", [ShardState("mail", "mail", reading, workers=workers)])

    serving = [WorkerLease("w-1", 9, 0)]
    assert note_of(view(Pauses(PausePeriod(0)), [])) == "paused"
    assert note_of(view(Pauses(), [])) == "no worker"
    assert note_of(view(Pauses(None, {"a": PausePeriod(0), "b": PausePeriod(0)}), serving)) == "2 paused"
    assert not note_of(view(Pauses(), None)).strip()
    assert not note_of(Board().view("")).strip()
    shown = view(Pauses(), serving)
    (line,) = table_lines([shown], queue_columns(80), lambda each: each.name, 80)[1].values()
    assert line.split() == ["mail", "120k", "0", "0", "0", "-", "0.0", "0.0"]
    heading, lines = table_lines([shown], queue_columns(BARS_FROM), lambda each: each.name, BARS_FROM)
    assert heading.split()[-2:] == ["in", "out"]
    assert lines["mail"].count("▁") == 40
    assert len(rates_line(shown)) < 80


def test_progress_is_a_share_or_a_number() -> None:
    job = JobInfo(id="a", queue="q", task="t", state=JobState.RUNNING)
    assert progress_of(job) == ""
    for progress, shown in ((Progress(1, 3), "33%"), (Progress(7), "7"), (Progress(7, 0), "7")):
        assert (
            progress_of(JobInfo(id="a", queue="q", task="t", state=JobState.RUNNING, progress=progress)) == shown
        )


def test_a_worker_shows_its_state() -> None:
    def line(lease_ms: int, **about: object) -> list[str]:
        said = About(
            host="h",
            pid=7,
            version="1",
            python="3",
            queues=("mail", "default"),
            slots=10,
            lease_ms=10,
            figures=WorkerFigures(jobs_run=5, rss=50 * 2**20),
            **about,  # pyright: ignore[reportArgumentType] - one of its flags
        )
        lease = WorkerLease("h-7-1", lease_ms, 2_000, msgspec.msgpack.encode(said))
        served = served_by({"h-7": [Registration("mail", lease)]})
        (shown,) = table_lines(served, worker_columns({"h-7": 3}), lambda each: each[0], 80)[1].values()
        return shown.split()

    assert line(5) == ["h-7", "serves", "3/10", "5", "2s", "50", "MB", "mail,", "default"]
    assert line(5, paused=True)[1] == "paused"
    assert line(5, draining=True, paused=True)[1] == "draining"
    assert line(0)[1] == "lost"
    old = served_by({"h-7": [Registration("mail", WorkerLease("h-7-1", 5, -1))]})
    assert table_lines(old, worker_columns({}), lambda each: each[0], 80)[1]["h-7"].split()[2:5] == [
        "0/0",
        "0",
        "-",
    ]
