"""The history of a queue and its statistics: what every store keeps of the jobs that end.

The history has one row for each job that has ended, or that goes into another attempt. Rows are numbered, each
one higher than the one before, so a number is a place from which a reader can go on. The statistics count rows by
task, for each minute and each hour: how jobs ended, and how long they ran and waited, in buckets.

A bucket holds the times that are at most a fifth longer than those of the bucket before. So a percentile that is
worked out from buckets is at most 9.1 % too high or too low: `(GROWTH - 1) / (GROWTH + 1)`. The scheme is that of
DDSketch (https://arxiv.org/abs/1908.10693).
"""

import enum
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from math import ceil, exp, log
from typing import Protocol

import msgspec

from aioq.jobs.job import FailedAttempt

GROWTH = 1.2
"""How much longer the longest time of a bucket is than that of the bucket before."""

LAST_BUCKET = 119
"""The bucket of all times that are longer than those of the others: 30 days. The first has those up to 1 ms."""

NO_BUCKET = 255
"""Takes the place of a bucket where there is no time."""

MINUTES, HOURS = 61, 25
"""How many minutes and hours of statistics are read, the present ones included."""

MINUTE_MS, HOUR_MS = 60_000, 3_600_000

MINUTE_KEPT_MS, HOUR_KEPT_MS = 181 * MINUTE_MS, 73 * HOUR_MS
"""For how long the statistics of a minute and of an hour are kept."""

TOTAL, SENT = 0, 6
"""The counters of all rows, and of the jobs that were sent."""

SUMMED = 8
"""How many counters count jobs; those of the buckets follow, in turns one of run times and one of wait times."""

FIRST_RUN, FIRST_WAIT = SUMMED, SUMMED + 1
"""The counters of the first bucket of run times, and of that of wait times; those of the next are two higher."""

COUNTERS = SUMMED + 2 * (LAST_BUCKET + 1)
"""How many counters a task has: eight by what was counted, then two for each bucket: run times and wait times."""

_LOG_GROWTH = log(GROWTH)

LONGEST = tuple(0.001 * GROWTH**bucket for bucket in range(LAST_BUCKET))
"""By bucket, the longest time in seconds that it has; the last one has all that are longer. To look a time up here
takes half the time of a logarithm."""


class End(enum.StrEnum):
    """What became of a run, in a row of the history; `RETRIED` and `CRASHED` are followed by another one."""

    SUCCEEDED = "s"
    FAILED = "f"
    CANCELLED = "c"
    RETRIED = "r"
    CRASHED = "x"


COUNTER_OF: Mapping[End, int] = {end: number for number, end in enumerate(End, 1)}
"""The counter of each kind of row."""


class RunReport(msgspec.Struct, frozen=True, gc=False):
    """What a worker knows of a run that it settles, for the history.

    Attributes:
        task: the task's name; empty if the call could not be read.
        seconds: how long it ran; below 0 if it was never begun.
        waited: for how many seconds the job had waited since it came to its lane; below 0 if it was never begun.
        error: the error in a few words; empty for none.
    """

    task: str
    seconds: float = -1.0
    waited: float = -1.0
    error: str = ""


NO_REPORT = RunReport("")
"""Of a run of which nothing was reported."""


class HistoryRow(msgspec.Struct, frozen=True, gc=False):
    """One row of the history.

    Attributes:
        number: its number.
        at_ms: when it was written, in milliseconds since the Unix epoch.
        job_id: the job.
        end: what became of the run.
        worker: the worker that had the job; empty for none.
        report: what is known of the run.
    """

    number: int
    at_ms: int
    job_id: str
    end: End
    worker: str
    report: RunReport


