"""Awaiting outcomes: handles, and the waiters behind them.

A process has one subscription. Waiting for a job registers the process with the job's record, or returns the
outcome if there is one already: one script, so no outcome can fall between the look and the registration. When
the subscription breaks, everything that is still awaited is registered again; a slow poll is the safety net for
a message the network swallowed.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Generator, Sequence
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from aioq.backoff import Backoff
from aioq.batch import Batcher
from aioq.codec import ANY_RESULT, ResultType
from aioq.errors import JobCancelledError, JobFailed, JobNotFoundError, RemoteError, ServerUnavailableError
from aioq.job import JobInfo, JobState
from aioq.store import MISSING, Store, WaitReply, waiter_channel
from aioq.wire import (
    Outcome,
    OutcomeKind,
    decode_failure,
    decode_notice,
    decode_outcome,
    decode_reason,
    encode_cancellation,
)

log = logging.getLogger("aioq.results")

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

MAX_BATCH = 500
"""The most ids of one registration; the reply may carry as many outcomes."""


class Waiters:
    """What one process awaits on one event loop.

    Args:
        store: where the jobs are.
        app: the App's name.
        poll_interval: seconds between two safety polls.
    """

    def __init__(self, store: Store, app: str, *, poll_interval: float) -> None:
        self._store = store
        self._channel = waiter_channel(app, os.urandom(9).hex())
        self._poll_interval = poll_interval
        self._queues: dict[str, _QueueWaiters] = {}
        self._poller: asyncio.Task[None] | None = None

    async def outcome(self, queue: str, job_id: str) -> bytes:
        """Wait for a job's outcome.

        Cancellation: the job goes on; only the waiting ends.

        Raises:
            JobNotFoundError: the server has no such job.
            ServerRejectedError: the server refuses this user.
        """
        waiters = self._queues.get(queue)
        if waiters is None:
            waiters = _QueueWaiters(self._store, queue, f"{self._channel}:{queue}")
            self._queues[queue] = waiters
        if self._poller is None:
            self._poller = asyncio.get_running_loop().create_task(self._poll(), name="aioq-result-poll")
        return await waiters.outcome(job_id)

    async def close(self) -> None:
        """Stop waiting; what is still awaited stays without an answer."""
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.wait([self._poller])
            self._poller = None
        for waiters in self._queues.values():
            waiters.close()
        self._queues.clear()

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._poll_interval)
            for waiters in tuple(self._queues.values()):
                waiters.ask_again()


class _QueueWaiters:
    """What is awaited of one queue."""

    def __init__(self, store: Store, queue: str, channel: str) -> None:
        self._store = store
        self._queue = queue
        self._channel = channel
        self._waiting: dict[str, list[asyncio.Future[bytes]]] = {}
        self._listening: asyncio.Task[None] | None = None
        self._questions: Batcher[str, WaitReply] = Batcher(
            partial(self._ask), max_items=MAX_BATCH, capacity=1_000_000
        )

    async def outcome(self, job_id: str) -> bytes:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        futures = self._waiting.setdefault(job_id, [])
        futures.append(future)
        try:
            await self._listen()
            self._question(job_id)
            return await future
        finally:
            futures.remove(future)
            if not futures:
                self._waiting.pop(job_id, None)

    def ask_again(self) -> None:
        """Register everything that is awaited once more."""
        for job_id in tuple(self._waiting):
            self._question(job_id)

    def close(self) -> None:
        if self._listening is not None:
            self._listening.cancel()

    def _question(self, job_id: str) -> None:
        """Ask for an outcome or to be told; while the answer is on its way a notice may bring it too."""
        self._questions.put(job_id).add_done_callback(partial(self._answered, job_id))

    def _answered(self, job_id: str, question: "asyncio.Future[WaitReply]") -> None:
        if question.cancelled():
            return
        error = question.exception()
        if error is None:
            self._answer(job_id, question.result())
            return
        for future in self._waiting.get(job_id, ()):
            if not future.done():
                future.set_exception(error)

    async def _listen(self) -> None:
        if self._listening is None or (self._listening.done() and self._listening.cancelled()):
            self._listening = asyncio.get_running_loop().create_task(
                self._store.inbox.listen(self._channel, self._on_notice, self.ask_again)
            )
        if not self._listening.done():
            await asyncio.shield(self._listening)

    def _on_notice(self, message: bytes) -> None:
        for job_id, outcome in decode_notice(message):
            if outcome is None:
                self._question(job_id)
            else:
                self._answer(job_id, outcome)

    def _answer(self, job_id: str, reply: WaitReply) -> None:
        if reply is None:
            return
        for future in self._waiting.get(job_id, ()):
            if future.done():
                continue
            if reply is MISSING:
                future.set_exception(_not_found(job_id, [self._queue]))
            else:
                future.set_result(reply)

    async def _ask(self, job_ids: list[str]) -> list[WaitReply]:
        backoff = Backoff()
        while True:
            try:
                return await self._store.wait(self._queue, self._channel, job_ids)
            except ServerUnavailableError as error:
                log.debug("waiting for %d outcomes of queue %s: %s", len(job_ids), self._queue, error)
                await asyncio.sleep(backoff.next())


class ResultSource(Protocol):
    """Where a handle gets its answers: the App, whatever event loop it is asked on."""

    async def store(self) -> Store:
        """The store of the running loop."""
        ...

    async def waiters(self) -> Waiters:
        """The waiters of the running loop."""
        ...

    def queues(self) -> Sequence[str]:
        """The queues a job may be in whose id names none."""
        ...

    def result_type(self, task: str) -> ResultType | None:
        """What the task returns, None where this process does not know the task."""
        ...

    def result_ttl_ms(self) -> int:
        """How long an outcome is kept by default, in milliseconds."""
        ...


class JobHandle(Generic[R_co]):
    """A job that was sent: await it for its result.

    `await handle` waits without limit; `await handle.result(timeout=5)` raises the builtin TimeoutError when the
    time has passed, and the job goes on. A handle can be awaited any number of times, on any event loop, and a
    handle of the same job can be made in any process: `app.handle(handle.id)`.

    Attributes:
        id: the job's id.
        added: False where the server already had a job of this id, which then stands as it was; None where this
            handle does not come from a send.
    """

    __slots__ = ("_outcome", "_queue", "_returns", "_source", "added", "id")

    def __init__(
        self,
        source: ResultSource,
        job_id: str,
        queue: str | None,
        returns: ResultType | None = None,
        *,
        added: bool | None = None,
    ) -> None:
        self._source = source
        self.id = job_id
        self._queue = queue
        self._returns = returns
        self._outcome: Outcome | None = None
        self.added = added

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
        raise JobFailed(
            self.id, outcome.task, RemoteError(failure.type, failure.message, failure.traceback)
        )

    async def outcome(self, timeout: float | None = None) -> Outcome:  # noqa: ASYNC109 - as in result()
        """Wait until the job has ended, and return how, still encoded; see `result`."""
        if self._outcome is None:
            try:
                async with asyncio.timeout(timeout) as limit:
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
            raise _not_found(self.id, [queue])
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
            raise _not_found(self.id, [queue])
        return not state.ended

    async def _locate(self) -> str:
        """The job's queue; looked for among those the App knows where the id does not name it."""
        if self._queue is None:
            queues = list(self._source.queues())
            if len(queues) == 1:
                self._queue = queues[0]
                return queues[0]
            store = await self._source.store()
            for queue in queues:
                if (await store.info(queue, [self.id]))[0] is not None:
                    self._queue = queue
                    return queue
            raise _not_found(self.id, queues)
        return self._queue


