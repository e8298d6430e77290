"""Awaiting jobs: the handle, and the ways to await several."""

import asyncio
from collections.abc import AsyncIterator, Generator, Sequence
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar, overload

import msgspec

from aioq.codec import ANY_RESULT, ResultType
from aioq.durations import Duration
from aioq.ending import end
from aioq.errors import ConfigError, JobCancelledError, JobFailed, RemoteError
from aioq.job import JobInfo, JobState
from aioq.options import make_options
from aioq.store import Store
from aioq.waiters import Waiters, not_found
from aioq.wire import (
    Outcome,
    OutcomeKind,
    decode_failure,
    decode_outcome,
    decode_reason,
    encode_cancellation,
)

R = TypeVar("R")
R1 = TypeVar("R1")
R2 = TypeVar("R2")
R3 = TypeVar("R3")
R4 = TypeVar("R4")
R5 = TypeVar("R5")
R_co = TypeVar("R_co", covariant=True)


class ResultSource(Protocol):
    """Where a handle gets its answers: the App, whatever event loop it is asked on."""

    async def store(self) -> Store:
        """The store of the running loop."""
        ...

    async def waiters(self) -> Waiters:
        """The waiters of the running loop."""
        ...

    def queues_of(self, job_id: str) -> Sequence[str]:
        """The queues a job of this id may be in, the likeliest first."""
        ...

    def result_type(self, task: str) -> ResultType | None:
        """What the task returns, None where this process does not know the task."""
        ...

    def result_ttl_ms(self) -> int:
        """How long an outcome is kept by default, in milliseconds."""
        ...


class JobHandle(msgspec.Struct, Generic[R_co], eq=False):
    """A job that was sent: await it for its result.

    `await handle` waits without limit; `await handle.result(timeout=5)` raises the builtin TimeoutError when the
    time has passed, and the job goes on. A handle can be awaited any number of times, on any event loop, and a
    handle of the same job can be made in any process: `app.handle(handle.id)`.

    Attributes:
        id: the job's id.
        added: False where the server already had a job of this id, which then stands as it was; None where this
            handle does not come from a send.
    """

    # A struct, because each job of a bulk send has a handle: this one is made in a fifth of the time.
    _source: ResultSource
    id: str
    _queue: str | None
    _returns: ResultType | None = None
    added: bool | None = None
    _outcome: Outcome | None = None

    @property
    def queue(self) -> str | None:
        """The job's queue; None where it is not known yet."""
        return self._queue

    def __await__(self) -> Generator[Any, None, R_co]:
        return self.result().__await__()

    def __repr__(self) -> str:
        return f"<JobHandle {self.id}>"

    async def result(self, timeout: float | None = None) -> R_co:  # noqa: ASYNC109 - part of the public contract
        """Wait for the job and return what it returned, in the annotated type.

        Args:
            timeout: the longest to wait, in seconds; None for no limit.

        Cancellation: the waiting ends, the job goes on; to end the job, `cancel()`.

        Raises:
            TimeoutError: the time has passed; the job goes on.
            JobFailed: the job failed; its `__cause__` shows the remote type, message and traceback.
            JobCancelledError: the job was cancelled.
            JobNotFoundError: there is no such job, or its result has expired.
        """
        outcome = await self.outcome(timeout)
        if outcome.kind is OutcomeKind.SUCCEEDED:
            returns = self._returns or self._source.result_type(outcome.task) or ANY_RESULT
            return returns.decode(outcome.value)
        if outcome.kind is OutcomeKind.CANCELLED:
            reason = decode_reason(outcome)
            raise JobCancelledError(f"job {self.id} was cancelled" + (f": {reason}" if reason else ""), self.id)
        failure = decode_failure(outcome)
        raise JobFailed(self.id, outcome.task, RemoteError(failure.type, failure.message, failure.traceback))

    async def outcome(self, timeout: float | None = None) -> Outcome:  # noqa: ASYNC109 - as in result()
        """Wait until the job has ended, and return how, still encoded; see `result`."""
        if self._outcome is None:
            limit = asyncio.timeout(timeout)
            try:
                async with limit:
                    queue = await self._locate()
                    waiters = await self._source.waiters()
                    self._outcome = decode_outcome(await waiters.outcome(queue, self.id))
            except TimeoutError:
                if not limit.expired():
                    raise
                raise TimeoutError(f"job {self.id} has no outcome after {timeout:g} s; it goes on") from None
        return self._outcome

    async def status(self) -> JobState:
        """The job's state.

        Raises:
            JobNotFoundError: there is no such job.
        """
        return (await self.info()).state

    async def info(self) -> JobInfo:
        """What the server knows of the job.

        Raises:
            JobNotFoundError: there is no such job.
        """
        queue = await self._locate()
        found = (await (await self._source.store()).info(queue, [self.id]))[0]
        if found is None:
            raise not_found(self.id, [queue])
        return found

    async def cancel(self, reason: str = "") -> bool:
        """Cancel the job: one that waits never runs; of a running one the coroutine is cancelled at its worker.

        A plain function that runs in a thread cannot be stopped: the job ends as cancelled, the thread goes on.
        A task that ends before the cancellation reaches it keeps its outcome.

        Args:
            reason: a text for whoever awaits the job.

        Returns:
            False where the job had ended already.

        Raises:
            JobNotFoundError: there is no such job.
        """
        queue = await self._locate()
        store = await self._source.store()
        outcome = encode_cancellation("", reason)
        state = (await store.cancel(queue, [self.id], outcome, self._source.result_ttl_ms()))[0]
        if state is None:
            raise not_found(self.id, [queue])
        return not state.ended

    async def reschedule(self, *, delay: Duration | None = None, eta: datetime | None = None) -> bool:
        """Move a job that has not been started to another time: one that is queued, delayed or to be retried.

        Args:
            delay: run it after this time from now, in seconds or as a timedelta; or `eta`.
            eta: run it at this time, a datetime with a time zone; or `delay`.

        Returns:
            False where it stays as it is: it runs, has ended, or waits for another job.

        Raises:
            ConfigError: naming the option, or not exactly one of both was given; nothing was changed.
            JobNotFoundError: there is no such job.
        """
        where = f"job {self.id}: reschedule"
        if delay is None and eta is None:
            raise ConfigError(f"{where}: give delay or eta; to run it at once use run_now()")
        options = make_options(where, delay=delay, eta=eta)
        return await self._move(options.delay_ms, options.eta_ms)

    async def run_now(self) -> bool:
        """Queue a job at once that is delayed or to be retried later.

        Returns:
            False where it stays as it is: it runs, has ended, or waits for another job.

        Raises:
            JobNotFoundError: there is no such job.
        """
        return await self._move(None, None)

    async def _move(self, delay_ms: int | None, eta_ms: int | None) -> bool:
        queue = await self._locate()
        store = await self._source.store()
        state = (await store.reschedule(queue, [self.id], delay_ms=delay_ms, eta_ms=eta_ms))[0]
        if state is None:
            raise not_found(self.id, [queue])
        return state in {JobState.QUEUED, JobState.SCHEDULED}

    async def _locate(self) -> str:
        """The job's queue; looked for among those the App knows where the id does not name it."""
        if self._queue is None:
            queues = list(self._source.queues_of(self.id))
            if len(queues) == 1:
                self._queue = queues[0]
                return queues[0]
            store = await self._source.store()
            for queue in queues:
                if (await store.info(queue, [self.id]))[0] is not None:
                    self._queue = queue
                    return queue
            raise not_found(self.id, queues)
        return self._queue


