"""`python -m benchmarks`: measure aioq beside its peers, print the ratios, write the results."""

import os
from collections.abc import Sequence
from pathlib import Path

import click

from benchmarks import catalogue, machine, plotting
from benchmarks.environments import HOME, Environment, EnvironmentMissingError, find_python, make
from benchmarks.plan import Plan
from benchmarks.report import environment_lines, ratios, report, table
from benchmarks.rounds import Run, open_raw
from benchmarks.summary import summarise
from benchmarks.workloads import table as workloads
from tests.flavours import installed

RESULTS = Path(__file__).parent / "results"
PART = HOME / "results"
"""The directory for results of only some libraries or workloads, so that they do not replace the full results."""


def _names(_: click.Context, __: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in value.split(",") if name.strip())


@click.command()
@click.option("--peers", default=",".join(catalogue.PEERS), callback=_names, help="Which, separated by commas.")
@click.option("--workloads", "keys", default="", callback=_names, help="Which, by commas; default all.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="How often each is measured.")
@click.option("--scale", type=click.FloatRange(0.001), default=1.0, show_default=True, help="Multiplies counts.")
@click.option("--seconds", type=click.FloatRange(0.2), default=5.0, show_default=True, help="Of one measurement.")
@click.option("--python", default=None, help="The interpreter of all environments. Python 3.13, if it is there.")
@click.option("--server", default=None, help="Redis 7.0 if it is installed, else the first of the tests' servers.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="The directory for the results. benchmarks/results if all is measured, .bench/results for a part.",
)
@click.option("--quick", is_flag=True, help="Fewer workloads, nothing written.")
def main(
    *,
    peers: tuple[str, ...],
    keys: tuple[str, ...],
    rounds: int,
    scale: float,
    seconds: float,
    python: str | None,
    server: str | None,
    out: Path | None,
    quick: bool,
) -> None:
    """Measure aioq, its peers and bare loops in one run, interleaved, each time on a fresh server."""
    try:
        libraries = catalogue.chosen(peers)
        chosen = workloads.chosen(keys or (workloads.QUICK if quick else ()))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    out = out or results_directory(peers, keys)
    plan = Plan(rounds, scale, seconds, server or _server())
    python = python or find_python()
    environments, missing = _environments(libraries, python)
    described = machine.describe(plan, environments, python)
    click.echo(environment_lines(described))
    usable = [library for library in libraries if library.name not in missing]
    run = Run(plan, usable, environments, chosen, missing)
    if quick:
        run.carry_out()
    else:
        with open_raw(out / "raw.jsonl", described) as run.raw:
            run.carry_out()
    summaries = [summarise(workload, run.records) for workload in chosen]
    if not quick:
        plots = plotting.draw(out, python)
        (out / "README.md").write_text(report(described, summaries, missing, plots))
        click.echo(f"\nThe results are in {os.path.relpath(out)}.")
    for summary in summaries:
        click.echo(f"\n{summary.workload.title}\n{table(summary)}")
    click.echo(f"\n{ratios(summaries)}")
    for name, reason in missing.items():
        click.echo(f"not measured: {name}: {reason}")


def results_directory(peers: Sequence[str], keys: Sequence[str]) -> Path:
    """The directory for the results of these peers and workloads; no workloads means all of them."""
    return RESULTS if set(catalogue.PEERS) <= set(peers) and not keys else PART


def _environments(
    libraries: list[catalogue.Library], python: str
) -> tuple[dict[str, Environment], dict[str, str]]:
    ready: dict[str, Environment] = {}
    failed: dict[str, str] = {}
    for name in dict.fromkeys(library.environment for library in libraries):
        try:
            ready[name] = make(name, python, with_aioq=name == catalogue.SUBJECT.environment)
        except EnvironmentMissingError as error:
            failed[name] = f"cannot be installed: {error}"
    return ready, {each.name: failed[each.environment] for each in libraries if each.environment in failed}


def _server() -> str:
    there = installed()
    if not there:
        raise click.UsageError("no server is installed: see CONTRIBUTING.md")
    return "redis-7.0" if "redis-7.0" in there else there[0]


if __name__ == "__main__":
    main()
