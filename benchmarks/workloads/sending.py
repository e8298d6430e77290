"""Enqueueing: in bulk, from 100 coroutines, from one. No worker runs."""

from typing import Any

from benchmarks.stage import Stage
from benchmarks.workloads.contract import JOBS, Figures, Metric, Workload

BULK, CONCURRENT, SEQUENTIAL = 200_000, 200_000, 20_000
SENDERS = 100


def bulk(stage: Stage) -> Figures:
    """Enqueue by the library's bulk call, 1,000 jobs in each call."""
    answer = stage.drive("bulk", jobs=stage.plan.scaled(BULK), seconds=stage.plan.seconds)
    figures = _rate(answer)
    stage.known.bulk[stage.library.name] = figures["per_second"]
    return figures


def concurrent(stage: Stage) -> Figures:
    """Enqueue from 100 coroutines that each await a send in a loop."""
    jobs, seconds = stage.plan.scaled(CONCURRENT), stage.plan.seconds
    return _rate(stage.drive("concurrent", jobs=jobs, seconds=seconds, senders=SENDERS))


def sequential(stage: Stage) -> Figures:
    """Enqueue from one coroutine that awaits a send in a loop."""
    return _rate(stage.drive("sequential", jobs=stage.plan.scaled(SEQUENTIAL), seconds=stage.plan.seconds))


def _rate(answer: dict[str, Any]) -> Figures:
    return {"per_second": answer["jobs"] / answer["seconds"], "jobs": answer["jobs"]}


def _metrics(*limit: str) -> tuple[Metric, ...]:
    return (Metric("per_second", "jobs/s", "higher", limit), JOBS)


_LIMITS = ("bare", "bare_records")
WORKLOADS = (
    Workload("bulk", "Bulk enqueue", bulk, _metrics(*_LIMITS), _LIMITS),
    Workload("concurrent", "100 coroutines, each awaiting `send`", concurrent, _metrics(*_LIMITS), _LIMITS),
    Workload("sequential", "One coroutine awaiting `send`", sequential, _metrics("bare"), _LIMITS),
)
