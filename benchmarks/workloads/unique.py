"""What a unique key costs: jobs from their send to their result, with a key of their own and without, in turns."""

from benchmarks.stage import START_WITHIN, Stage, VoidError
from benchmarks.workloads.contract import JOBS, Figures, Metric, Workload

PAIRS = 20_000
SENDERS = 100


def keyed(stage: Stage) -> Figures:
    """100 coroutines await one job after the other, in turns with keys and without."""
    if not stage.library.has_unique_keys:
        raise VoidError("it has no unique keys")
    with stage.fleet() as fleet:
        stage.drive("first", job=0, limit=START_WITHIN)
        jobs, seconds = stage.plan.scaled(PAIRS), 2 * stage.plan.seconds
        answer = stage.drive("pairs", jobs=jobs, seconds=seconds, senders=SENDERS)
        fleet.check()
    plain, unique = (answer["jobs"] / answer[kind] for kind in ("plain", "unique"))
    return {"unique_per_second": unique, "plain_per_second": plain, "cost": plain / unique, "jobs": answer["jobs"]}


WORKLOADS = (
    Workload(
        "unique",
        "Unique jobs beside plain ones: send to result, 100 at a time",
        keyed,
        (
            Metric("unique_per_second", "unique jobs/s"),
            Metric("plain_per_second", "plain jobs/s"),
            Metric("cost", "time of a plain one", "lower", digits=2, alone=True),
            JOBS,
        ),
    ),
)
