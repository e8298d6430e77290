"""R1: worker processes are killed under load, again and again."""

import asyncio

import pytest

from tests.faults.figures import Case, Report
from tests.faults.harness import Crew, Load, Rig, mixed_seconds
from tests.faults.ledger import percentile

pytestmark = pytest.mark.anyio

DEFAULT_LEASE = 8.0


@pytest.mark.fault(
    "R1",
    fault="SIGKILL of a random worker process every 2 s, 3 workers",
    passes="lost 0; duplicates <= jobs in flight at the kills; rerun p99 <= lease + 2 s; statistics are true",
    minutes=8,
)
async def test_killed_workers_lose_no_job_and_run_again_in_time(rig: Rig, case: Case, report: Report) -> None:
    kills, jobs = case.size(4, 104), case.size(800, 100_000)
    every, lease = (2.0, DEFAULT_LEASE) if case.full else (1.0, 4.0)
    # These kills are not the jobs' fault: no job is to be given up for having met four of them.
    crew = Crew(rig, 3, AIOQ_LEASE=f"{lease:g}", AIOQ_MAX_CRASHES="1000")
    load = Load(rig)
    calls = [(number, rig.tasks.work.call(number, mixed_seconds(case.chance))) for number in range(jobs)]

    async def kill() -> None:
        for _ in range(kills):
            await asyncio.sleep(every)
            await crew.kill(case.chance.choice(crew.workers))

    async with crew.at_work():
        async with asyncio.TaskGroup() as group:
            group.create_task(load.pace(calls, jobs / (kills * every)))
            group.create_task(kill())
        await load.ended(limit=60 if case.full else 30)
        counted = await rig.counted()

    found = rig.verdict()
    # A job returns how many of its runs had died before the one that ended.
    truth = {"sent": jobs, "succeeded": jobs, "crashed": sum(load.values.values())}
    slowest = percentile(found.reruns, 0.99)
    report.add(jobs=jobs, kills=kills, lease=lease, **found.words, in_flight_at_kills=found.in_flight)
    report.add(**{f"counted_{name}": number for name, number in counted.items()})
    report.add(rerun_p50_s=percentile(found.reruns, 0.5), rerun_p99_s=slowest)
    report.add(rerun_max_s=max(found.reruns, default=0.0))
    assert found.accepted == jobs
    assert found.unexpected == ()
    assert found.lost == frozenset()
    assert found.recovered, "no kill has met a running job: the case shows nothing"
    assert len(found.duplicated) <= found.in_flight
    assert slowest <= lease + 2
    assert counted == {"failed": 0, "cancelled": 0, "retried": 0, **truth}
