"""The handle of a job: to wait for it, to ask for its state, to cancel it, or to move it to another time."""

import asyncio
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from aioq.errors import ArgumentError, ConfigError, JobCancelledError, JobFailed
from aioq.jobs.context import JobContext, Lender, job_here, lender_of
from aioq.jobs.job import WAITS, JobInfo, JobState
from aioq.jobs.options import check_name, make_options
from aioq.jobs.shards import SEPARATOR, queue_of_shard
from aioq.public import public
from aioq.results.places import TRIES, find, pass_on, search, settle
from aioq.results.wait_report import why_no_outcome
from aioq.results.waiters import Waiters, not_found
from aioq.store.contract import Store
from aioq.store.leases import WorkerLease
from aioq.util.clock import ManualClock
from aioq.util.durations import Duration, seconds
from aioq.util.migration import Place, explain_missing
from aioq.util.printable import brief
from aioq.wire.messages import (
    Outcome,
    OutcomeKind,
    decode_failure,
    decode_outcome,
    decode_reason,
    encode_cancellation,
    with_headers,
)
from aioq.wire.signature import ANY_RESULT, ResultType

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


# A protocol, though `aioq.internals.Internals` is the only one there is: handles are made by the sender, which
# that one is built of, so it is in a room above this one and above the sender's.
class ResultSource(Protocol):
    """Where a handle gets its answers: the App, whatever event loop it is asked on."""

    async def store(self) -> Store:
        """The store of the running loop."""
        ...

    async def waiters(self) -> Waiters:
        """The waiters of the running loop."""
        ...

    async def places_of(self, job_id: str, queue: str | None, *, patient: bool) -> Sequence[str]:
        """The queues, and shards of queues, in which a job of this id may be, the most likely first.

        Args:
            job_id: the id.
            queue: its queue, if the caller has named it.
            patient: wait while the server is away, where that has to be asked.
        """
        ...

    def result_type(self, task: str) -> ResultType | None:
        """The return type of a task; None if this process does not know the task."""
        ...

    def result_ttl_ms(self) -> int:
        """How long an outcome is kept by default, in milliseconds."""
        ...

    def run_sync(self, instead: str, make: Callable[[], Awaitable[R]]) -> R:
        """Run the awaitable of `make` for sync code and wait in this thread; an error says to use `instead`."""
        ...


