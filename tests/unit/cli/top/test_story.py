"""All that is shown of one job."""

from datetime import UTC, datetime

from aioq.cli.top.story import MOST_LETTERS, MOST_LINES, JobDetails, story_lines
from aioq.errors import Failure
from aioq.jobs.job import JobInfo, JobState
from aioq.jobs.loglines import LogLine
from aioq.results.timeline import TimelineEntry, timeline_of
from aioq.results.why import Why, WhyCode, WhyReason

AT = datetime(2026, 1, 1, tzinfo=UTC)


def story(error: Failure | None = None, logs: list[LogLine] | None = None, no_logs: str = "") -> list[str]:
    info = JobInfo(
        id="a", queue="mail", task="shop.send", state=JobState.FAILED, sent_at=AT, ended_at=AT, error=error
    )
    reasons = (WhyReason(code=WhyCode.ENDED, text="it has failed\x07"),)
    why = Why(id="a", queue="mail", task="shop.send", state=info.state, reasons=reasons, asked_at=AT)
    timeline: list[TimelineEntry] = timeline_of(info)
    return story_lines(JobDetails(info, timeline, why, logs or [], no_logs))


def test_it_has_facts_reasons_a_timeline_a_log_and_a_traceback() -> None:
    lines = story(
        Failure("E", "no", "Traceback\n  File \x1b[0m\nE: no"),
        [LogLine(number=1, at=AT, level="info", text="one\ntwo")],
    )
    assert lines[0].split() == ["id", "a"]
    assert "it has failed\\x07" in lines
    assert "2026-01-01 00:00:00  sent" in lines
    log = lines.index("# log")
    assert lines[log + 1 : log + 3] == ["2026-01-01 00:00:00  info     one", "    two"]
    assert lines[-4:] == ["# traceback", "Traceback", "  File \\x1b[0m", "E: no"]


def test_without_lines_it_says_why() -> None:
    assert story()[-1] == "nothing was logged"
    assert story(no_logs="no lines are kept")[-1] == "no lines are kept"


def test_it_is_bounded() -> None:
    lines = story(Failure("E", "x" * 10_000, "\n".join(map(str, range(10_000)))))
    assert max(map(len, lines)) == MOST_LETTERS + 4
    assert len(lines) < MOST_LINES + 30
