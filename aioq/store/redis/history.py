"""The history and the statistics at a server: what a settle sends for them, and how they are read.

`lib/history.lua` says how they are stored.
"""

import struct
from bisect import bisect_left
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import msgspec

from aioq.store.contract import Limits, Settlement, Verb
from aioq.store.history import (
    COUNTER_OF,
    COUNTERS,
    HOURS,
    LONGEST,
    MINUTES,
    NO_BUCKET,
    NO_REPORT,
    SUMMED,
    End,
    HistoryRow,
    Minutes,
    RunReport,
    Statistics,
    minutes,
    page_of,
    statistics,
)

ScriptCall = Callable[[str, str, Sequence[Any]], Awaitable[Any]]

_encode = msgspec.msgpack.encode

_ROW = struct.Struct(">HBBHff")
COUNTED_HERE, TASKS_COUNTED_HERE = 8, 8
"""From so many settlements on, of at most so many tasks, the worker counts for the statistics. It takes less time
than a script does, and it is the server that all workers share."""

TASKS_AT_ONCE = 20
"""How many tasks' statistics are read with one call: 1,700 strings, which take 3 ms if all are there."""

STRINGS_AT_ONCE = 700
"""About how many strings are read with one call by those who ask every second: a millisecond or two."""

ROW_SIZE = _ROW.size
"""How many bytes a settlement has in `rows`."""

_ALL = struct.Struct(f">{COUNTERS}I")
_FIRST = struct.Struct(f">{SUMMED}I")
_REFUSED = "-"
_HEADER = 3
_TASK_WIDTH = 1 + MINUTES + HOURS


class _About(msgspec.Struct, array_like=True, gc=False):
    most: int
    has_stats: bool
    tasks: list[str]
    errors: list[str]


_ABOUT = msgspec.msgpack.Decoder(_About)
_IDS = msgspec.msgpack.Decoder(list[str])


def about_arg(limits: Limits) -> bytes:
    """What a script needs to know that ends jobs without a run; empty if nothing is kept of them."""
    if not limits.history and not limits.stats:
        return b""
    return _encode((limits.history, limits.stats, (), ()))


def marks_arg(limits: Limits) -> str:
    """Which events of jobs that are sent and started are written: the marks of `lib/events.lua`."""
    events = "f" if limits.full else "e" if limits.history else ""
    return ("s" if limits.stats else "") + events


def report_args(settlements: Sequence[Settlement], limits: Limits) -> tuple[bytes, bytes, bytes]:
    """What a settle sends for the history: `about`, `rows` and `counts`; all are empty if nothing is kept."""
    if not limits.history and not limits.stats:
        return b"", b"", b""
    tasks: dict[str, int] = {}
    errors: dict[str, int] = {}
    pack, rows = _ROW.pack, list[bytes]()
    name, task = None, 0
    for settlement in settlements:
        report = settlement.report or NO_REPORT
        if report.task is not name:  # most of a batch are of one task
            name = report.task
            task = tasks.setdefault(name, len(tasks))
        error = errors.setdefault(report.error, len(errors) + 1) if report.error else 0
        seconds, waited = report.seconds, report.waited
        # `bucket_of`, twice: without its call this loop takes a sixth less.
        run = NO_BUCKET if seconds < 0 else bisect_left(LONGEST, seconds)
        wait = NO_BUCKET if waited < 0 else bisect_left(LONGEST, waited)
        rows.append(pack(task, run, wait, error, seconds, waited))
    joined, counts = b"".join(rows), b""
    if limits.stats and len(rows) >= COUNTED_HERE and len(tasks) <= TASKS_COUNTED_HERE:
        verbs = [each.verb for each in settlements]
        if verbs.count(Verb.SUCCEEDED) == len(verbs):
            counts = _encode(_counts(joined, len(tasks)))
    return _encode((limits.history, limits.stats, list(tasks), list(errors))), joined, counts


def _counts(rows: bytes, tasks: int) -> list[list[int]]:
    """What jobs that have succeeded add to the counters of each task: counters, each with what is added."""
    numbers, runs, waits = (rows[place::ROW_SIZE] for place in (1, 2, 3))
    counts: list[list[int]] = []
    for task in range(tasks):
        of_task = [COUNTER_OF[End.SUCCEEDED], numbers.count(task)]
        for first, column in ((SUMMED, runs), (SUMMED + 1, waits)):
            buckets = column
            if tasks > 1:
                buckets = bytes(bucket for number, bucket in zip(numbers, column, strict=True) if number == task)
            for bucket in set(buckets) - {NO_BUCKET}:
                of_task += (first + 2 * bucket, buckets.count(bucket))
        counts.append(of_task)
    return counts


