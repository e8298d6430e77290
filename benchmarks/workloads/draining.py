"""Drains a queue that was filled before the worker starts, and checks that each job ran exactly once.

The time counts from the first job that the ledger shows to the last one. So a worker's start does not count, nor
do the jobs of the two milliseconds before the first look. Another process reads the results afterwards, which does
not count either. When the time ends, only the outcomes of the jobs that run at once may not be written yet; they
are at most a two-hundredth of a full drain.
"""

import time
from functools import partial
from typing import NamedTuple

from benchmarks.ledger import Ledger
from benchmarks.plan import Plan
from benchmarks.stage import START_WITHIN, Fleet, Stage, VoidError
from benchmarks.workloads.contract import JOBS, Figures, Metric, Workload

DRAIN = 20_000
STAGE_SHARE = 4.0
"""The time to fill a queue, as a multiple of the time of one measurement: some libraries enqueue slower than they
drain."""

TURNS = 2
"""The least number of jobs for each job that may run at once: with fewer, the worker is never fully busy."""

CHECKED = 20_000
"""The most results that are read after a drain. Of more jobs an even share is read; their runs are all counted."""

PROBE = 1_000
"""Jobs of the first drain. It shows whether a library works at all, and how many jobs later drains get."""

HEAD = 0.1
"""The share of a queue that counts as its head: jobs that run while nearly all others still wait."""


class Pace(NamedTuple):
    """Jobs a second at the head of the queue, and over all of it."""

    head: float
    whole: float


def probe(stage: Stage) -> None:
    """Drain a few jobs, to learn the rates on which the sizes of the other workloads depend.

    Raises:
        VoidError: the library does not work here.
    """
    pace = fill_and_drain(stage, PROBE)
    stage.known.drain[stage.library.name] = pace.whole


def drain(stage: Stage, *, task: str = "noop", concurrency: int = 100, processes: int = 1) -> Figures:
    """Fill the queue, start a worker, and watch the ledger."""
    name, known = stage.library.name, stage.known
    jobs = size(stage.plan, known.drain.get(name), known.bulk.get(name), concurrency)
    pace = fill_and_drain(stage, jobs, task=task, concurrency=concurrency, processes=processes)
    if task == "noop" and processes == 1:
        known.drain[name] = pace.whole
    return {"per_second": pace.whole, "jobs": jobs}


def size(plan: Plan, drain_rate: float | None, bulk_rate: float | None, concurrency: int) -> int:
    """How many jobs a library gets, from the rates at which it drains and enqueues; None for an unknown rate."""
    fitting = min(plan.fitting(DRAIN, drain_rate), plan.fitting(DRAIN, bulk_rate, plan.seconds * STAGE_SHARE))
    return max(fitting, min(plan.scaled(DRAIN), concurrency * TURNS))


def fill_and_drain(
    stage: Stage, jobs: int, *, task: str = "noop", concurrency: int = 100, processes: int = 1
) -> Pace:
    """Fill the queue, drain it, and check that each job ran once.

    Raises:
        VoidError: a job did not run exactly once, or it took too long.
    """
    fill(stage, jobs, task)
    return empty(stage, jobs, task=task, concurrency=concurrency, processes=processes)


def fill(stage: Stage, jobs: int, task: str = "noop") -> None:
    """Enqueue in bulk; the ids go to the stage's folder.

    Raises:
        VoidError: it took too long.
    """
    patience = stage.plan.patience + jobs / SLOWEST
    ids = str(stage.folder / "ids")
    staged = stage.drive("bulk", jobs=jobs, seconds=patience, limit=2 * patience, task=task, ids=ids)
    stage.known.bulk.setdefault(stage.library.name, staged["jobs"] / staged["seconds"])
    if staged["jobs"] != jobs:
        raise VoidError(f"{staged['jobs']} of {jobs} jobs could be enqueued in {patience:g} s")


SLOWEST = 200.0
"""Jobs a second; a library that is slower is given up."""


def empty(stage: Stage, jobs: int, *, task: str = "noop", concurrency: int = 100, processes: int = 1) -> Pace:
    """Drain the jobs that `fill` has enqueued."""
    path = stage.folder / f"ledger-{jobs}"
    with (
        Ledger(path, jobs) as ledger,
        stage.fleet(task=task, concurrency=concurrency, processes=processes, ledger=ledger) as fleet,
    ):
        pace = watch(ledger, fleet, stage.plan.patience + jobs / SLOWEST)
        check(stage, ledger)
        return pace


