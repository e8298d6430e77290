"""The history and the statistics at a server: what a settle sends for them, and how they are read.

`lib/history.lua` says how they are stored.
"""

import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import compress
from struct import pack
from typing import Any

import msgspec

from aioq.store.contract import Limits, Settlement
from aioq.store.history import (
    COUNTER_OF,
    COUNTERS,
    FIRST_RUN,
    FIRST_WAIT,
    HOURS,
    MINUTES,
    NO_REPORT,
    SUMMED,
    End,
    HistoryRow,
    Minutes,
    RunReport,
    Statistics,
    in_buckets,
    minutes,
    page_of,
    statistics,
)

ScriptCall = Callable[[str, str, Sequence[Any]], Awaitable[Any]]

_encode = msgspec.msgpack.encode

COUNTED_HERE, TASKS_COUNTED_HERE = 8, 8
"""From so many settlements on, of at most so many tasks, the worker counts for the statistics. It takes less time
than a script does, and it is the server that all workers share."""

TASKS_AT_ONCE = 20
"""How many tasks' statistics are read with one call: 1,700 strings, which take 3 ms if all are there."""

STRINGS_AT_ONCE = 700
"""About how many strings are read with one call by those who ask every second: a millisecond or two."""

_TIMES, _PLACES = struct.Struct(">ff"), struct.Struct(">HH")
TIMES_SIZE, PLACES_SIZE = _TIMES.size, _PLACES.size
"""How many bytes a settlement has in `rows`: for its times, and for its task and error, if those are there."""

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
    if not settlements or not (limits.history or limits.stats):
        return b"", b"", b""
    reports = [each.report or NO_REPORT for each in settlements]
    count = len(reports)
    runs, waits = [each.seconds for each in reports], [each.waited for each in reports]
    times = runs * 2
    times[::2], times[1::2] = runs, waits  # half the time of a comprehension that makes pairs
    rows, counts = pack(f">{2 * count}f", *times), b""
    tasks, errors = [each.task for each in reports], [each.error for each in reports]
    named, known = tasks[:1], list[str]()
    if count and (tasks.count(tasks[0]) < count or errors.count("") < count):
        named, known = [*dict.fromkeys(tasks)], [*dict.fromkeys(filter(None, errors))]
        rows += b"".join(_places(tasks, named, errors, known))
    if limits.stats and count >= COUNTED_HERE and len(named) <= TASKS_COUNTED_HERE and not known:
        counts = _encode([_counts(runs, waits, tasks, task if len(named) > 1 else None) for task in named])
    return _encode((limits.history, limits.stats, named, known)), rows, counts


def rows_at(rows: bytes, count: int, positions: Sequence[int]) -> bytes:
    """The part of the `rows` of so many jobs that is about those at some positions, counted from 1."""
    times, places = rows[: TIMES_SIZE * count], rows[TIMES_SIZE * count :]
    parts = ((times, TIMES_SIZE), (places, PLACES_SIZE))
    return b"".join(part[size * (each - 1) : size * each] for part, size in parts for each in positions)


def _places(
    tasks: Sequence[str], named: Sequence[str], errors: Sequence[str], known: Sequence[str]
) -> Iterator[bytes]:
    """For each job the places of its task and of its error among these."""
    task_places = {task: place for place, task in enumerate(named)}
    error_places = {"": 0} | {error: place for place, error in enumerate(known, 1)}
    for task, error in zip(tasks, errors, strict=True):
        yield _PLACES.pack(task_places[task], error_places[error])


def _counts(runs: Sequence[float], waits: Sequence[float], tasks: Sequence[str], task: str | None) -> list[int]:
    """What jobs that have succeeded add to the counters of a task: counters, each with what is added.

    `task` is None if all are of it.
    """
    if task is not None:
        of_task = [task == each for each in tasks]
        runs, waits = [*compress(runs, of_task)], [*compress(waits, of_task)]
    counts = [COUNTER_OF[End.SUCCEEDED], len(runs)]
    for first, column in ((FIRST_RUN, runs), (FIRST_WAIT, waits)):
        for bucket, count in in_buckets(column):
            counts += (first + 2 * bucket, count)
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
        rows, places = found[b"rows"], TIMES_SIZE * len(ends)
        if len(rows) - places not in {0, PLACES_SIZE * len(ends)}:
            return
        for number, i in enumerate(ended, last - len(ended) + 1):
            times: tuple[float, float] = _TIMES.unpack_from(rows, TIMES_SIZE * i)
            task_and_error: tuple[int, int] = (0, 0)
            if len(rows) > places:
                task_and_error = _PLACES.unpack_from(rows, places + PLACES_SIZE * i)
            task, error = task_and_error
            text = about.errors[error - 1] if error else ""
            report = RunReport(about.tasks[task], *times, text)
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
