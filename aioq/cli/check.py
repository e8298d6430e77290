"""`aioq check`: tells whether the workers of this host do their work; for containers and for people.

It asks the server. A worker renews its lease even if its event loop hangs, and reports with each renewal when it
last fetched. So the check looks at the last fetch, not at the lease alone.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from aioq.app import App, internals_of
from aioq.cli.loader import load_app
from aioq.cli.operate.output import Column, print_items
from aioq.jobs.shards import by_queue, queue_of_shard
from aioq.store.leases import WorkerLease
from aioq.util.deferred_warnings import DEFERRED
from aioq.util.printable import printable
from aioq.worker import host_of, this_host
from aioq.worker.app_parts import worker_queues


@dataclass(frozen=True, slots=True)
class CheckPlan:
    """The command line of `aioq check`.

    Attributes:
        target: `module:app`.
        queues: the queues that must be served; if empty, at least one of the App's queues must be.
        max_age: the greatest allowed age of a worker's last fetch, in seconds.
        any_host: count the workers of all hosts, not only of this one.
        quiet: print problems only.
    """

    target: str
    queues: tuple[str, ...] = ()
    max_age: float = 15.0
    any_host: bool = False
    quiet: bool = False


def run_check(plan: CheckPlan) -> int:
    """Check, print the result, and return the exit code: 0 if all is well, else 1.

    Raises:
        AioqError: the App cannot be loaded, or the server refuses or cannot be reached.
    """
    if plan.quiet:
        DEFERRED.keep()  # they are never logged here: the worker does that
    app = load_app(plan.target)
    found = asyncio.run(_look(app, worker_queues(internals_of(app).app_parts(), plan.queues)))
    mine = found if plan.any_host else on_host(found, this_host())
    troubles = judge(mine, plan)
    if not plan.quiet and any(mine.values()):
        print_items(rows(mine), COLUMNS, as_json=False, title=f"workers of {app.name}")
    for trouble in troubles:
        Console(stderr=True, highlight=False, soft_wrap=True).print(Text(printable(f"aioq check: {trouble}")))
    return 1 if troubles else 0


def on_host(found: Mapping[str, Sequence[WorkerLease]], host: str) -> dict[str, list[WorkerLease]]:
    """The workers of one host."""
    return {queue: [w for w in workers if host_of(w.worker) == host] for queue, workers in found.items()}


def judge(found: Mapping[str, Sequence[WorkerLease]], plan: CheckPlan) -> list[str]:
    """The problems, in words; empty if all is well."""
    where = "" if plan.any_host else " on this host"
    served = {queue: [w for w in workers if w.lease_ms > 0] for queue, workers in found.items()}
    troubles = [
        f"no worker{where} serves {_unserved(names, served)}"
        for queue, names in by_queue([*found]).items()
        if queue in plan.queues and not all(served[name] for name in names)
    ]
    if not plan.queues and not any(served.values()):
        queues = [*by_queue([*found])]
        which = f"any of the queues {', '.join(queues)}" if len(queues) > 1 else f"queue {next(iter(queues), '')}"
        troubles.append(f"no worker{where} serves {which}")
    troubles += [
        f"queue {queue}: the last fetch of {w.worker} was {w.fetched_ms / 1000:.1f} s ago, over {plan.max_age:g} s"
        for queue, workers in served.items()
        for w in workers
        if w.fetched_ms > plan.max_age * 1000
    ]
    return troubles


def _unserved(names: Sequence[str], served: Mapping[str, Sequence[WorkerLease]]) -> str:
    """The queue of these shards, and of how many of them it is true that no worker serves them."""
    missing = sum(not served[name] for name in names)
    queue = queue_of_shard(names[0])
    return f"queue {queue}" if missing == len(names) else f"{missing} of the {len(names)} shards of queue {queue}"


async def _look(app: App, queues: Sequence[str]) -> dict[str, list[WorkerLease]]:
    store = await internals_of(app).store()
    try:
        await store.open(thorough=True)
        shards = await internals_of(app).shards()
        await shards.read()
        names = [name for queue in queues for name in shards.table[queue].names]
        return dict(zip(names, await asyncio.gather(*map(store.workers, names)), strict=True))
    finally:
        await app.aclose()


def rows(found: Mapping[str, Sequence[WorkerLease]]) -> list[tuple[str, WorkerLease]]:
    """The rows of the table: a worker of a queue, and of one with several shards the worst of its leases there."""
    shown: list[tuple[str, WorkerLease]] = []
    for queue, names in by_queue([*found]).items():
        if len(names) == 1:
            shown += [(queue, each) for each in sorted(found[queue], key=lambda w: w.worker)]
            continue
        mine: dict[str, list[WorkerLease]] = {}  # a worker has an id in each shard, all with the same beginning
        for each in (each for name in names for each in found[name]):
            mine.setdefault(each.worker.rpartition("-")[0], []).append(each)
        for worker, leases in sorted(mine.items()):
            count = f"{len(leases)} of {len(names)} shards" if len(leases) < len(names) else f"{len(names)} shards"
            worst = WorkerLease(worker, min(w.lease_ms for w in leases), max(w.fetched_ms for w in leases))
            shown.append((f"{queue} ({count})", worst))
    return shown


COLUMNS: Sequence[Column[tuple[str, WorkerLease]]] = (
    Column("queue", lambda row: row[0]),
    Column("worker", lambda row: row[1].worker),
    Column("lease", lambda row: f"{row[1].lease_ms / 1000:.1f} s left" if row[1].lease_ms else "ended"),
    Column("last fetch", lambda row: f"{row[1].fetched_ms / 1000:.1f} s ago" if row[1].fetched_ms >= 0 else "?"),
)
