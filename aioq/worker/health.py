"""Whether a worker does its work: judged by when it last got an answer to its fetching, not by being there."""

from collections.abc import Mapping

import msgspec

READY_AGE = 15.0
"""Seconds since the last successful fetch after which a queue counts as not served. An idle worker gets an answer
every 5 s (its blocking read's time), so this is three missed ones."""

LIVE_LAG = 60.0
"""Seconds the event loop may be blocked before the process counts as one that only a restart will mend. A guess:
far above what a task blocks by mistake; its jobs are crashed by the restart, so it must not come early."""


class QueueHealth(msgspec.Struct, frozen=True, omit_defaults=True):
    """How one queue is served.

    Attributes:
        worker: the id that serves it.
        lease: whether the server has given that id a lease.
        last_fetch_age: seconds since the last successful fetch; 0 while no slot is free, because then no fetch is
            due.
        unwritten_age: seconds for which an outcome has waited that could not be written; 0 where none waits.
        trouble: why the server refuses this worker, such as a password that was changed; empty where it does not.
    """

    worker: str
    lease: bool
    last_fetch_age: float
    unwritten_age: float = 0.0
    trouble: str = ""


class Health(msgspec.Struct, frozen=True):
    """How a worker does.

    Attributes:
        ready: whether every queue is served.
        live: whether going on can still mend it.
        reasons: what is wrong, in words; empty when it is ready.
        queues: each queue's part.
        running: jobs that run now.
        concurrency: jobs that may run at once.
        loop_lag: seconds the event loop has been blocked for by now.
        refused: outcomes and progress reports that the fence refused, since the start: each is a job that was
            taken over already.
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
    """The health that these facts make; `full_for` is how many seconds no slot has been free by now."""
    reasons = [reason for name, queue in queues.items() if (reason := _trouble(name, queue))]
    if not running and full_for > READY_AGE:
        reasons.append(f"all {concurrency} slots have been taken for {full_for:.0f} s, and no job runs")
    live = loop_lag <= LIVE_LAG
    if not live:
        reasons.append(f"the event loop has been blocked for {loop_lag:.0f} s")
    return Health(not reasons, live, reasons, dict(queues), running, concurrency, round(loop_lag, 3), refused)


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
