"""R6: a rolling deployment under load, again and again."""

import signal

import pytest

from tests.faults.figures import Case, Report
from tests.faults.harness import Crew, Load, Rig, mixed_seconds

pytestmark = pytest.mark.anyio

WORKERS = 3


async def roll(crew: Crew, stops: int) -> int:
    """Replace the oldest worker, as a deployment does: first the new one, then SIGTERM; how many were stopped."""
    for _ in range(stops):
        await crew.add().saw("│ host")
        oldest = crew.workers.pop(0)
        oldest.signal(signal.SIGTERM)
        assert await oldest.ended() == 0, oldest.log
        oldest.clear()
    return stops


@pytest.mark.fault(
    "R6",
    fault="rolling SIGTERM under load",
    passes="lost 0; duplicated 0; attempts unchanged; statistics are true",
    minutes=8,
)
async def test_rolling_stops_cost_no_job_and_no_attempt(rig: Rig, case: Case, report: Report) -> None:
    stops = case.size(4, 100)
    load = Load(rig)
    # Jobs of up to a second and a patience of a fifth: some are finished, some are given back.
    crew = Crew(rig, WORKERS, "--shutdown-timeout", "0.2")
    calls = [(n, rig.tasks.work.call(n, mixed_seconds(case.chance))) for n in range(stops * 2000)]
    async with crew.at_work():
        async with load.paced(calls, 200):
            await roll(crew, stops)
        await load.ended(limit=30)
        counted = await rig.counted()

    found = rig.verdict()
    runs = [row for row in rig.ledger.rows() if row.what == "started"]
    given_back = sum(row.what == "ended" and row.how == "CancelledError" for row in rig.ledger.rows())
    attempts = {row.attempt for row in runs}
    report.add(stops=stops, **found.words, given_back=given_back, attempts=max(attempts))
    assert given_back, "no stop has met a running job: the case shows nothing"
    assert found.lost == found.duplicated == frozenset()
    assert found.unexpected == ()
    assert attempts == {1}
    assert {row.crashes for row in runs} == {0}
    assert set(load.values.values()) == {0}
    ended = {"sent": found.accepted, "succeeded": found.accepted}
    assert counted == {**ended, "failed": 0, "cancelled": 0, "retried": 0, "crashed": 0}
