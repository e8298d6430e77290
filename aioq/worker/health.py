"""Whether a worker does its work: judged by its last successful fetch, not by whether its process exists."""

from collections.abc import Mapping

import msgspec

from aioq.jobs.shards import by_queue

READY_AGE = 15.0
"""Seconds since the last successful fetch after which a queue counts as not served. An idle worker gets a reply
every 5 s (the time of its blocking read), so this is three missed ones. One of many queues claims after 6 to 10 s,
and tries again if that fails."""

LIVE_LAG = 60.0
"""Seconds the event loop may be blocked before only a restart helps. A guess: far longer than a task blocks it by
mistake. It must not be too short, because the restart counts as a crash of all running jobs."""


class QueueHealth(msgspec.Struct, frozen=True, omit_defaults=True):
    """The health of one queue of a worker.

    Attributes:
        worker: the worker's id in this queue.
        lease: whether the server has given that id a lease.
        last_fetch_age: seconds since the last successful fetch; 0 while no slot is free, because then no fetch is
            due.
        unwritten_age: seconds since the oldest outcome that could not be written yet; 0 if there is none.
        trouble: why the server refuses this worker, such as a password that was changed; empty if it does not.
        shards: how many shards of the queue this worker serves; the other values are then those of the worst one.
    """

    worker: str
    lease: bool
    last_fetch_age: float
    unwritten_age: float = 0.0
    trouble: str = ""
    shards: int = 1


class Health(msgspec.Struct, frozen=True):
    """The health of a worker.

    Attributes:
        ready: whether every queue is served.
        live: false if only a restart helps.
        reasons: what is wrong, in words; empty if the worker is ready and live.
        queues: the health of each queue.
        running: jobs that run now.
        concurrency: jobs that may run at once.
        loop_lag: seconds for which the event loop has been blocked up to now.
        refused: outcomes and progress reports that the fence has refused since the start; each is of a job that
            another worker has taken over.
    """

    ready: bool
    live: bool = True
    reasons: list[str] = []
    queues: dict[str, QueueHealth] = {}
    running: int = 0
    concurrency: int = 0
    loop_lag: float = 0.0
    refused: int = 0


def judge(
    queues: Mapping[str, QueueHealth],
    *,
    running: int,
    concurrency: int,
    loop_lag: float,
    refused: int,
    full_for: float = 0.0,
) -> Health:
    """Judge a worker's health by these facts; `full_for` is for how many seconds no slot has been free."""
    reasons = [reason for name, queue in queues.items() if (reason := _trouble(name, queue))]
    if not running and full_for > READY_AGE:
        reasons.append(f"all {concurrency} slots have been taken for {full_for:.0f} s, and no job runs")
    live = loop_lag <= LIVE_LAG
    if not live:
        reasons.append(f"the event loop has been blocked for {loop_lag:.0f} s")
    return Health(not reasons, live, reasons, dict(queues), running, concurrency, round(loop_lag, 3), refused)


def merged(queues: Mapping[str, QueueHealth]) -> dict[str, QueueHealth]:
    """The health of each queue; that of one with several shards is the health of the worst of these."""
    found: dict[str, QueueHealth] = {}
    for queue, names in by_queue([*queues]).items():
        shards = [queues[name] for name in names]
        worst = next((each for name, each in zip(names, shards, strict=True) if _trouble(name, each)), None)
        worst = worst or max(shards, key=lambda each: (each.last_fetch_age, each.unwritten_age))
        found[queue] = worst if len(shards) == 1 else msgspec.structs.replace(worst, shards=len(shards))
    return found


def _trouble(name: str, queue: QueueHealth) -> str:
    if queue.trouble:
        return f"queue {name}: {queue.trouble}"
    if not queue.lease:
        return f"queue {name}: the server has given {queue.worker} no lease"
    if queue.last_fetch_age > READY_AGE:
        return f"queue {name}: the last successful fetch was {queue.last_fetch_age:.1f} s ago"
    if queue.unwritten_age > READY_AGE:
        return f"queue {name}: outcomes have waited to be written for {queue.unwritten_age:.1f} s"
    return ""