class RedisHistory:
    """The history and the statistics of the queues of an App.

    Args:
        call: calls a script.
    """

    def __init__(self, call: ScriptCall) -> None:
        self._call = call

    async def rows(
        self, queue: str, count: int, *, before: int | None = None, after: int | None = None
    ) -> list[HistoryRow]:
        """A page of a queue's history."""
        newest, bound = after is None, before if after is None else after
        args = ["newest" if newest else "oldest", "" if bound is None else bound, count]
        return page_of(parse_history(await self._call("history", queue, args)), count, before, after)

    async def statistics(self, queue: str) -> Statistics:
        """The statistics of all tasks of a queue, in several calls if there are many."""
        parts: list[Any] = []
        first = 0
        while not parts or first < parts[-1][1]:
            parts.append(await self._call("stats", queue, [first, TASKS_AT_ONCE, MINUTES, HOURS]))
            first += TASKS_AT_ONCE
        return parse_statistics(parts)

    async def minutes(self, queue: str, count: int) -> Minutes:
        """The counts of each minute: one call for 175 tasks and two minutes."""
        at_once = max(1, STRINGS_AT_ONCE // (count + 2))
        parts: list[Any] = []
        first = 0
        while not parts or first < parts[-1][1]:
            parts.append(await self._call("stats", queue, [first, at_once, count, 1]))  # one hour at the least
            first += at_once
        return parse_minutes(parts, count)


def parse_history(reply: Sequence[Any]) -> list[HistoryRow]:
    """The rows in the reply of `history.lua`, as they are there: those of each entry in the order of numbers."""
    return parse_rows(reply[1:])


def parse_rows(entries: Sequence[Any]) -> list[HistoryRow]:
    """The rows of entries of the history, in the order of the entries."""
    return [row for entry in entries for row in _rows_of(*entry)]


def _rows_of(entry: bytes, fields: Sequence[bytes]) -> Iterator[HistoryRow]:
    """The rows of one entry; none of one that is not aioq's, such as one that was added by hand."""
    found = dict(zip(fields[::2], fields[1::2], strict=False))
    try:
        last, at_ms = (int(part) for part in entry.split(b"-"))
        about, ids = _ABOUT.decode(found[b"about"]), _IDS.decode(found[b"ids"])
        worker, ends = found[b"by"].decode(), found[b"ends"].decode("ascii")
        ended = [i for i, letter in enumerate(ends) if letter != _REFUSED]
        for number, i in enumerate(ended, last - len(ended) + 1):
            row: tuple[int, int, int, int, float, float] = _ROW.unpack_from(found[b"rows"], ROW_SIZE * i)
            task, _, _, error, seconds, waited = row
            text = about.errors[error - 1] if error else ""
            report = RunReport(about.tasks[task], seconds, waited, text)
            yield HistoryRow(number, at_ms, ids[i], End(ends[i]), worker, report)
    except (KeyError, ValueError, IndexError, msgspec.DecodeError, struct.error):
        return


def parse_statistics(parts: Sequence[Sequence[Any]]) -> Statistics:
    """The replies of `stats.lua` to all calls for a queue."""
    tasks: dict[str, tuple[list[Counter[int]], list[Counter[int]]]] = {}
    for part in parts:
        for i in range(_HEADER, len(part), _TASK_WIDTH):
            counters = [_counters(blob) for blob in part[i + 1 : i + _TASK_WIDTH]]
            tasks[part[i].decode(errors="backslashreplace")] = (counters[:MINUTES], counters[MINUTES:])
    oldest_ms = parts[0][2]
    return statistics(parts[-1][0], tasks, None if oldest_ms < 0 else oldest_ms)


def parse_minutes(parts: Sequence[Sequence[Any]], count: int) -> Minutes:
    """The replies of `stats.lua` to all calls for some minutes and one hour."""
    width = count + 2
    tasks = [
        [
            _FIRST.unpack((blob or b"")[: _FIRST.size].ljust(_FIRST.size, b"\0"))
            for blob in part[i + 1 : i + 1 + count]
        ]
        for part in parts
        for i in range(_HEADER, len(part), width)
    ]
    oldest_ms = parts[0][2]
    return minutes(parts[-1][0], tasks, count, None if oldest_ms < 0 else oldest_ms)


def _counters(blob: bytes | None) -> Counter[int]:
    if blob is None:
        return Counter()
    numbers = _ALL.unpack(blob[: _ALL.size].ljust(_ALL.size, b"\0"))
    return Counter({place: number for place, number in enumerate(numbers) if number})
