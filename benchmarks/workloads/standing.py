"""Fixed costs: idle workers, the time to start, the memory of a queued job, and the commands for a job."""

import subprocess
import time

from benchmarks.catalogue import SUBJECT
from benchmarks.ledger import Ledger
from benchmarks.monitor import monitored
from benchmarks.stage import START_WITHIN, Fleet, Stage, VoidError, used_memory
from benchmarks.workloads.contract import Figures, Metric, Workload
from benchmarks.workloads.draining import settle_time

MANY = 20
"""The worker processes of the second part of the idle workload; the first part has one."""

WINDOW = 10.0
"""Seconds for which idle workers are watched."""

QUEUED = 10_000
COUNTED = 5_000
SENDERS = 100


def idle(stage: Stage) -> Figures:
    """Measure workers that have run one job and wait: commands a second, CPU, memory."""
    return {**_idle(stage, 1, "one"), **_idle(stage, MANY, "many")}


def _idle(stage: Stage, processes: int, key: str) -> Figures:
    window = max(2.0, WINDOW * min(1.0, stage.plan.scale * 4))
    with stage.fleet(processes=processes) as fleet:
        stage.drive("first", job=0, limit=START_WITHIN + 2 * processes)
        settle_time(fleet, quiet=0.02 * processes, most=10 + processes)
        fleet.check()
        used = fleet.cpu()
        with monitored(stage.server) as commands:
            began = time.perf_counter()
            time.sleep(window)
            took = time.perf_counter() - began
        return {
            f"{key}_commands": commands.by_clients / took,
            f"{key}_cpu": (fleet.cpu() - used) / took * 100,
            f"{key}_mb": fleet.rss() / 1e6,
        }


def starting(stage: Stage) -> Figures:
    """Measure the import of an application, and `--help`, in seconds: the best of three, with cached files."""
    library = stage.library
    help_command = ["--help"] if library.command is None else [*library.command, "--help"]
    return {
        "import_s": _timed(stage, ["-c", library.entry]),
        "help_s": _timed(stage, help_command),
        "python_s": _timed(stage, ["-c", "pass"]),
    }


def _timed(stage: Stage, arguments: list[str]) -> float:
    command = [str(stage.environment.python), *arguments]
    taken: list[float] = []
    for _ in range(4):
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, env=stage.environ({}), check=False)
        taken.append(time.perf_counter() - began)
        if done.returncode:
            raise VoidError(f"{arguments} ended with {done.returncode}")
    return min(taken[1:])


def memory(stage: Stage) -> Figures:
    """Measure the server's memory in bytes for a queued job with a payload of 80 bytes."""
    stage.drive("bulk", jobs=100, seconds=stage.plan.seconds, task="keep")
    jobs = stage.plan.fitting(QUEUED, stage.known.bulk.get(stage.library.name), 2 * stage.plan.seconds)
    with stage.client() as client:
        before = used_memory(client)
        sent = stage.drive("bulk", jobs=jobs, seconds=2 * stage.plan.patience, task="keep")
        a_job = (used_memory(client) - before) / sent["jobs"]
    return {"bytes": a_job, "jobs": sent["jobs"]}


def commands(stage: Stage) -> Figures:
    """Count the server's commands for each job, with 100 senders and a worker at the same time."""
    jobs = stage.plan.fitting(COUNTED, stage.known.drain.get(stage.library.name))
    with Ledger(stage.folder / "ledger", jobs + 1) as ledger, stage.fleet(ledger=ledger) as fleet:
        stage.drive("first", job=jobs, limit=START_WITHIN)
        with monitored(stage.server) as seen:
            stage.drive("concurrent", jobs=jobs, seconds=stage.plan.patience, senders=SENDERS)
            _all_run(ledger, fleet, stage.plan.patience)
        return {
            "by_clients": seen.by_clients / jobs,
            "in_all": (seen.by_clients + seen.by_scripts) / jobs,
            "jobs": jobs,
        }


def _all_run(ledger: Ledger, fleet: Fleet, patience: float) -> None:
    if ledger.wait(ledger.jobs, patience) is None:
        fleet.check()
        raise VoidError(f"{ledger.count().never} of {ledger.jobs} jobs did not run in {patience:g} s")


def _lower(key: str, label: str, digits: int = 0) -> Metric:
    return Metric(key, label, "lower", digits=digits)


WORKLOADS = (
    Workload(
        "idle",
        f"Idle workers: 1 and {MANY} processes",
        idle,
        (
            _lower("one_commands", "commands/s, 1", 1),
            _lower("one_cpu", "% of a core, 1", 2),
            _lower("one_mb", "MB, 1"),
            _lower("many_commands", f"commands/s, {MANY}", 1),
            _lower("many_cpu", f"% of a core, {MANY}", 2),
            _lower("many_mb", f"MB, {MANY}"),
        ),
    ),
    Workload(
        "starting",
        f"`{SUBJECT.entry}` and `--help`",
        starting,
        (
            _lower("import_s", "import s", 3),
            _lower("help_s", "--help s", 3),
            Metric("python_s", "bare Python s", None, digits=3),
        ),
    ),
    Workload(
        "memory",
        "Server memory a queued job, 80-byte payload",
        memory,
        (_lower("bytes", "bytes/job"), Metric("jobs", "jobs", None)),
    ),
    Workload(
        "commands",
        "Commands a job under load, senders and worker",
        commands,
        (
            _lower("by_clients", "sent by clients", 3),
            _lower("in_all", "with those of scripts", 2),
            Metric("jobs", "jobs", None),
        ),
    ),
)
