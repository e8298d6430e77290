"""A task, and a process without a worker, that share a limiter."""

import asyncio
import sys
import time
from pathlib import Path

from aioq import App, current_job

app = App()
two = app.limiter("two", concurrency=2)
few = app.limiter("few", rate=4, burst=1)


@app.task
async def hold_busily(gate: str) -> None:
    """Hold both permits, and block the event loop until there is a file."""
    async with two.acquire(), two.acquire():
        sys.stderr.write("the task holds\n")
        while not Path(gate).exists():  # noqa: ASYNC240 - on purpose
            time.sleep(0.02)  # noqa: ASYNC251 - on purpose


@app.task
async def come_back(number: int) -> tuple[int, int]:
    """Give the slot back rather than wait for half a second."""
    async with few.acquire(snooze_after=0.05):
        return current_job().attempt, number


async def web() -> None:
    """Hold both permits until the process is killed."""
    async with app, two.acquire(), two.acquire():
        sys.stderr.write("the web process holds\n")
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(web())