@public
class JobHandle(msgspec.Struct, Generic[R_co], eq=False):
    """A job that was sent: await it for its result.

    `await handle` waits without limit; `await handle.result(timeout=5)` raises the builtin TimeoutError when the
    time has passed, and the job goes on. A handle can be awaited any number of times, on any event loop. A handle
    of the same job can be made in any process: `app.handle(handle.id)`.

    Attributes:
        id: the job's id.
        added: False if the server already had a job of this id, which was not changed; None if this handle does
            not come from a send.
    """

    # A struct, because each job of a bulk send has a handle: a struct is made in a fifth of a plain class's time.
    _source: ResultSource
    id: str
    _queue: str | None
    _returns: ResultType | None = None
    added: bool | None = None
    _outcome: Outcome | None = None
    _left: str | None = None
    _named: str | None = None

    @property
    def queue(self) -> str | None:
        """The job's queue; None if it is not known yet."""
        return self._named if self._queue is None else queue_of_shard(self._queue)

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
        if outcome.kind is OutcomeKind.SUCCEEDED:
            return self._decoded(outcome.task, outcome.value)
        if outcome.kind is OutcomeKind.CANCELLED:
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

    async def _ended(self, timeout: Duration | None = None) -> Outcome:  # noqa: ASYNC109 - as in result()
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
        return (await self.info()).state

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

    async def _fetch_info(self, *, results: bool = False) -> JobInfo:
        """The facts that the server has about the job; the result is still encoded."""
        return (await find(await self._source.store(), await self._locate(), self.id, results=results)).info

    def _decoded(self, task: str, value: msgspec.Raw) -> Any:
        returns = self._returns or self._source.result_type(task) or ANY_RESULT
        return returns.decode(value)

    async def cancel(self, reason: str = "") -> bool:
        """Cancel the job: a waiting job never runs; the coroutine of a running job is cancelled in its worker.

        A plain function that runs in a thread cannot be stopped: the job ends as cancelled, but the thread goes
        on. A job that ends before the cancellation reaches it keeps its outcome.

        Args:
            reason: a text that the error of a waiting caller shows.

        Returns:
            False if the job had ended already.

        Raises:
            ArgumentError: the reason is no string.
            JobNotFoundError: there is no such job.
        """
        if not isinstance(reason, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ArgumentError(f"cancel({brief(reason)}): the reason is a text")
        # The server drops the call of a cancelled job. So its task and headers are read now, and kept in the
        # outcome.
        store = await self._source.store()
        for _ in range(TRIES):
            place = await find(store, await self._locate(), self.id)
            known = place.info
            outcome = with_headers(encode_cancellation(known.task, reason), known.headers)
            state = (await store.cancel(place.queue, [self.id], outcome, self._source.result_ttl_ms()))[0]
            if state is not None:  # else it was moved, or its record has expired, since it was found
                break
        else:
            raise not_found(self.id, [await self._locate()])
        tell = known.queue if place.is_on_its_way else place.before or self._left
        if tell is not None and not state.ended:
            await pass_on(store, place.queue, tell, self.id)
        return not state.ended

    def cancel_sync(self, reason: str = "") -> bool:
        """`cancel` for sync code, as `App.run_sync`."""
        return self._source.run_sync("await handle.cancel(...)", lambda: self.cancel(reason))

    async def reschedule(self, *, delay: Duration | None = None, eta: datetime | None = None) -> bool:
        """Move a job that does not run to another time: it is queued, delayed or waits for its retry.

        Args:
            delay: run it after this time from now, in seconds or as a timedelta; this or `eta`.
            eta: run it at this time, a datetime with a time zone; this or `delay`.

        Returns:
            False if it was not changed, because it runs, has ended, or waits for another job.

        Raises:
            ConfigError: an option is wrong, or not exactly one of the two was given; nothing was changed.
            JobNotFoundError: there is no such job.
        """
        where = f"job {self.id}: reschedule"
        if delay is None and eta is None:
            raise ConfigError(f"{where}: give delay or eta; to run it at once use run_now()")
        options = make_options(where, delay=delay, eta=eta)
        return await self._reschedule(options.delay_ms, options.eta_ms)

    async def run_now(self) -> bool:
        """Queue a job at once that is delayed or waits for its retry.

        Returns:
            False if it was not changed, because it runs, has ended, or waits for another job.

        Raises:
            JobNotFoundError: there is no such job.
        """
        return await self._reschedule(None, None)

    async def _reschedule(self, delay_ms: int | None, eta_ms: int | None) -> bool:
        store = await self._source.store()
        queue = await self._locate()
        for _ in range(TRIES):
            state = (await store.reschedule(queue, [self.id], delay_ms=delay_ms, eta_ms=eta_ms))[0]
            if state is not None:
                return state in WAITS
            queue = (await settle(store, queue, self.id)).queue
        raise not_found(self.id, [queue])

    async def move(self, *, queue: str) -> bool:
        """Move a job that does not run to another queue: it is queued, delayed or waits for its retry.

        It keeps its id, priority, time, tags, expiry and counts, and all handles of it keep working. The move is
        stored in one step with the job. If the other queue cannot be reached now, a worker of the old queue goes
        on with it. The other queue needs no worker for it.

        Args:
            queue: its new queue; if it is in this queue already, nothing is changed.

        Returns:
            False if it was not moved, because it runs, has ended, or waits for another job.

        Cancellation: the job stays where it was or is moved, but never lost.

        Raises:
            ConfigError: this is no name of a queue, or that queue has another job with this id; the job stays.
            JobNotFoundError: there is no such job.
            ServerUnavailableError: it was moved before, and the queue to which it is on its way cannot be reached.
        """
        where = f"job {self.id}: move"
        check_name(f"{where}: queue", queue)
        store = await self._source.store()
        for _ in range(TRIES):
            place = await settle(store, await self._locate(), self.id)
            if queue_of_shard(place.queue) == queue or place.info.state not in WAITS:
                return place.info.state in WAITS
            target = (await self._source.places_of(self.id, queue, patient=False))[0]
            state = (await store.outbox.move(place.queue, [self.id], target))[0]
            if state is not None:  # else it was moved, or its record has expired, since it was found
                break
        else:
            raise not_found(self.id, [await self._locate()])
        if state not in WAITS:
            return False
        refused = await pass_on(store, place.queue, target, self.id)
        if self.id in (refused or ()):
            stays = queue_of_shard(place.queue)
            raise ConfigError(f"{where}: queue {queue!r} has another job with this id; it stays in {stays!r}")
        if refused is not None:
            self._left, self._queue = place.queue, target
        return True

    def move_sync(self, *, queue: str) -> bool:
        """`move` for sync code, as `App.run_sync`."""
        return self._source.run_sync("await handle.move(...)", lambda: self.move(queue=queue))

    async def _locate(self, *, patient: bool = False) -> str:
        """The job's queue or shard; if the id does not name it, those that the App knows are searched."""
        if self._queue is None:
            places = list(await self._source.places_of(self.id, self._named, patient=patient))
            self._queue = (
                places[0] if len(places) == 1 else await search(await self._source.store(), places, self.id)
            )
        return self._queue


explain_missing(JobHandle, Place.HANDLE)


async def why_late(handle: JobHandle[Any]) -> str:
    """The job's state, for the error message of a wait that has timed out."""

    async def workers(queue: str) -> Sequence[WorkerLease]:
        return await (await source_of(handle).store()).workers(queue)

    async def clock() -> ManualClock | None:
        found = getattr(await source_of(handle).store(), "clock", None)  # only the memory store has one
        return found if isinstance(found, ManualClock) else None

    return await why_no_outcome(handle._fetch_info, workers, clock)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - the one place that uses it


def locate(handle: JobHandle[Any], job_id: str, place: str) -> None:
    """Complete the handle of a job whose queue or shard, and so its id, was not known when it was made."""
    handle.id, handle._queue = job_id, place  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - the one place that does


def source_of(handle: JobHandle[Any]) -> ResultSource:
    """The object that answers a handle."""
    return handle._source  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - the one place that uses it


def outcome_of(handle: JobHandle[Any]) -> Awaitable[Outcome]:
    """Wait until a job has ended, as `JobHandle.result` does, and return its outcome, still encoded."""
    return handle._ended()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - the one place that uses it
