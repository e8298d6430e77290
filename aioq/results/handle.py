"""The handle of a job: to wait for it, to ask for its state, to cancel it, or to move it to another time."""

import asyncio
from collections.abc import Awaitable, Generator, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

import msgspec

from aioq.errors import JobCancelledError, JobFailed
from aioq.jobs.context import JobContext, Lender, job_here, lender_of
from aioq.jobs.job import JobInfo, JobState
from aioq.jobs.shards import SEPARATOR, queue_of_shard
from aioq.public import public
from aioq.results.control import ResultSource
from aioq.results.story import JobStory
from aioq.results.wait_report import why_no_outcome
from aioq.results.waiters import Waiters
from aioq.store.leases import WorkerLease
from aioq.util.clock import ManualClock
from aioq.util.durations import Duration, seconds
from aioq.util.migration import ApiPart, explain_missing
from aioq.wire.messages import (
    WireOutcome,
    WireOutcomeKind,
    decode_failure,
    decode_outcome,
    decode_reason,
)
from aioq.wire.signature import ANY_RESULT

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


@public
class JobHandle(JobStory, Generic[R_co], eq=False):
    """A job that was sent: await it for its result.

    `await handle` waits without limit; `await handle.result(timeout=5)` raises the builtin TimeoutError when the
    time has passed, and the job goes on. A handle can be awaited any number of times, on any event loop. A handle
    of the same job can be made in any process: `app.handle(handle.id)`.

    Attributes:
        id: the job's id.
        added: False if the server already had a job of this id, which was not changed, or if another job holds the
            unique key of the call: then the handle is that job's. None if this handle does not come from a send.
    """

    def __await__(self) -> Generator[Any, None, R_co]:
        return self.result().__await__()

    def __repr__(self) -> str:
        return f"<JobHandle {self.id}>"

    async def result(self, timeout: Duration | None = None) -> R_co:  # noqa: ASYNC109 - part of the public contract
        """Wait for the job and return what it returned, in the annotated type.

        Args:
            timeout: the longest time to wait, in seconds or as a timedelta; None for no limit.

        Cancellation: the wait ends, the job goes on; to end the job, call `cancel()`.

        Raises:
            TimeoutError: the time has passed; the job goes on.
            JobFailed: the job failed; its `error` has the type, message and traceback.
            JobCancelledError: the job was cancelled.
            JobNotFoundError: there is no such job, or its result has expired.
            ConfigError: `timeout` is no valid time.
            WouldDeadlock: the caller is a job itself, and the other job cannot end before it.
        """
        outcome = await self._ended(timeout)
        if outcome.kind is WireOutcomeKind.SUCCEEDED:
            return self._decoded(outcome.task, outcome.value)
        if outcome.kind is WireOutcomeKind.CANCELLED:
            reason = decode_reason(outcome)
            raise JobCancelledError(f"job {self.id} was cancelled" + (f": {reason}" if reason else ""), self.id)
        raise JobFailed(self.id, outcome.task, decode_failure(outcome))

    def result_sync(self, timeout: Duration | None = None) -> R_co:
        """`result` for sync code: waits in this thread, as `App.run_sync` does.

        KeyboardInterrupt ends the wait, the job goes on.

        Raises:
            RunningLoopError: an event loop runs in this thread; use `await handle.result(...)` there.
        """
        return self._source.run_sync("await handle.result(...)", lambda: self.result(timeout))

    async def _ended(self, timeout: Duration | None = None) -> WireOutcome:  # noqa: ASYNC109 - as in result()
        """Wait until the job has ended, as `result` does, and return its outcome, still encoded."""
        span = None if timeout is None else seconds(timeout, "timeout")
        if self._outcome is None:
            limit = asyncio.timeout(span)
            try:
                async with limit:
                    queue = await self._locate(patient=True)
                    waiters = await self._source.waiters()
                    job = job_here()
                    lender = lender_of(job, self._source)
                    if job is None or lender is None:
                        outcome = await waiters.outcome(queue, self.id)
                    else:
                        outcome = await self._wait_within(job, lender, queue, waiters)
                    self._outcome = decode_outcome(outcome)
            except TimeoutError:
                if not limit.expired():
                    raise
                why = await why_late(self)
                raise TimeoutError(f"job {self.id} has no outcome after {span:g} s; it goes on{why}") from None
        return self._outcome

    async def _wait_within(self, job: JobContext, lender: Lender, queue: str, waiters: Waiters) -> bytes:
        """Wait within a job of the same App; meanwhile that job lends its slot to others."""
        held = "@" in self.id and await self._is_held(queue)  # only a tick's job can be held back
        lender.begin(job, queue, self.id, held=held)
        try:
            return await waiters.outcome(queue, self.id)
        finally:
            lender.end(job, queue, self.id, held=held)

    async def _is_held(self, queue: str) -> bool:
        store = await self._source.store()
        found = (await store.info(queue, [self.id]))[0]
        return found is not None and found.state is JobState.WAITING

    async def status(self) -> JobState:
        """The job's state.

        Raises:
            JobNotFoundError: there is no such job.
        """
        return (await self._fetch_info(results=False)).state

    def status_sync(self) -> JobState:
        """`status` for sync code, as `App.run_sync`."""
        return self._source.run_sync("await handle.status()", self.status)

    async def info(self, *, result: bool = False) -> JobInfo:
        """All facts that the server has about the job.

        Args:
            result: whether to fetch its result too, if it has succeeded.

        Raises:
            JobNotFoundError: there is no such job.
        """
        found = await self._fetch_info(results=result)
        if SEPARATOR in found.queue:
            found = replace(found, queue=queue_of_shard(found.queue))
        if found.result is None:
            return found
        return replace(found, result=self._decoded(found.task, found.result))

    def info_sync(self, *, result: bool = False) -> JobInfo:
        """`info` for sync code, as `App.run_sync`."""
        return self._source.run_sync("await handle.info(...)", lambda: self.info(result=result))

    def _decoded(self, task: str, value: msgspec.Raw) -> Any:
        returns = self._returns or self._source.result_type(task) or ANY_RESULT
        return returns.decode(value)


