"""The sender and the worker of `benchmarks.cluster`, of several queues, each in a process of its own.

    python -m benchmarks.cluster_driver ACTION ANSWER '{"parameter": value}'

The result of an action is written to the file ANSWER as JSON. CPU is that of this process while it sends.
"""

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from aioq import App
from aioq.store.redis.cluster.topology import SLOTS, slot_of
from aioq.store.redis.keys import base_key
from benchmarks import work
from benchmarks.contract import Setup

NODES, EACH = 3, 2
APP = "bench"
CHUNK = 1_000
"""Jobs in one bulk call."""


def spread(nodes: int, each: int) -> list[str]:
    """Names of queues of which each node has as many, if the nodes have equal parts of the slots, in order."""
    found: list[list[str]] = [[] for _ in range(nodes)]
    for number in itertools.count():
        name = f"q{number}"
        part = found[slot_of(base_key(APP, name)) * nodes // SLOTS]
        if len(part) < each:
            part.append(name)
        if all(len(part) == each for part in found):
            return [name for part in zip(*found, strict=True) for name in part]
    raise AssertionError("names do not end")


SETUP = Setup.read()
QUEUES = spread(NODES, EACH)
app = App(APP, url=SETUP.url or None)
TASKS = [app.task(name=f"noop.{queue}", queue=queue)(work.noop) for queue in QUEUES]


def _call(number: int) -> Any:
    return TASKS[number % len(TASKS)].call(number)


class _Stretch:
    """Seconds and seconds of CPU from its making on."""

    def __init__(self) -> None:
        self._began, self._cpu = time.perf_counter(), time.process_time()

    def answer(self, jobs: int) -> dict[str, Any]:
        """The figures of so many jobs."""
        took, cpu = time.perf_counter() - self._began, time.process_time() - self._cpu
        return {"jobs": jobs, "seconds": took, "cpu": cpu}


async def bulk(*, jobs: int) -> dict[str, Any]:
    """Send in bulk, over all queues in turn."""
    await app.send_many([_call(number) for number in range(jobs, jobs + len(TASKS))])  # connects to every node
    stretch = _Stretch()
    for first in range(0, jobs, CHUNK):
        await app.send_many([_call(number) for number in range(first, min(first + CHUNK, jobs))])
    return stretch.answer(jobs)


async def concurrent(*, jobs: int, senders: int) -> dict[str, Any]:
    """Send from many coroutines, each of which awaits one send after the other."""
    await asyncio.gather(*(task.send(jobs + number) for number, task in enumerate(TASKS)))
    numbers = iter(range(jobs))

    async def sender() -> None:
        for number in numbers:
            await TASKS[number % len(TASKS)].send(number)

    stretch = _Stretch()
    await asyncio.gather(*(sender() for _ in range(senders)))
    return stretch.answer(jobs)


async def latency(*, jobs: int) -> dict[str, Any]:
    """Run one job at a time; the seconds from before each send to its result."""
    taken: list[float] = []
    for number in range(jobs + len(TASKS)):
        began = time.perf_counter()
        await (await TASKS[number % len(TASKS)].send(number))
        taken.append(time.perf_counter() - began)
    return {"taken": taken[len(TASKS) :]}


ACTIONS: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
    "bulk": bulk,
    "concurrent": concurrent,
    "latency": latency,
}


async def _main(action: str, parameters: dict[str, Any]) -> dict[str, Any]:
    async with app:
        return await ACTIONS[action](**parameters)


def main(arguments: Sequence[str]) -> None:
    """Run an action and write its result."""
    action, answer, parameters = arguments
    work.use_uvloop()
    Path(answer).write_text(json.dumps(asyncio.run(_main(action, json.loads(parameters)))))


if __name__ == "__main__":
    main(sys.argv[1:])
