"""R2 and R8: workers that are stopped for longer than their lease, from outside and by their own task's doing."""

import asyncio
import re
import signal
import time

import pytest

from tests.behaviour.kit import Process
from tests.faults.figures import Case, Report
from tests.faults.harness import Crew, Load, Rig, condition

pytestmark = [pytest.mark.anyio, pytest.mark.long(seconds=15), pytest.mark.apart]

LEASE = 2.0  # seconds, the shortest there is
REFUSED = r"the outcome \(\w+\) of job (\S+) was refused"


async def stall(rig: Rig, workers: list[Process]) -> None:
    """Stop processes for two leases, and write down what they held."""
    at = time.monotonic()
    for worker in workers:
        worker.signal(signal.SIGSTOP)
        rig.ledger.fault("stop", worker.pid, at, rig.held(worker.pid))
    await asyncio.sleep(2 * LEASE)
    for worker in workers:
        worker.signal(signal.SIGCONT)


@pytest.mark.fault(
    "R2",
    fault="SIGSTOP of a worker for two leases, then SIGCONT",
    passes="every stale settle refused; one outcome a job",
    minutes=6,
)
async def test_what_a_stalled_worker_brings_too_late_is_refused(rig: Rig, case: Case, report: Report) -> None:
    """Three of four workers stall at once; what they ran ends meanwhile at the fourth, or is under way there."""
    together = 3 if case.full else 2
    rounds = -(-case.size(2, 50) // together)
    load = Load(rig)
    crew = Crew(rig, together + 1, "--concurrency", "20", AIOQ_LEASE=f"{LEASE:g}", AIOQ_MAX_CRASHES="1000")
    number = 0

    def all_started() -> bool:
        return len(rig.started()) == number

    async with crew.at_work():
        for _ in range(rounds):
            # Long enough to be under way at the stop, and spread, so that some are at their end at the SIGCONT.
            seconds = [case.chance.uniform(0.5, 1.5 * LEASE) for _ in range(20 * together)]
            calls = [(number + n, rig.tasks.work.call(number + n, each)) for n, each in enumerate(seconds)]
            number += len(calls)
            await load.send(calls)
            await condition(all_started, 20, "the start of all jobs")
            victims = case.chance.sample(crew.workers, together)
            await stall(rig, victims)
            await load.ended(limit=30)
        refused = [match[1] for line in crew.logs if (match := re.search(REFUSED, line))]

    found = rig.verdict()
    report.add(stalls=rounds * together, jobs=number, **found.words, late_settles_refused=len(refused))
    assert found.lost == frozenset()
    assert found.recovered, "no stall has met a running job: the case shows nothing"
    assert refused or not case.full, "no outcome came too late: the case shows nothing"
    assert [text for text in found.unexpected if "outcomes" in text] == []
    await every_outcome_is_of_the_last_run(rig, load)


async def every_outcome_is_of_the_last_run(rig: Rig, load: Load) -> None:
    """What was seen first, and what the server has now, is what the run that owned the job has returned."""
    for number, handle in load.handles.items():
        now = rig.tasks.app.handle(handle.id)
        info = await now.info()
        assert (await now, load.values[number]) == (info.crashes, info.crashes)


@pytest.mark.fault(
    "R8",
    fault="tasks that block the event loop for three leases",
    passes="not run twice; the watchdog named each",
    minutes=4,
)
async def test_a_task_that_blocks_the_loop_keeps_its_lease_and_is_named(
    rig: Rig, case: Case, report: Report
) -> None:
    blockers = case.size(2, 20)
    load = Load(rig)
    crew = Crew(rig, 4 if case.full else 2, "--concurrency", "1", AIOQ_LEASE=f"{LEASE:g}")
    async with crew.at_work():
        await load.send([(n, rig.tasks.block_loop.call(n, 3 * LEASE)) for n in range(blockers)])
        await load.ended(limit=3 * LEASE * blockers + 20)
        named = [
            handle
            for handle in load.handles.values()
            if any(
                "blocks the event loop" in line and handle.id in line and "block_loop" in line
                for line in crew.logs
            )
        ]
        stacks = sum("time.sleep(seconds)" in line for line in crew.logs)

    found = rig.verdict()
    report.add(blockers=blockers, **found.words, named=len(named), stacks=stacks)
    assert found.unexpected == ()
    assert found.lost == found.duplicated == frozenset()
    assert len(rig.started()) == blockers
    assert len(named) == blockers
    assert stacks >= blockers