explain_missing(JobHandle, ApiPart.HANDLE)


async def why_late(handle: JobHandle[Any]) -> str:
    """The job's state, for the error message of a wait that has timed out."""

    async def workers(queue: str) -> Sequence[WorkerLease]:
        return await (await source_of(handle).store()).workers(queue)

    async def clock() -> ManualClock | None:
        found = getattr(await source_of(handle).store(), "clock", None)  # only the memory store has one
        return found if isinstance(found, ManualClock) else None

    return await why_no_outcome(handle._fetch_info, workers, clock)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - the one place that uses it


def locate(handle: JobHandle[Any], job_id: str, shard: str) -> None:
    """Complete the handle of a job whose queue or shard, and so its id, was not known when it was made."""
    handle.id, handle._queue = job_id, shard  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - the one place that does


def lead_to(handle: JobHandle[Any], job_id: str, *, of_any_task: bool) -> None:
    """Let a handle lead to another job of its queue or shard: the one that holds its unique key.

    Args:
        handle: the handle.
        job_id: that job.
        of_any_task: it may be of another task, with results of another type.
    """
    handle.id, handle.added = job_id, False
    if of_any_task:
        handle._returns = None  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - the one place that does


def source_of(handle: JobHandle[Any]) -> ResultSource:
    """The object that answers a handle."""
    return handle._source  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - the one place that uses it


def outcome_of(handle: JobHandle[Any]) -> Awaitable[WireOutcome]:
    """Wait until a job has ended, as `JobHandle.result` does, and return its outcome, still encoded."""
    return handle._ended()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - the one place that uses it
