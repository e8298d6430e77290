"""A batch task that keeps a ledger, and kills its worker for one of its items."""

import asyncio
import os
import signal
from pathlib import Path

from aioq import App, Batch, BatchItem

app = App()


@app.task(batch=Batch(size=10, wait=0.2))
async def save(items: list[BatchItem[int]]) -> list[int]:
    return [len(items)] * len(items)


@app.task(batch=Batch(size=3, wait=30))
async def held(items: list[BatchItem[str]]) -> list[str]:
    """Run until its gate is open."""
    gate = Path(items[0].value)
    gate.with_suffix(f".{os.getpid()}").touch()
    while not os.path.exists(gate):  # noqa: ASYNC110, ASYNC240 - another process opens it
        await asyncio.sleep(0.01)
    return [item.id for item in items]


@app.task(batch=Batch(size=4, wait=0.1))
async def poisoned(items: list[BatchItem[str]]) -> list[str]:
    if any(item.value == "kill" for item in items):
        os.kill(os.getpid(), signal.SIGKILL)
    return [item.value for item in items]
