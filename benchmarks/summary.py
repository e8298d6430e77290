"""Summaries of the records: medians with their range, and ratios to the best peer and to the bare loops."""

import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from benchmarks.catalogue import BARE, LIBRARIES, SUBJECT
from benchmarks.rounds import Record
from benchmarks.workloads.contract import Metric, Workload


class Value(NamedTuple):
    """A metric of a library, over all rounds that are not void."""

    median: float
    least: float
    most: float
    rounds: int


class Row(NamedTuple):
    """A library in a workload's table; it has no values if all rounds were void."""

    library: str
    values: dict[str, Value]
    void: tuple[str, ...]


class Ratio(NamedTuple):
    """The ratio of aioq's figure to that of another library; above 1 aioq is better, whatever the direction."""

    other: str
    ratio: float


class Summary(NamedTuple):
    """The results of one workload."""

    workload: Workload
    rows: tuple[Row, ...]
    ratios: dict[str, tuple[Ratio, ...]]


def summarise(workload: Workload, records: Iterable[Record]) -> Summary:
    """The table of one workload."""
    mine = [record for record in records if record.workload == workload.key]
    names = [name for name in LIBRARIES if any(record.library == name for record in mine)]
    rows = tuple(_row(name, workload, [each for each in mine if each.library == name]) for name in names)
    ratios = {metric.key: tuple(_ratios(metric, rows)) for metric in workload.metrics if metric.better}
    return Summary(workload, rows, ratios)


def _row(name: str, workload: Workload, records: Sequence[Record]) -> Row:
    values: dict[str, Value] = {}
    for metric in workload.metrics:
        found = [record.figures[metric.key] for record in records if metric.key in record.figures]
        if found:
            values[metric.key] = Value(statistics.median(found), min(found), max(found), len(found))
    return Row(name, values, tuple(record.void for record in records if record.void))


def _ratios(metric: Metric, rows: Sequence[Row]) -> Iterable[Ratio]:
    if metric.alone:
        return
    values = {row.library: row.values[metric.key].median for row in rows if metric.key in row.values}
    mine = values.pop(SUBJECT.name, None)
    if not mine:
        return
    bare = {library.name for library in BARE}
    peers = {name: value for name, value in values.items() if name not in bare}
    if peers:
        best = (max if metric.better == "higher" else min)(peers, key=lambda name: peers[name])
        yield from _ratio(metric, mine, best, peers[best])
    for limit in metric.limit:
        if limit in values:
            yield from _ratio(metric, mine, limit, values[limit])


def _ratio(metric: Metric, mine: float, name: str, other: float) -> Iterable[Ratio]:
    if other:
        yield Ratio(name, mine / other if metric.better == "higher" else other / mine)
