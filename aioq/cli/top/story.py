"""All that is shown of one job, as lines. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from aioq.cli.operate.job import facts
from aioq.cli.operate.output import moment, span
from aioq.jobs.job import JobInfo
from aioq.jobs.loglines import LogLine
from aioq.results.timeline import TimelineEntry
from aioq.results.why import Why
from aioq.util.printable import printable

MOST_LINES = 200
"""How many lines of a job's log are shown, the last ones; and how many of its traceback."""

MOST_LETTERS = 2_000
"""The most characters of a line."""

HEADING = "# "
"""Begins a line that is a heading."""


@dataclass(frozen=True, slots=True)
class JobDetails:
    """What was read of a job.

    Attributes:
        info: all that is in its record.
        timeline: what has happened to it.
        why: what holds it back.
        logs: what it has logged: the last lines.
        no_logs: why there are no lines; empty where there may be.
    """

    info: JobInfo
    timeline: Sequence[TimelineEntry]
    why: Why
    logs: Sequence[LogLine]
    no_logs: str = ""


def story_lines(story: JobDetails) -> list[str]:
    """The lines."""
    return [line if len(line) <= MOST_LETTERS else f"{line[:MOST_LETTERS]} ..." for line in _lines(story)]


def _lines(story: JobDetails) -> Iterator[str]:
    shown = [(name, value) for name, value in facts(story.info) if value]
    width = max(len(name) for name, _ in shown)
    for name, value in shown:
        yield f"{name:{width}}  {printable(value)}"
    yield ""
    yield f"{HEADING}why"
    yield from (printable(reason.text) for reason in story.why.reasons)
    yield ""
    yield f"{HEADING}timeline (UTC)"
    for entry in story.timeline:
        more = [entry.worker, span(entry.seconds), entry.error or entry.why]
        yield f"{moment(entry.at)}  {entry.event.value:9}  {printable('  '.join(filter(None, more)))}".rstrip()
    yield ""
    yield f"{HEADING}log"
    yield from _log(story)
    error = story.info.error
    if error is not None and error.traceback:
        yield ""
        yield f"{HEADING}traceback"
        yield from (printable(line) for line in error.traceback.splitlines()[-MOST_LINES:])


def _log(story: JobDetails) -> Iterator[str]:
    if story.no_logs:
        yield story.no_logs
        return
    if not story.logs:
        yield "nothing was logged"
    for line in story.logs:
        first, *others = line.text.splitlines() or [""]
        yield f"{moment(line.at)}  {line.level:7}  {printable(first)}"
        yield from (f"    {printable(each)}" for each in others)