def _not_found(job_id: str, queues: Sequence[str]) -> JobNotFoundError:
    where = f"queue {queues[0]!r}" if len(queues) == 1 else f"the queues {', '.join(queues)}"
    return JobNotFoundError(
        f"there is no job {job_id!r} in {where}: it was not sent there, or its result has expired (result_ttl)",
        job_id,
    )


async def gather(*handles: JobHandle[R], timeout: float | None = None) -> list[R]:  # noqa: ASYNC109 - as in result()
    """Wait for several jobs and return their results in the order of the handles.

    Args:
        handles: the jobs.
        timeout: the longest to wait for all of them, in seconds; None for no limit.

    Cancellation: the waiting ends, the jobs go on.

    Raises:
        JobFailed: what the first job that fails raises, at once; the other jobs go on.
        TimeoutError: the time has passed.
    """
    tasks = [asyncio.ensure_future(handle.result()) for handle in handles]
    try:
        async with asyncio.timeout(timeout):
            return list(await asyncio.gather(*tasks))
    finally:
        await _end(tasks)


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
            async with asyncio.timeout_at(deadline):
                task = await ended.get()
            task.result()
            yield by_task[task]
    finally:
        await _end(list(by_task))


async def _end(tasks: "Sequence[asyncio.Task[Any]]") -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.exception()
