"""What a permit of an app-wide limiter costs, beside a plain call to the server."""

from benchmarks.stage import Stage, VoidError
from benchmarks.workloads.contract import Figures, Metric, Workload

PERMITS = 100_000


def permits(stage: Stage) -> Figures:
    """One process gets permits one after the other, in turns with plain calls."""
    if not stage.library.has_limiters:
        raise VoidError("it has no limiters that processes share")
    wanted, seconds = stage.plan.scaled(PERMITS), 2 * stage.plan.seconds
    answer = stage.drive("permits", permits=wanted, seconds=seconds)
    permit, call = (answer["done"] / answer[kind] for kind in ("permits", "calls"))
    return {"permits_per_second": permit, "calls_per_second": call, "cost": call / permit}


WORKLOADS = (
    Workload(
        "limiter",
        "Permits of an app-wide limiter beside plain calls: one after the other, one process",
        permits,
        (
            Metric("permits_per_second", "permits/s"),
            Metric("calls_per_second", "plain calls/s"),
            Metric("cost", "time of a plain call", "lower", digits=2, alone=True),
        ),
    ),
)
