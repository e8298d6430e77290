"""`python -m benchmarks.idle`: what idle workers, or a worker of many queues, cost, and how soon they begin a job.

The workers are aioq's own, many to a process. The server is one of the tests' servers.
"""

import asyncio
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

from aioq import App
from aioq.app import internals_of
from aioq.tasks.task import Sendable
from aioq.worker import Worker
from benchmarks.monitor import Seen, monitored
from tests.flavours import available
from tests.proxies import Proxy
from tests.servers import Server

APP = "idle"


@click.group()
def main() -> None:
    """Count the commands of idle workers."""


@main.command()
@click.option("--workers", default=1000, show_default=True)
@click.option("--queues", default=1, show_default=True, help="Of each worker.")
@click.option("--processes", default=10, show_default=True)
@click.option("--settle", default=20.0, show_default=True, help="Seconds before the counting begins.")
@click.option("--seconds", default=32.0, show_default=True, help="For which commands are counted.")
@click.option("--latency", default=0.0, show_default=True, help="Seconds by which each reply is late.")
@click.option("--server", "name", default=available()[-1], show_default=True)
def count(
    *, workers: int, queues: int, processes: int, settle: float, seconds: float, latency: float, name: str
) -> None:
    """Start idle workers, and count what they send."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        server = Server.start(name, Path(folder), tcp=True)
        stack.callback(server.stop)
        arguments = [str(server.port), str(workers // processes), str(queues), str(latency), "100"]
        with _fleet(processes, arguments):
            time.sleep(settle)
            connections, seen, took, cpu, rows = _watched(server, seconds)
    click.echo(
        f"{workers} workers, {queues} queues each: {connections} connections; "
        f"{seen.by_clients / took:.0f} commands/s of clients, {seen.by_scripts / took:.0f} within scripts; "
        f"server {cpu / took * 100:.1f} % of a core (with MONITOR)"
    )
    click.echo(", ".join(f"{command} {calls / took:.1f}" for calls, command in rows[:12]))


@main.command()
@click.option("--workers", default=1, show_default=True, help="Each in a process of its own.")
@click.option("--queues", default=200, show_default=True, help="Of each worker.")
@click.option("--concurrency", default=100, show_default=True, help="Of each worker.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--seconds", default=5.0, show_default=True, help="Of each way to send, in each round.")
@click.option("--server", "name", default=available()[-1], show_default=True)
def latency(*, workers: int, queues: int, concurrency: int, rounds: int, seconds: float, name: str) -> None:
    """Send jobs in several ways, and measure the time from each send to the start of its job."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        server = Server.start(name, Path(folder), tcp=True)
        stack.callback(server.stop)
        with _fleet(workers, [str(server.port), "1", str(queues), "0", str(concurrency)]):
            time.sleep(3)
            found = asyncio.run(_measured(f"redis://127.0.0.1:{server.port}/0", queues, rounds, seconds))
    for way, parts in found.items():
        medians, tails = ([_percentile(part, percent) * 1000 for part in parts] for percent in (50, 99))
        click.echo(
            f"{way:24} {sum(map(len, parts)):6} jobs; p50 {statistics.median(medians):6.2f} ms "
            f"({min(medians):.2f} to {max(medians):.2f}); p99 {statistics.median(tails):6.2f} ms "
            f"({min(tails):.2f} to {max(tails):.2f})"
        )


def _percentile(times: Sequence[float], percent: int) -> float:
    return sorted(times)[min(len(times) * percent // 100, len(times) - 1)]


async def _measured(url: str, queues: int, rounds: int, seconds: float) -> dict[str, list[list[float]]]:
    """By way of sending, and by round: the seconds from the send to the start of each job."""
    app = App(APP, url=url)
    task = app.task(stamp)
    names = [f"q{number}" for number in range(queues)]
    ways: dict[str, tuple[float, Callable[[], Sendable[[], float]]]] = {
        "lone, dispatched": (20.0, lambda: task.options(queue=random.choice(names))),
        "lone, high priority": (20.0, lambda: task.options(queue=random.choice(names), priority="high")),
        "100/s to one queue": (100.0, lambda: task.options(queue=names[0])),
        "1000/s to one queue": (1000.0, lambda: task.options(queue=names[0])),
        "1/s to each queue": (float(queues), lambda: task.options(queue=random.choice(names))),
    }
    found: dict[str, list[list[float]]] = {way: [] for way in ways}

    async def timed(make: Callable[[], Sendable[[], float]]) -> float:
        sent = time.monotonic()
        return await (await make().send()) - sent

    async with app:
        for _ in range(rounds):
            for way, (rate, make) in ways.items():
                jobs: list[asyncio.Task[float]] = []
                began = time.monotonic()
                while (at := len(jobs) / rate) < seconds:
                    await asyncio.sleep(max(began + at - time.monotonic(), 0))
                    jobs.append(asyncio.create_task(timed(make)))
                found[way].append(await asyncio.gather(*jobs))
    return found


async def stamp() -> float:
    """When this job has started: all processes of a machine have the same monotonic clock."""
    return time.monotonic()


def _watched(server: Server, seconds: float) -> tuple[int, Seen, float, float, list[tuple[int, str]]]:
    """How many connections there are, what is sent in so many seconds, and what the server counts by command."""
    connection: Any = server.client()
    with connection as client:
        clients = client.info("clients")
        client.config_resetstat()
        before = _cpu(client)
        with monitored(server) as seen:
            began = time.perf_counter()
            time.sleep(seconds)
            took = time.perf_counter() - began
        stats = client.info("commandstats")
        rows = [(row["calls"], name.removeprefix("cmdstat_")) for name, row in stats.items()]
        return clients["connected_clients"] - 1, seen, took, _cpu(client) - before, sorted(rows, reverse=True)


@contextmanager
def _fleet(processes: int, arguments: Sequence[str]) -> Generator[None]:
    """Processes with workers that serve; the end of their input ends them."""
    command = [sys.executable, "-m", "benchmarks.idle", "serve", *arguments]
    pipe = subprocess.PIPE
    fleet = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(processes)]
    try:
        for each in fleet:
            assert each.stdout is not None
            if each.stdout.readline().strip() != "ready":
                raise click.ClickException("a process has ended")
        yield
    finally:
        for each in fleet:
            each.communicate()


def _cpu(client: Any) -> float:
    used = client.info("cpu")
    return used["used_cpu_sys"] + used["used_cpu_user"]


@main.command(hidden=True)
@click.argument("port", type=int)
@click.argument("workers", type=int)
@click.argument("queues", type=int)
@click.argument("latency", type=float)
@click.argument("concurrency", type=int)
def serve(port: int, workers: int, queues: int, latency: float, concurrency: int) -> None:
    """Be one of the processes, until the input ends."""
    asyncio.run(_serve(port, workers, [f"q{number}" for number in range(queues)], latency, concurrency))


async def _serve(port: int, workers: int, queues: Sequence[str], latency: float, concurrency: int) -> None:
    async with Proxy(port) as proxy:
        proxy.latency = latency
        app = App(APP, url=proxy.url if latency else f"redis://127.0.0.1:{port}/0")
        app.task(stamp)
        parts = internals_of(app).app_parts()
        made = [Worker(parts, queues=queues, concurrency=concurrency) for _ in range(workers)]
        async with app, asyncio.TaskGroup() as group:
            for worker in made:
                group.create_task(worker.run())
            while not all(worker.health().ready for worker in made):  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.1)
            print("ready", flush=True)
            await asyncio.to_thread(sys.stdin.read)
            for worker in made:
                worker.stop()


if __name__ == "__main__":
    main()
