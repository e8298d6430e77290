"""The description of the machine on which the figures were measured."""

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.environments import ROOT, Environment, configured, version_of
from benchmarks.plan import Plan
from tests.flavours import version


def describe(plan: Plan, environments: dict[str, Environment], python: str) -> dict[str, Any]:
    """The machine, the server and the versions, as they are printed and kept with the results."""
    return {
        "commit": _commit(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "load": round(os.getloadavg()[0], 2),
        "python": f"{version_of(python)}, {configured(python)}",
        "server": f"{plan.server} ({version(plan.server)})",
        "persistence": "off (no snapshots, no append-only file)",
        "rounds": plan.rounds,
        "scale": plan.scale,
        "seconds": plan.seconds,
        "versions": {name: environment.versions for name, environment in environments.items()},
    }


def _commit() -> str:
    """The commit that is measured, with `-dirty` if files differ from it."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    match = re.search(r"model name\s*:\s*(.+)", text)
    return match.group(1) if match else platform.machine()
