"""The demo's App and its tasks, for `aioq worker aioq.cli.demo.tasks:app`.

Its name, server and data directory come from the `AIOQ_*` variables that the demo sets.
"""

import asyncio
import hashlib
from datetime import timedelta
from decimal import Decimal

from aioq.app import App
from aioq.cli.demo.plan import ATTEMPTS, Bill, Order
from aioq.jobs.context import current_job
from aioq.jobs.retry import Retry

app = App(history=0, stats=False)  # a demo leaves nothing behind for longer than a minute


@app.task
async def nap(seconds: float) -> float:
    """A coroutine: hundreds of them wait at the same time."""
    await asyncio.sleep(seconds)
    return seconds


@app.task
def stretch(password: str) -> int:
    """A plain function, which runs in a thread and would block an event loop: it computes for some 10 ms."""
    return len(hashlib.pbkdf2_hmac("sha512", password.encode(), b"salt", 10_000))


@app.task
async def bill(order: Order) -> Bill:
    """Takes and returns dataclasses with a UUID, a datetime, Decimals and an Enum in them."""
    total = sum(order.prices, Decimal(0))
    return Bill(order.id, total, order.currency, order.placed + timedelta(days=14))


@app.task(retry=Retry(attempts=5, delay=0.3))
async def flaky(number: int) -> int:
    """Fails twice and is retried with a growing, random delay."""
    attempt = current_job().attempt
    if attempt < ATTEMPTS:
        raise ConnectionError(f"attempt {attempt}: the other side hung up")
    return number


@app.task
async def divide(x: int, y: int) -> float:
    """Fails, and has no second attempt."""
    return x / y


@app.task
async def climb(steps: int) -> int:
    """Reports its progress."""
    for step in range(1, steps + 1):
        await asyncio.sleep(0.1)
        current_job().progress(step, steps, f"step {step}")
    return steps


@app.task
async def wait_for_ever() -> None:
    """Ends only when it is cancelled."""
    await asyncio.Event().wait()


@app.task
async def nothing() -> None:
    """Does nothing, so that its time is the cost of a job itself."""
