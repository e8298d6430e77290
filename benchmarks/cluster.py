"""`python -m benchmarks.cluster`: three nodes on this machine beside one server, in turns within one run.

What a cluster costs its clients: commands and CPU a job, and how bulk sends, a drain and the latency of a lone job
compare. Not how much faster a cluster is: nodes, sender and worker share the cores of one machine.
"""

import json
import os
import statistics
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click

from benchmarks.cluster_driver import NODES, QUEUES, TASKS
from benchmarks.contract import Setup
from benchmarks.environments import ROOT
from benchmarks.ledger import VARIABLE, Ledger
from benchmarks.monitor import monitored
from benchmarks.stage import Fleet, VoidError, fleet_of, run
from benchmarks.workloads.draining import watch
from tests.clusters import Cluster
from tests.flavours import available
from tests.servers import Server

SENDERS = 100
ALONE = 500
"""Jobs that are sent and awaited one by one."""

PATIENCE = 120.0
"""Seconds after which a measurement is given up: many times as long as it should take."""

Figures = dict[str, float]

SHOWN: dict[str, tuple[str, int]] = {
    "bulk_commands": ("bulk: commands a job", 4),
    "alone_commands": ("a job sent and awaited alone: commands, of sender and worker", 2),
    "client_commands": ("100 senders and a worker: commands a job", 3),
    "commands": ("the same, with those of scripts", 2),
    "bulk_cpu": ("bulk: µs of the sender's CPU a job", 2),
    "bulk_seconds": ("bulk: µs a job", 2),
    "concurrent_cpu": ("100 senders: µs of the sender's CPU a job", 1),
    "concurrent_seconds": ("100 senders: µs a job", 1),
    "drain_cpu": ("drain: µs of the worker's CPU a job", 1),
    "drain_seconds": ("drain: µs a job", 1),
    "p50": ("send to result, one at a time: p50 ms", 2),
}
"""By the name of a figure its row in the table, and how many digits after the point it has there."""


