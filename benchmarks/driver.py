"""The part of a measurement that runs in a library's own environment: sends jobs, reads results, starts workers.

    python -m benchmarks.driver LIBRARY ACTION ANSWER '{"parameter": value}'

The result of an action is written to the file ANSWER as JSON. `worker` has none: this process becomes the worker.
"""

import asyncio
import importlib
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.catalogue import LIBRARIES
from benchmarks.contract import Peer
from benchmarks.work import use_uvloop

CHUNK = 1_000
"""The number of jobs in one bulk call; after each call a sender looks at its time limit."""

READERS = 50
"""How many results are read at the same time when a drain is checked."""

GRACE = 5.0
"""Seconds for which a result that is not there yet is waited for."""

PAYLOAD = 80
"""Bytes of the argument of `keep`."""


async def bulk(peer: Peer, *, jobs: int, seconds: float, task: str = "noop", ids: str = "") -> dict[str, Any]:
    """Enqueue in bulk until `jobs` are sent or the time is over; the ids go to the file `ids`."""
    tickets: list[Any] = []
    started = perf_counter()
    while len(tickets) < jobs and perf_counter() - started < seconds:
        first = len(tickets)
        tickets += await peer.send_many(task, _arguments(task, first, min(first + CHUNK, jobs)))
    took = perf_counter() - started
    if ids:
        _write_lines(ids, [peer.job_id(ticket) for ticket in tickets])
    return {"jobs": len(tickets), "seconds": took}


async def concurrent(peer: Peer, *, jobs: int, seconds: float, senders: int) -> dict[str, Any]:
    """Send from many coroutines, each of which awaits one send after the other."""
    started = perf_counter()
    deadline = started + seconds
    numbers = iter(range(jobs))
    sent = 0

    async def sender() -> None:
        nonlocal sent
        for number in numbers:
            await peer.send("noop", number)
            sent += 1
            if perf_counter() > deadline:
                return

    await asyncio.gather(*(sender() for _ in range(senders)))
    return {"jobs": sent, "seconds": perf_counter() - started}


async def sequential(peer: Peer, *, jobs: int, seconds: float) -> dict[str, Any]:
    """Send from one coroutine, which awaits one send after the other."""
    return await concurrent(peer, jobs=jobs, seconds=seconds, senders=1)


