"""R12: a primary that sentinels replace under load: it is killed, it hangs, or they are asked to."""

import asyncio
import time
from collections.abc import Callable

import pytest

from tests.faults.figures import Case, Report
from tests.faults.harness import Crew, Load, Rig, mixed_seconds
from tests.sentinels import Sentinels

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120), pytest.mark.long(seconds=25), pytest.mark.apart]

RATE = 150  # jobs a second
CONCURRENCY = 20
WORKERS = 2
KINDS = ("SIGKILL", "SIGSTOP", "SENTINEL FAILOVER")


async def break_primary(sentinels: Sentinels, rig: Rig, kind: str) -> float:
    """Have the primary replaced, and bring it back; seconds from the promotion to the first job."""
    old, began = sentinels.primary, time.monotonic()
    breaks = {"SIGKILL": sentinels.kill_primary, "SIGSTOP": sentinels.stop_primary}
    await asyncio.to_thread(breaks.get(kind, sentinels.failover))
    rig.ledger.fault(kind, 0, began)
    await asyncio.to_thread(sentinels.wait_for_switch, old)
    first = await rig.job_after(time.monotonic())
    if kind == "SIGKILL":
        await asyncio.to_thread(sentinels.restart, old)
    elif kind == "SIGSTOP":  # it takes itself for the primary until the sentinels have made it a replica
        sentinels.resume(old)
    await asyncio.to_thread(sentinels.wait_until_agreed)
    return first


@pytest.mark.fault(
    "R12",
    fault="a primary that sentinels replace under load: SIGKILL, SIGSTOP and SENTINEL FAILOVER in turn",
    passes="`replicated`: lost 0; `memory`: the figure; duplicated <= in flight; first job within 3 s of the "
    "promotion; no waiter waits for ever",
    minutes=15,
)
@pytest.mark.parametrize("durability", ["replicated", "memory"])
async def test_a_primary_that_is_replaced_loses_nothing_confirmed(
    start_sentinels: Callable[..., Sentinels],
    make_rig: Callable[[str], Rig],
    case: Case,
    report: Report,
    durability: str,
) -> None:
    failovers = case.size(1, 20)
    first_kind = 0 if durability == "replicated" else 2  # in the short form each of the two is of another kind
    kinds = [KINDS[(first_kind + number) % len(KINDS)] for number in range(failovers)]
    sentinels = start_sentinels()
    rig = make_rig(sentinels.url)
    rig.project.settings["AIOQ_DURABILITY"] = durability
    load = Load(rig)
    calls = [(n, rig.tasks.work.call(n, mixed_seconds(case.chance, long=0.3))) for n in range(failovers * 6000)]
    firsts: list[float] = []
    async with Crew(rig, WORKERS, "--concurrency", str(CONCURRENCY)).at_work():
        async with load.paced(calls, RATE):
            await rig.job_after(0)
            for kind in kinds:
                await asyncio.sleep(case.chance.uniform(0.3, 1.0))
                firsts.append(await break_primary(sentinels, rig, kind))
        await load.ended(limit=60)
    await rig.tasks.app.aclose()

    found = rig.verdict()
    report.add(failovers=failovers, **found.words, hanging_waiters=load.hanging, first_job_max_s=max(firsts))
    assert found.accepted > failovers * 50, "the load has stopped"
    assert max(firsts) <= 3
    assert len(found.duplicated) <= failovers * WORKERS * CONCURRENCY
    if durability == "replicated":
        assert found.lost == frozenset()
    assert load.hanging == 0
