"""What limits by key cost: a drain, the way of a job, keys that wait, and a key beside one that waits."""

import time
from statistics import median

from benchmarks.monitor import monitored
from benchmarks.stage import START_WITHIN, Fleet, Stage, VoidError
from benchmarks.workloads.contract import JOBS, Figures, Metric, Workload
from benchmarks.workloads.draining import fill_and_drain, settle_time, size

LONE = 500
BLOCKED = 10_000
OF_A_KEY = 200
TURNS = 4
WINDOW = 10.0
"""Seconds for which the commands of a worker that has nothing to do are counted."""


def limited(stage: Stage) -> Figures:
    """Each figure beside that of plain jobs on the same server."""
    if not stage.library.has_limits:
        raise VoidError("it has no limits by key")
    known, plan = stage.known, stage.plan
    jobs = size(plan, known.drain.get(stage.library.name), known.bulk.get(stage.library.name), 100)
    plain = fill_and_drain(stage, jobs).whole
    whole = fill_and_drain(stage, jobs, task="limited").whole
    figures = {"per_second": whole, "plain_per_second": plain, "to_plain": whole / plain, "jobs": jobs}
    return figures | (_several(stage) if stage.library.has_several_limits else {})


def _several(stage: Stage) -> Figures:
    """What only a library with several limits has, which can be held."""
    plan = stage.plan
    with stage.fleet() as fleet:
        stage.drive("first", job=0, limit=START_WITHIN)
        ways = stage.drive("ways", jobs=plan.scaled(LONE), seconds=2 * plan.seconds)
        keys = stage.drive("free_key", jobs=plan.scaled(OF_A_KEY), turns=TURNS)
        idle = _commands(stage, fleet)
        stage.drive("block", jobs=plan.scaled(BLOCKED), limit=2 * plan.patience)
        blocked = _commands(stage, fleet)
        fleet.check()
    return {
        "added_ms": (median(ways["twice_limited"]) - median(ways["noop"])) * 1000,
        "free_key": keys["alone"] / keys["beside"],
        "idle_commands": idle,
        "blocked_commands": blocked,
    }


def _commands(stage: Stage, fleet: Fleet) -> float:
    """What clients send in a second while there is nothing to do."""
    window = max(2.0, WINDOW * min(1.0, stage.plan.scale * 4))
    settle_time(fleet, quiet=0.02, most=10)
    with monitored(stage.server) as seen:
        began = time.perf_counter()
        time.sleep(window)
        took = time.perf_counter() - began
    return seen.by_clients / took


WORKLOADS = (
    Workload(
        "limits",
        "Jobs under a limit beside plain ones: 1,000 keys, one job of each at a time",
        limited,
        (
            Metric("per_second", "limited jobs/s"),
            Metric("plain_per_second", "plain jobs/s"),
            Metric("to_plain", "to plain ones", digits=2, alone=True),
            Metric("added_ms", "ms that two limits add", "lower", digits=2, alone=True),
            Metric("free_key", "a free key's speed beside a blocked one, to alone", digits=2, alone=True),
            Metric("idle_commands", "commands/s of an idle worker", None, digits=1),
            Metric("blocked_commands", "beside 10,000 blocked keys", "lower", digits=1, alone=True),
            JOBS,
        ),
    ),
)
