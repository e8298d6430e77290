"""`python -m benchmarks.history`: an App that keeps its history and statistics, beside one that does not.

The default keeps both. The two are measured in turns within one run, each with a server of its own.
"""

import os
import statistics

import click

from benchmarks.cluster import Figures, drain, target
from benchmarks.stage import VoidError
from tests.flavours import available

KINDS = {"without": {"AIOQ_HISTORY": "0", "AIOQ_STATS": "false"}, "with": {}}
"""The settings of each."""

SHOWN = {
    "bulk_seconds": "bulk: µs a job",
    "bulk_cpu": "bulk: µs of the sender's CPU a job",
    "drain_seconds": "drain: µs a job",
    "drain_cpu": "drain: µs of the worker's CPU a job",
}
"""By the name of a figure its row in the table."""


def measure(kind: str, name: str, jobs: int) -> Figures:
    """All figures of one kind, once."""
    with target("one", name, KINDS[kind]) as here:
        sent = here.drive("bulk", jobs=jobs)
    with target("one", name, KINDS[kind]) as here:
        drained = drain(here, jobs)
        if here.has_history() != (kind == "with"):
            raise VoidError(f"an App {kind} history has{' none' * (kind == 'with')}")
    return {"bulk_seconds": sent["seconds"] / jobs * 1e6, "bulk_cpu": sent["cpu"] / jobs * 1e6, **drained}


def rows(found: dict[str, list[Figures]]) -> list[str]:
    """The table: medians of each kind, and how fast the second is as a part of the first, round by round."""
    lines = ["| | without | with | speed |", "|---|---:|---:|---:|"]
    for key, label in SHOWN.items():
        without, kept = ([figures[key] for figures in found[kind]] for kind in ("without", "with"))
        speeds = sorted(before / after for before, after in zip(without, kept, strict=True))
        cells = [f"{statistics.median(values):,.2f}" for values in (without, kept)]
        spread = f"{statistics.median(speeds):.3f} ({speeds[0]:.3f} to {speeds[-1]:.3f})"
        lines.append(f"| {label} | {' | '.join(cells)} | {spread} |")
    return lines


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="How often each is measured.")
@click.option("--jobs", type=click.IntRange(100), default=100_000, show_default=True, help="Of each measurement.")
@click.option("--server", "name", default=available()[-1], show_default=True)
def main(*, rounds: int, jobs: int, name: str) -> None:
    """Measure both in turns, and print the table."""
    found: dict[str, list[Figures]] = {kind: [] for kind in KINDS}
    for number in range(rounds):
        for kind in KINDS if number % 2 == 0 else reversed(KINDS):
            figures = measure(kind, name, jobs)
            found[kind].append(figures)
            shown = " ".join(f"{key} {value:.2f}" for key, value in figures.items())
            click.echo(f"{number + 1} {kind:8} {shown}", err=True)
    click.echo(f"{name}, {rounds} rounds, {jobs:,} jobs; load {os.getloadavg()[0]:.1f}\n")
    click.echo("\n".join(rows(found)))


if __name__ == "__main__":
    main()
