"""Tasks for workers that are looked at and changed from outside."""

import asyncio
import os
import time
from pathlib import Path

from aioq import App

app = App()


@app.task
async def pid() -> int:
    return os.getpid()


@app.task(queue="mail")
async def mail() -> int:
    return os.getpid()


@app.task
async def hold(gate: str) -> int:
    await _opened(gate)
    return os.getpid()


async def _opened(gate: str) -> None:
    Path(f"{gate}.begun").touch()  # noqa: ASYNC240
    while not os.path.exists(gate):  # noqa: ASYNC110, ASYNC240 - another process opens the gate
        await asyncio.sleep(0.01)


@app.task
async def block(gate: str) -> None:
    """Block the event loop."""
    while not os.path.exists(gate):  # noqa: ASYNC240
        time.sleep(0.01)  # noqa: ASYNC251
