"""Tasks of the process pool that do to their process what they can."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

from aioq import App, current_job

app = App()


@app.task(executor="process")
def waits(started: str, gate: str) -> int:
    """Say where it runs, together with a program that it has started, and wait to be let go."""
    program = subprocess.Popen(["sleep", "60"])
    Path(started).write_text(f"{os.getpid()} {program.pid}")
    while not os.path.exists(gate):
        time.sleep(0.01)
    program.terminate()
    return program.wait()


@app.task(executor="process")
def talks() -> str:
    print("printed by the task")  # noqa: T201 - the point of it
    subprocess.run(["echo", "echoed by a program"], check=True)
    os.write(1, b"written to descriptor 1\n")
    current_job().log.warning("logged by the task, %d%%", 100)
    try:
        int("no number")
    except ValueError:
        current_job().log.exception("logged with a traceback")
    return sys.stdin.read()


@app.task(executor="process", retry=4)
def typed(number: int) -> int:
    return number


@app.task(executor="process", retry=4)
def unencodable(number: int) -> object:
    return object()


@app.task(executor="process", timeout=2)
def in_pool(trace: str) -> float | None:
    return _works(trace)


@app.task(timeout=2)
def in_thread(trace: str) -> float | None:
    return _works(trace)


def _works(trace: str) -> float | None:
    """Take a while that is shorter than the timeout; return what was left of that at the start."""
    left = current_job().time_left()
    with open(trace, "a") as file:
        file.write("ran\n")
    time.sleep(0.7)
    return left


@app.task(executor="process")
def forks() -> int:
    """Fork, and end the fork as multiprocessing does; the signal it died of."""
    pid = os.fork()
    if not pid:
        time.sleep(60)
        os._exit(0)
    os.kill(pid, 15)
    return os.WTERMSIG(os.waitpid(pid, 0)[1])


def _forks(how: str) -> int:
    """Fork, and leave the fork to itself; its exit code."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if how == "returns":
        return 0
    if how == "raises":
        raise ValueError("raised in the fork")
    return sys.exit(how if how == "says" else 3)


@app.task
async def forks_in_the_loop(how: str) -> int:
    return _forks(how)


@app.task
def forks_in_a_thread(how: str) -> int:
    return _forks(how)


earlier: "list[asyncio.Future[None]]" = []


def _write(trace: str, line: object) -> None:
    with open(trace, "a") as file:
        file.write(f"{line}\n")


@app.task
async def forks_and_awaits(what: str, trace: str) -> int:
    """Fork; the fork goes on to what a fork can await. Its exit code."""
    loop = asyncio.get_running_loop()
    earlier[:] = [loop.create_future()]
    loop.call_soon(earlier[0].set_result, None)
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])  # noqa: ASYNC222 - it ends at once
    for _ in range(10_000):
        if what == "a turn":
            await asyncio.sleep(0)
        elif what == "a time":
            await asyncio.sleep(0.01)
        else:
            await earlier[0]
            earlier[:] = [asyncio.Future(loop=loop)]
        _write(trace, "went on")
    os._exit(0)


@app.task
async def steps(trace: str, end: str) -> None:
    """Say in which process each step is."""
    while not os.path.exists(end):  # noqa: ASYNC240 - takes microseconds
        _write(trace, os.getpid())
        await asyncio.sleep(0)


@app.task(executor="process")
def forks_in_a_process(how: str) -> int:
    return _forks(how)


@app.task
async def add(x: int, y: int) -> int:
    await asyncio.sleep(0)
    return x + y
