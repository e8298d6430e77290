"""`python -m benchmarks.sizes`: what a job, a schedule and a worker take of a server: memory, disk, network, CPU.

Bytes are the same on any machine with that server version. CPU is given as a ratio, to that of a plain SET of
the same server in the same run, sent in pipelines of 100; how many of these a server does is easily measured.
"""

import asyncio
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from aioq import App
from benchmarks.contract import Setup
from benchmarks.environments import ROOT
from benchmarks.stage import info, run, used_memory
from tests.flavours import available
from tests.servers import Server

APP = "sizes"
PAYLOADS = (0, 80, 1_000, 10_000)
PATIENCE = 300.0
"""Seconds after which a worker is given up: many times as long as it should take."""

SETS = 100
"""Plain SETs in a pipeline."""

app = App(APP, url=Setup.read().url or None)


@app.task
async def echo(text: str) -> str:
    """A job whose result is as large as its argument."""
    return text


@app.task
async def nothing(text: str) -> None:
    """A job without a result."""


@app.task
async def fail(text: str) -> None:
    """A job that fails, and is kept with its traceback."""
    raise ValueError(text)


class Meter:
    """What one server has used between two looks."""

    def __init__(self, server: Server, directory: Path) -> None:
        self.server = server
        self.directory = directory
        self.start()

    def start(self) -> None:
        """Begin anew."""
        self._before = self._now()

    def a_job(self, jobs: int) -> dict[str, float]:
        """What was used since, for each job."""
        now = self._now()
        return {key: (now[key] - self._before[key]) / jobs for key in now}

    def _now(self) -> dict[str, float]:
        with self.server.client() as client:
            stats, cpu = info(client, "stats"), info(client, "cpu")
            return {
                "memory": used_memory(client),
                "in": stats["total_net_input_bytes"],
                "out": stats["total_net_output_bytes"],
                "cpu": (cpu["used_cpu_user"] + cpu["used_cpu_sys"]) * 1e6,
                "disk": sum(file.stat().st_size for file in self.directory.rglob("appendonly*.*")),
            }


def _fresh(meter: Meter) -> None:
    untyped: Any = meter.server.client()
    with untyped as client:
        client.flushall()


def _drain(meter: Meter) -> None:
    """Run all jobs, in a worker of its own process."""
    environ = {**os.environ, **Setup(meter.server.url, 100).environ(), "PYTHONPATH": str(ROOT)}
    command = ("-m", "aioq", "worker", "benchmarks.sizes:app", "--burst", "--log-level", "critical")
    run([sys.executable, *command], environ, meter.directory / "worker.log", PATIENCE)


async def _many(client: App, task: str, text: str, jobs: int) -> None:
    await client.send_many([client.by_name(task).call(text) for _ in range(jobs)])


def memory_rows(meter: Meter, jobs: int) -> list[str]:
    """The memory of each thing that a server keeps, in bytes."""
    found: list[tuple[str, float]] = []

    def row(name: str, task: str, payload: int, *, drained: bool = False, **options: Any) -> None:
        async def sent() -> None:
            async with App(APP, url=meter.server.url) as client:
                call = client.by_name(f"benchmarks.sizes.{task}").options(**options)
                await client.send_many([call.call("x" * payload)] * 100)  # what is taken once
                meter.start()
                await client.send_many([call.call("x" * payload) for _ in range(jobs)])

        _fresh(meter)
        asyncio.run(sent())  # begins to measure
        if drained:
            _drain(meter)
        found.append((name, meter.a_job(jobs + 100 if drained else jobs)["memory"]))

    row("", "nothing", 0, drained=True)  # what a server takes once, for the first worker
    found.clear()
    for payload in PAYLOADS:
        row(f"a waiting job with an argument of {payload:,} bytes", "nothing", payload)
    row("a waiting job that is delayed, 80 bytes", "nothing", 80, delay=3600)
    row("an ended job without a result, kept for `result_ttl`", "nothing", 80, drained=True)
    row("an ended job with a result of 80 bytes", "echo", 80, drained=True)
    row("a failed job, kept for `dead_ttl` with its traceback", "fail", 80, drained=True)
    row("an ended job with `result_ttl=0`", "nothing", 80, drained=True, result_ttl=0)
    found.append(("a schedule", asyncio.run(_schedules(meter, min(jobs, 500)))))
    return [
        "| in the server's memory | bytes |",
        "|---|---:|",
        *(f"| {name} | {size:,.0f} |" for name, size in found),
    ]


