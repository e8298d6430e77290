"""Tasks that do their worker harm, and one that does none."""

import asyncio
import ctypes
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

from aioq import App, current_job

app = App()


@app.lifespan
async def resources() -> AsyncIterator[dict[str, int]]:
    yield {"pid": os.getpid()}


@app.task
async def dies(how: str) -> None:
    """End the process it runs in, if it is let."""
    await asyncio.sleep(0)
    if how == "segfault":
        ctypes.string_at(0)
    if how == "kill":  # what the kernel does to a process that takes too much memory
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(int(how) if how.isdigit() else 3)


@app.task
async def falls(how: str, gate: str) -> None:
    """End the worker in order, and wait to be ended with it."""
    if how == "cancel":
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()
    if how == "stop":
        asyncio.get_running_loop().stop()
    if how == "exit":
        leaving = asyncio.create_task(_exits())
        await asyncio.wait([leaving])
    if how == "signal":
        os.kill(os.getpid(), signal.SIGTERM)
    while not os.path.exists(gate):  # noqa: ASYNC110, ASYNC240 - another process opens the gate
        await asyncio.sleep(0.01)


@app.task
async def breaks_the_loop(gate: str) -> None:
    """End the loop as nothing but a callback can, again and again: also while the worker shuts down."""
    if os.path.exists(gate):  # noqa: ASYNC240
        return
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        raise KeyboardInterrupt

    for number in range(200):
        loop.call_later(number * 0.002, interrupt)
    await asyncio.Event().wait()


@app.task
def in_thread() -> int:
    return os.getpid()


async def _exits() -> None:
    raise SystemExit(4)


@app.task
def environment() -> dict[str, str]:
    """What a process that a task starts would inherit."""
    return {name: value for name, value in os.environ.items() if name.startswith("AIOQ_")}


@app.task
def dies_in_thread(how: str) -> None:
    if how == "segfault":
        ctypes.string_at(0)
    os._exit(3)


@app.task
async def neighbour(gate: str, number: int) -> tuple[int, int, int]:
    """Wait to be let go; return the number, where it ran, and what the lifespan said there."""
    job = current_job()
    job.progress(1, 2, "waiting")
    while not os.path.exists(gate):  # noqa: ASYNC110, ASYNC240 - another process opens the gate
        await asyncio.sleep(0.01)
    return number, os.getpid(), job.state["pid"]


@app.task
async def blocks(seconds: float, trace: str) -> str:
    """Hold up the event loop."""
    with open(trace, "a") as file:  # noqa: ASYNC230 - a trace for the test
        file.write("ran\n")
    time.sleep(seconds)  # noqa: ASYNC251 - the point of it
    return "done"


@app.task
async def blocks_until(gate: str) -> None:
    """Hold up the event loop until a file is there."""
    while not os.path.exists(gate):  # noqa: ASYNC240 - the point of it
        time.sleep(0.01)  # noqa: ASYNC251 - likewise


@app.task
async def pid() -> int:
    return os.getpid()


@app.task
async def touch(path: str) -> None:
    Path(path).touch()  # noqa: ASYNC240 - a trace for the test
