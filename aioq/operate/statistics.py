"""What `queue.stats()` shows: how many jobs there are, how they end, and how long they run and wait."""

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from aioq.public import public
from aioq.store.history import COUNTER_OF, SENT, End, PeriodStatistics, percentile, run_times, wait_times


@public
class Percentiles(msgspec.Struct, frozen=True, kw_only=True):
    """How long something took, in seconds.

    Each is at most 9.1 % too high or too low, because the server counts times in buckets. All that is shorter than
    1 ms counts as 1 ms. None where there was nothing.

    Attributes:
        p50: half of all took no longer.
        p95: 95 % took no longer.
        p99: 99 % took no longer.
    """

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


@public
class QueueActivity(msgspec.Struct, frozen=True, kw_only=True):
    """What happened in a span of time, in a queue or to the jobs of one task of it.

    Attributes:
        seconds: how long the span is.
        sent: how many jobs were sent; 0 for a task, because the server counts them by queue only.
        succeeded: how many jobs succeeded.
        failed: how many failed for good.
        cancelled: how many were cancelled, or expired.
        retried: how many attempts failed and were followed by another one.
        crashed: how many runs died with their worker, and were followed by another one.
        run_time: how long the runs took.
        wait_time: how long jobs waited for a worker before these runs, since they were sent, due or queued again.
        tasks: the same by the name of the task; "" where it is not known.
    """

    seconds: float
    sent: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    retried: int = 0
    crashed: int = 0
    run_time: Percentiles = Percentiles()
    wait_time: Percentiles = Percentiles()
    tasks: Mapping[str, "QueueActivity"] = {}

    @property
    def ended(self) -> int:
        """How many jobs ended."""
        return self.succeeded + self.failed + self.cancelled

    @property
    def in_per_second(self) -> float:
        """How many jobs were sent a second."""
        return self.sent / self.seconds

    @property
    def out_per_second(self) -> float:
        """How many jobs ended a second."""
        return self.ended / self.seconds


@public
class QueueStats(msgspec.Struct, frozen=True, kw_only=True):
    """What `await queue.stats()` returns; of a sharded queue all shards together.

    Attributes:
        queue: the queue's name.
        queued: jobs that wait for a worker: an estimate, without those that were cancelled or moved meanwhile.
        scheduled: jobs that wait for their time.
        waiting: jobs of a tick that `overlap="one"` holds back, those that follow one with their unique key, and
            those that wait for a limit.
        running: jobs that workers have.
        dead: failed jobs that are kept for the operator.
        oldest: for how many seconds the oldest queued job has waited since it was sent, due or queued again; None
            if there is none.
        minute: the last minute, and what has begun of the present one.
        hour: the last 60 minutes, and what has begun of the present one.
        day: the last 24 hours, and what has begun of the present one.
        max_size: how many jobs may be queued, scheduled and waiting in it, or in each shard of it, by the settings
            of this App; None for any number.
    """

    queue: str
    queued: int
    scheduled: int
    waiting: int
    running: int
    dead: int
    oldest: float | None
    minute: QueueActivity
    hour: QueueActivity
    day: QueueActivity
    max_size: int | None = None


def activity(spans: Sequence[PeriodStatistics]) -> QueueActivity:
    """What happened in a queue, by the counters of each of its shards."""
    tasks: dict[str, Counter[int]] = {}
    for span in spans:
        for task, counters in span.tasks.items():
            tasks.setdefault(task, Counter()).update(counters)
    seconds = max(span.seconds for span in spans)
    total = Counter[int]()
    for counters in tasks.values():
        total.update(counters)
    by_task = {
        task: _activity(seconds, counters, sent=0)
        for task, counters in sorted(tasks.items())
        if any(counters[place] for place in COUNTER_OF.values())
    }
    return msgspec.structs.replace(_activity(seconds, total, sent=total[SENT]), tasks=by_task)


def _activity(seconds: float, counters: Counter[int], *, sent: int) -> QueueActivity:
    return QueueActivity(
        seconds=seconds,
        sent=sent,
        succeeded=counters[COUNTER_OF[End.SUCCEEDED]],
        failed=counters[COUNTER_OF[End.FAILED]],
        cancelled=counters[COUNTER_OF[End.CANCELLED]],
        retried=counters[COUNTER_OF[End.RETRIED]],
        crashed=counters[COUNTER_OF[End.CRASHED]],
        run_time=_times(run_times(counters)),
        wait_time=_times(wait_times(counters)),
    )


def _times(buckets: Mapping[int, int]) -> Percentiles:
    return Percentiles(p50=percentile(buckets, 0.5), p95=percentile(buckets, 0.95), p99=percentile(buckets, 0.99))
