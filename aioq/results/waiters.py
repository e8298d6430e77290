"""The waiters of a process: it registers for the outcomes of jobs, and gets them by pub/sub.

A process has one subscription. To wait for a job, it registers in the job's record, or gets the outcome if there
is one already. One script does both, so no outcome is missed in between. When the subscription breaks, the process
registers again for all jobs that it still waits for. A slow poll covers messages that the network has lost.

A process that usually waits for the jobs it sends registers with the send itself, which saves a call for each job.
Measured on two busy cores, compared with sends that never register: client, server and worker together take 0.88
of the CPU time of a job with 100 coroutines that send and await (quartiles of 20 interleaved rounds: 0.80 to
0.92), 0.98 with ten (0.80 to 1.06), and 0.90 with one (0.84 to 0.99). Jobs a second with 100 coroutines: 1.15
(0.92 to 1.54).

On a quiet machine, five rounds, speed compared with sends that never register: bulk 0.96 (0.87 to 1.09), 100
coroutines that only send 0.98 (0.92 to 1.17), one 0.98 (0.85 to 1.01); the latency of a lone job 1.07 (1.02 to
1.15); 100 coroutines that send and await 1.13 (1.06 to 1.29), ten 0.97 (0.89 to 1.07); a bulk send with all its
results 0.95 (0.87 to 1.04).
"""

import asyncio
import os
from collections.abc import Awaitable, Sequence
from functools import partial

from aioq.errors import JobNotFoundError, ServerUnavailableError
from aioq.jobs.shards import queue_of_shard
from aioq.store.contract import Store
from aioq.store.outcomes import LATER, MISSING, WaitReply
from aioq.store.pubsub import waiter_channel
from aioq.store.refusals import call_in_halves, is_refusal
from aioq.util.aio import Backoff, end
from aioq.util.batcher import Batcher, Items
from aioq.util.log import logger
from aioq.util.plural import counted
from aioq.wire.messages import decode_result_message

log = logger("aioq.results.handle")

MAX_EXPECTED = 1_000
"""The most jobs that are registered with their sends and not awaited yet. A guess: usually fewer are awaited at
once."""

MAX_CREDIT = 16
"""After this many jobs that were registered with their sends and not awaited, no more are registered. A guess."""

MIN_POLL = 0.01
"""The shortest pause between two polls in seconds. A guess: with less, a process that waits keeps its server
busy."""

SERVER_CHECK_EVERY = 2.0
"""While the process waits for jobs, seconds between two checks that the subscription is still at the server
to which jobs are written. After a failover that keeps connections open, results are late by little more."""

MAX_BATCH = 500
"""The most ids of one registration; a reply has as many outcomes, or fewer large ones (`WAIT_LIMIT`)."""


class Waiters:
    """Waits for the outcomes of jobs in one process, on one event loop.

    Args:
        store: where the jobs are.
        app: the App's name.
        poll_interval: seconds between two polls; at least `MIN_POLL`.

    Attributes:
        channels: by queue the channel to register with a send, if this process is likely to wait for the job. A
            caller that registers it calls `expect` in the same turn of the loop, and `forget` if no job was added.
    """

    def __init__(self, store: Store, app: str, *, poll_interval: float) -> None:
        self._store = store
        self._app, self._process = app, os.urandom(9).hex()
        self._poll_interval = max(poll_interval, MIN_POLL)
        self.channels: dict[str, str] = {}
        self._queues: dict[str, _QueueWaiters] = {}
        self._background: list[asyncio.Task[None]] = []

    async def outcome(self, queue: str, job_id: str) -> bytes:
        """Wait for a job's outcome.

        Cancellation: the job goes on; only the wait ends.

        Raises:
            JobNotFoundError: the server has no such job.
            ServerRejectedError: the server refuses this user.
        """
        waiters = self._queues.get(queue)
        if waiters is None:
            waiters = _QueueWaiters(
                self._store, queue, waiter_channel(self._app, queue, self._process), self.channels
            )
            self._queues[queue] = waiters
        if not self._background:
            loop = asyncio.get_running_loop()
            duties = {"aioq-result-poll": self._poll(), "aioq-result-poll-server": self._check_server()}
            self._background = [loop.create_task(duty, name=name) for name, duty in duties.items()]
        return await waiters.outcome(job_id)

    def expect(self, queue: str, job_id: str) -> None:
        """Note a job that is sent with the channel: the server will publish its outcome there."""
        self._queues[queue].expect(job_id)

    def forget(self, queue: str, job_id: str) -> None:
        """Note that such a job was not added: the server will publish nothing."""
        waiters = self._queues.get(queue)
        if waiters is not None:  # None if the App was closed
            waiters.forget(job_id)

    async def close(self) -> None:
        """Stop waiting; every pending wait raises ServerUnavailableError."""
        background, self._background = self._background, []
        await end(background)
        for waiters in self._queues.values():
            waiters.close()
        self._queues.clear()
        self.channels.clear()

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._poll_interval)
            for waiters in tuple(self._queues.values()):
                waiters.ask_again()

    async def _check_server(self) -> None:
        while True:
            await asyncio.sleep(SERVER_CHECK_EVERY)
            if any(waiters.waits for waiters in self._queues.values()):
                self._store.inbox.check_server()