async def collect(peer: Peer, *, ids: str, most: int) -> dict[str, Any]:
    """Read at most `most` results of a drain, evenly spread over its jobs; each must be the number of its job."""
    names = _read_lines(ids)
    step = max(1, len(names) // most)
    numbers = iter(range(0, len(names), step))
    good = read = 0

    async def reader() -> None:
        nonlocal good, read
        for number in numbers:
            read += 1
            result = await _read(peer, names[number], number)
            good += result == number

    await asyncio.gather(*(reader() for _ in range(READERS)))
    return {"read": read, "good": good}


async def _read(peer: Peer, name: str, expected: int) -> Any:
    """A result. If it is not there yet, because its job has only just run, this waits for it."""
    deadline = perf_counter() + GRACE
    while True:
        try:
            result = await peer.read(name)
        except Exception as error:  # each library has errors of its own for "not there"
            result = error
        if result == expected or perf_counter() > deadline:
            return result
        await asyncio.sleep(0.01)


async def latency(peer: Peer, *, jobs: int, warm_up: int, seconds: float) -> dict[str, Any]:
    """Run one job at a time, and measure the seconds from before its send to its result."""
    for number in range(warm_up):
        await peer.wait(await peer.send("noop", number))
    taken: list[float] = []
    deadline = perf_counter() + seconds
    for number in range(jobs):
        started = perf_counter()
        await peer.wait(await peer.send("noop", number))
        taken.append(perf_counter() - started)
        if perf_counter() > deadline:
            break
    return {"taken": taken}


async def pairs(peer: Any, *, jobs: int, seconds: float, senders: int) -> dict[str, Any]:
    """Run jobs from many coroutines, which each await one after the other: in turns with unique keys and without.

    Turns are short, so that the machine is the same for both.
    """
    taken = {"plain": 0.0, "unique": 0.0}
    deadline = perf_counter() + seconds
    done = 0
    while done < jobs and perf_counter() < deadline:
        for kind, send in (("plain", peer.send), ("unique", peer.send_unique)):
            numbers = iter(range(done, done + CHUNK))

            async def sender(numbers: Iterator[int] = numbers, send: Callable[..., Any] = send) -> None:
                for number in numbers:
                    await peer.wait(await send("noop", number))

            started = perf_counter()
            await asyncio.gather(*(sender() for _ in range(senders)))
            taken[kind] += perf_counter() - started
        done += CHUNK
    return {**taken, "jobs": done}


async def permits(peer: Any, *, permits: int, seconds: float) -> dict[str, Any]:
    """Get permits one after the other, in turns with plain calls to the server."""
    taken = {"permits": 0.0, "calls": 0.0}
    deadline = perf_counter() + seconds
    done = 0
    while done < permits and perf_counter() < deadline:
        for kind, use in (("permits", peer.use_permit), ("calls", peer.call_server)):
            started = perf_counter()
            for _ in range(CHUNK):
                await use()
            taken[kind] += perf_counter() - started
        done += CHUNK
    return {**taken, "done": done}


async def ways(peer: Peer, *, jobs: int, seconds: float) -> dict[str, Any]:
    """Run one job at a time, in turns without limits and with two, and measure as `latency` does."""
    taken: dict[str, list[float]] = {"noop": [], "twice_limited": []}
    deadline = perf_counter() + seconds
    for number in range(jobs):
        for task, each in taken.items():
            started = perf_counter()
            await peer.wait(await peer.send(task, number))
            each.append(perf_counter() - started)
        if perf_counter() > deadline:
            break
    return taken


async def block(peer: Any, *, jobs: int) -> dict[str, Any]:
    """Send jobs that each wait for a limit, with a key of their own."""
    await peer.hold("held")
    for first in range(0, jobs, CHUNK):
        await peer.send_many("held", range(first, min(first + CHUNK, jobs)))
    return {}


async def free_key(peer: Any, *, jobs: int, turns: int) -> dict[str, Any]:
    """Run jobs of a free key, in turns alone and while those of another key wait for their second limit."""
    taken = {"alone": 0.0, "beside": 0.0}
    blocked, free = 0, 1
    for turn in range(turns):
        for kind in sorted(taken, reverse=bool(turn % 2)):
            waiting: Sequence[Any] = ()
            if kind == "beside":
                await peer.hold("second", blocked)
                waiting = await peer.send_many("twice_limited", [blocked + peer.KEYS * n for n in range(jobs)])
            started = perf_counter()
            running = await peer.send_many("twice_limited", [free + peer.KEYS * n for n in range(jobs)])
            await asyncio.gather(*map(peer.wait, running))
            taken[kind] += perf_counter() - started
            if waiting:
                await peer.let_go("second", blocked)
                await asyncio.gather(*map(peer.wait, waiting))
    return taken


async def load(peer: Peer, *, rate: float, seconds: float) -> dict[str, Any]:
    """Send at a fixed rate, however slow the answers are. Each job's time counts from when it was due to be sent.

    So the figures show if a library falls behind; counted from the send itself, they would hide this wait.
    """
    taken: list[float] = []
    running: set[asyncio.Task[None]] = set()
    total = int(rate * seconds)
    started = perf_counter()

    async def one(number: int, due: float) -> None:
        await peer.wait(await peer.send("noop", number))
        taken.append(perf_counter() - due)

    number = 0
    while number < total and perf_counter() - started < seconds + GRACE:
        behind = min(total, int((perf_counter() - started) * rate) + 1)
        for each in range(number, behind):
            task = asyncio.create_task(one(each, started + each / rate))
            running.add(task)
            task.add_done_callback(running.discard)
        number = max(number, behind)
        await asyncio.sleep(0.001)
    if running:
        _, late = await asyncio.wait(set(running), timeout=GRACE)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
    return {"taken": taken, "offered": total}


async def first(peer: Peer, *, job: int) -> dict[str, Any]:
    """Run one job and wait for its result, which shows that the worker has started."""
    return {"result": await peer.wait(await peer.send("noop", job))}


Action = Callable[..., Awaitable[dict[str, Any]]]
_ALL = (
    *(bulk, concurrent, sequential, collect, latency, load, first),
    *(pairs, permits, ways, block, free_key),
)
ACTIONS: dict[str, Action] = {action.__name__: action for action in _ALL}


def _write_lines(path: str, lines: Sequence[str]) -> None:
    Path(path).write_text("\n".join(lines))


def _read_lines(path: str) -> list[str]:
    return Path(path).read_text().split("\n")


def _arguments(task: str, start: int, end: int) -> Sequence[Any]:
    if task == "keep":
        return [f"{number:0{PAYLOAD}}" for number in range(start, end)]
    return range(start, end)


async def _act(peer: Peer, action: Action, parameters: dict[str, Any]) -> dict[str, Any]:
    await peer.open()
    try:
        return await action(peer, **parameters)
    finally:
        await peer.close()


def main(library: str, action: str, answer: str, parameters: str) -> None:
    """Carry out one action."""
    given: dict[str, Any] = json.loads(parameters)
    peer: Peer = importlib.import_module(LIBRARIES[library].module).PEER
    if action == "worker":
        command = [sys.executable, *peer.worker(given["task"], given["processes"])]
        os.execv(sys.executable, command)
    use_uvloop()
    found = asyncio.run(_act(peer, ACTIONS[action], given))
    Path(answer).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
