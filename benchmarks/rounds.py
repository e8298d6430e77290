"""The run: in each round every library is measured in turn, each time on a new server."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from benchmarks.catalogue import Library
from benchmarks.environments import Environment
from benchmarks.plan import Plan
from benchmarks.stage import Known, VoidError, stage
from benchmarks.workloads import draining
from benchmarks.workloads.contract import Figures, Workload
from tests.servers import ServerStartError


@dataclass(frozen=True, slots=True)
class Record:
    """One measurement.

    Attributes:
        round: from 1.
        workload: its key.
        library: its name.
        figures: what was measured; empty if the round is void.
        void: why it is void, or "".
    """

    round: int
    workload: str
    library: str
    figures: Figures
    void: str = ""

    def as_json(self) -> dict[str, Any]:
        """One line of the raw results."""
        line: dict[str, Any] = {"round": self.round, "workload": self.workload, "library": self.library}
        return {**line, "void": self.void} if self.void else {**line, "figures": self.figures}


@dataclass(slots=True)
class Run:
    """A run of the benchmark, with its results so far.

    Attributes:
        plan: the sizes.
        libraries: the libraries that can be measured; one whose probe fails moves to `missing`.
        environments: the environments of the libraries, by name.
        workloads: the workloads to measure.
        missing: the libraries that cannot be measured, by name, and why.
        records: one for each measurement.
        raw: the file to which each measurement is written as soon as it is made; None for no file.
    """

    plan: Plan
    libraries: list[Library]
    environments: dict[str, Environment]
    workloads: Sequence[Workload]
    missing: dict[str, str]
    records: list[Record] = field(default_factory=list[Record])
    raw: TextIO | None = None

    def carry_out(self) -> None:
        """Probe each library, then measure round after round."""
        known = Known(peers=frozenset(each.name for each in self.libraries if each.kind == "peer"))
        for library in list(self.libraries):
            self._probe(library, known)
        for number in range(1, self.plan.rounds + 1):
            for workload in self.workloads:
                self._round(number, workload, known)

    def _probe(self, library: Library, known: Known) -> None:
        reason = self._attempt(library, known, draining.probe)
        if isinstance(reason, str):
            self.missing[library.name] = reason
            self.libraries.remove(library)
        rate = known.drain.get(library.name)
        print(f"probe  {library.title:22} {f'{rate:,.0f} jobs/s' if rate else reason}", flush=True)

    def _round(self, number: int, workload: Workload, known: Known) -> None:
        taking_part = [each for each in self.libraries if each.kind != "bare" or each.name in workload.bare]
        # The order is shifted, so that each library is first or last in one round only.
        shift = number % max(1, len(taking_part))
        for library in taking_part[shift:] + taking_part[:shift]:
            began = time.perf_counter()
            found = self._attempt(library, known, workload.measure)
            void = found if isinstance(found, str) else ""
            figures: Figures = {} if isinstance(found, str) else found or {}
            record = Record(number, workload.key, library.name, figures, void)
            self.records.append(record)
            if self.raw is not None:
                print(json.dumps(record.as_json()), file=self.raw, flush=True)
            self._show(record, library, workload, time.perf_counter() - began)

    def _attempt(
        self, library: Library, known: Known, measure: "Callable[..., Figures | None]"
    ) -> Figures | str | None:
        environment = self.environments[library.environment]
        try:
            with stage(library, environment, self.plan, known) as ready:
                return measure(ready)
        except (VoidError, ServerStartError) as error:
            return str(error) or type(error).__name__

    def _show(self, record: Record, library: Library, workload: Workload, took: float) -> None:
        metric = workload.metrics[0]
        value = record.figures.get(metric.key)
        shown = f"void: {record.void}" if value is None else f"{value:,.{metric.digits}f} {metric.label}"
        print(f"{record.round:2} {workload.key:12} {library.title:22} {shown}  [{took:.1f} s]", flush=True)


def open_raw(path: Path, environment: dict[str, Any]) -> TextIO:
    """Start a file of raw results in JSON Lines; its first line describes the machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("w")
    print(json.dumps({"environment": environment}), file=file, flush=True)
    return file