class _QueueWaiters:
    """The waits for jobs of one queue."""

    def __init__(self, store: Store, queue: str, channel: str, channels: dict[str, str]) -> None:
        self._store = store
        self._queue = queue
        self._channel = channel
        self._channels = channels
        self._waiting: dict[str, list[asyncio.Future[bytes]]] = {}
        self._registered: set[str] = set()
        self._listening: asyncio.Task[None] | None = None
        self._listens = False
        self._expected: dict[str, None] = {}
        self._credit = 0
        self._questions: Batcher[Items[str], WaitReply] = Batcher(
            Items, self._ask, retry=self._retry, max_items=MAX_BATCH, capacity=1_000_000
        )

    async def outcome(self, job_id: str) -> bytes:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        futures = self._waiting.setdefault(job_id, [])
        futures.append(future)
        try:
            if not self._listens:
                await self._listen()
            if job_id in self._expected:  # it was registered with its send, and no result message has come yet
                del self._expected[job_id]
                self._registered.add(job_id)
                self._change_credit(min(self._credit + 1, MAX_CREDIT))
            else:
                self._question(job_id)
                self._change_credit(max(self._credit, 1))
            return await future
        finally:
            futures.remove(future)
            if not futures:
                self._waiting.pop(job_id, None)
                self._registered.discard(job_id)

    @property
    def waits(self) -> bool:
        """Whether any job is awaited."""
        return bool(self._waiting)

    def expect(self, job_id: str) -> None:
        """Note a job that is sent with the channel."""
        if len(self._expected) >= MAX_EXPECTED:
            del self._expected[next(iter(self._expected))]
            self._change_credit(max(self._credit - 1, 0))
        self._expected[job_id] = None

    def _change_credit(self, credit: int) -> None:
        """Set how likely it is that the next jobs are awaited; there must be a subscription."""
        self._credit = credit
        if credit:
            self._channels[self._queue] = self._channel
        else:
            self._channels.pop(self._queue, None)

    def forget(self, job_id: str) -> None:
        """Note that a job was not added after all; if it is awaited already, ask for its outcome."""
        self._expected.pop(job_id, None)
        self._registered.discard(job_id)
        if job_id in self._waiting:
            self._question(job_id)

    def ask_again(self) -> None:
        """Register again for all awaited jobs, and forget those not awaited yet: their message may be lost."""
        self._expected.clear()
        for job_id in tuple(self._waiting):
            self._question(job_id)

    def close(self) -> None:
        for futures in self._waiting.values():
            for future in futures:
                if not future.done():
                    future.set_exception(ServerUnavailableError("the App was closed while the job was awaited"))
        self._questions.close()
        if self._listening is not None:
            self._listening.cancel()

    def _question(self, job_id: str) -> None:
        """Ask for an outcome, or register for it; a result message may come before the reply."""
        question: asyncio.Future[WaitReply] = asyncio.Future()
        question.add_done_callback(partial(self._answered, job_id))
        self._questions.gathering.items.append(job_id)
        self._questions.add(question)

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
        if self._listening is None or _has_failed(self._listening):
            self._listening = asyncio.get_running_loop().create_task(
                self._store.inbox.listen(self._channel, self._on_result_message, self.ask_again)
            )
        if not self._listening.done():
            await asyncio.shield(self._listening)
        self._listens = True

    def _on_result_message(self, message: bytes) -> None:
        for job_id, outcome in decode_result_message(message):
            if job_id in self._expected:  # it is not awaited yet, so a later wait has to ask
                del self._expected[job_id]
                self._change_credit(max(self._credit - 1, 0))
            elif outcome is None:
                self._question(job_id)
            else:
                self._answer(job_id, outcome)

    def _answer(self, job_id: str, reply: WaitReply) -> None:
        if reply is None:
            self._registered.update(self._waiting.keys() & {job_id})
            return
        if reply is LATER:
            if job_id in self._waiting:
                self._question(job_id)
            return
        if reply is MISSING and job_id in self._registered:
            # The job existed, and its outcome is not kept: a message with it must be on its way. If that is lost,
            # the next poll finds that out.
            self._registered.discard(job_id)
            return
        for future in self._waiting.get(job_id, ()):
            if future.done():
                continue
            if reply is MISSING:
                future.set_exception(not_found(job_id, [self._queue]))
            else:
                future.set_result(reply)

    def _ask(self, questions: Items[str]) -> Awaitable[list[WaitReply]]:
        return self._store.wait(self._queue, self._channel, questions.items)

    def _retry(
        self, questions: Items[str], error: BaseException
    ) -> Awaitable[Sequence[WaitReply | Exception]] | None:
        if isinstance(error, ServerUnavailableError):
            return self._persist(questions, error)
        if questions.size > 1 and isinstance(error, Exception) and is_refusal(error):
            return call_in_halves(questions.items, partial(self._store.wait, self._queue, self._channel), error)
        return None

    async def _persist(self, questions: Items[str], error: ServerUnavailableError) -> list[WaitReply]:
        """Ask again until the server replies, after the first try has failed."""
        backoff = Backoff()
        while True:
            log.debug("waiting for %s of queue %s: %s", counted(questions.size, "outcome"), self._queue, error)
            await asyncio.sleep(backoff.next())
            try:
                return await self._ask(questions)
            except ServerUnavailableError as fault:
                error = fault


def _has_failed(task: "asyncio.Task[None]") -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


def not_found(job_id: str, queues: Sequence[str]) -> JobNotFoundError:
    """The error for a job that none of the queues and shards has."""
    queues = [*dict.fromkeys(map(queue_of_shard, queues))]
    where = f"queue {queues[0]!r}" if len(queues) == 1 else f"the queues {', '.join(queues)}"
    return JobNotFoundError(
        f"there is no job {job_id!r} in {where}: it was not sent there, or its result has expired (result_ttl)",
        job_id,
    )
