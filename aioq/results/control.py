"""What can be done to one job: cancel it, move it, run it again, delete it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Protocol, Self, TypeVar

import msgspec

from aioq.errors import ArgumentError, ConfigError, DuplicateJobError, JobError
from aioq.jobs.job import WAITS, JobInfo, JobState, Priority
from aioq.jobs.options import check_name, make_options
from aioq.jobs.shards import queue_of_shard
from aioq.results.places import TRIES, find, pass_on, search, settle
from aioq.results.waiters import Waiters, not_found
from aioq.store.contract import Store
from aioq.store.extra import Duplicate, NodeOf
from aioq.util.durations import Duration
from aioq.util.printable import brief
from aioq.wire.messages import WireOutcome, encode_cancellation, with_headers
from aioq.wire.signature import ResultType

R = TypeVar("R")

DELETED = "deleted"
"""The reason with which a job is cancelled that is deleted before it has run."""


class ResultSource(Protocol):
    """Where a handle gets its answers: the App, whatever event loop it is asked on.

    A protocol, because what it is (`aioq.internals`) is in a room above this one: it is made of the sender, which
    makes handles.
    """

    async def store(self) -> Store:
        """The store of the running loop."""
        ...

    async def waiters(self) -> Waiters:
        """The waiters of the running loop."""
        ...

    async def shards_of_job(
        self, job_id: str, queue: str | None, *, patient: bool, key: str | None = None
    ) -> Sequence[str]:
        """The queues, and shards of queues, in which a job of this id may be, the most likely first.

        Args:
            job_id: the id.
            queue: its queue, if the caller has named it.
            patient: wait while the server is away, where that has to be asked.
            key: its unique key, where it is about to go to that queue.
        """
        ...

    async def check_queue(self, where: str, queue: str) -> None:
        """Check that the App or the server knows a queue.

        Raises:
            ConfigError: neither does; the message begins with `where` and names those that there are.
        """
        ...

    def result_type(self, task: str) -> ResultType | None:
        """The return type of a task; None if this process does not know the task."""
        ...

    async def send_copy(self, info: JobInfo, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, bool]:
        """Send a job's call anew, perhaps with other arguments; returns its id, and whether it was added."""
        ...

    def keeps_history(self) -> bool:
        """Whether the App's setting `history` is not 0."""
        ...

    def history_kept(self) -> int:
        """How many rows the history of a queue keeps at least."""
        ...

    def records_always(self) -> bool:
        """Whether that setting is "full"."""
        ...

    def keeps_logs(self) -> bool:
        """Whether the App's setting `logs` is not 0."""
        ...

    def result_ttl_ms(self) -> int:
        """How long an outcome is kept by default, in milliseconds."""
        ...

    def run_sync(self, instead: str, make: Callable[[], Awaitable[R]]) -> R:
        """Run the awaitable of `make` for sync code and wait in this thread; an error says to use `instead`."""
        ...


