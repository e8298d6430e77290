"""T1: a schedule whose ticking worker is killed, again and again.

A tick's job has `result_ttl=0`: its record is gone when it has ended, so that nothing but the schedule itself
keeps a second firing of the same tick from being a second run.
"""

import asyncio
import re
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from aioq.schedules.timing import stamp, to_ms
from tests.behaviour.kit import Process
from tests.faults.figures import Case, Report
from tests.faults.harness import Crew, Rig, condition
from tests.faults.ledger import OK, percentile

pytestmark = pytest.mark.anyio

MADE = re.compile(r"made the ticks that were due: [1-9]")


def ticking(crew: Crew) -> Process:
    """The worker that made the last tick: its log has it, with the time it was made at."""

    def last(worker: Process) -> str:
        return max((line[:23] for line in list(worker.lines) if MADE.search(line)), default="")

    return max(crew.workers, key=last)


@pytest.mark.fault(
    "T1",
    fault="SIGKILL of the worker that makes a schedule's ticks, every 5 s, 3 workers",
    passes="missed 0; double 0",
    minutes=25,
)
async def test_a_schedule_ticks_on_when_its_leader_is_killed(rig: Rig, case: Case, report: Report) -> None:
    ticks, every, pause = case.size(36, 1000), 1.0 if case.full else 0.25, 5.0 if case.full else 2.5
    crew = Crew(rig, 3, "--log-level", "debug", AIOQ_MAX_CRASHES="1000", AIOQ_LEASE="8" if case.full else "4")
    app, work = rig.tasks.app, rig.tasks.work
    async with crew.at_work():
        start = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
        end = start + timedelta(seconds=every * (ticks - 1))
        await app.schedules.put("beat", work.options(result_ttl=0).call(0, 0.0), every=every, start=start, end=end)
        kills = 0
        while datetime.now(UTC) < end:
            await asyncio.sleep(min(pause, max((end - datetime.now(UTC)).total_seconds(), 0.0)))
            if datetime.now(UTC) < end:
                await crew.kill(ticking(crew))
                kills += 1
        expected = {f"beat@{stamp(to_ms(start) + round(n * every * 1000))}" for n in range(ticks)}
        await condition(lambda: expected <= ended(rig).keys(), 30, "the last tick's job")

    held = {job for row in rig.ledger.rows() for job in row.held}
    done = ended(rig)
    double = {job for job, times in done.items() if times > 1 and job not in held}
    late = lateness(rig)
    report.add(ticks=ticks, kills=kills, missed=len(expected - done.keys()), double=len(double))
    report.add(rerun_after_a_kill=sum(times - 1 for times in done.values()) - len(double))
    report.add(late_p50_s=percentile(late, 0.5), late_p99_s=percentile(late, 0.99), late_max_s=max(late))
    assert done.keys() == expected, "each tick made its job, and nothing else did"
    assert double == set()
    assert (await app.schedules.get("beat")).runs == ticks
    assert kills >= ticks * every // pause // 2, "so few kills show nothing"


def ended(rig: Rig) -> Counter[str]:
    """How often each job of the schedule came to its end."""
    return Counter(row.job for row in rig.ledger.rows() if row.what == "ended" and row.how == OK)


def lateness(rig: Rig) -> tuple[float, ...]:
    """By how many seconds each tick's job was first started after its time."""
    offset = time.time() - time.monotonic()
    first: dict[str, float] = {}
    for row in rig.runs():
        first.setdefault(row.job, row.at + offset)
    return tuple(at - datetime.fromisoformat(job.removeprefix("beat@")).timestamp() for job, at in first.items())
