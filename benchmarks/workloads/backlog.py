"""A backlog of up to a million jobs, which shows whether the cost of a job depends on how many jobs wait."""

from statistics import fmean

from benchmarks.catalogue import SUBJECT
from benchmarks.stage import Stage, used_memory
from benchmarks.workloads.contract import JOBS, Figures, Metric, Workload
from benchmarks.workloads.draining import Pace, empty, fill

SMALL, LARGE = 10_000, 1_000_000
WARM_UP = 100
"""Jobs that are thrown away first. Scripts and clients take memory once, which must not count for a job."""

PEER_SECONDS = 20.0
"""Seconds that a peer may take to fill or drain a backlog, if one measurement may take 5 s; otherwise in
proportion. A peer that is slower gets a smaller backlog. aioq always gets the full one."""


def backlog(stage: Stage) -> Figures:
    """Fill and drain a small backlog, a large one, and a small one again, and compare time and memory of a job.

    A small one takes a fraction of a second. In that time the machine may be faster or slower than while the large
    one is drained. So a small one is measured before it and after it.
    """
    large = _size(stage)
    small = min(stage.plan.scaled(SMALL), large // 2)
    fill(stage, WARM_UP)
    before, small_bytes = _measure(stage, small)
    at_large, large_bytes = _measure(stage, large)
    after, _ = _measure(stage, small)
    return {
        "jobs": large,
        "per_second": at_large.whole,
        "head_per_second": at_large.head,
        "small_before_per_second": before.whole,
        "small_after_per_second": after.whole,
        "time_ratio": (1 / at_large.whole) / fmean((1 / before.whole, 1 / after.whole)),
        "bytes_ratio": large_bytes / small_bytes,
        "bytes": large_bytes,
    }


def _size(stage: Stage) -> int:
    name, plan, known = stage.library.name, stage.plan, stage.known
    if name == SUBJECT.name:
        return plan.scaled(LARGE)
    seconds = PEER_SECONDS * plan.seconds / 5
    return min(plan.fitting(LARGE, rates.get(name), seconds) for rates in (known.bulk, known.drain))


def _measure(stage: Stage, jobs: int) -> tuple[Pace, float]:
    with stage.client() as client:
        client.execute_command("FLUSHALL")  # pyright: ignore[reportUnknownMemberType] - redis-py's is untyped
        before = used_memory(client)
        fill(stage, jobs)
        a_job = (used_memory(client) - before) / jobs
    return empty(stage, jobs), a_job


WORKLOADS = (
    Workload(
        "backlog",
        "A large backlog against a small one: 1,000,000 and 10,000, and what the others can do",
        backlog,
        (
            Metric("per_second", "jobs/s"),
            Metric("head_per_second", "of the first tenth", digits=0),
            Metric("time_ratio", "time a job, to small", "lower", digits=2, alone=True),
            Metric("bytes_ratio", "bytes a job, to small", "lower", digits=2, alone=True),
            Metric("bytes", "bytes/job", "lower"),
            JOBS,
        ),
    ),
)
