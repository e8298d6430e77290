"""Waiting for several jobs: for all of them together, or for each as it ends."""

# ruff: noqa: ASYNC109 - a timeout is part of the public contract, and of each overload

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast, overload

from aioq.results.handle import JobHandle, outcome_of, source_of, why_late
from aioq.util.aio import end
from aioq.util.durations import Duration, seconds
from aioq.util.plural import counted
from aioq.util.printable import brief
from aioq.wire.messages import WireOutcome

R = TypeVar("R")
R1 = TypeVar("R1")
R2 = TypeVar("R2")
R3 = TypeVar("R3")
R4 = TypeVar("R4")
R5 = TypeVar("R5")


# Up to five handles keep the type of each. The result is a tuple, so that these types are true; `asyncio.gather`
# is declared like this too, but returns a list.
@overload
async def gather(one: JobHandle[R1], /, *, timeout: Duration | None = None) -> tuple[R1]: ...
@overload
async def gather(
    one: JobHandle[R1], two: JobHandle[R2], /, *, timeout: Duration | None = None
) -> tuple[R1, R2]: ...
@overload
async def gather(
    one: JobHandle[R1], two: JobHandle[R2], three: JobHandle[R3], /, *, timeout: Duration | None = None
) -> tuple[R1, R2, R3]: ...
@overload
async def gather(
    one: JobHandle[R1],
    two: JobHandle[R2],
    three: JobHandle[R3],
    four: JobHandle[R4],
    /,
    *,
    timeout: Duration | None = None,
) -> tuple[R1, R2, R3, R4]: ...
@overload
async def gather(
    one: JobHandle[R1],
    two: JobHandle[R2],
    three: JobHandle[R3],
    four: JobHandle[R4],
    five: JobHandle[R5],
    /,
    *,
    timeout: Duration | None = None,
) -> tuple[R1, R2, R3, R4, R5]: ...
@overload
async def gather(*handles: JobHandle[R], timeout: Duration | None = None) -> tuple[R, ...]: ...
@overload
async def gather(handles: Iterable[JobHandle[R]], /, *, timeout: Duration | None = None) -> tuple[R, ...]: ...


async def gather(
    *handles: JobHandle[Any] | Iterable[JobHandle[Any]],
    timeout: Duration | None = None,
) -> tuple[Any, ...]:
    """Wait for several jobs and return their results, a tuple in the order of the handles.

    For type checkers each result of up to five handles has its own type: `total, text = await gather(add, join)`.

    Args:
        handles: the handles, one after the other or as one list.
        timeout: the longest time to wait for all of them, in seconds or as a timedelta; None for no limit.

    Cancellation: the wait ends, the jobs go on.

    Raises:
        JobFailed: a job has failed; raised as soon as the first one does, and the other jobs go on.
        TimeoutError: the time has passed.
        TypeError: an argument is no job handle.
        ConfigError: `timeout` is no valid time.
    """
    span = None if timeout is None else seconds(timeout, "timeout")
    by_task = {asyncio.ensure_future(handle.result()): handle for handle in as_handles("gather", handles)}
    limit = asyncio.timeout(span)
    try:
        async with limit:
            return tuple(await asyncio.gather(*by_task))
    except TimeoutError:
        if not limit.expired():
            raise
        raise await _not_in_time(by_task, span) from None
    finally:
        await end(by_task)


@overload
def gather_sync(one: JobHandle[R1], /, *, timeout: Duration | None = None) -> tuple[R1]: ...
@overload
def gather_sync(
    one: JobHandle[R1], two: JobHandle[R2], /, *, timeout: Duration | None = None
) -> tuple[R1, R2]: ...
@overload
def gather_sync(
    one: JobHandle[R1], two: JobHandle[R2], three: JobHandle[R3], /, *, timeout: Duration | None = None
) -> tuple[R1, R2, R3]: ...
@overload
def gather_sync(
    one: JobHandle[R1],
    two: JobHandle[R2],
    three: JobHandle[R3],
    four: JobHandle[R4],
    /,
    *,
    timeout: Duration | None = None,
) -> tuple[R1, R2, R3, R4]: ...
@overload
def gather_sync(
    one: JobHandle[R1],
    two: JobHandle[R2],
    three: JobHandle[R3],
    four: JobHandle[R4],
    five: JobHandle[R5],
    /,
    *,
    timeout: Duration | None = None,
) -> tuple[R1, R2, R3, R4, R5]: ...
@overload
def gather_sync(*handles: JobHandle[R], timeout: Duration | None = None) -> tuple[R, ...]: ...
@overload
def gather_sync(handles: Iterable[JobHandle[R]], /, *, timeout: Duration | None = None) -> tuple[R, ...]: ...


