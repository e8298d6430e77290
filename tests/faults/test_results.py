"""R9: awaiting results while the waiter's connections are killed all the time."""

import asyncio
import time
from typing import Any

import pytest

from tests.faults.figures import Case, Report
from tests.faults.harness import Crew, Load, Rig, meanwhile, mixed_seconds
from tests.faults.ledger import percentile

pytestmark = pytest.mark.anyio

EVERY = 0.05  # seconds between two kills
LATE = 1.0  # seconds after its job has ended within which an await must return
NAME = "waiter"


class Killer:
    """Kills the waiter's connections: its subscription each time, all it has each tenth time."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.kills = 0

    async def run(self) -> None:
        blow = 0
        while True:
            await asyncio.sleep(EVERY)
            blow += 1
            for connection in self._client.client_list():
                subscribed = connection["sub"] != "0"
                if connection["name"] == NAME and (subscribed or blow % 10 == 0):
                    self.kills += self._client.execute_command("CLIENT", "KILL", "ID", connection["id"])


@pytest.mark.fault(
    "R9",
    fault="CLIENT KILL of the waiter's connections each 50 ms",
    passes="every await returns, none later than 1 s after its job",
    minutes=4,
)
async def test_every_await_returns_in_time_though_its_connection_dies_all_the_time(
    rig: Rig, case: Case, report: Report
) -> None:
    awaits = case.size(1200, 10_000)
    url = rig.project.settings["AIOQ_URL"]
    crew = Crew(rig, 2, AIOQ_URL=url)
    with rig.client() as client:
        killer = Killer(client)
        rig.project.settings["AIOQ_URL"] = f"{url}&client_name={NAME}"
        load = Load(rig)
        calls = [(n, rig.tasks.work.call(n, mixed_seconds(case.chance))) for n in range(awaits)]
        async with crew.at_work(), meanwhile(killer.run):
            began = time.monotonic()
            await load.pace(calls, 300)
            await load.ended(limit=30)
            seconds = time.monotonic() - began

    found = rig.verdict()
    rows = rig.ledger.rows()
    ends = {row.job: row.at for row in rows if row.what == "ended"}
    late = [row.at - ends[row.job] for row in rows if row.what == "outcome"]
    report.add(awaits=awaits, kills=killer.kills, **found.words, returned=len(late), late_max_s=max(late))
    report.add(late_p50_s=percentile(late, 0.5), late_p99_s=percentile(late, 0.99))
    assert killer.kills > seconds / EVERY / 4, "the connections were not killed: the case shows nothing"
    assert found.unexpected == ()
    assert found.lost == frozenset()
    assert len(late) == awaits
    assert max(late) <= LATE
