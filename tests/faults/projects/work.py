"""The tasks of the fault cases: each run is written into the ledger, at its start and at its end."""

import asyncio
import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aioq import App, Fair, Limit, Retry, Unique, current_job
from tests.faults.ledger import OK, Ledger

app = App()
ledger = Ledger(os.environ["FAULTS_LEDGER"])
ticks = os.open(ledger.path.with_suffix(".ticks"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


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


@app.task(result_ttl=0)
async def tick() -> None:
    """As little as a job can be; a run leaves one byte."""
    os.write(ticks, b".")


@app.task
async def neighbour(number: int, gate: str) -> int:
    """Be in flight until the gate opens."""
    with recorded(number) as run:
        while not os.path.exists(gate):  # noqa: ASYNC110, ASYNC240 - another process opens the gate
            await asyncio.sleep(0.01)
    return run


@app.task(unique=Unique(by="key"), retry=Retry(3, delay=0.2))
async def only_one(number: int, key: int, seconds: float, failures: int) -> int:
    """Be the one job of a key."""
    return await stumble.function(number, seconds, failures)


@app.task(unique=Unique(by="key", conflict="latest"), retry=Retry(3, delay=0.2))
async def newest(number: int, key: int, seconds: float, failures: int) -> int:
    """The same; the newest call is run after the one that runs."""
    return await stumble.function(number, seconds, failures)


# -- limits


async def shorter_again(number: int, seconds: float, failures: int) -> int:
    """Take some time; not for so long again after a fault that met the job."""
    again = current_job().crashes > 0
    return await stumble.function(number, min(seconds, 0.3) if again else seconds, failures)


ONE = Limit("one", by="key", concurrency=1)


@app.task(limits=[ONE], retry=Retry(3, delay=0.2))
async def one_of_key(number: int, key: int, seconds: float, failures: int) -> int:
    """Run one at a time."""
    return await shorter_again(number, seconds, failures)


@app.task(limits=[ONE, Limit("api", concurrency=6)], retry=Retry(3, delay=0.2))
async def of_two(number: int, key: int, seconds: float, failures: int) -> int:
    """The same, and six at a time of all keys."""
    return await shorter_again(number, seconds, failures)


@app.task(limits=[Limit("three", by="key", concurrency=3)], retry=Retry(3, delay=0.2))
async def three_of_key(number: int, key: int, seconds: float, failures: int) -> int:
    """Run three at a time."""
    return await shorter_again(number, seconds, failures)


@app.task(limits=[Limit("order", by="key", concurrency=1, ordered=True)], retry=Retry(3, delay=0.2))
async def in_order(number: int, key: int, seconds: float, failures: int) -> int:
    """Run one after the other, in the order in which they were sent."""
    return await shorter_again(number, seconds, failures)


@app.task(limits=[Limit("paced", by="key", rate=4, burst=2)], retry=Retry(3, delay=0.2))
async def paced(number: int, key: int, seconds: float, failures: int) -> int:
    """Run four a second."""
    return await shorter_again(number, seconds, failures)


@app.task(limits=[Limit("dropping", by="key", concurrency=2, on_limit="drop")], retry=Retry(3, delay=0.2))
async def dropped(number: int, key: int, seconds: float, failures: int) -> int:
    """Run two at a time; a further one is dropped."""
    return await shorter_again(number, seconds, failures)


@app.task(limits=[Limit("latest", by="key", concurrency=1, on_limit="cancel_oldest")], retry=Retry(3, delay=0.2))
async def instead_of_oldest(number: int, key: int, seconds: float, failures: int) -> int:
    """Run in the place of the one that runs."""
    return await shorter_again(number, seconds, failures)


@app.task(limits=[Limit("newer", by="key", concurrency=2, on_limit="cancel_newest")], retry=Retry(3, delay=0.2))
async def instead_of_newest(number: int, key: int, seconds: float, failures: int) -> int:
    """Run in the place of the one that was started last."""
    return await shorter_again(number, seconds, failures)


@app.task(limits=[Limit("put", by="key", concurrency=3)], retry=Retry(3, delay=0.2))
async def as_many_as_put(number: int, key: int, seconds: float, failures: int) -> int:
    """Run as many at a time as an operator lets run."""
    return await shorter_again(number, seconds, failures)


@app.task(fair=Fair(by="key"), retry=Retry(3, delay=0.2))
async def in_turn(number: int, key: int, seconds: float, failures: int) -> int:
    """Keys take turns."""
    return await shorter_again(number, seconds, failures)


calls = app.limiter("calls", concurrency=5)
tokens = app.limiter("tokens", rate=60, per=1, burst=30)
permits = os.open(ledger.path.with_suffix(".permits"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


@app.task
async def ask_service(number: int, seconds: float) -> int:
    """Take a token and hold a place of app-wide limiters, and note when, in which process, for which run."""
    with recorded(number) as run:
        async with tokens.acquire(), calls.acquire():
            note = f"{os.getpid()} {current_job().id}.{run}\n"
            os.write(permits, f"+ {time.monotonic()} {note}".encode())
            try:
                await asyncio.sleep(seconds if run == 0 else min(seconds, 0.2))
            finally:
                os.write(permits, f"- {time.monotonic()} {note}".encode())
    return run


# -- poison


class UnspeakableError(Exception):
    """One that cannot be printed."""

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


def give_up(error: BaseException) -> Any:
    raise error


def grab(size: int) -> int:
    return len(bytearray(size))


POISON: dict[str, Callable[[], Any]] = {
    "result that cannot be encoded": object,
    "result that is too large": lambda: "x" * 2_000_000,
    "exception that cannot be printed": lambda: give_up(UnspeakableError()),
    "SystemExit": lambda: give_up(SystemExit(3)),
    "KeyboardInterrupt": lambda: give_up(KeyboardInterrupt()),
    "GeneratorExit": lambda: give_up(GeneratorExit()),
    "out of memory": lambda: grab(1 << 60),
    "segmentation fault": lambda: ctypes.string_at(0),
    "OOM kill": lambda: os.kill(os.getpid(), signal.SIGKILL),  # what the kernel does to it
    "os._exit": lambda: os._exit(3),
    "blocks the loop": lambda: time.sleep(3 * app.settings.lease),
}


@app.task
async def poison(number: int, kind: str) -> Any:
    with recorded(number):
        await asyncio.sleep(0.05)
        return POISON[kind]()


@app.task(timeout=0.3)
async def swallows(number: int) -> None:
    """Go on when cancelled, for a while."""
    with recorded(number):
        end = time.monotonic() + 1
        while time.monotonic() < end:
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                continue