class Target:
    """One server, or a cluster, started for one measurement.

    Attributes:
        folder: for the files of this measurement.
    """

    def __init__(
        self, url: str, servers: Sequence[Server], folder: Path, settings: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self._url = url
        self._servers = servers
        self._settings = settings
        self.folder = folder

    def environ(self, ledger: Ledger | None = None) -> dict[str, str]:
        """The environment of a process that is measured: the shell's, without the shell's settings of aioq."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIOQ_")}
        marks = {} if ledger is None else {VARIABLE: str(ledger.path)}
        own = {**Setup(self._url, 100).environ(), **self._settings}
        return {**inherited, **own, "PYTHONPATH": str(ROOT), **marks}

    def drive(self, action: str, **parameters: Any) -> dict[str, Any]:
        """Run an action of `benchmarks.cluster_driver`, and return its result."""
        answer = self.folder / "answer.json"
        command = [sys.executable, "-m", "benchmarks.cluster_driver", action, str(answer), json.dumps(parameters)]
        try:
            run(command, self.environ(), self.folder / "driver.log", PATIENCE)
        except VoidError as error:
            raise VoidError(f"{action} {error}") from error
        return json.loads(answer.read_text())

    @contextmanager
    def worker(self, ledger: Ledger | None = None) -> Generator[Fleet]:
        """A worker of all queues, killed at the end."""
        command = [
            sys.executable,
            "-m",
            "aioq",
            "worker",
            "benchmarks.cluster_driver:app",
            "--log-level",
            "warning",
        ]
        with fleet_of(command, self.environ(ledger), self.folder / "worker.log") as fleet:
            yield fleet

    def has_history(self) -> bool:
        """Whether ends of jobs were recorded."""
        with ExitStack() as stack:
            clients: list[Any] = [stack.enter_context(server.client()) for server in self._servers]
            return any(client.keys("aioq:*:history") for client in clients)

    @contextmanager
    def counted(self) -> Generator[Figures]:
        """The commands within this context, over all servers; they are complete after it."""
        found: Figures = {}
        with ExitStack() as stack:
            seen = [stack.enter_context(monitored(server)) for server in self._servers]
            yield found
        found["by_clients"] = sum(each.by_clients for each in seen)
        found["in_all"] = found["by_clients"] + sum(each.by_scripts for each in seen)


@contextmanager
def target(kind: str, name: str, settings: Mapping[str, str] = MappingProxyType({})) -> Generator[Target]:
    """One server ("one") or a cluster ("three"), without persistence, and an empty folder.

    Args:
        kind: which of the two.
        name: the server, as the tests call it.
        settings: environment variables of sender and worker.
    """
    with tempfile.TemporaryDirectory(prefix="aioq-bench-") as place, ExitStack() as stack:
        folder = Path(place)
        if kind == "one":
            server = stack.enter_context(Server.start(name, folder / "server", tcp=True))
            yield Target(server.url, [server], folder, settings)
        else:
            cluster = stack.enter_context(
                Cluster.start(name, folder / "nodes", primaries=NODES, node_timeout=15_000)
            )
            yield Target(cluster.url, [node.server for node in cluster.nodes], folder, settings)


def measure(kind: str, name: str, jobs: int) -> Figures:
    """All figures of one kind, once."""
    figures: Figures = {}
    with target(kind, name) as here:
        for action, parameters in (("bulk", {}), ("concurrent", {"senders": SENDERS})):
            found = here.drive(action, jobs=jobs, **parameters)
            figures[f"{action}_cpu"] = found["cpu"] / jobs * 1e6
            figures[f"{action}_seconds"] = found["seconds"] / jobs * 1e6
    with target(kind, name) as here:
        figures |= drain(here, jobs)
    with target(kind, name) as here, here.worker():
        taken = here.drive("latency", jobs=max(50, jobs // 20))["taken"]
        figures["p50"] = statistics.median(taken) * 1e3
    with target(kind, name) as here:
        figures |= _commands(here, max(50, jobs // 4))
    return figures


def drain(here: Target, jobs: int) -> Figures:
    """Fill the queues, start a worker, and watch the ledger from the first job to the last."""
    here.drive("bulk", jobs=jobs)
    with Ledger(here.folder / "ledger", jobs + len(TASKS)) as ledger, here.worker(ledger) as fleet:
        if ledger.wait(1, PATIENCE) is None:
            raise VoidError(f"no job ran: {fleet.tail()}")
        started = fleet.cpu()
        pace = watch(ledger, fleet, PATIENCE)
        return {"drain_seconds": 1e6 / pace.whole, "drain_cpu": (fleet.cpu() - started) / jobs * 1e6}


def _commands(here: Target, jobs: int) -> Figures:
    """Count the commands for each job: in bulk, sent and awaited alone, sent by many while a worker runs them."""
    figures: Figures = {"bulk_commands": _sent(here, "bulk", jobs)}
    with Ledger(here.folder / "ledger", jobs + len(TASKS)) as ledger, here.worker(ledger) as fleet:
        if ledger.wait(ledger.jobs, PATIENCE) is None:
            raise VoidError(f"not all jobs ran: {fleet.tail()}")
    with Ledger(here.folder / "ledger", jobs + len(TASKS)) as ledger, here.worker(ledger) as fleet:
        here.drive("latency", jobs=2 * len(QUEUES))  # the worker has started
        figures["alone_commands"] = _sent(here, "latency", min(jobs, ALONE))
        with here.counted() as seen:
            here.drive("concurrent", jobs=jobs, senders=SENDERS)
            if ledger.wait(ledger.jobs, PATIENCE) is None:
                raise VoidError(f"not all jobs ran: {fleet.tail()}")
    figures["client_commands"], figures["commands"] = (seen[key] / jobs for key in ("by_clients", "in_all"))
    return figures


def _sent(here: Target, action: str, jobs: int) -> float:
    """The commands for each job of an action, without those that connect."""
    found: list[float] = []
    for count in (0, jobs):
        with here.counted() as seen:
            here.drive(action, jobs=count)
        found.append(seen["by_clients"])
    return (found[1] - found[0]) / jobs


def rows(found: dict[str, list[Figures]]) -> list[str]:
    """The table: medians of each kind, and the ratio of three nodes to one, of the rounds' ratios the median."""
    lines = ["| | one server | three nodes | ratio |", "|---|---:|---:|---:|"]
    for key, (label, digits) in SHOWN.items():
        one, three = ([figures[key] for figures in found[kind]] for kind in ("one", "three"))
        ratios = sorted(after / before for before, after in zip(one, three, strict=True))
        cells = [f"{statistics.median(values):,.{digits}f}" for values in (one, three)]
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        lines.append(f"| {label} | {' | '.join(cells)} | {spread} |")
    return lines


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="How often each is measured.")
@click.option("--jobs", type=click.IntRange(100), default=20_000, show_default=True, help="Of each measurement.")
@click.option("--server", "name", default=available()[-1], show_default=True)
def main(*, rounds: int, jobs: int, name: str) -> None:
    """Measure one server and three nodes in turns, and print the table."""
    found: dict[str, list[Figures]] = {"one": [], "three": []}
    for number in range(rounds):
        for kind in ("one", "three") if number % 2 == 0 else ("three", "one"):
            figures = measure(kind, name, jobs)
            found[kind].append(figures)
            shown = " ".join(f"{key} {value:.2f}" for key, value in figures.items())
            click.echo(f"{number + 1} {kind:6} {shown}", err=True)
    click.echo(f"{name}, {rounds} rounds, {jobs:,} jobs, {len(QUEUES)} queues; load {os.getloadavg()[0]:.1f}\n")
    click.echo("\n".join(rows(found)))


if __name__ == "__main__":
    main()