def gather_sync(
    *handles: JobHandle[Any] | Iterable[JobHandle[Any]],
    timeout: Duration | None = None,
) -> tuple[Any, ...]:
    """`gather` for sync code: waits in this thread, as `App.run_sync` does.

    Raises:
        RunningLoopError: an event loop runs in this thread; use `await gather(...)` there.
    """
    found = as_handles("gather_sync", handles)
    if not found:
        return ()
    return source_of(found[0]).run_sync("await gather(...)", lambda: gather(*found, timeout=timeout))


async def as_completed(
    *handles: JobHandle[R] | Iterable[JobHandle[R]],
    timeout: Duration | None = None,
) -> AsyncIterator[JobHandle[R]]:
    """Yield each handle when its job has ended, in that order; awaiting it then returns or raises at once.

    Args:
        handles: the handles, one after the other or as one list.
        timeout: the longest time to wait for all of them, in seconds or as a timedelta; None for no limit.

    Cancellation: the wait ends, the jobs go on. The same if the caller leaves the loop early.

    Raises:
        TimeoutError: the time has passed before all jobs had ended.
        JobNotFoundError: one of the jobs does not exist.
        TypeError: an argument is no job handle.
        ConfigError: `timeout` is no valid time.
    """
    loop = asyncio.get_running_loop()
    span = None if timeout is None else seconds(timeout, "timeout")
    deadline = None if span is None else loop.time() + span
    ended: asyncio.Queue[asyncio.Task[WireOutcome]] = asyncio.Queue()
    found = as_handles("as_completed", handles)
    by_task = {asyncio.ensure_future(outcome_of(handle)): handle for handle in found}
    for task in by_task:
        task.add_done_callback(ended.put_nowait)
    try:
        for _ in range(len(by_task)):
            try:
                async with asyncio.timeout_at(deadline):
                    task = await ended.get()
            except TimeoutError:
                raise await _not_in_time(by_task, span) from None
            task.result()
            yield by_task[task]
    finally:
        await end(by_task)


def as_handles(where: str, given: Sequence[JobHandle[Any] | Iterable[JobHandle[Any]]]) -> Sequence[JobHandle[Any]]:
    """The handles among a function's arguments, which are given one by one or as one list.

    Args:
        where: the function's name, for the error.
        given: its positional arguments.

    Raises:
        TypeError: one of them is no handle.
    """
    first = given[0] if len(given) == 1 else None
    handles = list(first) if isinstance(first, Iterable) and not isinstance(first, Mapping) else list(given)
    for handle in cast("list[object]", handles):
        if isinstance(handle, JobHandle):
            continue
        found = (
            f"{where} takes job handles, or one list of them, not {type(handle).__name__} ({brief(handle):.80})"
        )
        if asyncio.iscoroutine(handle):
            handle.close()
            found += ": await the send first, which gives a handle"
        raise TypeError(found)
    return cast("list[JobHandle[Any]]", handles)


async def _not_in_time(by_task: "Mapping[asyncio.Task[Any], JobHandle[Any]]", span: float | None) -> TimeoutError:
    """The error of a wait that has timed out: how many jobs are open, and why the first of them is late."""
    # A task that the timeout has cancelled was still waiting for its job.
    left = [handle for task, handle in by_task.items() if not task.done() or task.cancelled()]
    first = f". The first, job {left[0].id}{why}" if left and (why := await why_late(left[0])) else ""
    late = f"{len(left)} of {counted(len(by_task), 'job')} {'has' if len(left) == 1 else 'have'} no outcome"
    goes = "it goes on" if len(left) == 1 else "they go on"
    return TimeoutError(f"{late} after {span:g} s; {goes}{first}")