# Up to five handles keep the type of each. What comes back is a tuple, so that these types are true;
# `asyncio.gather` is declared like this too, but makes a list. (ASYNC109: as in result().)
@overload
async def gather(
    one: JobHandle[R1],
    /,
    *,
    timeout: float | None = None,  # noqa: ASYNC109
) -> tuple[R1]: ...
@overload
async def gather(
    one: JobHandle[R1],
    two: JobHandle[R2],
    /,
    *,
    timeout: float | None = None,  # noqa: ASYNC109
) -> tuple[R1, R2]: ...
@overload
async def gather(
    one: JobHandle[R1],
    two: JobHandle[R2],
    three: JobHandle[R3],
    /,
    *,
    timeout: float | None = None,  # noqa: ASYNC109
) -> tuple[R1, R2, R3]: ...
@overload
async def gather(
    one: JobHandle[R1],
    two: JobHandle[R2],
    three: JobHandle[R3],
    four: JobHandle[R4],
    /,
    *,
    timeout: float | None = None,  # noqa: ASYNC109
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
    timeout: float | None = None,  # noqa: ASYNC109
) -> tuple[R1, R2, R3, R4, R5]: ...
@overload
async def gather(
    *handles: JobHandle[R],
    timeout: float | None = None,  # noqa: ASYNC109
) -> tuple[R, ...]: ...


async def gather(
    *handles: JobHandle[Any],
    timeout: float | None = None,  # noqa: ASYNC109
) -> tuple[Any, ...]:
    """Wait for several jobs and return their results, a tuple in the order of the handles.

    For type checkers the results of up to five handles have a type each: `total, text = await gather(add, join)`.

    Args:
        handles: the jobs.
        timeout: the longest to wait for all of them, in seconds; None for no limit.

    Cancellation: the waiting ends, the jobs go on.

    Raises:
        JobFailed: what the first job that fails raises, at once; the other jobs go on.
        TimeoutError: the time has passed.
    """
    tasks = [asyncio.ensure_future(handle.result()) for handle in handles]
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            return tuple(await asyncio.gather(*tasks))
    except TimeoutError:
        if not limit.expired():
            raise
        raise _not_in_time(tasks, timeout) from None
    finally:
        await end(tasks)


async def as_completed(
    handles: Sequence[JobHandle[R]],
    *,
    timeout: float | None = None,  # noqa: ASYNC109 - as in result()
) -> AsyncIterator[JobHandle[R]]:
    """Yield each handle once its job has ended, first ended first; awaiting it then returns or raises at once.

    Args:
        handles: the jobs.
        timeout: the longest to wait for all of them, in seconds; None for no limit.

    Cancellation: the waiting ends, the jobs go on; so does leaving the loop early.

    Raises:
        TimeoutError: the time has passed before all had ended.
        JobNotFoundError: one of the jobs does not exist.
    """
    loop = asyncio.get_running_loop()
    deadline = None if timeout is None else loop.time() + timeout
    ended: asyncio.Queue[asyncio.Task[Outcome]] = asyncio.Queue()
    by_task = {loop.create_task(handle.outcome()): handle for handle in handles}
    for task in by_task:
        task.add_done_callback(ended.put_nowait)
    try:
        for _ in range(len(by_task)):
            try:
                async with asyncio.timeout_at(deadline):
                    task = await ended.get()
            except TimeoutError:
                raise _not_in_time(list(by_task), timeout) from None
            task.result()
            yield by_task[task]
    finally:
        await end(by_task)


def _not_in_time(tasks: "Sequence[asyncio.Task[Any]]", timeout: float | None) -> TimeoutError:
    # A task that the timeout has cancelled waited for its job.
    left = sum(not task.done() or task.cancelled() for task in tasks)
    return TimeoutError(f"{left} of {len(tasks)} jobs have no outcome after {timeout:g} s; they go on")