def watch(ledger: Ledger, fleet: Fleet, patience: float) -> Pace:
    """The pace from the first job that is seen to the last.

    Raises:
        VoidError: no job ran in time, or not all did.
    """
    began = ledger.wait(1, START_WITHIN)
    if began is None:
        fleet.check()
        raise VoidError(f"no job ran within {START_WITHIN:g} s: {fleet.tail()}")
    at_first = ledger.jobs - ledger.count().never
    paces: list[float] = []
    for share in (HEAD, 1.0):
        least = max(at_first + 1, int(ledger.jobs * share))
        seen = ledger.wait(min(least, ledger.jobs), patience)
        if seen is None:
            raise VoidError(f"{ledger.count().never} of {ledger.jobs} jobs did not run in {patience:g} s")
        paces.append(max(1, least - at_first) / max(seen - began, 1e-9))
    return Pace(*paces)


def check(stage: Stage, ledger: Ledger) -> None:
    """Check that each job ran exactly once and that its result can be read.

    Raises:
        VoidError: it is not so; the message says how many are missing or ran more than once.
    """
    if stage.library.keeps_results:
        found = stage.drive("collect", ids=str(stage.folder / "ids"), most=CHECKED, limit=2 * stage.plan.patience)
        if found["good"] != found["read"]:
            raise VoidError(f"{found['read'] - found['good']} of {found['read']} results are not there")
    count = ledger.count()
    if count.once != ledger.jobs:
        raise VoidError(f"of {ledger.jobs} jobs {count.never} did not run and {count.more} ran more than once")


def scale_out(stage: Stage) -> Figures:
    """Drain with two processes, and compare with the last drain by one process."""
    one = stage.known.drain.get(stage.library.name)
    figures = drain(stage, processes=2)
    return figures if one is None else {**figures, "to_one": figures["per_second"] / one}


def drain_batches(stage: Stage) -> Figures:
    """Drain jobs of which a hundred share a call, and as many plain ones before."""
    if not stage.library.has_batches:
        raise VoidError("it has no batches")
    known = stage.known
    jobs = size(stage.plan, known.drain.get(stage.library.name), known.bulk.get(stage.library.name), 100)
    plain = fill_and_drain(stage, jobs).whole
    whole = fill_and_drain(stage, jobs, task="batched").whole
    return {"per_second": whole, "plain_per_second": plain, "to_plain": whole / plain, "jobs": jobs}


def settle_time(fleet: Fleet, *, quiet: float, most: float) -> None:
    """Wait until the processes use less than `quiet` of a core over a second, but at most `most` seconds."""
    deadline = time.monotonic() + most
    while time.monotonic() < deadline:
        before = fleet.cpu()
        time.sleep(1)
        if fleet.cpu() - before < quiet:
            return


_RATE = Metric("per_second", "jobs/s")
_LIMITS = ("bare", "bare_records")
WORKLOADS = (
    Workload(
        "drain",
        "Drain: no-op jobs, results kept, concurrency 100",
        drain,
        (Metric("per_second", "jobs/s", "higher", _LIMITS), JOBS),
        _LIMITS,
    ),
    Workload(
        "nap",
        "Drain: 5 ms sleep, concurrency 1,000",
        partial(drain, task="nap", concurrency=1_000),
        (_RATE, JOBS),
    ),
    Workload(
        "threads",
        "Drain: plain functions in threads",
        partial(drain, task="plain"),
        (_RATE, JOBS),
    ),
    Workload(
        "batches",
        "Drain: no-op jobs in batches of 100 beside plain ones",
        drain_batches,
        (
            Metric("per_second", "jobs in batches/s"),
            Metric("plain_per_second", "plain jobs/s"),
            Metric("to_plain", "to plain ones", digits=2, alone=True),
            JOBS,
        ),
    ),
    Workload(
        "two_workers",
        "Drain: two worker processes",
        scale_out,
        (_RATE, Metric("to_one", "to one process", digits=2), JOBS),
    ),
)
