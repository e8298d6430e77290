"""Tasks that kill the worker of their first run, and then say how their last chance went."""

import asyncio
import fcntl
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from aioq import App, JobContext, Middleware, current_job

session: ContextVar[str] = ContextVar("session")


class Sessions(Middleware):
    """Lays out a context variable, and wraps the result of whoever asks for it."""

    async def run(self, job: JobContext, forward: Callable[[], Awaitable[Any]]) -> Any:
        session.set(f"session of {os.getpid()}")
        result = await forward()
        return [result] if "wrap" in job.headers else result


app = App(middleware=[Sessions()])


@app.lifespan
async def resources() -> AsyncIterator[str]:
    """Take what one process can have at a time, where the test asks for it: a lock, as a port would be."""
    with open(os.environ.get("LOCKED", os.devnull), "w") as file:  # noqa: ASYNC230 - at the start only
        if "LOCKED" in os.environ:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield f"state of {os.getpid()}"


def crash_once(flag: str) -> None:
    if not os.path.exists(flag):
        with open(flag, "w") as file:
            file.write(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)


@app.task(timeout=30)
async def about(flag: str) -> Any:
    crash_once(flag)
    job = current_job()
    print("printed in", os.getpid())  # noqa: T201 - the point of it
    job.log.info("logged in %d", os.getpid())
    talker = await asyncio.create_subprocess_exec("echo", "echoed")
    await talker.wait()
    return {
        "pid": os.getpid(),
        "session": session.get(),
        "state": job.state,
        "crashes": job.crashes,
        "sent_at": job.sent_at,
        "left": job.time_left(),
    }


@app.task
async def wrong_type(flag: str) -> str:
    crash_once(flag)
    return 5  # pyright: ignore[reportReturnType] - the point of it


@app.task(retry=3)
async def unencodable(flag: str) -> object:
    crash_once(flag)
    return object()


@app.task
def stops_iterating(flag: str) -> None:
    crash_once(flag)
    raise StopIteration


@app.task
async def where(flag: str) -> tuple[int, str]:
    crash_once(flag)
    return os.getpid(), session.get()


@app.task
async def always_crashes() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