async def _schedules(meter: Meter, count: int) -> float:
    _fresh(meter)
    async with App(APP, url=meter.server.url) as client:
        call = client.by_name("benchmarks.sizes.nothing").call("x" * 80)
        await client.schedules.put("first", call, every=3600)
        meter.start()
        for number in range(count):
            await client.schedules.put(f"schedule-{number}", call, cron="0 6 * * *")
    return meter.a_job(count)["memory"]


def flow_rows(meter: Meter, jobs: int, rounds: int) -> list[str]:
    """Network, disk and CPU of a job on its way, each beside a plain SET."""
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(rounds):
        for name, work, count in _ways(meter, jobs):
            meter.start()
            work()
            found.setdefault(name, []).append(meter.a_job(count))
    base = [each["cpu"] for each in found.pop("SET")]
    lines = ["| a job of 80 bytes | bytes in | bytes out | append-only file | CPU, in plain SETs |"]
    lines += ["|---|---:|---:|---:|---:|"]
    for name, looks in found.items():
        middle = {key: statistics.median(look[key] for look in looks) for key in ("in", "out", "disk")}
        ratios = sorted(look["cpu"] / one for look, one in zip(looks, base, strict=True))
        shown = f"{statistics.median(ratios):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})"
        lines.append(f"| {name} | {middle['in']:,.0f} | {middle['out']:,.0f} | {middle['disk']:,.0f} | {shown} |")
    return lines


def _ways(meter: Meter, jobs: int) -> Sequence[tuple[str, Callable[[], None], int]]:
    text, few = "x" * 80, max(50, jobs // 20)

    async def in_bulk() -> None:
        async with App(APP, url=meter.server.url) as client:
            await _many(client, "benchmarks.sizes.echo", text, jobs)

    async def alone() -> None:
        async with App(APP, url=meter.server.url) as client:
            for _ in range(few):
                await client.send("benchmarks.sizes.echo", text)

    def plain() -> None:
        untyped: Any = meter.server.client()
        with untyped as client:
            for first in range(0, jobs, SETS):
                pipe = client.pipeline(transaction=False)
                for number in range(first, first + SETS):
                    pipe.set(f"set:{number}", text)
                pipe.execute()

    return (
        ("SET", lambda: (_fresh(meter), plain())[-1], jobs),
        ("sent in bulk", lambda: (_fresh(meter), asyncio.run(in_bulk()))[-1], jobs),
        ("run by a worker at full load, with its result", lambda: _drain(meter), jobs),
        ("sent alone, one after the other", lambda: (_fresh(meter), asyncio.run(alone()))[-1], few),
    )


@click.command()
@click.option("--jobs", type=click.IntRange(100), default=10_000, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Of what is timed.")
@click.option("--server", "name", default=available()[-1], show_default=True)
def main(*, jobs: int, rounds: int, name: str) -> None:
    """Measure, and print the tables."""
    with tempfile.TemporaryDirectory(prefix="aioq-bench-") as place, ExitStack() as stack:
        places = [Path(place) / each for each in ("plain", "durable")]
        plain = stack.enter_context(Server.start(name, places[0], tcp=True))
        durable = stack.enter_context(Server.start(name, places[1], tcp=True, appendonly=True))
        click.echo(f"{name}, {jobs:,} jobs, {rounds} rounds\n")
        click.echo("\n".join(memory_rows(Meter(plain, places[0]), jobs)))
        click.echo()
        click.echo("\n".join(flow_rows(Meter(durable, places[1]), jobs, rounds)))


if __name__ == "__main__":
    main()
