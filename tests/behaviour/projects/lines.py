"""Small tasks that leave a trace in files, for tests of order, stops and recovery."""

import asyncio
import os
import threading
import time
from pathlib import Path

from aioq import App, Retry, current_job

app = App()

_running = 0
_lock = threading.Lock()


@app.task
async def note(text: str) -> None:
    with open("notes", "a") as file:  # noqa: ASYNC230 - a trace for the test
        file.write(text)


@app.task
def block(folder: str, number: int) -> int:
    """Leave a trace, wait to be let go, and return how many of them ran at once at the start."""
    global _running  # noqa: PLW0603
    with _lock:
        _running += 1
        most = _running
    place = Path(folder)
    (place / "started").mkdir(exist_ok=True)
    (place / "started" / str(number)).touch()
    while not (place / f"go-{number}").exists():
        time.sleep(0.005)
    with _lock:
        _running -= 1
    return most


@app.task(queue="other")
def block_other(folder: str, number: int) -> int:
    return block(folder, number)


@app.task
async def hold(gate: str) -> tuple[int, int]:
    """Leave a trace, wait to be let go; return the worker's pid and the attempt."""
    Path(f"{gate}.pid").write_text(str(os.getpid()))  # noqa: ASYNC240
    try:
        while not os.path.exists(gate):  # noqa: ASYNC110, ASYNC240 - another process opens the gate
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        Path(f"{gate}.cleaned").touch()  # noqa: ASYNC240
        raise
    return os.getpid(), current_job().attempt


@app.task
def hold_thread(gate: str) -> bool:
    """The same in a thread; whether it was asked to end."""
    Path(f"{gate}.pid").touch()
    while not os.path.exists(gate) and not current_job().cancel_requested:
        time.sleep(0.01)
    return current_job().cancel_requested


@app.task
async def pid() -> int:
    return os.getpid()


@app.task
async def add(x: int, y: int) -> int:
    return x + y


@app.task
async def spread(depth: int) -> None:
    await note(str(depth))
    if depth:
        await spread.send(depth - 1)


@app.task(retry=Retry(3, delay=0))
async def third_time_lucky() -> int:
    if current_job().attempt < 3:
        raise ValueError("not yet")
    return current_job().attempt


@app.task
async def fails() -> None:
    raise ValueError("no way")
