"""The tasks of the fault cases: each run is written into the ledger, at its start and at its end."""

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from aioq import App, Retry, current_job
from tests.faults.ledger import OK, Ledger

app = App()
ledger = Ledger(os.environ["FAULTS_LEDGER"])


@contextmanager
def recorded(number: int) -> Iterator[int]:
    """Write down this run; gives the job's crashes, which tell one run of it from another."""
    job = current_job()
    ledger.started(job.id, number, job.attempt, job.crashes)
    try:
        yield job.crashes
    except BaseException as error:
        ledger.ended(job.id, number, job.attempt, job.crashes, type(error).__name__)
        raise
    ledger.ended(job.id, number, job.attempt, job.crashes, OK)


@app.task
async def work(number: int, seconds: float) -> int:
    """Take some time; which run of the job it was that came to its end."""
    with recorded(number) as run:
        await asyncio.sleep(seconds)
    return run


@app.task
def block(number: int, seconds: float) -> int:
    """Block a thread."""
    with recorded(number) as run:
        time.sleep(seconds)
    return run


@app.task
async def block_loop(number: int, seconds: float) -> int:
    """Block the event loop, as code does that should be a plain function."""
    with recorded(number) as run:
        time.sleep(seconds)  # noqa: ASYNC251 - the fault
    return run


@app.task(retry=Retry(5, delay=0.2))
async def stumble(number: int, seconds: float, failures: int) -> int:
    """Fail some attempts, then succeed."""
    with recorded(number) as run:
        await asyncio.sleep(seconds)
        if current_job().attempt <= failures:
            raise ValueError("not yet")
    return run
