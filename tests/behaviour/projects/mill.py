"""The tasks of `test_send_and_results.py`."""

import asyncio
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from aioq import App

app = App()


@dataclass
class Sum:
    value: int
    at: datetime


@app.task
async def add(x: int, y: int) -> int:
    return x + y


@app.task
async def typed(x: int, at: datetime) -> Sum:
    return Sum(x, at)


@app.task(queue="mail")
async def mailed(text: str) -> Sum:
    return Sum(len(text), datetime(2024, 1, 1))


@app.task
async def fails(text: str) -> int:
    raise LookupError(text)


@app.task
async def count(file: str) -> int:
    """Append a line to a file: a job that runs twice is seen."""
    with open(file, "a") as lines:  # noqa: ASYNC230 - a trace for the test
        lines.write("ran\n")
    return 1


@app.task
async def hold(gate: str) -> str:
    """Leave a trace, wait to be let go; leave another one when cancelled."""
    Path(f"{gate}.started").touch()  # noqa: ASYNC240
    try:
        while not os.path.exists(gate):  # noqa: ASYNC110, ASYNC240 - another process opens the gate
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        await asyncio.sleep(0)
        Path(f"{gate}.cleaned").touch()  # noqa: ASYNC240
        raise
    return "let go"


@app.task
async def big() -> str:
    return "x" * 300_000