class JobControl(msgspec.Struct, eq=False):
    """A job, and what can be done to it.

    Attributes:
        id: the job's id.
        added: whether the send has added it; see `JobHandle`.
    """

    # A struct, because each job of a bulk send has a handle: a struct is made in a fifth of a plain class's time.
    _source: ResultSource
    id: str
    _queue: str | None
    _returns: ResultType | None = None
    added: bool | None = None
    _outcome: WireOutcome | None = None
    _left: str | None = None
    _named: str | None = None

    @property
    def queue(self) -> str | None:
        """The job's queue; None if it is not known yet."""
        return self._named if self._queue is None else queue_of_shard(self._queue)

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
        if not isinstance(reason, str):  # pyright: ignore[reportUnnecessaryIsInstance] - types do not hold at run time
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
            queue: its new queue, one that the App or the server knows: another one would take the job out of
                sight. Give a new queue in the App's `queues`. If the job is in it already, nothing is changed.

        Returns:
            False if it was not moved, because it runs, has ended, or waits for another job.

        Cancellation: the job stays where it was or is moved, but never lost.

        Raises:
            ConfigError: there is no such queue, and the message names those that there are; or that queue has
                another job with this id or its unique key. The job stays.
            JobNotFoundError: there is no such job.
            ServerUnavailableError: it was moved before, and the queue to which it is on its way cannot be reached;
                or the App does not know the new queue, and the server cannot be asked.
        """
        where = f"job {self.id}: move"
        check_name(f"{where}: queue", queue)
        await self._source.check_queue(f"{where}: ", queue)
        store = await self._source.store()
        for _ in range(TRIES):
            place = await settle(store, await self._locate(), self.id)
            if queue_of_shard(place.queue) == queue or place.info.state not in WAITS:
                return place.info.state in WAITS
            key = place.info.unique_key
            target = (await self._source.shards_of_job(self.id, queue, patient=False, key=key))[0]
            state = (await store.outbox.move(place.queue, [self.id], target))[0]
            if state is not None:  # else it was moved, or its record has expired, since it was found
                break
        else:
            raise not_found(self.id, [await self._locate()])
        if state not in WAITS:
            return False
        if not await pass_on(store, place.queue, target, self.id):
            return True
        # Whoever delivered it first got the answer whether the queue takes it, and that may have been a worker.
        (found,) = await store.info(place.queue, [self.id])
        if found is None or found.queue != place.queue:
            self._left, self._queue = place.queue, target
        elif not found.state.ended:
            stays, key = queue_of_shard(place.queue), found.unique_key
            has = "this id" if key is None else f"this id or its unique key {key!r}"
            raise ConfigError(
                f"{where}: queue {queue!r} has another job with {has}, or a key of another type; "
                f"it stays in {stays!r}"
            )
        return True

    def move_sync(self, *, queue: str) -> bool:
        """`move` for sync code, as `App.run_sync`."""
        return self._source.run_sync("await handle.move(...)", lambda: self.move(queue=queue))

    async def retry(self) -> bool:
        """Queue a job again that has failed for good. Its attempts are counted anew.

        Returns:
            False if it was not queued: it has not failed, or its call is not kept any more (`dead_ttl`,
            `dead_limit`).

        Raises:
            DuplicateJobError: another job holds its unique key.
            JobError: it is a node of a flow, which can be run again as a whole only.
            JobNotFoundError: there is no such job.
        """
        store = await self._source.store()
        place = await settle(store, await self._locate(), self.id)
        state = (await store.operating.reopen(place.queue, [self.id]))[0]
        if isinstance(state, Duplicate):
            raise DuplicateJobError(
                f"job {self.id} was not queued again: job {state.owner} holds its unique key", state.owner
            )
        if isinstance(state, NodeOf):
            raise JobError(
                f"job {self.id} was not queued again: it is a node of flow {state.flow_id}; retry the flow",
                self.id,
            )
        self._outcome = None
        return state is JobState.FAILED

    async def copy(self, *args: Any, **kwargs: Any) -> Self:
        """Send the job's call once more, as a new job in the same queue, with the same priority, tags and headers.

        Args:
            args: positional arguments, to replace all arguments of the call; by default they stay as they are.
            kwargs: the keyword arguments, likewise.

        Returns:
            A handle of the new job.

        Raises:
            ArgumentError: the arguments do not fit the task; or none are given, and the call is not kept any more,
                as that of a job that has succeeded.
            JobNotFoundError: there is no such job.
            SendError: the server did not confirm the new job within `send_timeout`.
        """
        info = (await settle(await self._source.store(), await self._locate(), self.id)).info
        job_id, added = await self._source.send_copy(info, args, kwargs)
        return type(self)(self._source, job_id, info.queue, self._returns, added)

    async def delete(self) -> bool:
        """Delete the job and all that is known of it. One that waits to be run is cancelled first.

        Returns:
            False if it was not deleted, because it runs: cancel it first.

        Raises:
            JobNotFoundError: there is no such job.
        """
        store = await self._source.store()
        place = await settle(store, await self._locate(), self.id)
        outcome = with_headers(encode_cancellation(place.info.task, DELETED), place.info.headers)
        state = (await store.operating.delete(place.queue, [self.id], outcome))[0]
        if state is None:
            raise not_found(self.id, [place.queue])
        return state is not JobState.RUNNING

    async def set_priority(self, priority: Priority | Literal["high", "normal", "low"]) -> bool:
        """Move a job to another lane. One that is queued goes to its end; one that runs is retried there.

        Args:
            priority: `high`, `normal` or `low`.

        Returns:
            False if it was not changed, because it has ended.

        Raises:
            ConfigError: there is no such priority.
            JobNotFoundError: there is no such job.
        """
        lane = make_options(f"job {self.id}: set_priority", priority=priority).priority
        if lane is None:
            raise ConfigError(f"job {self.id}: set_priority: give high, normal or low")
        store = await self._source.store()
        place = await settle(store, await self._locate(), self.id)
        state = (await store.operating.prioritize(place.queue, [self.id], lane))[0]
        if state is None:
            raise not_found(self.id, [place.queue])
        return not state.ended

    async def _fetch_info(self, *, results: bool = False) -> JobInfo:
        """The facts that the server has about the job; the result is still encoded."""
        return (await find(await self._source.store(), await self._locate(), self.id, results=results)).info

    async def _locate(self, *, patient: bool = False) -> str:
        """The job's queue or shard; if the id does not name it, those that the App knows are searched."""
        if self._queue is None:
            shards = list(await self._source.shards_of_job(self.id, self._named, patient=patient))
            self._queue = (
                shards[0] if len(shards) == 1 else await search(await self._source.store(), shards, self.id)
            )
        return self._queue