class AttemptNote(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One attempt that failed, in the log of a job's record.

    Attributes:
        end: what became of it.
        worker: the worker that ran it.
        started_us: when it was claimed, in microseconds since the Unix epoch.
        ended_ms: when its end was stored, in milliseconds.
        ran_ms: how long it ran; below 0 if that is not known, as of a worker that died.
        error: the error in a few words.
    """

    end: End
    worker: str
    started_us: int
    ended_ms: int
    ran_ms: int
    error: str


def failed_attempt(note: AttemptNote) -> FailedAttempt:
    """The same for people.

    Raises:
        ValueError: its times are no times.
    """
    return FailedAttempt(
        datetime.fromtimestamp(note.started_us // 1000 / 1000, UTC),
        datetime.fromtimestamp(note.ended_ms / 1000, UTC),
        note.worker,
        note.error,
        None if note.ran_ms < 0 else note.ran_ms / 1000,
        note.end is End.CRASHED,
        note.end is End.RETRIED,
    )


MOST_ATTEMPTS = 10
"""How many failed attempts are kept in a job's record, the last ones; the same as in `lib/history.lua`."""


class PeriodStatistics(msgspec.Struct, frozen=True, gc=False):
    """Statistics over some time.

    Attributes:
        seconds: how long that is.
        tasks: the counters of each task, by their numbers: see `COUNTER_OF` and `counters_of`.
    """

    seconds: float
    tasks: dict[str, Counter[int]]


class Statistics(msgspec.Struct, frozen=True, gc=False):
    """The statistics of a queue.

    Attributes:
        minute: over the last minute, and what has begun of the present one.
        hour: over the last 60 minutes, and what has begun of the present one.
        day: over the last 24 hours, and what has begun of the present one.
        oldest: for how many seconds the oldest queued job has waited since it came to its lane; None if there is
            none.
    """

    minute: PeriodStatistics
    hour: PeriodStatistics
    day: PeriodStatistics
    oldest: float | None = None


class MinuteCount(msgspec.Struct, frozen=True, gc=False):
    """What was counted in one minute.

    Attributes:
        sent: how many jobs were sent.
        ended: how many ended.
        failed: how many of these failed.
    """

    sent: int = 0
    ended: int = 0
    failed: int = 0


class Minutes(msgspec.Struct, frozen=True, gc=False):
    """What was counted in each of the last minutes.

    Attributes:
        now_ms: the server's time, in milliseconds since the Unix epoch.
        counts: of each minute, the present one first.
        oldest: see `Statistics.oldest`.
    """

    now_ms: int
    counts: Sequence[MinuteCount]
    oldest: float | None = None


class History(Protocol):
    """The history and the statistics of an App's queues, for reading. Part of the store contract."""

    async def rows(
        self, queue: str, count: int, *, before: int | None = None, after: int | None = None
    ) -> list[HistoryRow]:
        """Up to `count` rows of a queue's history; fewer, but at least one, if they are large.

        With `after` they are those that follow on that number, the oldest first; 0 is before all numbers.
        Otherwise they are those before `before`, or the last ones, the newest first. Without a history there are
        none.
        """
        ...

    async def statistics(self, queue: str) -> Statistics:
        """How many jobs of a queue ended, and how long they took; all counts are 0 without statistics."""
        ...

    async def minutes(self, queue: str, count: int) -> Minutes:
        """How many jobs were sent and ended in each of up to `MINUTES` minutes, the present one included.

        It is much less work than `statistics`, for those who ask often.
        """
        ...


class Historic(Protocol):
    """A store with a history."""

    @property
    def history(self) -> History:
        """What has ended."""
        ...


def bucket_of(seconds: float) -> int:
    """The bucket of a time; `NO_BUCKET` if it is below 0."""
    return NO_BUCKET if seconds < 0 else bisect_left(LONGEST, seconds)


def in_buckets(times: Iterable[float]) -> Iterator[tuple[int, int]]:
    """The buckets of many times, each with how many are in it; there is none for a time below 0.

    Most of many times are in few buckets. So it takes less time to sort them than to look each one up.
    """
    ordered = sorted(times)
    at, count = bisect_left(ordered, 0.0), len(ordered)
    while at < count:
        bucket = bisect_left(LONGEST, ordered[at])
        end = count if bucket == LAST_BUCKET else bisect_right(ordered, LONGEST[bucket], at)
        yield bucket, end - at
        at = end


def seconds_of(bucket: int) -> float:
    """The time that stands for all of a bucket."""
    return 0.001 if bucket == 0 else 2 * exp(bucket * _LOG_GROWTH) / (GROWTH + 1) / 1000


def counters_of(end: End, report: RunReport) -> list[int]:
    """The counters that a row adds to."""
    times = ((FIRST_RUN, bucket_of(report.seconds)), (FIRST_WAIT, bucket_of(report.waited)))
    return [TOTAL, COUNTER_OF[end], *(first + 2 * each for first, each in times if each != NO_BUCKET)]


def run_times(counters: Mapping[int, int]) -> Counter[int]:
    """How many runs took the time of each bucket."""
    return _buckets(counters, FIRST_RUN)


def wait_times(counters: Mapping[int, int]) -> Counter[int]:
    """How many jobs waited for the time of each bucket."""
    return _buckets(counters, FIRST_WAIT)


def _buckets(counters: Mapping[int, int], first: int) -> Counter[int]:
    """The counts by bucket, out of every second counter from this one on."""
    return Counter(
        {(number - first) // 2: count for number, count in counters.items() if number in range(first, COUNTERS, 2)}
    )


def percentile(times: Mapping[int, int], share: float) -> float | None:
    """The time in seconds that this share of all times does not exceed; None if there are none."""
    rank, passed = ceil(share * sum(times.values())), 0
    for bucket in sorted(times):
        passed += times[bucket]
        if passed >= rank:
            return seconds_of(bucket)
    return None


Periods = tuple[Sequence[Counter[int]], Sequence[Counter[int]]]
"""The counters of a task in each minute and in each hour, the present ones first."""


def statistics(now_ms: int, tasks: Mapping[str, Periods], oldest_ms: int | None) -> Statistics:
    """The statistics out of those of each task."""
    minute, hour = now_ms % MINUTE_MS / 1000, now_ms % HOUR_MS / 1000
    return Statistics(
        PeriodStatistics(60 + minute, {task: _sum(minutes[:2]) for task, (minutes, _) in tasks.items()}),
        PeriodStatistics(3600 + minute, {task: _sum(minutes) for task, (minutes, _) in tasks.items()}),
        PeriodStatistics(86400 + hour, {task: _sum(hours) for task, (_, hours) in tasks.items()}),
        None if oldest_ms is None else max(0, now_ms - oldest_ms) / 1000,
    )


def minutes(now_ms: int, tasks: Iterable[Sequence[Sequence[int]]], count: int, oldest_ms: int | None) -> Minutes:
    """The counts of each minute, by the first `SUMMED` counters of each task in it."""
    total = [[0] * SUMMED for _ in range(count)]
    for task in tasks:
        for minute, counters in zip(total, task, strict=True):
            for number, count_of_task in enumerate(counters):
                minute[number] += count_of_task
    ends = [COUNTER_OF[end] for end in (End.SUCCEEDED, End.FAILED, End.CANCELLED)]
    counts = [
        MinuteCount(each[SENT], sum(each[end] for end in ends), each[COUNTER_OF[End.FAILED]]) for each in total
    ]
    return Minutes(now_ms, counts, None if oldest_ms is None else max(0, now_ms - oldest_ms) / 1000)


def _sum(parts: Iterable[Counter[int]]) -> Counter[int]:
    total = Counter[int]()
    for part in parts:
        total.update(part)
    return total


def page_of(rows: Iterable[HistoryRow], count: int, before: int | None, after: int | None) -> list[HistoryRow]:
    """The first `count` of these rows within the bounds that `History.rows` was called with, in its order."""
    within = [
        row
        for row in rows
        if (before is None or row.number < before or after is not None) and (after is None or row.number > after)
    ]
    return sorted(within, key=lambda row: row.number, reverse=after is None)[:count]
