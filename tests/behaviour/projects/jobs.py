"""The tasks of `test_worker_jobs.py`, and of the tests of what is raised: one App with one of everything."""

import asyncio
import ctypes
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, TypedDict
from uuid import UUID

import msgspec
import pydantic

from aioq import App, Cancel, Fail, JobContext, Middleware, Outgoing, Retry, current_job


class Tracing(Middleware):
    """Adds a header at the send, and wraps the result of whoever asks for it."""

    async def send(self, call: Outgoing, forward: Callable[[Outgoing], Awaitable[bool]]) -> bool:
        call.headers["trace"] = f"trace-of-{call.task}"
        return await forward(call)

    async def run(self, job: JobContext, forward: Callable[[], Awaitable[Any]]) -> Any:
        result = await forward()
        return {**result, "wrapped in": job.headers["wrap"]} if "wrap" in job.headers else result


app = App(middleware=[Tracing()])


@app.lifespan
async def resources() -> AsyncIterator[dict[str, str]]:
    yield {"database": "open"}


class Color(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    x: int
    y: int


class Size(msgspec.Struct):
    width: float
    unit: str = "m"


class Address(TypedDict):
    street: str
    number: int


class User(pydantic.BaseModel):
    name: str
    born: datetime


@dataclass
class Everything:
    point: Point
    when: datetime
    span: timedelta
    id: UUID
    price: Decimal
    color: Color
    size: Size
    address: Address
    raw: bytes
    names: set[str]


@app.task
async def echo(value: Everything) -> Everything:
    assert isinstance(value, Everything)
    assert isinstance(value.size, Size)
    return value


@app.task
async def next_birthday(user: User, years: int = 1) -> User:
    assert isinstance(user, User)
    return user.model_copy(update={"born": user.born.replace(year=user.born.year + years)})


@app.task
async def add(x: int, y: int = 10, *, scale: int = 1) -> int:
    return (x + y) * scale


@app.task
def thread_of() -> str:
    return threading.current_thread().name


@app.task(executor="process")
def where(point: Point) -> tuple[int, str, Point]:
    job = current_job()
    return os.getpid(), job.id, Point(point.y, point.x)


@app.task
async def worker_pid() -> int:
    return os.getpid()


# -- timeouts


@app.task(timeout=0.1)
async def slow(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "done"


@app.task(timeout=0.1)
def slow_thread(gate: str) -> None:
    while not os.path.exists(gate):
        time.sleep(0.01)


@app.task(executor="process", timeout=3)
def slow_process(started: str) -> None:
    with open(started, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(60)


# -- retries


@app.task(retry=Retry(3, delay=0.05))
async def flaky(good_attempt: int) -> tuple[int, int | None]:
    job = current_job()
    if job.attempt < good_attempt:
        raise ConnectionError(f"attempt {job.attempt} of {job.max_attempts}")
    return job.attempt, job.max_attempts


@app.task(retry=Retry(3, delay=0, on=(OSError,), never=(FileNotFoundError,)))
async def picky(kind: str) -> None:
    raise {"timeout": TimeoutError, "file": FileNotFoundError, "value": ValueError}[kind](current_job().attempt)


@app.task
async def asks_again(delay: float, enough: int) -> int:
    if current_job().attempt < enough:
        raise Retry(delay=delay)
    return current_job().attempt


@app.task(executor="process", retry=2)
def flaky_process() -> int:
    if current_job().attempt < 2:
        raise Retry(delay=0)
    return current_job().attempt


# -- what tasks raise and return


class TroubleError(Exception):
    """An exception of the user's own."""


@app.task
async def fails(message: str) -> None:
    try:
        _deep(message)
    except KeyError as error:
        raise TroubleError(message) from error


def _deep(key: str) -> None:
    raise KeyError(key)


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


RAISED: dict[str, Callable[[], BaseException]] = {
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "StopIteration": lambda: StopIteration(1),
    "StopAsyncIteration": StopAsyncIteration,
    "CancelledError": asyncio.CancelledError,
    "Unspeakable": UnspeakableError,
    "ExceptionGroup": lambda: ExceptionGroup("several", [ValueError("a"), TypeError("b")]),
    "BaseExceptionGroup": lambda: BaseExceptionGroup("several", [KeyboardInterrupt(), SystemExit()]),
}


@app.task
async def raises(kind: str) -> None:
    raise RAISED[kind]()


@app.task
def raises_in_thread(kind: str) -> None:
    raise RAISED[kind]()


@app.task(executor="process")
def raises_in_process(kind: str) -> None:
    raise RAISED[kind]()


@app.task(executor="process", retry=Retry(attempts=None, delay=0))
def ends_itself_in_process(how: str) -> None:
    verdict = {"cancel": Cancel, "fail": Fail}[how]("why not")
    raise ExceptionGroup("as a TaskGroup", [verdict])


@app.task(executor="process", retry=Retry(3, delay=lambda attempt, error: 0 if "again" in str(error) else 3600))
def asks_a_function_in_process() -> int:
    if current_job().attempt < 3:
        raise ExceptionGroup("again", [OSError("again")])
    return current_job().attempt


@app.task(executor="process")
def dies(how: str) -> None:
    if how == "exit":
        os._exit(3)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    ctypes.string_at(0)  # a segmentation fault


@app.task
async def returns(kind: str) -> Any:
    return {"object": object(), "lambda": lambda: None, "large": "x" * 2_000_000}[kind]


@app.task
async def returns_wrong_type() -> int:
    return "seven"  # pyright: ignore[reportReturnType] - the point of it


# -- the job itself


@app.task(timeout=60, retry=4)
async def about() -> dict[str, Any]:
    job = current_job()
    assert job.deadline is not None
    left = job.time_left()
    assert left is not None
    return {
        "id": job.id,
        "task": job.task,
        "queue": job.queue,
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "headers": dict(job.headers),
        "sent_at": job.sent_at,
        "deadline": job.deadline,
        "time_left": left,
        "state": job.state,
        "app_state": app.state,
    }


@app.task
async def logs(text: str) -> None:
    current_job().log.warning("says %s", text)


@app.task
async def reports(gate: str) -> None:
    current_job().progress(3, 10, "third of ten")
    while not os.path.exists(gate):  # noqa: ASYNC110, ASYNC240 - another process opens the gate
        await asyncio.sleep(0.01)


@app.task
def reports_in_thread() -> None:
    current_job().progress(7, message="on the way")


@app.task
async def sends(depth: int) -> int:
    if depth == 0:
        return 1
    handle = await sends.send(depth - 1)
    return 1 + await handle


@app.task(queue="mail")
async def mailed() -> str:
    return current_job().queue
