"""The worker: its life cycle. Its duties, and how they notify each other, are in `wiring.py`."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

from aioq.errors import ServerError, ServerUnavailableError
from aioq.jobs.context import NoJobError, current_job
from aioq.producer.shards import Shards
from aioq.store.contract import Store
from aioq.store.diagnosis import ServerInfo
from aioq.store.pauses import Pauses, in_words
from aioq.tasks.batches import BatchTask
from aioq.util.aio import Backoff, end
from aioq.util.log import logger
from aioq.worker.app_parts import AppParts, compile_signatures, declared_limits, unknown_tasks
from aioq.worker.duties.declared_limits import DeclaredLimits
from aioq.worker.duties.drain import hurry_batches
from aioq.worker.duties.register import QueueRegister
from aioq.worker.forks import forks_end
from aioq.worker.health import Health
from aioq.worker.identity import Incarnation
from aioq.worker.placement import Placement
from aioq.worker.run.logging import stopping
from aioq.worker.steering import Steering
from aioq.worker.weights import check_weights
from aioq.worker.wiring import Duties

T = TypeVar("T")

log = logger("aioq.worker")

FETCH_END = 2.0
"""Seconds that the fetchers may take to end at the stop."""

DEREGISTER_TIME = 5.0
"""Seconds to write the last outcomes and deregister at the stop; if the server is gone for longer, the recovery
gives the jobs back. Together with `FETCH_END` it is less than the 10 s that container engines usually give a
process."""

HURRIED_DEREGISTER_TIME = 1.0
"""The same time after a second signal."""


class Worker:
    """Runs the jobs of some queues until it is stopped.

    Args:
        app_parts: the App's parts.
        queues: the queues, all of equal rank. If one has several shards, all of them are served, also those that
            are added later.
        concurrency: how many jobs may run at once.
        burst: end when the queues are empty.
        on_start: called with facts about the server once it answers, before the first job is claimed.
        incarnation: makes its ids; a supervisor gives one, so that it can tell which ids died with its child.
        supervised: whether a supervisor replaces it when it ends.
        queue_slots: by queue, the most slots that its jobs take; a queue that is not in it may take all.

    Attributes:
        queues: its queues.
        served: the same, and each shard of them; known when the server has answered.
        steering: changes it while it serves.
        paused: by queue, what of it is paused, in words; known when `on_start` is called.
        ended_by_itself: whether it has ended, or ends, without having been stopped; for example, a job has
            cancelled it.

    Raises:
        ConfigError: a task has an annotation that arguments or results cannot be decoded into, or its jobs take
            more slots than there are.
    """

    def __init__(
        self,
        app_parts: AppParts,
        *,
        queues: Sequence[str],
        concurrency: int | None = None,
        burst: bool = False,
        on_start: Callable[[ServerInfo], None] | None = None,
        incarnation: Incarnation | None = None,
        supervised: bool = False,
        queue_slots: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self._app_parts = app_parts
        self.queue_slots = dict(queue_slots)
        self._incarnation = incarnation or Incarnation()
        self.queues = tuple(dict.fromkeys(queues))
        self.served: tuple[str, ...] = self.queues
        self._shards: Shards | None = None
        self.concurrency = concurrency or app_parts.settings.concurrency
        self._burst_mode = burst
        self._on_start = on_start
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._serving = asyncio.Event()
        self._task: asyncio.Task[Any] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._dropped: list[asyncio.Task[None]] = []
        self._tasks_of: dict[str, list[asyncio.Task[None]]] = {}
        self.steering = Steering(self, app_parts.settings, app_parts.tasks, supervised=supervised)
        self.ended_by_itself = False
        self.paused: Mapping[str, str] = {}
        self._declared = app_parts.schedules()
        compile_signatures(app_parts)  # now, so that a bad annotation is an error of the start and not of a job
        check_weights(app_parts.tasks, app_parts.settings, self.queues, self.concurrency, self.queue_slots)

    @property
    def left_behind(self) -> int:
        """After the worker's end: how many functions still run here although their jobs were given back."""
        return self._duties.left_behind if self._serving.is_set() else 0

    def queues_in_words(self) -> list[str]:
        """Its queues, with their numbers of shards and their shares; known when the server has answered."""
        names = {
            queue: queue if self._shards is None else self._shards.table[queue].in_words() for queue in self.queues
        }
        return [self.steering.share_in_words(queue, words) for queue, words in names.items()]

    @property
    def is_stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self._stop.is_set()

    async def wait_stopping(self) -> None:
        """Return when it is asked to stop."""
        await self._stop.wait()

    def stop(self) -> None:
        """Ask for a graceful stop; the second call cancels the running jobs and gives them back at once."""
        if self._stop.is_set():
            self._hurry.set()
            if self._task is not None and not self._serving.is_set():
                self._task.cancel()  # it has not started yet: it waits for the lifespan or the server
        self._stop.set()
        if self._serving.is_set() and self._duties.executor.running:
            self._duties.announce()

    def health(self) -> Health:
        """The worker's health; may be called from any thread."""
        if not self._serving.is_set():
            return Health(ready=False, reasons=["it has not reached its server yet, or is still in its lifespan"])
        return self._duties.health()

    async def wait_empty(self) -> None:
        """Return when a check of the queues has found no job and no job runs; only while the worker serves."""
        await self._serving.wait()
        await self._duties.wait_empty()

    async def run(self) -> None:
        """Work until `stop`, or in burst mode until the queues are empty.

        Cancellation: as two calls of `stop`. But the running jobs count a crash, because usually it was one of
        them that cancelled the worker.

        Raises:
            ServerRejectedError: the server refuses this user or is too old.
        """
        self._task = asyncio.current_task()
        store = await self._app_parts.store()
        shards = self._shards = await self._app_parts.shards()
        # The store is opened once only: in a cluster each time warns of the nodes that are away.
        info = await _retried(partial(store.open, thorough=True), self._stop)
        placement = Placement(store.timetable, shards, self._declared)
        if info is None or not await self._find(placement):
            return
        for warning in unknown_tasks(self._app_parts, self._declared, self.queues):
            log.warning("%s", warning)
        self.served = self._all_served(shards)
        async with forks_end(), self._app_parts.lifespan() as state:
            if self._on_start is not None:
                self.paused = await _paused(store, self.queues)
                self._on_start(info)
            await self._serve(store, shards, placement, state)

    async def _find(self, placement: Placement) -> bool:
        """Learn of shards and schedules; False if the worker is stopped before.

        If a node that knows is away, the worker begins without that, unless it is to end when all is empty.
        """
        try:
            await placement.find()
        except ServerUnavailableError as error:
            if self._burst_mode:
                await _retried(placement.find, self._stop)
            else:
                log.warning(
                    "%s; the queues that can be reached are served, the rest as soon as it is there", error
                )
        return not self._stop.is_set()

    def _all_served(self, shards: Shards) -> tuple[str, ...]:
        """All shards of the worker's queues, a queue with one shard by its own name."""
        return tuple(name for queue in self.queues for name in shards.table[queue].names)

    async def _serve(self, store: Store, shards: Shards, placement: Placement, state: Any) -> None:
        duties = self._duties = Duties(
            self._app_parts,
            store,
            state,
            queues=self.served,
            concurrency=self.concurrency,
            incarnation=self._incarnation,
            placement=placement,
            describe=self.steering.describe,
            verbs=self.steering.verbs,
            shares=self.steering.shares(),
        )
        self._first_end = _FirstEnd([], self._ends_by_itself)
        limits = DeclaredLimits(
            [*declared_limits(self._app_parts.settings, self._app_parts.tasks)], store.operating.limits.list
        )
        register = self._register = QueueRegister(store.operating.note_queues, lambda: self.queues, limits.compare)
        for queue, duty in [*duties.coroutines(), ("", register.run())]:
            self._begin(queue, [duty])
        placement.on_known = duties.placed
        self._dropped.append(asyncio.create_task(placement.keep_finding()))
        enders: list[asyncio.Task[Any]] = [asyncio.create_task(self._stop.wait())]
        if self._burst_mode:
            enders.append(
                asyncio.create_task(duties.wait_empty(or_paused=False, hurry=partial(self._hurry_batches, store)))
            )
        self._serving.set()
        self._first_end.watch(enders)
        self.steering.begin(duties)
        shards.on_change.append(self.serve_more)
        try:
            self.serve_more()  # what has changed since the start
            await self._first_end
            for task in [each for each in (*self._tasks, *enders) if each.done()]:
                task.result()  # a duty that ends by itself has a bug: raise its exception
        except BaseException as error:
            # The worker was cancelled, or a duty has failed. If it is the leases', running jobs must not go on.
            self._hurry.set()
            if not isinstance(error, ServerError):  # such an error comes from the server, and from no job
                self._ends_by_itself("")
            raise
        finally:
            shards.on_change.remove(self.serve_more)
            await self._shut_down(store, enders)

    async def _hurry_batches(self, store: Store) -> bool:
        tasks = self._app_parts.tasks.values()
        batched = {task.name for task in tasks if isinstance(task, BatchTask)}
        return await hurry_batches(store, [*self._duties.queues], batched)

    def serve_more(self) -> None:
        """Serve the queues that were added, and the shards that were added to queues."""
        if self._stop.is_set() or self._shards is None:
            return
        added = [name for name in self._all_served(self._shards) if name not in self.served]
        for name in added:
            self._begin(name, self._duties.add(name))
        self.served = (*self.served, *added)
        if added:
            self._register.changed()

    def drop(self, queue: str) -> dict[str, list[asyncio.Task[None]]]:
        """Serve a queue no more; returns the tasks that may end without the worker's end, by its shards."""
        assert self._shards is not None
        names = [name for name in self._shards.table[queue].names if name in self.served]
        tasks = {name: self._tasks_of.pop(name) for name in names}
        dropped = [task for each in tasks.values() for task in each]
        self._first_end.pass_over(dropped)
        self._tasks = [task for task in self._tasks if task not in dropped]
        self._dropped += dropped
        self.served = tuple(name for name in self.served if name not in names)
        return tasks

    def _begin(self, queue: str, coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
        """Begin duties of a queue, or of none."""
        tasks = [asyncio.create_task(each) for each in coroutines]
        self._tasks += tasks
        self._tasks_of.setdefault(queue, []).extend(tasks)
        self._first_end.watch(tasks)

    def _ends_by_itself(self, job: str) -> None:
        """The worker ends without having been stopped: code in it did that, in `job` if that is not empty."""
        if self._stop.is_set() or self.ended_by_itself:
            return
        self.ended_by_itself = True
        self._duties.executor.note_worker_ends()
        by = f", by {job}" if job else ""
        log.error("this worker was ended from within%s, not by a signal; each job that it ran counts a crash", by)

    async def _shut_down(self, store: Store, enders: Sequence[asyncio.Task[Any]]) -> None:
        await self.steering.end()
        fetching = [asyncio.create_task(each.fetcher.stop()) for each in self._duties.queues.values()]
        try:
            # A server that does not answer does not delay the stop: jobs that come later are given back unstarted.
            await asyncio.wait(fetching, timeout=FETCH_END)
            await self._finish_jobs(self._duties.executor.stop())
            await self._deregister(store)
            await self._duties.hooks.stop(DEREGISTER_TIME)
        finally:
            await end([*fetching, *self._tasks, *self._dropped, *enders])
        log.info("stopped")

    async def _deregister(self, store: Store) -> None:
        """Write the last outcomes and deregister; if the server is gone, the recovery does that."""
        departure = asyncio.create_task(self._duties.depart(store))
        hurry = asyncio.create_task(self._hurry.wait())
        try:
            if not self._hurry.is_set():
                await asyncio.wait(
                    [departure, hurry], timeout=DEREGISTER_TIME, return_when=asyncio.FIRST_COMPLETED
                )
            if self._hurry.is_set():
                await asyncio.wait([departure], timeout=HURRIED_DEREGISTER_TIME)
            if not departure.done():
                log.warning("could not deregister from the server: no answer in time; the recovery will")
            elif (error := departure.exception()) is not None:
                log.warning("could not deregister from the server: %s; the recovery will", error)
        finally:
            await end([departure, hurry])

    async def _finish_jobs(self, running: int) -> None:
        executor = self._duties.executor
        if running and not self._hurry.is_set():
            timeout = self._app_parts.settings.shutdown_timeout
            log.info("%s", stopping(running, timeout))
            idle = asyncio.create_task(executor.wait_idle())
            hurry = asyncio.create_task(self._hurry.wait())
            await asyncio.wait([idle, hurry], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            idle.cancel()
            hurry.cancel()
        if executor.running:
            await executor.interrupt()


async def _retried(call: Callable[[], Awaitable[T]], stop: asyncio.Event) -> T | None:
    """The result of a call, which is repeated until the server is there; None if the worker is stopped before."""
    backoff = Backoff()
    warned = False
    while not stop.is_set():
        try:
            return await call()
        except ServerUnavailableError as error:
            if not warned:
                log.warning("%s; trying again until it is there", error)
            warned = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(backoff.next()):
                    await stop.wait()
    return None


async def _paused(store: Store, queues: Sequence[str]) -> dict[str, str]:
    """By queue, what of it is paused, in words; without those of which that cannot be read now."""
    found = await asyncio.gather(*map(store.operating.pauses.read, queues), return_exceptions=True)
    words = {queue: in_words(each) for queue, each in zip(queues, found, strict=True) if isinstance(each, Pauses)}
    return {queue: each for queue, each in words.items() if each}


class _FirstEnd(asyncio.Future[None]):
    """Is done when the first of some tasks is; when it is cancelled, it finds out which job did that.

    asyncio cancels a task by calling `cancel` of the future that the task waits for, at once. So if a job cancels
    the worker (for example because it cancels every task of its loop), that job is the current task in this call.

    Args:
        tasks: the tasks.
        on_cancel: called when this is cancelled, with the name and id of the job that did it; empty for no job.
    """

    def __init__(self, tasks: "Iterable[asyncio.Task[Any]]", on_cancel: Callable[[str], None]) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self._on_cancel = on_cancel
        self.watch(tasks)

    def watch(self, tasks: "Iterable[asyncio.Task[Any]]") -> None:
        """Be done when one of these is, too."""
        for task in tasks:
            task.add_done_callback(self._end)

    def pass_over(self, tasks: "Iterable[asyncio.Task[Any]]") -> None:
        """Do not care any more when these end."""
        for task in tasks:
            task.remove_done_callback(self._end)

    def _end(self, _: "asyncio.Task[Any]") -> None:
        if not self.done():
            self.set_result(None)

    def cancel(self, msg: Any = None) -> bool:
        """Note which job cancels the worker, then be cancelled."""
        if not self.done():
            self._on_cancel(_running_job())
        return super().cancel(msg)


def _running_job() -> str:
    try:
        job = current_job()
    except NoJobError:
        return ""
    return f"{job.task}[{job.id}]"
