"""Why a job has no outcome yet, for the error message of a wait that has timed out."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime

from aioq.errors import AioqError, JobNotFoundError
from aioq.jobs.job import UNKNOWN_TASK, JobInfo, JobState
from aioq.jobs.shards import queue_of_shard
from aioq.store.leases import Serving, WorkerLease, serving
from aioq.util.clock import ManualClock
from aioq.util.plural import counted

QUERY_TIMEOUT = 1.0
"""Seconds that the server's answer may take: the caller has waited for long enough already."""


async def why_no_outcome(
    fetch_info: Callable[[], Awaitable[JobInfo]],
    workers: Callable[[str], Awaitable[Sequence[WorkerLease]]],
    clock: Callable[[], Awaitable[ManualClock | None]],
) -> str:
    """The job's state in words, for the end of the message; whatever goes wrong here, nothing is raised.

    Cancellation: as that of the wait.

    Args:
        fetch_info: asks the server for the job's facts.
        workers: asks the server for the workers of a queue.
        clock: asks for the clock of an App in memory, which only tests move; None if there is a server.
    """
    try:
        async with asyncio.timeout(QUERY_TIMEOUT):
            info, by_hand = await fetch_info(), await clock()
            now = datetime.now(UTC) if by_hand is None else datetime.fromtimestamp(by_hand.now_ms() / 1000, UTC)
            waits = info.state is JobState.QUEUED or _overdue(info, now)
            state = in_words(info, await workers(info.queue) if waits else (), now)
            hint = CLOCK_STOPPED if by_hand is not None and info.state is JobState.SCHEDULED else ""
            return f": {state}{hint}"
    except JobNotFoundError as error:
        return f": {error}"
    except TimeoutError:
        return ": the server does not answer"
    except AioqError as error:
        return f": {error}"
    except Exception:  # an error here must not hide the timeout
        return ""


CLOCK_STOPPED = "; the clock of app.test() does not run: session.advance(...) or session.drain() moves it"
"""The hint about a job that waits for its time in memory: probably the test has forgotten to move the clock."""


def in_words(info: JobInfo, workers: Sequence[WorkerLease], now: datetime) -> str:
    """The state of a job, and what it waits for.

    Args:
        info: the job.
        workers: the workers of its queue, if it waits for one.
        now: the time by the server's clock, as far as this host's clock agrees with it.
    """
    if info.state is JobState.RUNNING:
        again = f", in attempt {info.attempts}" if info.attempts > 1 else ""
        return f"running for {in_seconds(_age(info.started_at, now))} on worker {info.worker}{again}"
    if info.state is JobState.SCHEDULED and not _overdue(info, now):
        return _scheduled(info, now)
    if info.state is JobState.WAITING:
        return "it waits for another job"
    if info.state.ended:
        return f"it has {'been ' if info.state is JobState.CANCELLED else ''}{info.state} since"
    return f"{'queued' if info.state is JobState.QUEUED else 'due'}; {_served(info, workers)}"


def _scheduled(info: JobInfo, now: datetime) -> str:
    left = in_seconds(-_age(info.due_at, now))
    if info.error is None:
        return f"scheduled, due in {left}"
    if _unknown_task(info):
        return f"put off for {left} more{_unknown_task(info)}"
    return f"to be run again in {left}, after {info.error.summary}"


def _unknown_task(info: JobInfo) -> str:
    """The error of a job whose task the workers did not know, with a colon in front; else empty."""
    return f": {info.error.message}" if info.error is not None and info.error.type == UNKNOWN_TASK else ""


def _served(info: JobInfo, workers: Sequence[WorkerLease]) -> str:
    queue = queue_of_shard(info.queue)
    alive, others = serving_workers(workers, queue)
    if not alive:
        return f"no worker serves queue {queue!r}" + (f": {others}" if others else "")
    if info.task and not any(says.knows(info.task) for _, says in alive):
        return f"no worker of queue {queue!r} knows the task {info.task!r}"
    if _unknown_task(info):
        return f"it was put off before{_unknown_task(info)}"
    fetched = min(worker.fetched_ms for worker, _ in alive)
    stuck = f", the last fetch was {in_seconds(fetched / 1000)} ago" if fetched > STUCK_MS else ""
    if len(alive) == 1:
        return f"one worker serves queue {queue!r}, and has not come to it{stuck}"
    return f"{len(alive)} workers serve queue {queue!r}, and have not come to it{stuck}"


def serving_workers(
    workers: Iterable[WorkerLease], queue: str
) -> tuple[Sequence[tuple[WorkerLease, Serving]], str]:
    """The workers that take jobs of a queue, with what they say; and in words those that live and take none."""
    alive = [(each, serving(each)) for each in workers if each.lease_ms > 0]
    staying = [(lease, says) for lease, says in alive if not says.leaves(queue)]
    takers = [(lease, says) for lease, says in staying if not says.paused]
    paused, leaving = len(staying) - len(takers), len(alive) - len(staying)
    words = [f"{counted(paused, 'worker', 'is/are')} paused"] if paused else []
    words += [f"{counted(leaving, 'worker', 'is/are')} leaving it"] if leaving else []
    return takers, " and ".join(words)


WHOLE_SECONDS_FROM = 10.0
"""Seconds; longer times are shown without tenths of a second."""

STUCK_MS = 15_000
"""Milliseconds since a worker's last fetch from which on it counts as stuck; as for `/ready`."""


def _overdue(info: JobInfo, now: datetime) -> bool:
    return info.state is JobState.SCHEDULED and _age(info.due_at, now) >= 0


def _age(moment: datetime | None, now: datetime) -> float:
    """Seconds since a moment."""
    return 0.0 if moment is None else (now - moment).total_seconds()


def in_seconds(seconds: float) -> str:
    """A time in words, such as `3.5 s` and `12 s`."""
    return f"{max(seconds, 0):.{0 if seconds >= WHOLE_SECONDS_FROM else 1}f} s"
