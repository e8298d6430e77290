"""The Markdown report: the machine, a table for each workload, the ratios, and what is missing and why."""

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.catalogue import LIBRARIES, SUBJECT
from benchmarks.summary import Row, Summary, Value
from benchmarks.workloads.contract import Metric


def report(
    environment: dict[str, Any], summaries: Sequence[Summary], missing: dict[str, str], plots: Sequence[str] = ()
) -> str:
    """The whole page."""
    parts = [
        "# Benchmark results",
        "Medians over the rounds, with the lowest and highest in parentheses. A ratio above 1 means that aioq is "
        "better, also for figures of which less is better. docs/performance.md says how all this is measured, and "
        "how to read it.",
        environment_lines(environment),
        "## Ratios",
        ratios(summaries),
        *_missing(missing),
        *(f"![{name}]({name})" for name in plots),
    ]
    for summary in summaries:
        parts += [f"## {summary.workload.title}", table(summary), *_void(summary)]
    return "\n\n".join(parts) + "\n"


def ratios(summaries: Iterable[Summary]) -> str:
    """The ratios of aioq to the best peer and to the bare loops, one line for each figure."""
    lines = ["| workload | figure | aioq | beside | ratio |", "|---|---|---:|---|---:|"]
    for summary in summaries:
        mine = next((row for row in summary.rows if row.library == SUBJECT.name), None)
        if mine is None:
            continue
        for metric in summary.workload.metrics:
            if metric.alone and metric.key in mine.values:
                value = _number(mine.values[metric.key].median, metric)
                lines.append(f"| {summary.workload.key} | {metric.label} | {value} | - | - |")
            for found in summary.ratios.get(metric.key, ()):
                value = _number(mine.values[metric.key].median, metric)
                other = LIBRARIES[found.other].title
                cells = (summary.workload.key, metric.label, value, other, f"{found.ratio:.2f}")
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def table(summary: Summary) -> str:
    """The table of one workload, with a line for each library, the best first."""
    metrics = summary.workload.metrics
    lines = [
        f"| library | {' | '.join(metric.label for metric in metrics)} |",
        f"|---|{'---:|' * len(metrics)}",
    ]
    for row in sorted(summary.rows, key=lambda row: _order(row, metrics[0])):
        cells = [_cell(row.values.get(metric.key), metric) for metric in metrics]
        lines.append(f"| {LIBRARIES[row.library].title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _order(row: Row, metric: Metric) -> float:
    value = row.values.get(metric.key)
    if value is None:
        return float("inf")
    return -value.median if metric.better == "higher" else value.median


def _cell(value: Value | None, metric: Metric) -> str:
    if value is None:
        return "-"
    text = _number(value.median, metric)
    if value.rounds == 1 or metric.better is None:
        return text
    return f"{text} ({_number(value.least, metric)} to {_number(value.most, metric)})"


def _number(value: float, metric: Metric) -> str:
    return f"{value:,.{metric.digits}f}"


def environment_lines(environment: dict[str, Any]) -> str:
    """The description of the machine, one line for each property."""
    versions: dict[str, dict[str, str]] = environment["versions"]
    lines = [f"- {key}: {value}" for key, value in environment.items() if key != "versions"]
    shown = [
        f"{name} {versions[library.environment][name]}"
        for library in LIBRARIES.values()
        for name in library.shown
        if name in versions.get(library.environment, {})
    ]
    return "\n".join([*lines, f"- versions: {', '.join(dict.fromkeys(shown))}"])


def _missing(missing: dict[str, str]) -> Iterable[str]:
    if missing:
        lines = [f"- {LIBRARIES[name].title}: {reason}" for name, reason in missing.items()]
        yield "\n".join(["## Not measured", "", *lines])


def _void(summary: Summary) -> Iterable[str]:
    lines = [
        f"- {LIBRARIES[row.library].title}: {len(row.void)} void, the last because {row.void[-1]}"
        for row in summary.rows
        if row.void
    ]
    if lines:
        yield "Rounds that do not count:\n\n" + "\n".join(lines)
