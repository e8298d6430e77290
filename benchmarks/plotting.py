"""Plots of the raw results, drawn by matplotlib in an environment of its own: `plotting RAW.jsonl DIRECTORY`.

The benchmark itself imports only `draw` from here, which starts that environment.
"""

import importlib
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.environments import ROOT, EnvironmentMissingError, make

PLOTTED = {
    "bulk": ("per_second", "bulk enqueue, jobs/s"),
    "concurrent": ("per_second", "100 senders, jobs/s"),
    "sequential": ("per_second", "one sender, jobs/s"),
    "drain": ("per_second", "drain of no-op jobs, jobs/s"),
    "nap": ("per_second", "drain of 5 ms jobs, jobs/s"),
    "latency": ("p50_ms", "send to result, p50 ms"),
}
"""The workloads that have a plot, each with its figure and its title."""


def draw(out: Path, python: str) -> Sequence[str]:
    """Draw the results in `out/raw.jsonl`; the names of the files, empty if matplotlib cannot be installed."""
    try:
        environment = make("plots", python)
    except EnvironmentMissingError as error:
        print(f"no plots: {error}")
        return ()
    command = [str(environment.python), "-m", "benchmarks.plotting", str(out / "raw.jsonl"), str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"no plots: {done.stderr.strip()[-300:]}")
    return done.stdout.split()


def read(raw: Path) -> dict[str, dict[str, float]]:
    """The median of the plotted figure, by workload and library."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in raw.read_text().splitlines():
        record: dict[str, Any] = json.loads(line)
        plotted = PLOTTED.get(record.get("workload", ""))
        if plotted and plotted[0] in record.get("figures", {}):
            found[record["workload"]][record["library"]].append(record["figures"][plotted[0]])
    return {
        workload: {library: statistics.median(values) for library, values in by_library.items()}
        for workload, by_library in found.items()
    }


def main(raw: Path, out: Path) -> None:
    """Draw one SVG for each workload: horizontal bars, the longest on top."""
    # Installed in the environment of the plots only, so that the type checker does not see it.
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "aioq"  # the same results make the same file
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    for workload, values in read(raw).items():
        names = sorted(values, key=lambda name: values[name])
        figure, axes = pyplot.subplots(figsize=(7, 0.4 * len(names) + 1))
        colours = ["#1f6feb" if name == "aioq" else "#b0b8c4" for name in names]
        bars = axes.barh(names, [values[name] for name in names], color=colours)
        axes.bar_label(bars, fmt="{:,.3g}" if workload == "latency" else "{:,.0f}", padding=3)
        axes.set_title(PLOTTED[workload][1])
        axes.margins(x=0.15)
        figure.savefig(out / f"{workload}.svg", bbox_inches="tight", metadata={"Date": None})
        pyplot.close(figure)
        print(f"{workload}.svg")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
