"""R11: the server's memory stays flat while one job runs for the whole time."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.figures import Case, Report
from tests.faults.harness import Crew, Load, Rig, condition
from tests.faults.server_size import keys_of_jobs, measure
from tests.faults.trend import Trend
from tests.servers import Server

pytestmark = pytest.mark.anyio

FLAT = ("server MB", "keys", "stream length", "pending")
BACKLOG = 4000  # short jobs that may wait; the sender waits for the workers
BATCH = 500
RATE = (
    5000.0  # jobs a second at most, which the workers can do: evenly, so that what is remembered of them is flat
)
LEFT = 20  # keys of a queue that nothing is in
SAMPLES = 40
REMEMBERED = 7.0
"""Seconds after its send for which a job that is forgotten is to be found, for a send that is repeated: the send's
time (`send_timeout`, 2 s here) and 5 s. The server has a key for each short job of so many seconds."""


@pytest.mark.fault(
    "R11",
    fault="one job runs for the whole run while 1,000,000 short ones pass",
    passes="stream length, pending list, key count and the server's memory stay flat",
    minutes=12,
)
async def test_a_long_job_does_not_hold_back_what_passes_it(
    start_server: Callable[..., Server], make_rig: Callable[[str], Rig], case: Case, report: Report, tmp_path: Path
) -> None:
    jobs = case.size(20_000, 1_000_000)
    rig = make_rig(start_server().url)
    rig.project.settings["AIOQ_SEND_TIMEOUT"] = f"{REMEMBERED - 5:g}"
    load = Load(rig)
    gate = tmp_path / "gate"
    samples: list[tuple[float, dict[str, float]]] = []
    with rig.client() as client:
        async with Crew(rig, 2).at_work():
            await load.send([(0, rig.tasks.neighbour.call(0, str(gate)))])
            await condition(rig.started, 20, "the start of the long job")
            began = time.monotonic()
            for sent in range(0, jobs, BATCH):
                await asyncio.sleep(began + sent / RATE - time.monotonic())
                await condition(lambda sent=sent: sent - rig.ticks() < BACKLOG, 30, "space in the queue")
                await rig.tasks.app.send_many([rig.tasks.tick.call() for _ in range(min(BATCH, jobs - sent))])
                if sent % max(BATCH, jobs // SAMPLES // BATCH * BATCH) == 0:
                    samples.append((time.monotonic(), {"sent": float(sent), **measure(client, rig)}))
            await condition(lambda: rig.ticks() >= jobs, 60, "the end of the short jobs")
            seconds = time.monotonic() - began
            await asyncio.to_thread(gate.touch)
            await load.ended(limit=20)
            await condition(
                lambda: keys_of_jobs(client, rig) <= LEFT, 20, "the end of what the short jobs have left"
            )
            left = measure(client, rig)
        await rig.tasks.app.aclose()

    found = rig.verdict()
    trends = {name: Trend.of([(at, each[name]) for at, each in samples], warm_up=0.25) for name in FLAT}
    report.add(short_jobs=jobs, jobs_per_s=round(jobs / seconds), lost=len(found.lost))
    for name, trend in trends.items():
        report.add(**{f"{name}_max": f"{trend.most:,.1f}", f"{name}_growth": f"{trend.growth:+,.1f}"})
    assert rig.ticks() == jobs
    assert found.words == {"accepted": 1, "lost": 0, "duplicated": 0, "recovered": 0, "unexpected": 0}
    # What waits is up to the sender, and whole nodes of a stream (100 entries) are trimmed at once.
    assert trends["stream length"].most <= BACKLOG + BATCH + 1000
    assert left["stream length"] <= 1000
    assert left["pending"] == 0
    assert left["server MB"] <= samples[0][1]["server MB"] + 1
    for at, each in samples:
        # Where thousands of keys expire each second, the server is some seconds behind (3.5 at most in a trial).
        remembered = [other["sent"] for then, other in samples if then >= at - REMEMBERED - 5]
        assert each["keys"] <= each["sent"] + BATCH - min(remembered) + jobs / SAMPLES + LEFT
    if seconds > 4 * REMEMBERED:
        assert trends["keys"].is_flat(share=0.2, floor=BATCH)
        assert trends["server MB"].is_flat(share=0.2, floor=1)
