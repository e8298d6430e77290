"""The time from `send` to the result: one job at a time, and at a fixed rate of sends."""

import statistics
from collections.abc import Sequence

from benchmarks.stage import START_WITHIN, Stage, VoidError
from benchmarks.workloads.contract import Figures, Metric, Workload

ONE_AT_A_TIME, WARM_UP = 20_000, 20
LOAD_SECONDS = 5.0
KEEPS_UP = 0.98
"""The share of the sent jobs that must be answered in time; with fewer, the percentiles mean nothing."""

SURELY_TOO_SLOW = 0.5
"""A library that drains no more than this share of the rate is not tried: it would only fail later."""


def one_at_a_time(stage: Stage) -> Figures:
    """With an idle worker, send a job, await its result, and so on."""
    with stage.fleet() as fleet:
        stage.drive("first", job=0, limit=START_WITHIN)
        jobs, seconds = stage.plan.scaled(ONE_AT_A_TIME), stage.plan.seconds
        answer = stage.drive("latency", jobs=jobs, warm_up=WARM_UP, seconds=seconds)
        fleet.check()
    return {**percentiles(answer["taken"]), "jobs": len(answer["taken"])}


def under_load(stage: Stage) -> Figures:
    """Send jobs to each library at the same rate: half the drain rate of the best peer."""
    best = stage.known.best_peer
    if best is None:
        raise VoidError("no peer's drain rate is known")
    drained = stage.known.drain.get(stage.library.name)
    if drained is not None and drained < best / 2 * SURELY_TOO_SLOW:
        raise VoidError(f"does not keep up with {best / 2:,.0f} jobs/s: it drains {drained:,.0f}")
    seconds = max(1.0, LOAD_SECONDS * min(1.0, stage.plan.scale * 4))
    with stage.fleet() as fleet:
        stage.drive("first", job=0, limit=START_WITHIN)
        answer = stage.drive("load", rate=best / 2, seconds=seconds)
        fleet.check()
    answered = len(answer["taken"]) / answer["offered"]
    figures = {"offered": best / 2, "answered": answered}
    if answered < KEEPS_UP:
        raise VoidError(f"does not keep up with {best / 2:,.0f} jobs/s: {answered:.0%} answered in time")
    return {**percentiles(answer["taken"]), **figures}


def percentiles(taken: Sequence[float]) -> Figures:
    """The median and the 99th percentile, in ms."""
    if len(taken) < 2:  # noqa: PLR2004 - `quantiles` needs two
        raise VoidError("no job was answered")
    cuts = statistics.quantiles(taken, n=100, method="inclusive")
    return {"p50_ms": cuts[49] * 1e3, "p99_ms": cuts[98] * 1e3}


_PERCENTILES = (Metric("p50_ms", "p50 ms", "lower", digits=2), Metric("p99_ms", "p99 ms", "lower", digits=2))
WORKLOADS = (
    Workload(
        "latency",
        "Send to result, one at a time",
        one_at_a_time,
        (*_PERCENTILES, Metric("jobs", "jobs", None)),
    ),
    Workload(
        "load",
        "Send to result at half the best peer's drain rate",
        under_load,
        (*_PERCENTILES, Metric("offered", "offered jobs/s", None), Metric("answered", "answered", None, digits=3)),
    ),
)
