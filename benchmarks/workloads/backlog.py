"""A backlog of up to a million jobs: does a job cost the same however many wait?"""

from benchmarks.catalogue import SUBJECT
from benchmarks.stage import Stage, used_memory
from benchmarks.workloads.contract import JOBS, Figures, Metric, Workload
from benchmarks.workloads.draining import Pace, empty, fill

SMALL, LARGE = 10_000, 1_000_000
WARM_UP = 100
"""Jobs that are thrown away first: scripts and clients take memory once, which is no job's share."""

PEER_SECONDS = 30.0
"""What staging or draining a backlog may take a peer in a run of 5 s a measurement, in others in proportion; else
it gets a smaller one. aioq gets the whole one."""


def backlog(stage: Stage) -> Figures:
    """Fill and drain a small backlog, then a large one, and compare time and memory a job."""
    large = _size(stage)
    small = min(stage.plan.scaled(SMALL), large // 2)
    fill(stage, WARM_UP)
    before, before_bytes = _measure(stage, small)
    after, after_bytes = _measure(stage, large)
    return {
        "jobs": large,
        "per_second": after.whole,
        "head_per_second": after.head,
        "time_ratio": before.whole / after.whole,
        "bytes_ratio": after_bytes / before_bytes,
        "bytes": after_bytes,
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
        "A large backlog against one of 10,000",
        backlog,
        (
            Metric("per_second", "jobs/s"),
            Metric("head_per_second", "of the first tenth", digits=0),
            Metric("time_ratio", "time a job, to small", "lower", digits=2),
            Metric("bytes_ratio", "bytes a job, to small", "lower", digits=2),
            Metric("bytes", "bytes/job", "lower"),
            JOBS,
        ),
        rounds=1,
    ),
)
