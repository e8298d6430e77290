"""R3: the server itself is killed and comes back on its append-only file."""

import asyncio
import time
from collections.abc import Callable

import pytest

from tests.faults.figures import Case, Report
from tests.faults.harness import Crew, Load, Rig, condition, mixed_seconds
from tests.servers import Server

pytestmark = pytest.mark.anyio

RETURN_WITHIN = 2.0  # seconds from the server's return to the start of the first job


async def kill_and_restart(server: Server, rig: Rig, case: Case) -> float:
    """One death of the server under load; seconds from its return to the first job that starts."""
    await asyncio.sleep(case.chance.uniform(0.3, 1.0))
    server.kill()
    rig.ledger.fault("server", 0, time.monotonic())
    await asyncio.sleep(case.chance.uniform(0.1, 2.0))
    await asyncio.to_thread(server.restart)
    returned = time.monotonic()

    def started() -> bool:
        return any(row.what == "started" and row.at > returned for row in rig.ledger.tail())

    return await condition(started, 20, "a job after the server's return")


@pytest.mark.fault(
    "R3",
    fault="SIGKILL of the server, restart on its append-only file",
    passes="`always`: lost 0; `everysec`: the figure; first job within 2 s of the server's return",
    minutes=5,
)
@pytest.mark.parametrize("fsync", ["always", "everysec"])
async def test_a_server_that_dies_and_comes_back_has_lost_nothing_it_promised(
    start_server: Callable[..., Server], make_rig: Callable[[str], Rig], case: Case, report: Report, fsync: str
) -> None:
    deaths = case.size(2, 20)
    server = start_server(appendonly=True, extra_args=("--appendfsync", fsync))
    rig = make_rig(server.url)
    load = Load(rig)
    # More than will be sent: the load lasts as long as the deaths do.
    calls = [(n, rig.tasks.work.call(n, mixed_seconds(case.chance))) for n in range(deaths * 2000)]
    async with Crew(rig, 2).at_work():
        async with load.paced(calls, 200):
            returns = [await kill_and_restart(server, rig, case) for _ in range(deaths)]
        await load.ended(limit=30)
    await rig.tasks.app.aclose()

    found = rig.verdict()
    report.add(kills=deaths, **found.words, first_job_max_s=max(returns))
    assert found.accepted > deaths * 50, "the load has stopped"
    assert max(returns) <= RETURN_WITHIN
    if fsync == "always":
        assert found.lost == found.duplicated == frozenset()
        assert found.unexpected == ()
