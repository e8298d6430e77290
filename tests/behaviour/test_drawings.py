"""The drawings of the pages, where what they draw can be worked out: names, times, and how many ticks are made."""

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from aioq.jobs.job import TRANSITIONS, JobState
from aioq.schedules.cron import parse
from aioq.schedules.timing import Definition, Misfire, due_ticks, to_ms
from aioq.store.contract import Store
from tests.behaviour.kit import ROOT
from tests.behaviour.pages import drawing

BERLIN = ZoneInfo("Europe/Berlin")


def test_the_way_of_a_job_names_what_there_is() -> None:
    text = drawing("docs/design.md", " task.send ─►").text
    for file in re.findall(r"[\w/]+(?:\.py|/)(?=\s)", text):
        assert (ROOT / file).exists() or (ROOT / "aioq" / file).exists(), file
    verbs = re.findall(r"store\.(\w+)", text)
    assert len(verbs) == 4
    assert [verb for verb in verbs if not hasattr(Store, verb)] == []


def test_the_states_are_those_that_there_are() -> None:
    text = drawing("docs/design.md", "                    ┌───").text
    shown = {word for word in re.findall(r"[a-z]+", text) if word in set(JobState)}
    assert shown == set(JobState) - {"waiting"}  # of a schedule's jobs only, which the text below says
    first, *further = (line for line in text.splitlines() if " ► " in line.replace("─►", " ► "))
    ends = [re.findall(r"[a-z]+", line.rpartition("►")[2])[0] for line in (first, *further)]
    assert {JobState(end) for end in ends} == {state for state in JobState if not TRANSITIONS[state]}


def test_clocks_are_changed_as_drawn() -> None:
    """Each row: the runs of a line around the change, in spring and in autumn."""
    header, *rows = drawing("docs/scheduling.md", " spring,").text.splitlines()
    assert re.findall(r"\d\d:\d\d \| \d\d:\d\d", header) == ["01:59 | 03:00", "02:59 | 02:00"]
    around = (
        (datetime(2026, 3, 29, 0, 15, tzinfo=UTC), datetime(2026, 3, 29, 1, 45, tzinfo=UTC)),
        (datetime(2026, 10, 25, 0, 0, tzinfo=UTC), datetime(2026, 10, 25, 2, 0, tzinfo=UTC)),
    )
    for row in rows:
        halves = re.findall(r"(\S+ \S+ \* \* \*)(.*?)(?=\S+ \S+ \* \* \*|$)", row)
        assert len(halves) == 2
        for (line, shown), (begin, end) in zip(halves, around, strict=True):
            assert runs(line, begin, end) == re.findall(r"● (\d\d:\d\d)", shown), row


def runs(line: str, begin: datetime, end: datetime) -> list[str]:
    """When a line runs between two moments, by the clocks of Berlin."""
    found: list[str] = []
    moment = parse(line).next_after(begin - timedelta(seconds=1), BERLIN)
    while moment is not None and moment < end:
        found.append(moment.astimezone(BERLIN).strftime("%H:%M"))
        moment = parse(line).next_after(moment, BERLIN)
    return found


def test_missed_ticks_are_made_as_drawn() -> None:
    """A dot for each tick, under the hour when it is made; the second row says when nobody was there."""
    header, workers, *rows = drawing("docs/scheduling.md", " every hour ").text.splitlines()
    down, up = re.findall(r"\d:\d\d", workers)
    assert [hour_at(at, header) for at in (workers.index("┐"), workers.index("┌"))] == [2, 5]
    due, now = (datetime(2026, 11, 24, *map(int, time.split(":")), tzinfo=UTC) for time in ("3:00", up))
    assert datetime(2026, 11, 24, *map(int, down.split(":")), tzinfo=UTC) < due < now
    assert [row.split()[0] for row in rows] == [*Misfire]
    assert re.findall(r"made at (\d:\d\d)", "".join(rows)) == [up]
    for row in rows:
        made = due_ticks(Definition(cron="0 * * * *", misfire=Misfire(row.split()[0])), to_ms(due), to_ms(now))
        hours = [datetime.fromtimestamp(tick / 1000, UTC).hour for tick in made.ticks]
        assert [hour_at(at, header) for at in dots(row)] == [1, 2, *(now.hour for _ in hours), 6], row
        assert made.next_ms == to_ms(now.replace(hour=6, minute=0))
        named = [int(hour) for hour in re.findall(r"(\d):00", row)]
        assert named == (hours or [6]), row


def hour_at(column: int, header: str) -> int:
    """The last hour that is written above a column or left of it."""
    return int(re.findall(r"\d", header[: column + 1])[-1])


def dots(row: str) -> list[int]:
    """Where the dots of a row are."""
    return [at for at, sign in enumerate(row) if sign == "●"]
