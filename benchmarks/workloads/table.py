"""All workloads in the order in which they are measured: each may use the rates of earlier ones."""

from benchmarks.workloads import backlog, draining, latency, limiters, limits, sending, standing, unique
from benchmarks.workloads.contract import Workload

WORKLOADS: tuple[Workload, ...] = (
    *sending.WORKLOADS,
    *draining.WORKLOADS,
    *latency.WORKLOADS,
    *unique.WORKLOADS,
    *limiters.WORKLOADS,
    *limits.WORKLOADS,
    *standing.WORKLOADS,
    *backlog.WORKLOADS,
)

QUICK = ("bulk", "concurrent", "sequential", "drain", "latency", "memory", "commands")
"""The workloads of `make bench-quick`."""


def chosen(keys: tuple[str, ...]) -> tuple[Workload, ...]:
    """The workloads with these keys, all if there are none.

    Raises:
        ValueError: there is no such workload.
    """
    known = [workload.key for workload in WORKLOADS]
    unknown = [key for key in keys if key not in known]
    if unknown:
        raise ValueError(f"no such workload: {', '.join(unknown)}; there are: {', '.join(known)}")
    return tuple(workload for workload in WORKLOADS if not keys or workload.key in keys)
